//! Rate limits: counted in Redis by all nodes together, by this node alone while Redis is away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use fred::types::Value;
use tokio::time::Instant;

use crate::config::RateLimitConfig;
use crate::layer::redis::{LayerError, RedisLayer};
use crate::metrics::SharedMetrics;
use crate::redis::{RedisError, Script};
use crate::shared::Source;

mod gcra;
mod local;

pub(crate) use gcra::{Limit, Verdict};
use local::LocalLimits;

/// Tells whether requests are within their limits.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    redis: Option<Arc<RedisLayer>>,
    local: LocalLimits,
    script: Script,
    redis_within: Duration,
    metrics: Arc<SharedMetrics>,
    origin: Instant,
    /// Nanoseconds since `origin` until which Redis is not asked: it was silent a moment ago.
    silent_until_ns: AtomicU64,
    counts_alone: AtomicBool,
}

/// One question: may this key pass?
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Check {
    pub(crate) key: Box<str>,
    pub(crate) limit: Limit,
    pub(crate) cost: u32,
}

/// Moves arrival times of keys. ARGV: "1" for all or none, then for each key how far a request moves its arrival time and how
/// far that may come to lie ahead of now, in nanoseconds. Gives for each key 1 or 0 and how far ahead it lay.
///
/// An arrival time is two whole numbers, seconds and nanoseconds: one number of nanoseconds is too long for a double,
/// their difference to now is not. Time is that of Redis alone.
const SCRIPT: &str = r"
local time = redis.call('TIME')
local now_s, now_ns = tonumber(time[1]), time[2] * 1000
local aheads, answer, all = {}, {}, true
for i = 1, #KEYS do
  local key, increment, tolerance = KEYS[i], tonumber(ARGV[2 * i]), tonumber(ARGV[2 * i + 1])
  local ahead = aheads[key]
  if not ahead then
    local kept = redis.call('GET', key)
    local s, ns = string.match(kept or '0 0', '^(%d+) (%d+)$')
    ahead = math.max(0, ((tonumber(s) or 0) - now_s) * 1000000000 + (tonumber(ns) or 0) - now_ns)
  end
  local allowed = ahead + increment <= tolerance
  answer[2 * i - 1], answer[2 * i] = allowed and 1 or 0, ahead
  all = all and allowed
  aheads[key] = allowed and ahead + increment or ahead
end
if all or ARGV[1] ~= '1' then
  for i = 1, #KEYS do
    local ahead = aheads[KEYS[i]]
    if answer[2 * i - 1] == 1 and tonumber(ARGV[2 * i]) > 0 then
      local ns = now_ns + ahead
      local s = math.floor(ns / 1000000000)
      local kept = string.format('%.0f %.0f', now_s + s, ns - s * 1000000000)
      redis.call('SET', KEYS[i], kept, 'PX', string.format('%.0f', math.ceil(ahead / 1000000) + 1))
    end
  end
end
return answer
";

/// What keys of limits begin with. In a cluster they lie together, for any of them may be checked with any other in one step.
const LIMITS: &str = "_limit:";

impl RateLimiter {
    /// A Redis that was silent is left alone for so long, so that not every request waits for it.
    const SILENCE_NS: u64 = 200_000_000;

    pub(crate) fn new(
        redis: Option<Arc<RedisLayer>>,
        config: &RateLimitConfig,
        metrics: Arc<SharedMetrics>,
    ) -> Self {
        Self {
            redis,
            local: LocalLimits::new(config.max_keys as usize),
            script: Script::new(SCRIPT),
            redis_within: config.redis_within,
            metrics,
            origin: Instant::now(),
            silent_until_ns: AtomicU64::new(0),
            counts_alone: AtomicBool::new(false),
        }
    }

    /// Answers in the order of the checks; `left` is the time the caller has.
    pub(crate) async fn check(
        &self,
        checks: &[Check],
        all_or_none: bool,
        left: Duration,
    ) -> (Vec<Verdict>, Source) {
        let shared = match &self.redis {
            Some(redis) if !self.is_silent() => self.check_shared(redis, checks, all_or_none, left).await,
            _ => None,
        };
        let (verdicts, source) = match shared {
            Some(verdicts) => (verdicts, Source::Redis),
            None => (self.local.check(checks, all_or_none, self.now_ns()), Source::Local),
        };
        self.tell_change(source);
        for verdict in &verdicts {
            self.metrics.rate_limit_check(source, verdict.allowed);
        }
        (verdicts, source)
    }

    async fn check_shared(
        &self,
        redis: &RedisLayer,
        checks: &[Check],
        all_or_none: bool,
        left: Duration,
    ) -> Option<Vec<Verdict>> {
        let keys: Vec<String> = checks.iter().map(|check| [LIMITS, &check.key].concat()).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let mut arguments: Vec<Value> = vec![u8::from(all_or_none).to_string().into()];
        for Check { limit, cost, .. } in checks {
            arguments.push(limit.increment_ns(*cost).to_string().into());
            arguments.push(limit.tolerance_ns().to_string().into());
        }
        let within = self.redis_within.min(left);
        let answer: Result<Vec<u64>, _> =
            redis.of(LIMITS).script("redis.rate_limit", &self.script, &keys, arguments, within).await;
        let answer = match answer {
            Ok(answer) if answer.len() == 2 * checks.len() => answer,
            Ok(_) => return None,
            Err(error) => {
                if matches!(error, LayerError::Redis(RedisError::Timeout)) && within == self.redis_within {
                    self.silent_until_ns.store(self.now_ns() + Self::SILENCE_NS, Ordering::Relaxed);
                }
                return None;
            }
        };
        let counted = !all_or_none || answer.chunks_exact(2).all(|pair| pair[0] == 1);
        let now_ns = self.now_ns();
        let verdicts = checks.iter().zip(answer.chunks_exact(2)).map(|(check, pair)| {
            let Check { limit, cost, .. } = check;
            let (allowed, ahead_ns) = (pair[0] == 1, pair[1]);
            let added = if allowed && counted { limit.increment_ns(*cost) } else { 0 };
            self.local.learn(check, ahead_ns + added, now_ns);
            limit.verdict(ahead_ns, *cost, counted)
        });
        Some(verdicts.collect())
    }

    fn is_silent(&self) -> bool {
        self.now_ns() < self.silent_until_ns.load(Ordering::Relaxed)
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn tell_change(&self, source: Source) {
        let alone = source == Source::Local && self.redis.is_some();
        // A plain look first: the usual answer changes nothing, and many cores ask.
        if self.counts_alone.load(Ordering::Relaxed) == alone {
            return;
        }
        if self.counts_alone.swap(alone, Ordering::Relaxed) != alone {
            if alone {
                tracing::warn!("rate limits are counted by this node alone, redis does not answer");
            } else {
                tracing::info!("rate limits are counted in redis again");
            }
        }
    }
}
