//! How clients are sent away, when the process stops or when somebody asks: not all at once, or they would all come back at
//! once.

use std::sync::Arc;
use std::time::Duration;

use rand::seq::SliceRandom as _;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::codes::Disconnect;
use crate::hub::{Connection, Hub};

/// Time between two chunks, on average, unless they would be smaller than one connection.
const EVERY: Duration = Duration::from_millis(50);

/// Sends the clients of this node away at a steady pace.
pub(crate) struct Drain {
    hub: Arc<Hub>,
    per_second: u32,
    /// The pace that somebody asked for; none while clients may stay.
    order: watch::Sender<Option<u32>>,
    stopping: CancellationToken,
}

impl Drain {
    pub(crate) fn new(hub: Arc<Hub>, per_second: u32, stopping: CancellationToken) -> Self {
        Self { hub, per_second, order: watch::Sender::new(None), stopping }
    }

    /// Begins to send clients away, so many each second (0: as configured), and lets nobody in. Returns how many there
    /// are, and about how long it takes.
    pub(crate) fn begin(&self, per_second: u32) -> (usize, Duration) {
        let per_second = if per_second == 0 { self.per_second } else { per_second };
        let n_connections = self.hub.start_draining().len();
        tracing::info!(connections = n_connections, per_second, "sending clients away");
        self.order.send_replace(Some(per_second));
        (n_connections, Duration::from_secs_f64(n_connections as f64 / f64::from(per_second)))
    }

    /// Lets those that are left stay, and others in. Returns how many are left; none when the process stops.
    pub(crate) fn cancel(&self) -> Option<usize> {
        if self.stopping.is_cancelled() {
            return None;
        }
        tracing::info!("clients may stay and come again");
        self.order.send_replace(None);
        Some(self.hub.stop_draining())
    }

    /// Does as it is asked until the process stops; then every connection is closed within about `window`.
    pub(crate) async fn run(&self, window: Duration) {
        let mut orders = self.order.subscribe();
        loop {
            let order = *orders.borrow_and_update();
            tokio::select! {
                () = self.stopping.cancelled() => break,
                // The sender lives as long as this.
                _ = orders.changed() => {}
                () = self.follow(order) => {}
            }
        }
        let connections = self.hub.start_draining();
        let per_second = order_at_end(connections.len(), window, self.per_second);
        if !connections.is_empty() {
            tracing::info!(connections = connections.len(), per_second, "closing connections");
        }
        self.send_away(connections, per_second).await;
    }

    /// Carries an order out; never ends, so that the next one is waited for.
    async fn follow(&self, order: Option<u32>) {
        if let Some(per_second) = order {
            self.send_away(self.hub.connections(), per_second).await;
        }
        std::future::pending().await
    }

    async fn send_away(&self, mut connections: Vec<Arc<Connection>>, per_second: u32) {
        connections.shuffle(&mut rand::rng());
        let (chunk, every) = pace(per_second);
        for (index, chunk) in connections.chunks(chunk).enumerate() {
            if index > 0 {
                sleep(every.mul_f64(rand::random_range(0.5..1.5))).await;
            }
            for connection in chunk {
                if connection.outbox.close(Disconnect::SHUTDOWN) {
                    self.hub.metrics().drained.inc();
                }
            }
        }
    }
}

/// Returns how many connections to close at a time, and how long to wait between.
fn pace(per_second: u32) -> (usize, Duration) {
    let chunk = (f64::from(per_second) * EVERY.as_secs_f64()).ceil().max(1.0);
    (chunk as usize, Duration::from_secs_f64(chunk / f64::from(per_second.max(1))))
}

/// Returns the pace at the end: the configured one, or what it takes to be done within the window.
fn order_at_end(n_connections: usize, window: Duration, per_second: u32) -> u32 {
    let needed = n_connections as f64 / window.as_secs_f64().max(EVERY.as_secs_f64());
    // A float beyond the largest number becomes the largest.
    per_second.max(needed.ceil() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_what_was_asked_for() {
        for (per_second, expected, expected_ms) in
            [(1, 1, 1_000), (7, 1, 142), (20, 1, 50), (21, 2, 95), (500, 25, 50), (100_000, 5_000, 50)]
        {
            let (chunk, every) = pace(per_second);
            assert_eq!((chunk, every.as_millis()), (expected, expected_ms), "{per_second} per second");
        }
    }

    #[test]
    fn everybody_is_gone_within_the_window() {
        for (n_connections, window_ms, per_second, expected) in [
            (1, 4_000, 500, 500),
            (20_000, 4_000, 500, 5_000),
            (20_000, 0, 500, 400_000),
            (100, 10, 7, 2_000),
        ] {
            let order = order_at_end(n_connections, Duration::from_millis(window_ms), per_second);
            assert_eq!(order, expected, "{n_connections} in {window_ms} ms");
        }
    }
}
