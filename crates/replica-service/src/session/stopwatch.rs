use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

/// Notes when a statement last got a connection, and of which node; read by whoever tells how long it took.
#[derive(Debug, Default)]
pub(crate) struct Stopwatch(Mutex<Option<(Arc<str>, Instant)>>);

impl Stopwatch {
    pub(crate) fn start(&self, node: &Arc<str>) {
        *self.0.lock() = Some((Arc::clone(node), Instant::now()));
    }

    /// Splits the time that it took in all into before and since; the node is the last one.
    pub(crate) fn split(&self, took: Duration) -> (Option<Arc<str>>, Duration, Duration) {
        match &*self.0.lock() {
            None => (None, took, Duration::ZERO),
            Some((node, at)) => {
                let executed = at.elapsed().min(took);
                (Some(Arc::clone(node)), took - executed, executed)
            }
        }
    }
}
