//! Which of several nodes runs a feed: whoever holds its key in Redis. How far it got lies beside the key.

use std::sync::Arc;
use std::time::Duration;

use mainstay_redis::{Part, Redis, RedisError, Script, number};
use sha1::{Digest as _, Sha1};
use tokio::time::{Instant, sleep, sleep_until};

use super::place::Place;
use crate::config::FeedConfig;

/// Renewals, and questions of others, in the time of a lease.
const TIMES: u32 = 4;
/// The holder stops this part of a lease before its key could be another's. Redis has as long for an answer.
const MARGIN: u32 = 6;
/// How long it is known how far a feed got that nobody runs.
const KEPT_FOR_MS: u64 = 7 * 86_400_000;
/// Separates the id of a node from what tells this lease from others of the same node.
const MARK: char = '~';

/// Takes or renews it; returns who has it, and how far that one got.
const TAKE: &str = r"
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return {holder, ''} end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
if ARGV[3] ~= '' then redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[4]) end
return {ARGV[1], redis.call('GET', KEYS[2]) or ''}
";

const GIVE_BACK: &str = r"
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] ~= '' then redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3]) end
return redis.call('DEL', KEYS[1])
";

/// The right to run one feed. Without Redis there is nobody else.
pub(super) struct Lease {
    key: String,
    place_key: String,
    /// Tells this one from others, of this node too: a feed that was changed ends before the next begins.
    holder: String,
    redis: Option<Arc<Redis>>,
    lasts: Duration,
    take: Script,
    give_back: Script,
}

/// A lease that is held.
pub(super) struct Held {
    /// None: it does not end.
    until: Option<Instant>,
    /// How far whoever held it before got; none when nobody knows.
    pub(super) place: Option<Place>,
}

impl Lease {
    pub(super) fn new(feed: &str, node: &str, redis: Option<Arc<Redis>>, config: &FeedConfig) -> Self {
        Self {
            key: format!("ws!feed:{feed}"),
            place_key: format!("ws!feed-at:{feed}:{}", same_messages(config)),
            holder: format!("{node}{MARK}{:016x}", rand::random::<u64>()),
            redis,
            lasts: config.lease,
            take: Script::new(TAKE),
            give_back: Script::new(GIVE_BACK),
        }
    }

    /// Waits until it is held here; tells which node holds it meanwhile.
    pub(super) async fn taken(&self, told: impl Fn(&str)) -> Held {
        let Some(redis) = &self.redis else {
            told(self.holder.rsplit_once(MARK).map_or("", |(node, _)| node));
            return Held { until: None, place: None };
        };
        loop {
            let asked_at = Instant::now();
            match self.ask(redis, "").await {
                Ok((holder, place)) => {
                    told(holder.rsplit_once(MARK).map_or("", |(node, _)| node));
                    if holder == self.holder {
                        return Held { until: Some(self.until(asked_at)), place: Place::parse(&place) };
                    }
                }
                Err(error) => {
                    told("");
                    tracing::debug!(error = error.in_full(), "a feed cannot be taken");
                }
            }
            sleep(self.lasts / TIMES).await;
        }
    }

    /// Renews it for as long as that can be done, and notes how far the feed got; ends when it is lost.
    pub(super) async fn kept(&self, held: &Held, place: impl Fn() -> Place) {
        let (Some(mut until), Some(redis)) = (held.until, &self.redis) else {
            return std::future::pending().await;
        };
        loop {
            tokio::select! {
                biased;
                () = sleep_until(until) => return,
                () = sleep(self.lasts / TIMES) => {}
            }
            let asked_at = Instant::now();
            let place = place().to_string();
            tokio::select! {
                biased;
                () = sleep_until(until) => return,
                answer = self.ask(redis, &place) => match answer {
                    Ok((holder, _)) if holder == self.holder => until = self.until(asked_at),
                    Ok(_) => return,
                    Err(error) => tracing::debug!(error = error.in_full(), "a feed cannot be kept"),
                },
            }
        }
    }

    /// Lets another have it at once.
    pub(super) async fn give_back(&self, place: &Place) {
        let Some(redis) = &self.redis else { return };
        let arguments = vec![self.holder.as_str().into(), place.to_string().into(), number(KEPT_FOR_MS)];
        let keys = [self.key.as_str(), &self.place_key];
        let given: Result<u64, _> =
            self.part(redis).run_script(&self.give_back, &keys, arguments, self.lasts / MARGIN).await;
        if let Err(error) = given {
            tracing::debug!(error = error.in_full(), "a feed is not given back: its lease ends by itself");
        }
    }

    fn until(&self, asked_at: Instant) -> Instant {
        asked_at + self.lasts - self.lasts / MARGIN
    }

    async fn ask(&self, redis: &Redis, place: &str) -> Result<(String, String), RedisError> {
        let lease_ms = u64::try_from(self.lasts.as_millis()).expect("a minute at most");
        let arguments =
            vec![self.holder.as_str().into(), number(lease_ms), place.into(), number(KEPT_FOR_MS)];
        let keys = [self.key.as_str(), &self.place_key];
        self.part(redis).run_script(&self.take, &keys, arguments, self.lasts / MARGIN).await
    }

    /// Both keys lie together.
    fn part<'r>(&self, redis: &'r Redis) -> Part<'r> {
        redis.part(redis.partition_of(&self.key))
    }
}

/// Tells feeds apart whose places have nothing to do with each other.
fn same_messages(config: &FeedConfig) -> String {
    let mut told = vec![config.channel.as_str(), &config.id, &config.sequence];
    told.extend(config.endpoints.iter().map(String::as_str));
    hex(&Sha1::digest(told.join("\n"))[..8])
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
