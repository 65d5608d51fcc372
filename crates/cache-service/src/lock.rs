//! Locks that end with their ttl, with fencing tokens that grow with every new holder.

use std::sync::Arc;
use std::time::Duration;

use fred::types::Value;
use mainstay_resilience::backoff::Backoff;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::LockConfig;
use crate::fence::{Fence, Fences};
use crate::layer::redis::RedisLayer;
use crate::redis::Script;
use crate::shared::{Expiring, Name, SharedError, Source, millis};
use crate::time::Time;
use crate::version::Versions;

/// Gives locks out, and takes them back from those who hold them.
#[derive(Debug)]
pub(crate) struct Locks {
    place: Place,
    waiting: Semaphore,
    stopping: CancellationToken,
}

/// Who asks for which lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) name: Name,
    pub(crate) owner: Name,
}

/// The answer to one who wants a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Acquired {
    Yes {
        token: u64,
    },
    /// Another holds it, for so long at most.
    No {
        retry_after: Duration,
    },
}

/// What is known of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Checked {
    pub(crate) current: bool,
    /// Time left of the present holder; none when nobody holds the lock.
    pub(crate) ttl: Option<Duration>,
}

#[derive(Debug)]
enum Place {
    Redis { layer: Arc<RedisLayer>, scripts: Scripts },
    Local { held: Mutex<Expiring<Held>>, tokens: Versions, fences: Fences, time: Time },
}

#[derive(Debug)]
struct Held {
    owner: Name,
    token: u64,
}

#[derive(Debug)]
struct Scripts {
    acquire: Script,
    renew: Script,
    release: Script,
    check: Script,
}

/// KEYS: lock, last token. ARGV: owner, ttl in ms. Gives 1 and the token, or 0 and the ms the holder has left.
///
/// Tokens are made from the time of day and the last token: they grow although the last one is forgotten a day after the
/// lock, or was lost in a failover.
const ACQUIRE: &str = r"
local held = redis.call('HMGET', KEYS[1], 'owner', 'token')
if held[1] == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return {1, tonumber(held[2])}
end
if held[1] then return {0, math.max(0, redis.call('PTTL', KEYS[1]))} end
local time = redis.call('TIME')
local last = tonumber(redis.call('GET', KEYS[2]) or '0') or 0
local token = string.format('%.0f', math.max(time[1] * 1000000 + time[2], last + 1))
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'token', token)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('SET', KEYS[2], token, 'PX', string.format('%.0f', ARGV[2] + 86400000))
return {1, tonumber(token)}
";

/// KEYS: lock. ARGV: owner, token, ttl in ms. Gives 1 when it was held so.
const RENEW: &str = r"
local held = redis.call('HMGET', KEYS[1], 'owner', 'token')
if held[1] ~= ARGV[1] or held[2] ~= ARGV[2] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
";

/// KEYS: lock. ARGV: owner, token. Gives 1 when it was held so.
const RELEASE: &str = r"
local held = redis.call('HMGET', KEYS[1], 'owner', 'token')
if held[1] ~= ARGV[1] or held[2] ~= ARGV[2] then return 0 end
return redis.call('DEL', KEYS[1])
";

/// KEYS: lock. ARGV: token. Gives 1 when it is the holder's, and the ms the holder has left, below 0 for no holder.
const CHECK: &str = r"
local token = redis.call('HGET', KEYS[1], 'token')
return {token == ARGV[1] and 1 or 0, redis.call('PTTL', KEYS[1])}
";

impl Locks {
    pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(60);
    /// How often a waiting caller asks again.
    const ASK_FIRST: Duration = Duration::from_millis(5);
    const ASK_LAST: Duration = Duration::from_millis(50);
    /// What is left of a caller's deadline for the answer to reach it.
    const ANSWER_TAKES: Duration = Duration::from_millis(20);

    pub(crate) fn new(
        redis: Option<Arc<RedisLayer>>,
        config: &LockConfig,
        time: Time,
        fences: Fences,
        stopping: CancellationToken,
    ) -> Self {
        let place = match redis {
            Some(layer) => Place::Redis { layer, scripts: Scripts::new() },
            None => Place::Local {
                held: Mutex::new(Expiring::new(config.max_local as usize)),
                tokens: Versions::default(),
                fences,
                time,
            },
        };
        Self { place, waiting: Semaphore::new(config.max_waiting as usize), stopping }
    }

    pub(crate) fn source(&self) -> Source {
        match self.place {
            Place::Redis { .. } => Source::Redis,
            Place::Local { .. } => Source::Local,
        }
    }

    /// Takes a lock, waiting for at most `wait_within`; `left` is the time the caller has.
    ///
    /// A caller that goes away may leave a lock behind that was just taken for it, until its ttl ends.
    pub(crate) async fn acquire(
        &self,
        claim: &Claim,
        ttl: Duration,
        wait_within: Duration,
        left: Duration,
    ) -> Result<Acquired, SharedError> {
        let asked_at = Instant::now();
        let wait_within = wait_within.min(left.saturating_sub(Self::ANSWER_TAKES));
        let left = || left.saturating_sub(asked_at.elapsed());
        let mut answer = self.try_acquire(claim, ttl, left()).await?;
        if wait_within.is_zero() || matches!(answer, Acquired::Yes { .. }) {
            return Ok(answer);
        }
        let _place = self.waiting.try_acquire().map_err(|_| SharedError::Overloaded)?;
        let mut backoff =
            Backoff::try_new(Self::ASK_FIRST, Self::ASK_LAST).expect("both are above zero and in order");
        while let Acquired::No { retry_after } = answer {
            let wait_left = wait_within.saturating_sub(asked_at.elapsed());
            if wait_left.is_zero() {
                break;
            }
            let pause = backoff.next(rand::random()).min(wait_left).min(retry_after.max(Self::ASK_FIRST));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.stopping.cancelled() => break,
            }
            answer = self.try_acquire(claim, ttl, left()).await?;
        }
        Ok(answer)
    }

    async fn try_acquire(
        &self,
        claim: &Claim,
        ttl: Duration,
        left: Duration,
    ) -> Result<Acquired, SharedError> {
        match &self.place {
            Place::Redis { layer, scripts } => {
                let (lock, last) = (lock_key(&claim.name), Fence::key_of(&claim.name));
                let arguments = vec![claim.owner.as_str().into(), number(millis(ttl))];
                let part = layer.of(Fence::home_of(&claim.name));
                let answer =
                    part.script("redis.lock", &scripts.acquire, &[&lock, &last], arguments, left).await;
                let (acquired, number): (u8, u64) = answer.map_err(SharedError::of_write)?;
                Ok(if acquired == 1 {
                    Acquired::Yes { token: number }
                } else {
                    Acquired::No { retry_after: Duration::from_millis(number) }
                })
            }
            Place::Local { held, tokens, fences, time } => {
                let (mut held, now, name) = (held.lock(), time.now(), claim.name.as_str());
                let holder = held
                    .get(name, now)
                    .map(|(held, left)| (held.owner == claim.owner, held.token, left.unwrap_or_default()));
                match holder {
                    Some((false, _, retry_after)) => Ok(Acquired::No { retry_after }),
                    Some((true, token, _)) => {
                        held.extend(name, ttl, now);
                        Ok(Acquired::Yes { token })
                    }
                    None => {
                        let token = tokens.next(time.unix_us());
                        if !fences.given(&claim.name, token) {
                            return Err(SharedError::Full);
                        }
                        held.put(name, Held { owner: claim.owner.clone(), token }, Some(ttl), now)?;
                        Ok(Acquired::Yes { token })
                    }
                }
            }
        }
    }

    /// Gives a lock that is held so a new ttl; false when it is not.
    pub(crate) async fn renew(
        &self,
        claim: &Claim,
        token: u64,
        ttl: Duration,
        left: Duration,
    ) -> Result<bool, SharedError> {
        match &self.place {
            Place::Redis { layer, scripts } => {
                let arguments = vec![claim.owner.as_str().into(), number(token), number(millis(ttl))];
                let lock = lock_key(&claim.name);
                let part = layer.of(Fence::home_of(&claim.name));
                let answer = part.script("redis.lock", &scripts.renew, &[&lock], arguments, left).await;
                answer.map(|renewed: u8| renewed == 1).map_err(SharedError::of_write)
            }
            Place::Local { held, time, .. } => {
                let (mut held, now) = (held.lock(), time.now());
                let is_held = is_held(&held, claim, token, time);
                if is_held {
                    held.extend(claim.name.as_str(), ttl, now);
                }
                Ok(is_held)
            }
        }
    }

    /// Gives a lock back that is held so; false when it is not.
    pub(crate) async fn release(
        &self,
        claim: &Claim,
        token: u64,
        left: Duration,
    ) -> Result<bool, SharedError> {
        match &self.place {
            Place::Redis { layer, scripts } => {
                let arguments = vec![claim.owner.as_str().into(), number(token)];
                let lock = lock_key(&claim.name);
                let part = layer.of(Fence::home_of(&claim.name));
                let answer = part.script("redis.lock", &scripts.release, &[&lock], arguments, left).await;
                answer.map(|released: u8| released == 1).map_err(SharedError::of_write)
            }
            Place::Local { held, time, .. } => {
                let mut held = held.lock();
                let is_held = is_held(&held, claim, token, time);
                if is_held {
                    held.remove(claim.name.as_str(), time.now());
                }
                Ok(is_held)
            }
        }
    }

    /// Tells whether a token is that of the present holder.
    pub(crate) async fn check(
        &self,
        name: &Name,
        token: u64,
        left: Duration,
    ) -> Result<Checked, SharedError> {
        match &self.place {
            Place::Redis { layer, scripts } => {
                let lock = lock_key(name);
                let part = layer.of(Fence::home_of(name));
                let answer =
                    part.script("redis.lock", &scripts.check, &[&lock], vec![number(token)], left).await;
                let (current, left_ms): (u8, i64) = answer.map_err(SharedError::of_read)?;
                let ttl = u64::try_from(left_ms).ok().map(Duration::from_millis);
                Ok(Checked { current: current == 1, ttl })
            }
            Place::Local { held, time, .. } => {
                let held = held.lock();
                let holder = held.get(name.as_str(), time.now());
                let current = holder.is_some_and(|(held, _)| held.token == token);
                Ok(Checked { current, ttl: holder.and_then(|(_, left)| left) })
            }
        }
    }
}

impl Scripts {
    fn new() -> Self {
        Self {
            acquire: Script::new(ACQUIRE),
            renew: Script::new(RENEW),
            release: Script::new(RELEASE),
            check: Script::new(CHECK),
        }
    }
}

fn is_held(held: &Expiring<Held>, claim: &Claim, token: u64, time: &Time) -> bool {
    let holder = held.get(claim.name.as_str(), time.now());
    holder.is_some_and(|(held, _)| held.owner == claim.owner && held.token == token)
}

fn lock_key(name: &Name) -> String {
    ["_lock:", name.as_str()].concat()
}

/// Arguments of scripts are texts.
fn number(number: u64) -> Value {
    Value::from(number.to_string())
}
