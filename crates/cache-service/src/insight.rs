//! What is read most, and what keys look like: by samples, in bounded memory.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

use crate::key::Key;
use crate::layer::memory::Memory;
use crate::time::{Moment, Time};

mod pattern;
mod recorder;
mod sampling;
mod sketch;

pub(crate) use pattern::PatternFigures;
use pattern::Patterns;
pub(crate) use recorder::Recorder;
use sampling::Sampling;
pub(crate) use sketch::Heavy;
use sketch::SpaceSaving;

/// Watches the reads. Of each thread's one in [`Insight::SAMPLE_EVERY`] is looked at, at random; the others cost a counter.
#[derive(Debug)]
pub(crate) struct Insight {
    reads: Mutex<Reads>,
    /// When memory was last counted; held while it is.
    counted_at: Mutex<Option<Moment>>,
    /// What was found then, most bytes first.
    found: RwLock<Arc<[PatternFigures]>>,
    /// What the access log will say of this run; none where no log is kept.
    recorder: Option<Mutex<Recorder>>,
}

#[derive(Debug)]
struct Reads {
    hot: SpaceSaving,
    hits: Patterns,
}

thread_local! {
    static SAMPLING: Cell<Sampling> = const { Cell::new(Sampling::new()) };
}

impl Insight {
    pub(crate) const SAMPLE_EVERY: u32 = 16;
    /// Keys watched; more are told apart less well.
    const HOT_KEYS: usize = 1_000;
    /// Counting visits every entry, so it is not done more often than this.
    const SCAN_FOR: Duration = Duration::from_secs(5);

    pub(crate) fn new() -> Self {
        let reads = Reads { hot: SpaceSaving::new(Self::HOT_KEYS), hits: Patterns::default() };
        Self {
            reads: Mutex::new(reads),
            counted_at: Mutex::default(),
            found: RwLock::default(),
            recorder: None,
        }
    }

    /// Records so many keys for the access log.
    pub(crate) fn recording(mut self, most_keys: usize) -> Self {
        self.recorder = Some(Mutex::new(Recorder::new(most_keys)));
        self
    }

    pub(crate) fn recorder(&self) -> Option<&Mutex<Recorder>> {
        self.recorder.as_ref()
    }

    /// Takes note of a read.
    pub(crate) fn observe(&self, key: &Key, hit: bool) {
        self.observe_text(key.as_str(), hit);
    }

    /// Takes note of a read of `namespace:key`.
    pub(crate) fn observe_text(&self, key: &str, hit: bool) {
        let due = SAMPLING.with(|cell| {
            let mut sampling = cell.get();
            let due = sampling.is_due();
            cell.set(sampling);
            due
        });
        // Losing a sample is cheaper than waiting for another reader's.
        if due && let Some(mut reads) = self.reads.try_lock() {
            reads.hot.add(key);
            if hit {
                reads.hits.add_hit(key, Self::SAMPLE_EVERY.into());
            }
        }
        if due
            && hit
            && let Some(recorder) = &self.recorder
            && let Some(mut recorder) = recorder.try_lock()
        {
            recorder.add(key, 1);
        }
    }

    /// Returns the keys read most, and how many reads stand behind the figures. Counts are of samples.
    pub(crate) fn hottest(&self, most: usize) -> (Vec<Heavy>, u64) {
        let reads = self.reads.lock();
        (reads.hot.heaviest(most), reads.hot.total())
    }

    /// Lets what was read long ago weigh less.
    pub(crate) fn fade(&self) {
        self.reads.lock().hot.halve();
    }

    /// Counts the entries in memory by pattern, unless that was done a moment ago; tells how long ago.
    ///
    /// Visits every entry: not for a thread that serves.
    pub(crate) fn patterns(&self, memory: &Memory, time: &Time) -> (Arc<[PatternFigures]>, Duration) {
        let mut counted_at = self.counted_at.lock();
        let now = time.now();
        let age = |at: Moment| Self::SCAN_FOR.saturating_sub((at + Self::SCAN_FOR).left(now));
        if let Some(age) = counted_at.map(age).filter(|age| *age < Self::SCAN_FOR) {
            return (self.last_patterns(), age);
        }
        let mut patterns = Patterns::default();
        memory.visit(|key, bytes, lives_until| patterns.add_entry(key, bytes, lives_until.left(now)));
        let hits = self.reads.lock().hits.clone();
        *self.found.write() = patterns.into_figures(&hits).into();
        *counted_at = Some(now);
        (self.last_patterns(), Duration::ZERO)
    }

    /// Returns what the last count found, without counting.
    pub(crate) fn last_patterns(&self) -> Arc<[PatternFigures]> {
        Arc::clone(&self.found.read())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_every_sixteenth_read_gets_a_sixteenth_of_the_share() {
        let insight = Insight::new();
        for read in 0..400_000 {
            let key = if read % Insight::SAMPLE_EVERY == 0 { "test:hot" } else { "test:other" };
            insight.observe_text(key, true);
        }
        let (heaviest, n_samples) = insight.hottest(2);
        let hot = heaviest.iter().find(|heavy| &*heavy.name == "test:hot").map_or(0, |heavy| heavy.count);
        let share = hot as f64 / n_samples as f64;
        assert!((24_000..26_000).contains(&n_samples), "{n_samples}");
        assert!((0.05..0.075).contains(&share), "{share}");
    }
}
