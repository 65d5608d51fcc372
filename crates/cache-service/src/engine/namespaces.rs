use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hashbrown::HashMap;
use mainstay_runtime::Problems;
use parking_lot::RwLock;
use prometheus_client::metrics::counter::Counter;

use crate::adaptive::{Adaptive, Behaviour};
use crate::config::{CacheConfig, Durability, Eviction, NamespaceConfig, Strategy, WarmPlan};
use crate::key::Ttl;
use crate::metrics::LastLayer;

/// Unlisted namespaces counted by name; the rest are counted together.
const MOST_OPEN: usize = 1_000;
/// Name under which the rest are counted; no namespace can have it.
const REST: &str = "(other)";

/// Knows the policy of every namespace and counts what it does.
#[derive(Debug)]
pub(crate) struct Namespaces {
    listed: RwLock<HashMap<Box<str>, Arc<Namespace>>>,
    /// What the configuration says, without what was put at run time.
    config: CacheConfig,
    /// None when only listed namespaces may be used.
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    policy: Policy,
    by_name: RwLock<HashMap<Box<str>, Arc<Namespace>>>,
    rest: Arc<Namespace>,
}

/// One namespace: how its entries are kept, and how much it is used.
#[derive(Debug, Clone)]
pub(crate) struct Namespace {
    pub(crate) policy: Policy,
    pub(crate) gets: Counter,
    /// Reads answered with an entry, by layer.
    hits: [Counter; 5],
    /// Reads that this layer was asked for and did not answer.
    misses: [Counter; 5],
    /// Of the hits, those with an entry past its time, by layer.
    stale: [Counter; 5],
    pub(crate) sets: Counter,
    pub(crate) load_cost: LoadCost,
    /// For the strategy `adaptive`.
    pub(crate) adaptive: Option<Arc<Adaptive>>,
}

/// What a load from the origin takes: a mean that forgets, in which the last load counts for an eighth.
#[derive(Debug, Clone, Default)]
pub(crate) struct LoadCost(Arc<AtomicU64>);

impl LoadCost {
    pub(crate) fn get(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed))
    }

    pub(crate) fn measured(&self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let before = self.0.load(Ordering::Relaxed);
        let mean = if before == 0 { took } else { before - before / 8 + took / 8 };
        self.0.store(mean, Ordering::Relaxed);
    }
}

/// How the entries of a namespace are kept: its configuration, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) ttl: Ttl,
    pub(crate) max_value_bytes: u64,
    pub(crate) grace: Duration,
    pub(crate) memory_ttl: Duration,
    pub(crate) memory: bool,
    pub(crate) redis: bool,
    pub(crate) disk: bool,
    pub(crate) compress_above: u64,
    pub(crate) eviction: Eviction,
    pub(crate) durability: Durability,
    pub(crate) strategy: Strategy,
    pub(crate) origin: Box<str>,
    pub(crate) negative_ttl: Duration,
    pub(crate) soft_deadline: Duration,
    pub(crate) hard_deadline: Duration,
    pub(crate) ttl_jitter_percent: u8,
    pub(crate) warm: Arc<WarmPlan>,
}

impl Namespaces {
    pub(crate) fn new(config: &CacheConfig) -> Self {
        let defaults = &config.namespace_defaults;
        let listed = config.namespaces.iter().map(|(name, overrides)| {
            let namespace = Namespace::new(Policy::new(&overrides.over(defaults)));
            (name.as_str().into(), Arc::new(namespace))
        });
        let open = config.open_namespaces.then(|| {
            let policy = Policy::new(defaults);
            Open { by_name: RwLock::default(), rest: Arc::new(Namespace::new(policy.clone())), policy }
        });
        Self { listed: RwLock::new(listed.collect()), config: config.clone(), open }
    }

    /// Returns none for a name that may not be used.
    pub(crate) fn get(&self, name: &str) -> Option<Arc<Namespace>> {
        if let Some(namespace) = self.listed.read().get(name) {
            return Some(Arc::clone(namespace));
        }
        let open = self.open.as_ref()?;
        if let Some(namespace) = open.by_name.read().get(name) {
            return Some(Arc::clone(namespace));
        }
        let mut by_name = open.by_name.write();
        if by_name.len() >= MOST_OPEN && !by_name.contains_key(name) {
            return Some(Arc::clone(&open.rest));
        }
        let namespace =
            by_name.entry(name.into()).or_insert_with(|| Arc::new(Namespace::new(open.policy.clone())));
        Some(Arc::clone(namespace))
    }

    /// Returns what the configuration says of a namespace; none for a name that may not be used.
    pub(crate) fn configured(&self, name: &str) -> Option<NamespaceConfig> {
        let defaults = &self.config.namespace_defaults;
        match self.config.namespaces.get(name) {
            Some(overrides) => Some(overrides.over(defaults)),
            None => self.open.is_some().then(|| defaults.clone()),
        }
    }

    /// Tells what is wrong with a policy for a namespace.
    pub(crate) fn problems(&self, policy: &NamespaceConfig) -> Vec<String> {
        let mut problems = Problems::default();
        policy.check("policy", &self.config, &mut problems);
        problems.lines()
    }

    /// Puts a policy in force for a namespace; its counters go on.
    pub(crate) fn put(&self, name: &str, policy: &NamespaceConfig) {
        let used = self.open.as_ref().and_then(|open| open.by_name.write().remove(name));
        let mut listed = self.listed.write();
        let counted = listed
            .get(name)
            .cloned()
            .or(used)
            .unwrap_or_else(|| Arc::new(Namespace::new(Policy::new(policy))));
        let is_adaptive = policy.strategy == Strategy::Adaptive;
        let adaptive = is_adaptive.then(|| counted.adaptive.clone().unwrap_or_else(Adaptive::new));
        let namespace = Namespace { policy: Policy::new(policy), adaptive, ..Namespace::clone(&counted) };
        listed.insert(name.into(), Arc::new(namespace));
    }

    /// Returns all namespaces that are listed or were used, by name.
    pub(crate) fn all(&self) -> Vec<(String, Arc<Namespace>)> {
        let named = |all: &HashMap<Box<str>, Arc<Namespace>>| -> Vec<(String, Arc<Namespace>)> {
            all.iter().map(|(name, namespace)| (name.to_string(), Arc::clone(namespace))).collect()
        };
        let mut all = named(&self.listed.read());
        if let Some(open) = &self.open {
            all.extend(named(&open.by_name.read()));
            if open.rest.gets.get() + open.rest.sets.get() > 0 {
                all.push((REST.to_owned(), Arc::clone(&open.rest)));
            }
        }
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        all
    }
}

impl Namespace {
    /// Counts reads that this layer answered with an entry.
    pub(crate) fn hits_in(&self, layer: LastLayer) -> &Counter {
        &self.hits[layer as usize]
    }

    /// Counts reads for which this layer was asked, and which it did not answer.
    pub(crate) fn misses_in(&self, layer: LastLayer) -> &Counter {
        &self.misses[layer as usize]
    }

    /// Counts reads that this layer answered with an entry past its time.
    pub(crate) fn stale_in(&self, layer: LastLayer) -> &Counter {
        &self.stale[layer as usize]
    }

    /// Returns the reads answered with an entry past its time.
    pub(crate) fn n_stale(&self) -> u64 {
        self.stale.iter().map(Counter::get).sum()
    }

    /// Returns the reads answered with an entry.
    pub(crate) fn n_hits(&self) -> u64 {
        self.hits.iter().map(Counter::get).sum()
    }

    /// Tells whether what is read is loaded again before it ends.
    pub(crate) fn refreshes_ahead(&self) -> bool {
        self.policy.strategy == Strategy::RefreshAhead || self.behaves_as(Behaviour::RefreshAhead)
    }

    /// Tells whether a write goes to the origin and out of the cache.
    pub(crate) fn writes_around(&self) -> bool {
        self.behaves_as(Behaviour::ReadThrough)
    }

    fn behaves_as(&self, behaviour: Behaviour) -> bool {
        self.adaptive.as_ref().is_some_and(|adaptive| adaptive.chosen() == behaviour)
    }

    fn new(policy: Policy) -> Self {
        Self {
            adaptive: (policy.strategy == Strategy::Adaptive).then(Adaptive::new),
            policy,
            gets: Counter::default(),
            hits: Default::default(),
            misses: Default::default(),
            stale: Default::default(),
            sets: Counter::default(),
            load_cost: LoadCost::default(),
        }
    }
}

impl Policy {
    fn new(config: &NamespaceConfig) -> Self {
        Self {
            ttl: Ttl::try_new(config.ttl).expect("checked with the configuration"),
            max_value_bytes: config.max_value_size.as_u64(),
            grace: config.grace,
            memory_ttl: config.memory_ttl,
            memory: config.memory,
            redis: config.redis,
            disk: config.disk,
            compress_above: config.compress_above.as_u64(),
            eviction: config.eviction,
            durability: config.durability,
            strategy: config.strategy,
            origin: config.origin.as_str().into(),
            negative_ttl: config.negative_ttl,
            soft_deadline: config.soft_deadline,
            hard_deadline: config.hard_deadline,
            ttl_jitter_percent: config.ttl_jitter_percent,
            warm: Arc::new(config.warm.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NamespaceOverrides;

    #[test]
    fn unlisted_names_are_refused_unless_namespaces_are_open() {
        let mut config = CacheConfig { open_namespaces: false, ..CacheConfig::default() };
        let overrides =
            NamespaceOverrides { ttl: Some(Duration::from_secs(9)), ..NamespaceOverrides::default() };
        config.namespaces.insert("users".to_owned(), overrides);
        let namespaces = Namespaces::new(&config);
        assert_eq!(namespaces.get("users").unwrap().policy.ttl.as_millis(), 9_000);
        assert!(namespaces.get("other").is_none());
        config.open_namespaces = true;
        assert_eq!(Namespaces::new(&config).get("other").unwrap().policy.ttl.as_millis(), 300_000);
    }

    #[test]
    fn figures_of_open_namespaces_take_bounded_memory() {
        let namespaces = Namespaces::new(&CacheConfig::default());
        for number in 0..2 * MOST_OPEN {
            namespaces.get(&format!("n{number}")).unwrap().gets.inc();
        }
        let all = namespaces.all();
        assert_eq!(all.len(), MOST_OPEN + 1);
        assert_eq!((all[0].0.as_str(), all[0].1.gets.get()), (REST, MOST_OPEN as u64));
    }
}
