use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::clock::Clock;
use crate::readiness::{Obstacle, Readiness};

/// A part of the process, or something it leans on, with its health. Clones speak of the same part.
///
/// Whoever looks after the part reports; everybody else sees it through introspection, `/readyz` and `/metrics`.
#[derive(Clone)]
pub struct Component {
    name: Arc<str>,
    critical: bool,
    state: Arc<Mutex<State>>,
    registry: Arc<Components>,
    readiness: Weak<Readiness>,
    clock: Clock,
}

/// What role a component plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ComponentKind {
    /// A part of the process itself.
    Internal,
    /// A data store: Redis, PostgreSQL, a disk cache.
    Datastore,
    /// Another service called over the network.
    Upstream,
    /// The host: disk, memory.
    System,
}

/// How well a component does its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Works as configured.
    Healthy,
    /// Works with less than is configured: slower, staler or without a spare.
    Degraded,
    /// Does not do its work.
    Unhealthy,
    /// Not looked at yet.
    Unknown,
}

impl Health {
    /// Returns the lower-case name, e.g. `healthy`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
            Self::Unknown => "unknown",
        }
    }

    fn gauge(self) -> i64 {
        match self {
            Self::Unknown => 0,
            Self::Unhealthy => 1,
            Self::Degraded => 2,
            Self::Healthy => 3,
        }
    }

    /// Unknown is no evidence of trouble, so going from it to degraded is news of the bad kind.
    fn is_worse_than(self, before: Self) -> bool {
        let rank =
            |health: Self| if health == Self::Unknown { Self::Healthy.gauge() } else { health.gauge() };
        rank(self) < rank(before)
    }
}

/// What is known of a component at one moment.
#[derive(Clone, Debug)]
pub(crate) struct ComponentSnapshot {
    pub(crate) name: String,
    pub(crate) kind: ComponentKind,
    pub(crate) critical: bool,
    pub(crate) health: Health,
    pub(crate) detail: String,
    pub(crate) since: SystemTime,
    pub(crate) checked_at: Option<SystemTime>,
    pub(crate) latency: Option<Duration>,
    pub(crate) attributes: BTreeMap<String, String>,
}

type State = ComponentSnapshot;

impl Component {
    /// Reports that it works as configured.
    pub fn healthy(&self, detail: impl Into<String>) {
        self.report(Health::Healthy, detail.into());
    }

    /// Reports that it works with less than is configured.
    pub fn degraded(&self, detail: impl Into<String>) {
        self.report(Health::Degraded, detail.into());
    }

    /// Reports that it does not do its work. `detail` is one line for a person, e.g. `connection refused (10.0.0.7:6379)`.
    pub fn unhealthy(&self, detail: impl Into<String>) {
        self.report(Health::Unhealthy, detail.into());
    }

    /// Reports how long the last look over a network took.
    pub fn latency(&self, took: Duration) {
        self.state.lock().latency = Some(took);
    }

    /// Sets a fact worth showing, e.g. `role` = `replica`. Keys come from a small fixed set.
    pub fn attribute(&self, key: impl Into<String>, value: impl Into<String>) {
        self.state.lock().attributes.insert(key.into(), value.into());
    }

    /// Returns the health last reported.
    pub fn health(&self) -> Health {
        self.state.lock().health
    }

    /// Forgets the component: it is no longer part of the process.
    pub fn remove(self) {
        self.registry.remove(&self.name, &self.state);
        self.refresh();
    }

    fn report(&self, health: Health, detail: String) {
        let now = self.clock.now();
        let (before, news) = {
            let mut state = self.state.lock();
            let before = std::mem::replace(&mut state.health, health);
            state.checked_at = Some(now);
            let news = (before != health).then(|| detail.clone());
            state.since = if news.is_some() { now } else { state.since };
            state.detail = detail;
            (before, news)
        };
        if let Some(detail) = news {
            self.announce(before, health, &detail);
        }
    }

    fn announce(&self, before: Health, health: Health, detail: &str) {
        self.registry.gauge(&self.name, health);
        self.refresh();
        let (component, from, to) = (&*self.name, before.as_str(), health.as_str());
        if health.is_worse_than(before) {
            tracing::warn!(component, from, to, detail, critical = self.critical, "component got worse");
        } else {
            tracing::info!(component, from, to, detail, "component got better");
        }
    }

    fn refresh(&self) {
        if let Some(readiness) = self.readiness.upgrade() {
            readiness.refresh();
        }
    }
}

impl fmt::Debug for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Component")
            .field("name", &self.name)
            .field("health", &self.health())
            .finish_non_exhaustive()
    }
}

/// Knows all components of the process.
pub(crate) struct Components {
    by_name: Mutex<BTreeMap<Arc<str>, Arc<Mutex<State>>>>,
    health: Family<Labels, Gauge>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct Labels {
    component: String,
}

impl Components {
    pub(crate) fn new(health: Family<Labels, Gauge>) -> Arc<Self> {
        Arc::new(Self { by_name: Mutex::default(), health })
    }

    /// Adds a component in state unknown; of two with one name the later one counts.
    pub(crate) fn add(
        self: &Arc<Self>,
        name: String,
        kind: ComponentKind,
        critical: bool,
        clock: &Clock,
        readiness: &Arc<Readiness>,
    ) -> Component {
        let state = State {
            name: name.clone(),
            kind,
            critical,
            health: Health::Unknown,
            detail: "not looked at yet".to_owned(),
            since: clock.now(),
            checked_at: None,
            latency: None,
            attributes: BTreeMap::new(),
        };
        let (name, state): (Arc<str>, _) = (name.into(), Arc::new(Mutex::new(state)));
        self.by_name.lock().insert(Arc::clone(&name), Arc::clone(&state));
        self.gauge(&name, Health::Unknown);
        readiness.refresh();
        let (registry, readiness, clock) = (Arc::clone(self), Arc::downgrade(readiness), clock.clone());
        Component { name, critical, state, registry, readiness, clock }
    }

    /// Returns all components by name.
    pub(crate) fn snapshot(&self) -> Vec<ComponentSnapshot> {
        self.by_name.lock().values().map(|state| state.lock().clone()).collect()
    }

    /// Returns the critical components without which the process is not ready.
    pub(crate) fn obstacles(&self) -> Vec<Obstacle> {
        let by_name = self.by_name.lock();
        let states = by_name.values().map(|state| state.lock());
        let blocking = states
            .filter(|state| state.critical && matches!(state.health, Health::Unhealthy | Health::Unknown));
        blocking.map(|state| Obstacle { name: state.name.clone(), reason: state.detail.clone() }).collect()
    }

    fn gauge(&self, name: &str, health: Health) {
        self.health.get_or_create(&Labels { component: name.to_owned() }).set(health.gauge());
    }

    fn remove(&self, name: &Arc<str>, state: &Arc<Mutex<State>>) {
        let mut by_name = self.by_name.lock();
        // A successor of the same name stays.
        if by_name.get(name).is_some_and(|present| Arc::ptr_eq(present, state)) {
            by_name.remove(name);
            self.health.remove(&Labels { component: name.as_ref().to_owned() });
        }
    }
}

#[cfg(test)]
mod tests;
