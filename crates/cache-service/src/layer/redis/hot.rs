use std::time::Duration;

use fred::types::Value;

use super::{LayerError, RedisLayer};
use crate::redis::Script;
use crate::shared::millis;

/// Names of keys by the end of the time for which they were told, in milliseconds of the clock of Redis. Names in Redis
/// that begin with `_` are no namespace's.
const HOT: &str = "_hot";

/// `ARGV`: for how long, how many at most, names.
static TELL: Script = Script::new(
    r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ends = string.format('%.0f', now + tonumber(ARGV[1]))
for at = 3, #ARGV do
  redis.call('ZADD', KEYS[1], ends, ARGV[at])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
local over = redis.call('ZCARD', KEYS[1]) - tonumber(ARGV[2])
if over > 0 then
  for _, name in ipairs(redis.call('ZRANGE', KEYS[1], 0, over - 1)) do
    redis.call('ZREM', KEYS[1], name)
  end
end
if #ARGV > 2 then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
return redis.call('ZRANGE', KEYS[1], 0, -1)
",
);

impl RedisLayer {
    /// Tells all nodes which keys are hot here, and learns which are hot on any.
    pub(crate) async fn tell_hot(
        &self,
        own: &[&str],
        told_for: Duration,
        most: u64,
        left: Duration,
    ) -> Result<Vec<String>, LayerError> {
        let numbers = [millis(told_for), most].map(|number| Value::from(number.to_string()));
        let arguments = numbers.into_iter().chain(own.iter().map(|name| Value::from(*name))).collect();
        self.of(HOT).script("redis.tell_hot", &TELL, &[HOT], arguments, left).await
    }
}
