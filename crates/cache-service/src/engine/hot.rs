//! Hot keys: found by the sketch of each node, told to all through Redis, and kept in the memory of each.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use futures_util::StreamExt as _;
use mainstay_runtime::{Activate, Trigger};
use parking_lot::RwLock;
use tokio::time::Instant;

use super::{Engine, Policy};
use crate::config::{HotKeysConfig, Strategy};
use crate::insight::Heavy;
use crate::key::Key;
use crate::time::Moment;

/// What this node keeps because it, or another node, calls it hot.
#[derive(Debug, Default)]
pub(crate) struct HotKeys {
    kept: RwLock<HashSet<Key>>,
    keeper: OnceLock<Trigger>,
}

impl HotKeys {
    /// How often the list is made and told.
    pub(crate) const EVERY: Duration = Duration::from_secs(1);

    /// Says whom to wake when a kept key was changed.
    pub(crate) fn kept_by(&self, keeper: Trigger) {
        // A second keeper would keep the same keys; the first is as good.
        let _ = self.keeper.set(keeper);
    }

    pub(crate) fn contains(&self, key: &Key) -> bool {
        self.kept.read().contains(key)
    }

    pub(crate) fn all(&self) -> Vec<Key> {
        self.kept.read().iter().cloned().collect()
    }

    /// Takes note that another node changed a key.
    pub(crate) fn changed(&self, key: &Key) {
        if self.contains(key) {
            self.wake();
        }
    }

    /// Takes note that entries of a namespace were invalidated.
    pub(crate) fn changed_in(&self, namespace: &str) {
        if self.kept.read().iter().any(|key| key.namespace() == namespace) {
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(keeper) = self.keeper.get() {
            keeper.fire();
        }
    }
}

/// Makes the list each second, and brings what it names into memory ahead of the readers: when another node calls it hot,
/// when it was changed, and before memory may no longer answer alone.
#[derive(Debug)]
pub(crate) struct HotKeeper {
    engine: Weak<Engine>,
    config: HotKeysConfig,
    own: HashSet<Arc<str>>,
    listed_at: Option<Instant>,
    worked_at: Option<Instant>,
}

/// Hot keys of all nodes together; the first to run out are forgotten.
const MOST_TOLD: u64 = 256;
/// Below so many samples nothing is known.
const LEAST_SAMPLES: u64 = 64;
/// Changes of kept keys are worked off together, this often at most.
const WORK_EVERY: Duration = Duration::from_millis(20);
const REFILLS_AT_ONCE: usize = 16;
const REFILL_WITHIN: Duration = Duration::from_secs(2);
const TELL_WITHIN: Duration = Duration::from_millis(500);

impl HotKeeper {
    pub(crate) fn new(engine: &Arc<Engine>, config: &HotKeysConfig) -> Self {
        Self {
            engine: Arc::downgrade(engine),
            config: config.clone(),
            own: HashSet::new(),
            listed_at: None,
            worked_at: None,
        }
    }

    async fn list(&mut self, engine: &Engine) {
        let (heaviest, n_samples) = engine.insight.hottest(2 * self.config.most as usize);
        self.own = hottest(heaviest, n_samples, &self.own, &self.config);
        let mut names: HashSet<Arc<str>> = self.own.clone();
        if let Some(redis) = &engine.redis {
            let own: Vec<&str> = self.own.iter().map(|name| &**name).collect();
            match redis.tell_hot(&own, self.config.told_for, MOST_TOLD, TELL_WITHIN).await {
                Ok(told) => names.extend(told.into_iter().map(Arc::from)),
                // What others had told goes on being kept until Redis answers again.
                Err(_) => names.extend(engine.hot.all().iter().map(|key| key.as_str().into())),
            }
        }
        let kept: HashSet<Key> = names.iter().filter_map(|name| Key::from_text(name)).collect();
        let before = std::mem::replace(&mut *engine.hot.kept.write(), kept.clone());
        before.difference(&kept).for_each(|key| engine.memory.unpin(key));
        engine.metrics.hot_kept.set(kept.len() as i64);
    }
}

impl Activate for HotKeeper {
    async fn activate(&mut self) -> anyhow::Result<()> {
        let Some(engine) = self.engine.upgrade() else { return Ok(()) };
        if let Some(at) = self.worked_at {
            tokio::time::sleep_until(at + WORK_EVERY).await;
        }
        let is_due = self.listed_at.is_none_or(|at| at.elapsed() >= HotKeys::EVERY / 2);
        if is_due {
            self.listed_at = Some(Instant::now());
            self.list(&engine).await;
        }
        let keys = futures_util::stream::iter(engine.hot.all());
        keys.for_each_concurrent(REFILLS_AT_ONCE, |key| {
            let engine = Arc::clone(&engine);
            async move { engine.keep_hot(&key).await }
        })
        .await;
        self.worked_at = Some(Instant::now());
        Ok(())
    }
}

/// Chooses the keys that get at least a share of all reads for sure. One that was hot stays so down to half of the share.
fn hottest(
    heaviest: Vec<Heavy>,
    n_samples: u64,
    was: &HashSet<Arc<str>>,
    config: &HotKeysConfig,
) -> HashSet<Arc<str>> {
    if n_samples < LEAST_SAMPLES {
        return HashSet::new();
    }
    let is_hot = |heavy: &Heavy| {
        let share = (heavy.count - heavy.error) as f64 / n_samples as f64;
        let least = if was.contains(&heavy.name) { config.min_share / 2.0 } else { config.min_share };
        share >= least
    };
    let hot = heaviest.into_iter().filter(is_hot).take(config.most as usize);
    hot.map(|heavy| heavy.name).collect()
}

impl Engine {
    /// Brings a hot key into memory unless it is there and will be for a while, and keeps it there through eviction.
    async fn keep_hot(&self, key: &Key) {
        let Some(namespace) = self.namespaces.get(key.namespace()) else { return };
        let policy = &namespace.policy;
        if !policy.memory {
            return;
        }
        if !self.is_at_hand(key, policy, self.time.now()) {
            let brought = match (policy.strategy, self.redis_of(policy)) {
                (Strategy::CacheAside, Some(redis)) => {
                    self.read_below(redis, key, policy, self.held(key), REFILL_WITHIN).await
                }
                (Strategy::CacheAside, None) => return,
                _ => self.load(key, policy, None, REFILL_WITHIN, None).await,
            };
            match brought {
                Ok(found) if found.entry.is_some() => drop(self.metrics.hot_refills.inc()),
                // Not there, or not to be had now: its readers are told so.
                _ => return,
            }
        }
        self.memory.pin(key);
    }

    /// Tells whether memory will go on answering alone for a while, or as long as the entry lives.
    fn is_at_hand(&self, key: &Key, policy: &Policy, now: Moment) -> bool {
        let Some(held) = self.held(key) else { return false };
        let ahead = (policy.memory_ttl / 2).min(2 * HotKeys::EVERY);
        let lasts = held.fresh_until.left(now) > ahead || held.fresh_until >= held.lives_until;
        lasts && self.suffices(key, policy, &held, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heavy(name: &str, count: u64, error: u64) -> Heavy {
        Heavy { name: name.into(), count, error }
    }

    fn names(hot: &HashSet<Arc<str>>) -> Vec<&str> {
        let mut names: Vec<&str> = hot.iter().map(|name| &**name).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn a_key_is_hot_from_its_share_and_cools_at_half_of_it() {
        let config = HotKeysConfig { most: 2, min_share: 0.1, ..HotKeysConfig::default() };
        let none = HashSet::new();
        let was = HashSet::from(["b".into(), "c".into()]);
        for (heaviest, n_samples, was, expected) in [
            (vec![heavy("a", 100, 0), heavy("b", 99, 0)], 1_000, &none, &["a"][..]),
            (vec![heavy("a", 100, 1)], 1_000, &none, &[]),
            (vec![heavy("a", 100, 0), heavy("b", 50, 0), heavy("c", 49, 0)], 1_000, &was, &["a", "b"]),
            (vec![heavy("a", 300, 0), heavy("d", 300, 0), heavy("e", 300, 0)], 1_000, &none, &["a", "d"]),
            (vec![heavy("a", LEAST_SAMPLES - 1, 0)], LEAST_SAMPLES - 1, &none, &[]),
        ] {
            assert_eq!(names(&hottest(heaviest.clone(), n_samples, was, &config)), expected, "{heaviest:?}");
        }
    }
}
