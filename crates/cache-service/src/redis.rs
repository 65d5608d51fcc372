//! What lies in Redis: entries, barriers, policies, and the log of changes.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fred::interfaces::{HashesInterface as _, KeysInterface as _, ListInterface as _};
use fred::types::Value;
use mainstay_redis::Part;
pub(crate) use mainstay_redis::{Partition, RedisError, Script, Watch};
use tokio::time::Instant;

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
    /// Of each partition.
    durable: Box<[Durable]>,
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
        let durable = server.partitions().map(|_| Durable::new()).collect();
        Self { server, scripts: Scripts::new(log_length), durable }
    }

    /// Returns where all of a namespace lies: in a cluster, with what is changed together with its entries, in one partition.
    fn namespace(&self, namespace: &str) -> Part<'_> {
        self.part(self.partition_of(namespace))
    }

    /// Reads what lies under a key, and up to which number its namespace is invalid.
    pub(crate) async fn get(
        &self,
        key: &Key,
        within: Duration,
    ) -> Result<(Option<Bytes>, Option<u64>), RedisError> {
        let started = Instant::now();
        let part = self.namespace(key.namespace());
        let keys = vec![part.full(key.as_str()), part.full(&entries::floor_of(key.namespace()))];
        match part.command(within, |client| async move { client.mget(keys).await }).await {
            Err(error) if error.is_redirect() => {
                self.get_apart(key, within.saturating_sub(started.elapsed())).await
            }
            answer => answer,
        }
    }

    /// Reads the same while the keys are moved from one node of a cluster to another, and may be apart.
    ///
    /// The entry first: an invalidation in between is then seen, and makes it absent.
    async fn get_apart(
        &self,
        key: &Key,
        within: Duration,
    ) -> Result<(Option<Bytes>, Option<u64>), RedisError> {
        let until = Instant::now() + within;
        let part = self.namespace(key.namespace());
        let (entry, floor) = (part.full(key.as_str()), part.full(&entries::floor_of(key.namespace())));
        let entry = part.read("GET", vec![entry.into()], within).await?;
        let left = until.saturating_duration_since(Instant::now());
        Ok((entry, part.read("GET", vec![floor.into()], left).await?))
    }

    /// Returns the highest number up to which one of these tags is invalid; none when that was lost.
    pub(crate) async fn tag_barrier(
        &self,
        namespace: &str,
        tags: &Tags,
        within: Duration,
    ) -> Result<Option<u64>, RedisError> {
        let started = Instant::now();
        let fields: Vec<&str> = std::iter::once("").chain(tags.iter()).collect();
        let part = self.namespace(namespace);
        let (key, asked) = (part.full(&entries::barriers_of(namespace)), fields.clone());
        let barriers = part.command(within, |client| async move { client.hmget(key, asked).await }).await;
        let barriers: Vec<Option<u64>> = match barriers {
            Err(error) if error.is_redirect() => {
                let key = part.full(&entries::barriers_of(namespace));
                let words = std::iter::once(Value::from(key)).chain(fields.into_iter().map(Value::from));
                part.read("HMGET", words.collect(), within.saturating_sub(started.elapsed())).await?
            }
            barriers => barriers?,
        };
        let (marker, barriers) = barriers.split_first().unwrap_or((&None, &[]));
        Ok(marker.map(|_| barriers.iter().flatten().copied().max().unwrap_or(0)))
    }

    /// Returns all run-time policies, by namespace: version, a space, JSON.
    pub(crate) async fn policies(&self, within: Duration) -> Result<HashMap<String, String>, RedisError> {
        let policies = self.first().full(entries::POLICIES);
        self.first().command(within, |client| async move { client.hgetall(policies).await }).await
    }

    /// Returns the last changes of run-time policies, the last first.
    pub(crate) async fn policy_history(&self, within: Duration) -> Result<Vec<String>, RedisError> {
        let history = self.first().full(entries::POLICY_HISTORY);
        self.first().command(within, |client| async move { client.lrange(history, 0, -1).await }).await
    }
}
