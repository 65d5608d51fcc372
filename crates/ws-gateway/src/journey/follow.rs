use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Event, Interest, Journal};

/// Most who follow at once.
const MAX_FOLLOWERS: usize = 16;
/// Events told at once.
const TOLD_AT_ONCE: usize = 256;

/// Somebody who reads what clients do, from a place on. Dropping it ends the reading.
#[derive(Debug)]
pub(crate) struct Follow {
    journal: Arc<Journal>,
    interest: Interest,
    /// Number of the last event that was told or passed over.
    at: u64,
    /// The first news are told at once, so that the reader knows where it is.
    is_first: bool,
    began_anew: bool,
}

/// What happened after what was told before.
#[derive(Debug)]
pub(crate) struct News {
    pub(crate) events: Vec<Event>,
    pub(crate) at: u64,
    /// Events before these that were forgotten before they could be told.
    pub(crate) missed: u64,
    pub(crate) began_anew: bool,
}

/// Why somebody cannot follow.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NotFollowed {
    /// So many do that one more is too many.
    TooMany,
    /// No event has this number yet.
    NotYet,
}

impl Journal {
    /// Begins to read after a place, given as process and number; from now on when there is none.
    pub(crate) fn follow(
        self: &Arc<Self>,
        after: Option<(&str, u64)>,
        interest: Interest,
    ) -> Result<Follow, NotFollowed> {
        let last = self.last();
        let (at, began_anew) = match after {
            None => (last, false),
            Some((process, at)) if process == self.process() => (at, false),
            Some((process, _)) => (0, !process.is_empty()),
        };
        if at > last {
            return Err(NotFollowed::NotYet);
        }
        let one_more = |n_following| (n_following < MAX_FOLLOWERS).then_some(n_following + 1);
        let begun = self.n_following.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        begun.map_err(|_| NotFollowed::TooMany)?;
        self.figures.followers.inc();
        Ok(Follow { journal: Arc::clone(self), interest, at, is_first: true, began_anew })
    }
}

impl Follow {
    /// Waits for something to tell. Cancelling it loses nothing.
    pub(crate) async fn next(&mut self) -> News {
        loop {
            let journal = Arc::clone(&self.journal);
            // Before looking, so that nothing comes unnoticed between the two.
            let mut arrived = std::pin::pin!(journal.arrived.notified());
            arrived.as_mut().enable();
            if let Some(news) = self.look() {
                return news;
            }
            arrived.await;
        }
    }

    /// Reads on; none when there is nothing to tell.
    fn look(&mut self) -> Option<News> {
        let from = self.at;
        let (found, last) = {
            let kept = self.journal.kept.lock();
            (kept.forward(from, &self.interest, TOLD_AT_ONCE), kept.last)
        };
        // At the end of what is kept, what follows in numbers is forgotten too.
        self.at = if found.is_end { last } else { found.at };
        let missed = self.at - from - found.n_looked_at as u64;
        self.journal.figures.missed.inc_by(missed);
        let is_first = std::mem::replace(&mut self.is_first, false);
        let is_news = is_first || missed > 0 || !found.events.is_empty() || !found.is_end;
        is_news.then_some(News {
            events: found.events,
            at: self.at,
            missed,
            began_anew: is_first && self.began_anew,
        })
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        self.journal.n_following.fetch_sub(1, Ordering::Relaxed);
        self.journal.figures.followers.dec();
    }
}
