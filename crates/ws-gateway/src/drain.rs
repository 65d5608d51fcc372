//! How clients are sent away when the process stops: not all at once, or they would all come back at once.

use std::sync::Arc;
use std::time::Duration;

use rand::seq::SliceRandom as _;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::codes::Disconnect;
use crate::hub::Hub;

/// Connections closed together when there are few.
const SMALLEST_CHUNK: usize = 64;
/// Time between chunks, on average.
const EVERY: Duration = Duration::from_millis(50);

/// Waits for the process to stop, then closes every connection, in random order, within about `window`.
pub(crate) async fn run(hub: Arc<Hub>, stopping: CancellationToken, window: Duration) {
    stopping.cancelled().await;
    let mut connections = hub.start_draining();
    if connections.is_empty() {
        return;
    }
    tracing::info!(connections = connections.len(), ?window, "closing connections");
    connections.shuffle(&mut rand::rng());
    for (index, chunk) in connections.chunks(chunk_size(connections.len(), window)).enumerate() {
        if index > 0 {
            sleep(EVERY.mul_f64(rand::random_range(0.5..1.5))).await;
        }
        for connection in chunk {
            connection.outbox.close(Disconnect::SHUTDOWN);
        }
    }
}

/// Returns how many connections to close at a time so that all of them are closed within `window`.
fn chunk_size(n_connections: usize, window: Duration) -> usize {
    let n_chunks = (window.as_millis() / EVERY.as_millis()).max(1);
    n_connections.div_ceil(usize::try_from(n_chunks).unwrap_or(usize::MAX)).max(SMALLEST_CHUNK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_is_gone_within_the_window() {
        for (n_connections, window_ms, expected) in
            [(1, 4_000, 64), (64, 4_000, 64), (20_000, 4_000, 250), (20_000, 0, 20_000), (100, 10, 100)]
        {
            let chunk = chunk_size(n_connections, Duration::from_millis(window_ms));
            assert_eq!(chunk, expected, "{n_connections} in {window_ms} ms");
        }
    }
}
