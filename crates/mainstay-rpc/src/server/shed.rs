//! Refusing what cannot be handled soon, so that what is accepted is handled well.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::methods;
use super::metrics::ServerMetrics;
use crate::code::ErrorCode;
use crate::failure::Failure;

const RETRY_AFTER: Duration = Duration::from_secs(1);

pub(super) struct Shed {
    max_in_flight: u32,
    in_flight: AtomicU32,
    metrics: Arc<ServerMetrics>,
}

impl Shed {
    pub(super) fn new(max_in_flight: u32, metrics: Arc<ServerMetrics>) -> Self {
        Self { max_in_flight, in_flight: AtomicU32::new(0), metrics }
    }

    /// Tells whether a request that is over before another can be looked at needs no refusal.
    pub(super) fn has_room(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) < self.max_in_flight
    }

    /// Takes a place; questions about the service itself get one even when all are taken.
    pub(super) fn enter(&self, path: &str) -> Result<Slot<'_>, Failure> {
        let before = self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.metrics.in_flight.inc();
        let slot = Slot(self);
        if before < self.max_in_flight || methods::is_about_service(path) {
            return Ok(slot);
        }
        self.metrics.shed.inc();
        let message = format!("{} requests are being handled already", self.max_in_flight);
        Err(Failure::new(ErrorCode::ResourceExhausted, "OVERLOADED", message).retry_after(RETRY_AFTER))
    }
}

/// Is a place among the requests being handled, until the answer begins.
pub(super) struct Slot<'a>(&'a Shed);

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.0.metrics.in_flight.dec();
    }
}
