//! Loads of one batch of reads, asked for in one call.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::{sleep, timeout};

use super::{Loaded, OriginError, Origins};
use crate::key::Key;

/// Keys of one call; with more, there are several.
const MOST_KEYS: usize = 100;

/// One read of a batch that may turn out to be a load. While a seat is held, the loads of the others wait for it. It is
/// dropped when the read is answered, and when it comes to wait for another node: asking Redis, which has a deadline, is
/// all that others wait for.
#[derive(Debug)]
pub(crate) struct Seat(Arc<Gathering>);

#[derive(Debug, Default)]
struct Gathering {
    state: Mutex<State>,
    /// Woken when nobody is waited for any longer.
    complete: Notify,
}

#[derive(Debug, Default)]
struct State {
    n_seats: usize,
    wanted: Vec<Wanted>,
}

/// A load that somebody waits for.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) key: Key,
    pub(super) loaded: oneshot::Sender<Result<Option<Loaded>, OriginError>>,
}

impl Seat {
    /// Begins a gathering. While this seat is held, more may come.
    pub(crate) fn first() -> Self {
        let gathering = Gathering::default();
        gathering.state.lock().n_seats = 1;
        Self(Arc::new(gathering))
    }

    pub(crate) fn another(&self) -> Self {
        self.0.state.lock().n_seats += 1;
        Self(Arc::clone(&self.0))
    }

    /// Loads a key together with those of the other seats.
    pub(crate) async fn load(
        self,
        origins: &Origins,
        origin: &str,
        key: &Key,
        within: Duration,
    ) -> Result<Option<Loaded>, OriginError> {
        let (loaded_tx, mut loaded) = oneshot::channel();
        let gathering = Arc::clone(&self.0);
        let full = gathering.state.lock().want(Wanted { key: key.clone(), loaded: loaded_tx });
        drop(self);
        let wanted = match full {
            Some(wanted) => wanted,
            None => {
                tokio::select! {
                    biased;
                    loaded = &mut loaded => return settled(loaded.ok(), origins, origin, key, within).await,
                    () = gathering.complete.notified() => {}
                    // The other half is the origin's.
                    () = sleep(within / 2) => {}
                }
                // Whoever comes first goes for all that are there.
                std::mem::take(&mut gathering.state.lock().wanted)
            }
        };
        if !wanted.is_empty() {
            origins.load_all(origin, wanted, within).await;
        }
        match timeout(within, loaded).await {
            Ok(loaded) => settled(loaded.ok(), origins, origin, key, within).await,
            Err(_) => Err(OriginError::Late),
        }
    }
}

impl State {
    /// Adds a load, and gives all there are once they fill a call.
    fn want(&mut self, wanted: Wanted) -> Option<Vec<Wanted>> {
        self.wanted.push(wanted);
        (self.wanted.len() >= MOST_KEYS).then(|| std::mem::take(&mut self.wanted))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.n_seats -= 1;
        if state.n_seats == 0 && !state.wanted.is_empty() {
            self.0.complete.notify_one();
        }
    }
}

/// Loads it alone if the one who went for all died.
async fn settled(
    loaded: Option<Result<Option<Loaded>, OriginError>>,
    origins: &Origins,
    origin: &str,
    key: &Key,
    within: Duration,
) -> Result<Option<Loaded>, OriginError> {
    match loaded {
        Some(loaded) => loaded,
        None => origins.load(origin, key, within).await,
    }
}
