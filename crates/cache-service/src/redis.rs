//! What lies in Redis: entries, barriers, policies, and the log of changes.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fred::interfaces::{HashesInterface as _, KeysInterface as _, ListInterface as _};
pub(crate) use mainstay_redis::{RedisError, Script, Watch};

use crate::config::RedisConfig;
use crate::key::{Key, Tags};

mod durable;
mod entries;
mod log;
mod waiting;

use durable::Durable;
pub(crate) use entries::Invalidation;
use entries::Scripts;
pub(crate) use log::LogLink;

/// Asks the present primary for what the cache keeps there.
#[derive(Debug)]
pub(crate) struct Redis {
    server: Arc<mainstay_redis::Redis>,
    scripts: Scripts,
    durable: Durable,
}

/// What holds for any use of Redis holds for ours.
impl Deref for Redis {
    type Target = Arc<mainstay_redis::Redis>;

    fn deref(&self) -> &Self::Target {
        &self.server
    }
}

impl Redis {
    /// Starts without a connection; [`Watch`] makes one.
    pub(crate) fn new(config: &RedisConfig, log_length: u64) -> Self {
        let server = Arc::new(mainstay_redis::Redis::new(config));
        Self { server, scripts: Scripts::new(log_length), durable: Durable::new() }
    }

    /// Reads what lies under a key, and up to which number its namespace is invalid.
    pub(crate) async fn get(
        &self,
        key: &Key,
        within: Duration,
    ) -> Result<(Option<Bytes>, Option<u64>), RedisError> {
        let keys = vec![self.full(key.as_str()), self.full(&entries::floor_of(key.namespace()))];
        self.command(within, |client| async move { client.mget(keys).await }).await
    }

    /// Returns the highest number up to which one of these tags is invalid; none when that was lost.
    pub(crate) async fn tag_barrier(
        &self,
        namespace: &str,
        tags: &Tags,
        within: Duration,
    ) -> Result<Option<u64>, RedisError> {
        let fields: Vec<&str> = std::iter::once("").chain(tags.iter()).collect();
        let barriers = self.full(&entries::barriers_of(namespace));
        let barriers: Vec<Option<u64>> =
            self.command(within, |client| async move { client.hmget(barriers, fields).await }).await?;
        let (marker, barriers) = barriers.split_first().unwrap_or((&None, &[]));
        Ok(marker.map(|_| barriers.iter().flatten().copied().max().unwrap_or(0)))
    }

    /// Returns all run-time policies, by namespace: version, a space, JSON.
    pub(crate) async fn policies(&self, within: Duration) -> Result<HashMap<String, String>, RedisError> {
        let policies = self.full(entries::POLICIES);
        self.command(within, |client| async move { client.hgetall(policies).await }).await
    }

    /// Returns the last changes of run-time policies, the last first.
    pub(crate) async fn policy_history(&self, within: Duration) -> Result<Vec<String>, RedisError> {
        let history = self.full(entries::POLICY_HISTORY);
        self.command(within, |client| async move { client.lrange(history, 0, -1).await }).await
    }
}
