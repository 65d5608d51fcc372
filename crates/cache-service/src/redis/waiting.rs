use std::time::Duration;

use bytes::Bytes;
use mainstay_redis::RedisError;

use super::Redis;
use crate::key::Key;
use crate::write_behind::{queue_of, waiting_of};

/// Gives the envelope of the newest change of a key that waits for its origin.
pub(super) const WAITING: &str = r"
local queue, waiting = unpack(KEYS)
local place = redis.call('HGET', waiting, ARGV[1])
local change = place and redis.call('XRANGE', queue, place, place)[1]
return change and change[2][4] or false
";

impl Redis {
    /// Returns the newest change of a key that waits for its origin, packed as an entry.
    pub(crate) async fn waiting(&self, key: &Key, within: Duration) -> Result<Option<Bytes>, RedisError> {
        let (queue, waiting) = (queue_of(key.namespace()), waiting_of(key.namespace()));
        let arguments = vec![key.as_str().into()];
        let part = self.namespace(key.namespace());
        part.run_script(&self.scripts.waiting, &[&queue, &waiting], arguments, within).await
    }
}
