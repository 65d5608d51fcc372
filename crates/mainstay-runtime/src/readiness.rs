use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::component::Components;

/// Decides whether the process can serve: no latch is held, every critical component works, no shutdown has begun.
pub(crate) struct Readiness {
    state: Mutex<State>,
    draining: CancellationToken,
    components: Arc<Components>,
    ready: watch::Sender<bool>,
    gauge: Gauge,
}

#[derive(Default)]
struct State {
    latches: BTreeMap<u64, &'static str>,
    n_latches_taken: u64,
}

/// One part that keeps the process from being ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Obstacle {
    pub(crate) name: String,
    pub(crate) reason: String,
}

impl Readiness {
    pub(crate) fn new(components: Arc<Components>, gauge: Gauge) -> Arc<Self> {
        let (state, draining, ready) =
            (Mutex::default(), CancellationToken::new(), watch::Sender::new(false));
        let readiness = Self { state, draining, components, ready, gauge };
        readiness.refresh();
        Arc::new(readiness)
    }

    pub(crate) fn latch(self: &Arc<Self>, name: &'static str) -> Latch {
        let id = {
            let mut state = self.state.lock();
            state.n_latches_taken += 1;
            let id = state.n_latches_taken;
            state.latches.insert(id, name);
            id
        };
        self.refresh();
        Latch { id, readiness: Arc::clone(self) }
    }

    pub(crate) fn drain(&self) {
        self.draining.cancel();
        self.refresh();
    }

    /// Is cancelled once a shutdown has begun.
    pub(crate) fn draining(&self) -> &CancellationToken {
        &self.draining
    }

    pub(crate) fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Follows readiness; the receiver sees the present value first.
    pub(crate) fn watch(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// Returns everything that keeps the process from being ready; empty when it is.
    pub(crate) fn obstacles(&self) -> Vec<Obstacle> {
        let mut obstacles = Vec::new();
        if self.draining.is_cancelled() {
            obstacles.push(Obstacle { name: "process".into(), reason: "is shutting down".into() });
        }
        for name in self.state.lock().latches.values().copied() {
            obstacles.push(Obstacle { name: name.into(), reason: "has not finished starting".into() });
        }
        obstacles.extend(self.components.obstacles());
        obstacles
    }

    /// Decides anew; called after everything that may change the answer.
    pub(crate) fn refresh(&self) {
        // The decision is made inside, so that of two callers the later one never publishes the older answer.
        self.ready.send_if_modified(|ready| {
            let now = self.obstacles().is_empty();
            self.gauge.set(i64::from(now));
            std::mem::replace(ready, now) != now
        });
    }
}

/// Keeps the process from being ready until released or dropped.
#[must_use = "a latch that is dropped at once holds nothing"]
pub struct Latch {
    id: u64,
    readiness: Arc<Readiness>,
}

impl Latch {
    /// Tells that what the latch stood for is done.
    pub fn release(self) {
        drop(self);
    }
}

impl Drop for Latch {
    fn drop(&mut self) {
        self.readiness.state.lock().latches.remove(&self.id);
        self.readiness.refresh();
    }
}

#[cfg(test)]
mod tests;
