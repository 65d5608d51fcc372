//! Moves the bytes of one direction under the rules of the moment.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::tcp::{ReadHalf, WriteHalf},
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until},
};

use super::{Flow, Rules};

const CHUNK_BYTES: usize = 16 * 1024;
/// Bytes in flight are at most this many chunks; then reading waits, and back-pressure reaches the sender.
const QUEUE_CHUNKS: usize = 64;
/// A throttled connection sends in slices of this length in time.
const SLICE: Duration = Duration::from_millis(20);

struct Chunk {
    due: Instant,
    bytes: Vec<u8>,
}

/// Copies until end of file, which it passes on; fails when a side fails or a rule breaks the connection.
pub(super) async fn pump(
    from: ReadHalf<'_>,
    to: WriteHalf<'_>,
    mut rules: watch::Receiver<Rules>,
    flow: fn(&Rules) -> Flow,
    counted: &AtomicU64,
) -> io::Result<()> {
    // Reader and writer are apart, so that a delay moves bytes in time without stopping the reader.
    let (chunks_tx, chunks_rx) = mpsc::channel(QUEUE_CHUNKS);
    let flow_now = flow(&rules.borrow_and_update());
    let mut writer = Writer { to, rules: rules.clone(), flow, allowance: Allowance::new(flow_now), counted };
    tokio::try_join!(read(from, chunks_tx, rules, flow), writer.run(chunks_rx))?;
    Ok(())
}

async fn read(
    mut from: ReadHalf<'_>,
    chunks: mpsc::Sender<Chunk>,
    rules: watch::Receiver<Rules>,
    flow: fn(&Rules) -> Flow,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let n_bytes = from.read(&mut buffer).await?;
        if n_bytes == 0 {
            return Ok(());
        }
        let due = Instant::now() + flow(&rules.borrow()).delay;
        let chunk = Chunk { due, bytes: buffer[..n_bytes].to_vec() };
        if chunks.send(chunk).await.is_err() {
            return Ok(());
        }
    }
}

struct Writer<'a> {
    to: WriteHalf<'a>,
    rules: watch::Receiver<Rules>,
    flow: fn(&Rules) -> Flow,
    allowance: Allowance,
    counted: &'a AtomicU64,
}

impl Writer<'_> {
    async fn run(&mut self, mut chunks: mpsc::Receiver<Chunk>) -> io::Result<()> {
        while let Some(chunk) = chunks.recv().await {
            sleep_until(chunk.due).await;
            self.write(&chunk.bytes).await?;
        }
        self.flowing().await?;
        self.to.shutdown().await
    }

    async fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let flow = self.flowing().await?;
            let slice = slice_bytes(flow.bytes_per_second).min(bytes.len());
            let (n_bytes, last) = self.allowance.take(flow, slice);
            // Counted first: whoever has received the bytes finds them in the count.
            self.counted.fetch_add(n_bytes as u64, Ordering::Relaxed);
            self.to.write_all(&bytes[..n_bytes]).await?;
            if last {
                self.to.flush().await?;
                return Err(io::Error::other("broken on purpose"));
            }
            bytes = &bytes[n_bytes..];
            if let Some(rate) = flow.bytes_per_second {
                sleep(Duration::from_secs_f64(n_bytes as f64 / rate as f64)).await;
            }
        }
        Ok(())
    }

    /// Waits until the direction is not stalled.
    async fn flowing(&mut self) -> io::Result<Flow> {
        let flow = self.flow;
        let rules = self.rules.wait_for(|rules| !flow(rules).stalled).await.map_err(io::Error::other)?;
        Ok(flow(&rules))
    }
}

/// Counts what a `drop_after` order still lets pass.
#[derive(Debug, Default, PartialEq, Eq)]
struct Allowance {
    order: u64,
    passed: u64,
}

impl Allowance {
    /// An order that was given before the connection began counts from its first byte.
    fn new(flow: Flow) -> Self {
        Self { order: flow.drop_after.map_or(0, |(order, _)| order), passed: 0 }
    }

    /// Returns how many of `wanted` bytes may pass and whether the connection breaks after them.
    fn take(&mut self, flow: Flow, wanted: usize) -> (usize, bool) {
        let Some((order, limit)) = flow.drop_after else { return (wanted, false) };
        if order != self.order {
            *self = Self { order, passed: 0 };
        }
        let left = usize::try_from(limit.saturating_sub(self.passed)).unwrap_or(usize::MAX);
        let n_bytes = wanted.min(left);
        self.passed += n_bytes as u64;
        (n_bytes, n_bytes == left)
    }
}

fn slice_bytes(bytes_per_second: Option<u64>) -> usize {
    bytes_per_second.map_or(usize::MAX, |rate| {
        let bytes = (rate as f64 * SLICE.as_secs_f64()) as usize;
        bytes.max(1)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn exactly_the_allowed_bytes_pass_whatever_the_slices(
            limit in 0u64..5_000,
            slices in prop::collection::vec(1usize..700, 1..40),
        ) {
            let flow = Flow { drop_after: Some((1, limit)), ..Flow::default() };
            let mut allowance = Allowance::new(flow);
            let offered: usize = slices.iter().sum();
            let mut passed = 0;
            let mut broken = false;
            for slice in slices {
                let (n_bytes, last) = allowance.take(flow, slice);
                passed += n_bytes;
                if last {
                    broken = true;
                    break;
                }
            }
            prop_assert_eq!(passed as u64, limit.min(offered as u64));
            prop_assert_eq!(broken, offered as u64 >= limit);
        }
    }

    #[test]
    fn new_order_starts_a_new_count() {
        let flow = |order, limit| Flow { drop_after: Some((order, limit)), ..Flow::default() };
        let mut allowance = Allowance::new(flow(1, 10));
        assert_eq!(allowance.take(flow(1, 10), 8), (8, false));
        assert_eq!(allowance.take(flow(2, 5), 4), (4, false));
        assert_eq!(allowance.take(flow(2, 5), 4), (1, true));
    }
}
