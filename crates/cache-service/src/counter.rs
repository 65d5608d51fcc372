//! Counters, with keys that settle whether an increment was made.

use std::sync::Arc;
use std::time::Duration;

use fred::types::Value;
use mainstay_rpc::{ErrorCode, Failure};
use parking_lot::Mutex;

use crate::config::CounterConfig;
use crate::layer::redis::RedisLayer;
use crate::redis::Script;
use crate::shared::{Expiring, Name, SharedError, Source, millis};
use crate::time::Time;

/// Adds to counters.
#[derive(Debug)]
pub(crate) struct Counters {
    place: Place,
}

/// What to add to which counter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Increment {
    pub(crate) name: Name,
    pub(crate) by: i64,
    pub(crate) ttl: Option<Duration>,
    /// Gives the ttl to a counter that is there, too.
    pub(crate) extend: bool,
    /// The same one again changes nothing.
    pub(crate) once: Option<Name>,
}

/// A counter as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Count {
    pub(crate) value: i64,
    pub(crate) exists: bool,
    /// None for a counter that stays.
    pub(crate) ttl: Option<Duration>,
    /// The increment had been made before.
    pub(crate) replayed: bool,
}

/// Says why a counter could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CounterError {
    #[error("would leave the whole numbers between -(2^53-1) and 2^53-1; it stands at {value}")]
    OutOfRange { value: i64 },
    #[error(transparent)]
    Shared(#[from] SharedError),
}

impl From<CounterError> for Failure {
    fn from(error: CounterError) -> Self {
        match error {
            CounterError::OutOfRange { value } => {
                Self::new(ErrorCode::FailedPrecondition, "COUNTER_OUT_OF_RANGE", error.to_string())
                    .detail("value", value.to_string())
            }
            CounterError::Shared(error) => error.into(),
        }
    }
}

#[derive(Debug)]
enum Place {
    Redis { layer: Arc<RedisLayer>, increment: Script, get: Script, reset: Script },
    Local { local: Mutex<Local>, time: Time },
}

#[derive(Debug)]
struct Local {
    counters: Expiring<i64>,
    once: Expiring<i64>,
}

/// KEYS: counter and, for an increment that is made once, where its outcome is kept. ARGV: by, ttl in ms or 0, 1 to extend,
/// ms to keep the outcome. Gives 0 done, 1 replayed or 2 out of range, then the value and the ms left, below 0 for none.
const INCREMENT: &str = r"
if KEYS[2] then
  local before = redis.call('GET', KEYS[2])
  if before then return {1, tonumber(before), redis.call('PTTL', KEYS[1])} end
end
local value = redis.call('GET', KEYS[1])
local after = tonumber(value or '0') + ARGV[1]
if math.abs(after) > 9007199254740991 then return {2, tonumber(value or '0'), 0} end
redis.call('INCRBY', KEYS[1], ARGV[1])
if ARGV[2] ~= '0' and (not value or ARGV[3] == '1') then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
if KEYS[2] then redis.call('SET', KEYS[2], string.format('%.0f', after), 'PX', ARGV[4]) end
return {0, after, redis.call('PTTL', KEYS[1])}
";

/// KEYS: counter. Gives 1 and the value, or 0 and 0, then the ms left.
const GET: &str = r"
local value = redis.call('GET', KEYS[1])
return {value and 1 or 0, tonumber(value or '0'), redis.call('PTTL', KEYS[1])}
";

/// KEYS: counter. Gives 1 and the value before, or 0 and 0, then -1.
const RESET: &str = r"
local value = redis.call('GET', KEYS[1])
if value then redis.call('DEL', KEYS[1]) end
return {value and 1 or 0, tonumber(value or '0'), -1}
";

impl Counters {
    /// Beyond it a script, and a reader of JSON, cannot tell neighbours apart.
    pub(crate) const MOST: i64 = (1 << 53) - 1;
    const ONCE_FOR: Duration = Duration::from_mins(10);

    pub(crate) fn new(redis: Option<Arc<RedisLayer>>, config: &CounterConfig, time: Time) -> Self {
        let max = config.max_local as usize;
        let place = match redis {
            Some(layer) => Place::Redis {
                layer,
                increment: Script::new(INCREMENT),
                get: Script::new(GET),
                reset: Script::new(RESET),
            },
            None => {
                let local = Local { counters: Expiring::new(max), once: Expiring::new(max) };
                Place::Local { local: Mutex::new(local), time }
            }
        };
        Self { place }
    }

    pub(crate) fn source(&self) -> Source {
        match self.place {
            Place::Redis { .. } => Source::Redis,
            Place::Local { .. } => Source::Local,
        }
    }

    /// Adds to a counter; `left` is the time the caller has.
    pub(crate) async fn increment(
        &self,
        increment: &Increment,
        left: Duration,
    ) -> Result<Count, CounterError> {
        let once = increment.once.as_ref().map(|once| once_key(&increment.name, once));
        match &self.place {
            Place::Redis { layer, increment: script, .. } => {
                let counter = counter_key(&increment.name);
                let keys: Vec<&str> = std::iter::once(counter.as_str()).chain(once.as_deref()).collect();
                let ttl = increment.ttl.map_or(0, millis);
                let arguments: Vec<Value> = vec![
                    increment.by.to_string().into(),
                    ttl.to_string().into(),
                    u8::from(increment.extend).to_string().into(),
                    millis(Self::ONCE_FOR).to_string().into(),
                ];
                let part = layer.of(increment.name.as_str());
                let answer = part.script("redis.counter", script, &keys, arguments, left).await;
                let (outcome, value, left_ms): (u8, i64, i64) = answer.map_err(SharedError::of_write)?;
                match outcome {
                    2 => Err(CounterError::OutOfRange { value }),
                    _ => Ok(Count { value, exists: true, ttl: left_of(left_ms), replayed: outcome == 1 }),
                }
            }
            Place::Local { local, time } => local.lock().increment(increment, once.as_deref(), time),
        }
    }

    pub(crate) async fn get(&self, name: &Name, left: Duration) -> Result<Count, CounterError> {
        match &self.place {
            Place::Redis { layer, get, .. } => {
                Ok(look(layer, get, name, left).await.map_err(SharedError::of_read)?)
            }
            Place::Local { local, time } => {
                let local = local.lock();
                let found = local.counters.get(name.as_str(), time.now());
                let count =
                    |(value, ttl): (&i64, _)| Count { value: *value, exists: true, ttl, replayed: false };
                Ok(found.map(count).unwrap_or_default())
            }
        }
    }

    /// Removes a counter and tells how it stood.
    pub(crate) async fn reset(&self, name: &Name, left: Duration) -> Result<Count, CounterError> {
        match &self.place {
            Place::Redis { layer, reset, .. } => {
                Ok(look(layer, reset, name, left).await.map_err(SharedError::of_write)?)
            }
            Place::Local { local, time } => {
                let value = local.lock().counters.remove(name.as_str(), time.now());
                let exists = value.is_some();
                Ok(Count { value: value.unwrap_or_default(), exists, ..Count::default() })
            }
        }
    }
}

impl Local {
    fn increment(
        &mut self,
        increment: &Increment,
        once: Option<&str>,
        time: &Time,
    ) -> Result<Count, CounterError> {
        let (now, name) = (time.now(), increment.name.as_str());
        let before = self.counters.get(name, now).map(|(value, ttl)| (*value, ttl));
        let replayed = once.and_then(|once| self.once.get(once, now));
        if let Some((&value, _)) = replayed {
            return Ok(Count { value, exists: true, ttl: before.and_then(|(_, ttl)| ttl), replayed: true });
        }
        let (old, ttl_left) = before.unwrap_or((0, increment.ttl));
        let value = old.saturating_add(increment.by);
        if value.unsigned_abs() > Counters::MOST.unsigned_abs() {
            return Err(CounterError::OutOfRange { value: old });
        }
        let ttl = if increment.extend { increment.ttl.or(ttl_left) } else { ttl_left };
        // The outcome first: an increment that could not be told again must not be made.
        if let Some(once) = once {
            self.once.put(once, value, Some(Counters::ONCE_FOR), now).map_err(SharedError::from)?;
        }
        if let Err(full) = self.counters.put(name, value, ttl, now) {
            once.and_then(|once| self.once.remove(once, now));
            return Err(SharedError::from(full).into());
        }
        Ok(Count { value, exists: true, ttl, replayed: false })
    }
}

async fn look(
    layer: &RedisLayer,
    script: &Script,
    name: &Name,
    left: Duration,
) -> Result<Count, crate::layer::redis::LayerError> {
    let key = counter_key(name);
    let (exists, value, left_ms): (u8, i64, i64) =
        layer.of(name.as_str()).script("redis.counter", script, &[&key], Vec::new(), left).await?;
    Ok(Count { value, exists: exists == 1, ttl: left_of(left_ms), replayed: false })
}

fn left_of(left_ms: i64) -> Option<Duration> {
    u64::try_from(left_ms).ok().map(Duration::from_millis)
}

fn counter_key(name: &Name) -> String {
    ["_counter:", name.as_str()].concat()
}

/// Unambiguous, for a name has no control characters.
fn once_key(name: &Name, once: &Name) -> String {
    ["_once:", name.as_str(), "\n", once.as_str()].concat()
}
