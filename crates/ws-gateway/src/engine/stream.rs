use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::publication::{Exclusion, Publication};

/// The numbered publications of one channel, oldest first.
///
/// Offsets start at 1 and have no gaps, also not over those that are no longer kept. The epoch is drawn when the
/// numbering begins; who comes with another one knows nothing about these numbers.
#[derive(Debug)]
pub(crate) struct Stream {
    epoch: Epoch,
    top: u64,
    items: VecDeque<Item>,
    bytes: usize,
    touched_at: Instant,
}

/// Names one numbering of one channel.
pub(crate) type Epoch = Arc<str>;

/// One publication that is kept.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) offset: u64,
    pub(crate) published_at: SystemTime,
    pub(crate) publication: Arc<Publication>,
    pub(crate) exclusion: Option<Arc<Exclusion>>,
    kept_since: Instant,
}

/// A place in a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) offset: u64,
    pub(crate) epoch: Epoch,
}

/// The place a client says it has come to; an empty epoch fits every numbering.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Since {
    pub(crate) offset: u64,
    pub(crate) epoch: Box<str>,
}

/// What part of a history is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HistoryQuery {
    pub(crate) max_items: usize,
    pub(crate) since: Option<Since>,
    pub(crate) reverse: bool,
}

/// Says that the place asked for belongs to another numbering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotThisEpoch;

impl Item {
    /// Makes one of what is kept elsewhere.
    pub(crate) fn restored(
        offset: u64,
        published_at: SystemTime,
        publication: Arc<Publication>,
        exclusion: Option<Arc<Exclusion>>,
    ) -> Self {
        Self { offset, published_at, publication, exclusion, kept_since: Instant::now() }
    }
}

impl Stream {
    pub(crate) fn new(epoch: Epoch, now: Instant) -> Self {
        Self { epoch, top: 0, items: VecDeque::new(), bytes: 0, touched_at: now }
    }

    /// Takes the newest part of a history that is kept elsewhere.
    pub(crate) fn restored(position: Position, items: Vec<Item>) -> Self {
        let bytes = items.iter().map(|item| item.publication.cost_bytes()).sum();
        let Position { offset: top, epoch } = position;
        Self { epoch, top, items: items.into(), bytes, touched_at: Instant::now() }
    }

    /// Adds what follows on the last.
    pub(crate) fn extend(&mut self, items: Vec<Item>) {
        for item in items {
            debug_assert_eq!(item.offset, self.top + 1);
            self.top = item.offset;
            self.bytes += item.publication.cost_bytes();
            self.items.push_back(item);
        }
    }

    /// Numbers a publication and keeps it, letting go of the oldest beyond `max_items`.
    pub(crate) fn append(
        &mut self,
        publication: Arc<Publication>,
        exclusion: Option<Arc<Exclusion>>,
        (now, published_at): (Instant, SystemTime),
        max_items: usize,
    ) -> u64 {
        self.top += 1;
        self.touched_at = now;
        self.bytes += publication.cost_bytes();
        self.items.push_back(Item {
            offset: self.top,
            published_at,
            publication,
            exclusion,
            kept_since: now,
        });
        while self.items.len() > max_items {
            self.forget_oldest();
        }
        self.top
    }

    /// Lets go of what is older than `ttl`.
    pub(crate) fn expire(&mut self, now: Instant, ttl: Duration) {
        while self.items.front().is_some_and(|oldest| now.saturating_duration_since(oldest.kept_since) >= ttl)
        {
            self.forget_oldest();
        }
        if self.items.is_empty() {
            self.items = VecDeque::new();
        }
    }

    /// Lets go of the oldest; false when nothing is kept.
    pub(crate) fn forget_oldest(&mut self) -> bool {
        let Some(oldest) = self.items.pop_front() else { return false };
        self.bytes -= oldest.publication.cost_bytes();
        true
    }

    /// Lets go of everything that is kept. The numbers go on from where they are.
    pub(crate) fn clear(&mut self) {
        self.items = VecDeque::new();
        self.bytes = 0;
    }

    /// Returns all that came after a place, oldest first; none when that is not all there, or too much.
    pub(crate) fn recover(
        &self,
        since: &Since,
        max_items: usize,
        max_bytes: usize,
    ) -> Option<impl Iterator<Item = &Item>> {
        let missed = self.top.checked_sub(since.offset).and_then(|missed| usize::try_from(missed).ok())?;
        if !self.is_epoch(&since.epoch) || missed > max_items {
            return None;
        }
        // Numbers have no gaps, so enough of them means all of them.
        let first = self.items.len().checked_sub(missed)?;
        let items = self.items.range(first..);
        let bytes: usize = items.clone().map(|item| item.publication.cost_bytes()).sum();
        (bytes <= max_bytes).then_some(items)
    }

    /// Returns the latest publication, if it is still kept.
    pub(crate) fn latest(&self) -> Option<&Item> {
        self.items.back()
    }

    /// Returns a part of what is kept, in the order asked for, of at most about `max_bytes`.
    pub(crate) fn page(&self, query: &HistoryQuery, max_bytes: usize) -> Result<Vec<Item>, NotThisEpoch> {
        if query.since.as_ref().is_some_and(|since| !self.is_epoch(&since.epoch)) {
            return Err(NotThisEpoch);
        }
        let offset = query.since.as_ref().map(|since| since.offset);
        let mut bytes = 0;
        let fits = |item: &&Item| {
            bytes += item.publication.cost_bytes();
            bytes <= max_bytes
        };
        let max_items = query.max_items;
        Ok(if query.reverse {
            let end = offset
                .map_or(self.items.len(), |since| self.items.partition_point(|item| item.offset < since));
            self.items.range(..end).rev().take(max_items).take_while(fits).cloned().collect()
        } else {
            let first = offset.map_or(0, |since| self.items.partition_point(|item| item.offset <= since));
            self.items.range(first..).take(max_items).take_while(fits).cloned().collect()
        })
    }

    pub(crate) fn position(&self) -> Position {
        Position { offset: self.top, epoch: Arc::clone(&self.epoch) }
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns since when nobody published anything.
    pub(crate) fn touched_at(&self) -> Instant {
        self.touched_at
    }

    fn is_epoch(&self, epoch: &str) -> bool {
        epoch.is_empty() || *self.epoch == *epoch
    }
}
