//! What of each namespace lies in Redis: an estimate, for Redis itself counts only keys of all kinds together.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use fred::interfaces::ClientLike as _;
use fred::types::{ClusterHash, CustomCommand, Value};
use futures_util::future::join_all;
use mainstay_redis::{Part, number};
use mainstay_resilience::breaker::State;
use parking_lot::Mutex;

use super::RedisLayer;
use crate::key::Namespace;
use crate::redis::RedisError;

/// Walks over the keys of each primary a few at a time, and takes those seen last for a sample of all: Redis keeps keys
/// in the order of their hashes, in which namespaces lie as if shuffled. A server with few keys is walked as a whole.
#[derive(Debug)]
pub(crate) struct Census {
    prefix: Box<[u8]>,
    /// By the address of the primary.
    servers: Mutex<HashMap<String, Walk>>,
}

/// What of a namespace is estimated to lie in Redis.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct InRedis {
    pub(crate) entries: u64,
    /// Of keys and values as stored.
    pub(crate) bytes: u64,
}

#[derive(Debug, Clone, Default)]
struct Walk {
    cursor: u64,
    n_keys: u64,
    seen: VecDeque<SeenKey>,
}

/// A key that was looked at; one that is no entry of ours is of no namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
struct SeenKey {
    namespace: Option<Box<str>>,
    bytes: u64,
}

impl Census {
    pub(crate) const EVERY: Duration = Duration::from_secs(5);
    /// Keys of one look at a server, about.
    const KEYS_OF_A_LOOK: usize = 200;
    const MOST_SEEN: usize = 2_000;
    const AT_ONCE: usize = 50;

    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.as_bytes().into(), servers: Mutex::default() }
    }

    /// Returns the keys of all kinds, as of the last look.
    pub(crate) fn n_keys(&self) -> u64 {
        self.servers.lock().values().map(|walk| walk.n_keys).sum()
    }

    /// Returns the keys from which the rest is estimated.
    pub(crate) fn n_sampled(&self) -> u64 {
        self.servers.lock().values().map(|walk| walk.seen.len() as u64).sum()
    }

    /// Returns the estimate, by namespace.
    pub(crate) fn figures(&self) -> HashMap<String, InRedis> {
        let mut figures: HashMap<String, InRedis> = HashMap::new();
        for walk in self.servers.lock().values() {
            for (namespace, found) in walk.figures() {
                let sum = figures.entry(namespace.to_owned()).or_default();
                sum.entries += found.entries;
                sum.bytes += found.bytes;
            }
        }
        figures
    }

    /// Returns the namespace whose entry lies under a key: not of what the cache keeps beside the entries, nor of others.
    fn namespace_of(&self, key: &[u8], is_cluster: bool) -> Option<Box<str>> {
        let mut rest = key.strip_prefix(&*self.prefix)?;
        if is_cluster {
            let end_of_tag = rest.strip_prefix(b"{")?.iter().position(|byte| *byte == b'}')?;
            rest = &rest[end_of_tag + 2..];
        }
        let end = rest.iter().position(|byte| *byte == b':')?;
        let name = std::str::from_utf8(&rest[..end]).ok()?;
        Namespace::try_new(name).ok().map(|name| name.as_str().into())
    }
}

impl Walk {
    fn figures(&self) -> HashMap<&str, InRedis> {
        let mut figures: HashMap<&str, InRedis> = HashMap::new();
        for seen in &self.seen {
            let Some(namespace) = &seen.namespace else { continue };
            let found = figures.entry(namespace).or_default();
            found.entries += 1;
            found.bytes += seen.bytes;
        }
        let n_seen = self.seen.len().max(1) as u64;
        let of_all = |n: u64| {
            let all = u128::from(n) * u128::from(self.n_keys) / u128::from(n_seen);
            u64::try_from(all).unwrap_or(u64::MAX)
        };
        for found in figures.values_mut() {
            *found = InRedis { entries: of_all(found.entries), bytes: of_all(found.bytes) };
        }
        figures
    }

    /// Takes what was seen since the cursor stood at `from`.
    fn add(&mut self, from: u64, to: u64, n_keys: u64, seen: Vec<SeenKey>) {
        let is_whole = from == 0 && to == 0;
        if is_whole {
            self.seen.clear();
        }
        self.seen.extend(seen);
        let n_over = self.seen.len().saturating_sub(Census::MOST_SEEN);
        self.seen.drain(..n_over);
        (self.cursor, self.n_keys) = (to, if is_whole { self.seen.len() as u64 } else { n_keys });
    }
}

impl RedisLayer {
    /// Walks on over the keys of each primary. One that fails is asked again the next time.
    pub(crate) async fn count_keys(&self) {
        let mut asked = HashSet::new();
        for partition in self.partitions() {
            let part = self.redis().part(partition);
            let Some(address) = part.primary().map(|address| address.to_string()) else { continue };
            if !asked.insert(address.clone()) || self.lanes[partition.index()].state() != State::Closed {
                continue;
            }
            let from = self.census.servers.lock().get(&address).map_or(0, |walk| walk.cursor);
            match self.walk_on(part, from).await {
                Ok((to, n_keys, seen)) => {
                    self.census.servers.lock().entry(address).or_default().add(from, to, n_keys, seen);
                }
                Err(error) => tracing::debug!(address, error = error.in_full(), "keys of redis not counted"),
            }
        }
        self.census.servers.lock().retain(|address, _| asked.contains(address));
    }

    async fn walk_on(&self, part: Part<'_>, from: u64) -> Result<(u64, u64, Vec<SeenKey>), RedisError> {
        let (within, mut cursor, mut keys) = (self.command_within, from, HashSet::new());
        let n_keys: u64 = command(part, "DBSIZE", Vec::new(), within).await?;
        loop {
            let words = vec![number(cursor), "COUNT".into(), number(Census::KEYS_OF_A_LOOK as u64)];
            let (next, some): (u64, Vec<Bytes>) = command(part, "SCAN", words, within).await?;
            keys.extend(some);
            cursor = next;
            if cursor == 0 || keys.len() >= Census::KEYS_OF_A_LOOK {
                break;
            }
        }
        let (mut seen, keys) = (Vec::with_capacity(keys.len()), Vec::from_iter(keys));
        for some in keys.chunks(Census::AT_ONCE) {
            let looks = some.iter().map(|key| self.look_at(part, key, within));
            for looked in join_all(looks).await {
                seen.extend(looked?);
            }
        }
        Ok((cursor, n_keys, seen))
    }

    /// Returns none for an entry that has gone.
    async fn look_at(
        &self,
        part: Part<'_>,
        key: &Bytes,
        within: Duration,
    ) -> Result<Option<SeenKey>, RedisError> {
        let Some(namespace) = self.census.namespace_of(key, self.redis().is_cluster()) else {
            return Ok(Some(SeenKey { namespace: None, bytes: 0 }));
        };
        match command(part, "STRLEN", vec![Value::Bytes(key.clone())], within).await {
            Ok(0_u64) => Ok(None),
            Ok(n_bytes) => {
                Ok(Some(SeenKey { namespace: Some(namespace), bytes: n_bytes + key.len() as u64 }))
            }
            // No string, or on its way to another node.
            Err(error) if !error.is_outage() || error.is_redirect() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

async fn command<T: fred::types::FromValue + Send>(
    part: Part<'_>,
    name: &'static str,
    words: Vec<Value>,
    within: Duration,
) -> Result<T, RedisError> {
    let command = CustomCommand::new_static(name, ClusterHash::FirstKey, false);
    part.command(within, |client| async move { client.custom(command, words).await }).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(namespace: &str, bytes: u64) -> SeenKey {
        let namespace = (!namespace.is_empty()).then(|| namespace.into());
        SeenKey { namespace, bytes }
    }

    #[test]
    fn keys_are_told_by_their_namespace_and_others_are_none() {
        let census = Census::new("m:");
        for (name, is_cluster, expected) in [
            ("m:users:42", false, Some("users")),
            ("m:users:a:b", false, Some("users")),
            ("m:{p1.3}users:42", true, Some("users")),
            ("m:{p1.3users:42", true, None),
            ("m:users:42", true, None),
            ("m:!floor:users", false, None),
            ("m:_counter:x", false, None),
            ("users:42", false, None),
            ("m:users", false, None),
            ("", false, None),
        ] {
            assert_eq!(census.namespace_of(name.as_bytes(), is_cluster).as_deref(), expected, "{name}");
        }
        assert_eq!(census.namespace_of(b"m:\xff:1", false), None);
    }

    #[test]
    fn a_whole_walk_is_exact_and_a_part_of_one_is_a_sample() {
        let mut walk = Walk::default();
        walk.add(0, 0, 9, vec![key("a", 10), key("a", 20), key("b", 5), key("", 0)]);
        let exact = HashMap::from([
            ("a", InRedis { entries: 2, bytes: 30 }),
            ("b", InRedis { entries: 1, bytes: 5 }),
        ]);
        assert_eq!((walk.figures(), walk.n_keys), (exact, 4), "ended keys that Redis counted are not");

        let mut walk = Walk::default();
        walk.add(0, 7, 1_000, vec![key("a", 10), key("a", 30)]);
        walk.add(7, 9, 1_000, vec![key("b", 100), key("", 0)]);
        let estimate = HashMap::from([
            ("a", InRedis { entries: 500, bytes: 10_000 }),
            ("b", InRedis { entries: 250, bytes: 25_000 }),
        ]);
        assert_eq!((walk.figures(), walk.cursor), (estimate, 9));
        walk.add(9, 11, 1_000, vec![key("c", 1); Census::MOST_SEEN]);
        assert_eq!(walk.figures(), HashMap::from([("c", InRedis { entries: 1_000, bytes: 1_000 })]));
    }
}
