use std::time::{Duration, Instant};

use anyhow::Context as _;
use hdrhistogram::Histogram;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

/// Begins calls at even distances, whether or not earlier ones have ended, and gives how long each took from when it was
/// due. A thread of its own keeps the time: the timers of the runtime are no finer than a millisecond.
///
/// # Errors
/// The first error of a call.
pub(crate) async fn paced<F, Fut>(
    per_second: u32,
    n_calls: u32,
    mut begin: F,
) -> anyhow::Result<Histogram<u64>>
where
    F: FnMut(u32) -> Fut + Send + 'static,
    Fut: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let (took_tx, mut took_rx) = mpsc::unbounded_channel();
    let runtime = Handle::current();
    let every = Duration::from_secs(1) / per_second;
    let clock = std::thread::Builder::new().name("pace".to_owned()).spawn(move || {
        let started = Instant::now() + every;
        for number in 0..n_calls {
            let due = started + every * number;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let (call, took_tx) = (begin(number), took_tx.clone());
            runtime.spawn(async move {
                let ended = call.await;
                let _ = took_tx.send(ended.map(|()| due.elapsed()));
            });
        }
    })?;
    let mut times = Histogram::new(3)?;
    while let Some(took) = took_rx.recv().await {
        times.record(u64::try_from(took?.as_micros())?)?;
    }
    clock.join().ok().context("the clock broke")?;
    Ok(times)
}
