//! One process at a time reads an answer that all of them lack.

use std::{sync::Arc, time::Duration};

use mainstay_proto::replica::v1::KeptAnswer;
use tokio::time::{Instant, sleep};

use super::{Needs, QueryCache, kept_staleness, remote::shown, wish::Key};

/// What to do about an answer that is not there.
pub(super) enum Turn {
    /// Read it: the others wait until this is dropped, or for `cache.flight_within`.
    Ours(Taken),
    /// Read it without the others: they were waited for long enough, or the cache cannot tell who they are.
    Nobodys,
    /// Another process brought it.
    Landed(Box<KeptAnswer>, Duration),
}

/// The turn of this process; dropped, it is over, whether there is an answer or not.
pub(super) struct Taken {
    cache: Arc<QueryCache>,
    flight: String,
}

/// Between two looks at what another process may have brought.
const LOOK_EVERY: Duration = Duration::from_millis(20);

impl QueryCache {
    /// Takes the turn to read an answer, or waits for who has it.
    pub(super) async fn turn(
        self: &Arc<Self>,
        key: &Key,
        tags: &[String],
        needs: &Needs,
        until: Instant,
    ) -> Turn {
        let Some(remote) = self.remote.as_ref().filter(|_| !self.flight_within.is_zero()) else {
            return Turn::Nobodys;
        };
        let patience = until.min(Instant::now() + self.flight_within);
        loop {
            match remote.begin_flight(key, self.flight_within).await {
                Ok(true) => return Turn::Ours(Taken { cache: Arc::clone(self), flight: key.flight() }),
                Ok(false) => {}
                Err(_) => return Turn::Nobodys,
            }
            // Somebody else reads it. When that ends without an answer that will do, it is anybody's turn again.
            loop {
                if Instant::now() + LOOK_EVERY >= patience {
                    self.metrics.flight_late.inc();
                    return Turn::Nobodys;
                }
                sleep(LOOK_EVERY).await;
                let Ok((found, in_flight)) = remote.look_in_flight(key, tags).await else {
                    return Turn::Nobodys;
                };
                if let Some((kept, age)) = found.answer
                    && needs.are_met(Some(shown(&kept)), kept_staleness(&kept, age))
                {
                    self.metrics.flight_landed.inc();
                    return Turn::Landed(Box::new(kept), age);
                }
                if !in_flight {
                    break;
                }
            }
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let (cache, flight) = (Arc::clone(&self.cache), std::mem::take(&mut self.flight));
        self.cache.cx.spawn_work(async move {
            let Some(remote) = &cache.remote else { return };
            if let Err(error) = remote.end_flight(flight).await {
                // The entry ends by itself after `cache.flight_within`.
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "others wait longer than they need to"
                );
            }
        });
    }
}
