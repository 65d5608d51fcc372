use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::lsn::Position;

/// Remembers which tags were written, until the cache has confirmed it; does no I/O and reads no clock.
///
/// Bounded: above [`MAX_TAGS`] the single tags are given up for the statement that everything was written.
#[derive(Debug, Default)]
pub(super) struct Marks {
    written: HashMap<String, Position>,
    /// Written perhaps, and nobody knows where in the log.
    unknown: HashMap<String, Instant>,
    /// Nothing older may be given, whatever its tags; kept for good.
    floor: Option<Position>,
    /// The cache has not been told of the floor.
    floor_is_news: bool,
    floor_wanted: bool,
}

/// What the cache must be told.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    pub tags: Vec<(String, Position)>,
    pub everything: bool,
}

pub(super) const MAX_TAGS: usize = 10_000;
/// A commit that is cancelled has happened or not by then.
const SETTLED_AFTER: Duration = Duration::from_secs(1);

impl Marks {
    /// Notes writes that ended at a position.
    pub(super) fn written(&mut self, tags: &[String], at: Position) {
        for tag in tags {
            let known = self.written.entry(tag.clone()).or_insert(at);
            *known = later(*known, at);
        }
        if self.written.len() > MAX_TAGS {
            let all = self.written.drain().map(|(_, at)| at);
            self.floor = all.chain(self.floor).reduce(later);
            self.floor_is_news = true;
        }
    }

    /// Notes writes of which nobody knows whether they happened.
    pub(super) fn unknown(&mut self, tags: &[String], now: Instant) {
        for tag in tags {
            self.unknown.insert(tag.clone(), now);
        }
        if self.unknown.len() > MAX_TAGS {
            self.unknown.clear();
            self.floor_wanted = true;
        }
    }

    /// Takes in where the log of the primary ended, and when that was asked.
    pub(super) fn settle(&mut self, end: Position, asked_at: Instant) {
        let settled = |since: &Instant| asked_at.saturating_duration_since(*since) >= SETTLED_AFTER;
        let tags: Vec<_> = self.unknown.extract_if(|_, since| settled(since)).map(|(tag, _)| tag).collect();
        self.written(&tags, end);
        if std::mem::take(&mut self.floor_wanted) {
            self.floor = Some(self.floor.map_or(end, |floor| later(floor, end)));
            self.floor_is_news = true;
        }
    }

    /// Returns what an answer with these tags must show; `None` in the error when that is not known yet.
    pub(super) fn wanted(&self, tags: &[String]) -> Result<Option<Position>, Unsettled> {
        if self.floor_wanted || tags.iter().any(|tag| self.unknown.contains_key(tag)) {
            return Err(Unsettled);
        }
        let written = tags.iter().filter_map(|tag| self.written.get(tag)).copied();
        Ok(written.chain(self.floor).reduce(later))
    }

    /// Returns what the cache does not know yet, at most so many tags.
    pub(super) fn news(&self, most: usize) -> News {
        let tags = self.written.iter().take(most).map(|(tag, at)| (tag.clone(), *at)).collect();
        News { tags, everything: self.floor_is_news }
    }

    /// Forgets what the cache has confirmed.
    pub(super) fn confirmed(&mut self, news: &News) {
        for (tag, at) in &news.tags {
            if self.written.get(tag).is_some_and(|known| later(*known, *at) == *at) {
                self.written.remove(tag);
            }
        }
        if news.everything {
            self.floor_is_news = false;
        }
    }

    pub(super) fn n_pending(&self) -> usize {
        self.written.len() + self.unknown.len()
    }
}

/// Says that a write may have happened that nobody knows the place of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unsettled;

/// Tells whether what shows everything up to `shown` shows what was written at `wanted`.
///
/// Positions go on over a change of the timeline: behind it, what was written before is there, or lost for good.
pub(super) fn shows(shown: Position, wanted: Position) -> bool {
    shown.timeline >= wanted.timeline && shown.lsn >= wanted.lsn
}

/// Returns a position that shows both.
pub(super) fn later(a: Position, b: Position) -> Position {
    Position { timeline: a.timeline.max(b.timeline), lsn: a.lsn.max(b.lsn) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{lsn::Lsn, test_time::origin};

    fn at(timeline: u32, lsn: u64) -> Position {
        Position { timeline, lsn: Lsn(lsn) }
    }

    fn tags<const N: usize>(tags: [&str; N]) -> Vec<String> {
        tags.map(str::to_owned).to_vec()
    }

    #[test]
    fn an_answer_must_show_the_latest_write_of_any_of_its_tags() {
        let mut marks = Marks::default();
        marks.written(&tags(["a", "b"]), at(1, 20));
        marks.written(&tags(["a"]), at(1, 10));
        marks.written(&tags(["c"]), at(1, 30));
        assert_eq!(marks.wanted(&tags(["a"])), Ok(Some(at(1, 20))));
        assert_eq!(marks.wanted(&tags(["a", "c"])), Ok(Some(at(1, 30))));
        assert_eq!(marks.wanted(&tags(["d"])), Ok(None));
        assert!(shows(at(1, 20), at(1, 20)) && !shows(at(1, 19), at(1, 20)));
        assert!(shows(at(2, 20), at(1, 20)) && !shows(at(1, 90), at(2, 20)) && !shows(at(2, 19), at(1, 20)));
    }

    #[test]
    fn a_newer_write_than_the_confirmed_one_stays() {
        let mut marks = Marks::default();
        marks.written(&tags(["a", "b"]), at(1, 10));
        let news = marks.news(10);
        marks.written(&tags(["a"]), at(1, 11));
        marks.confirmed(&news);
        assert_eq!(marks.news(10), News { tags: vec![("a".to_owned(), at(1, 11))], everything: false });
    }

    #[test]
    fn a_write_of_unknown_outcome_bars_its_tags_until_the_log_is_known_later() {
        let mut marks = Marks::default();
        marks.unknown(&tags(["a"]), origin());
        assert_eq!(marks.wanted(&tags(["a"])), Err(Unsettled));
        assert_eq!(marks.wanted(&tags(["b"])), Ok(None));
        marks.settle(at(1, 50), origin() + SETTLED_AFTER / 2);
        assert_eq!(marks.wanted(&tags(["a"])), Err(Unsettled));
        marks.settle(at(1, 60), origin() + SETTLED_AFTER * 2);
        assert_eq!(marks.wanted(&tags(["a"])), Ok(Some(at(1, 60))));
    }

    #[test]
    fn too_many_tags_become_one_statement_about_all() {
        let mut marks = Marks::default();
        for n in 0..=MAX_TAGS as u64 {
            marks.written(&[format!("t{n}")], at(1, n));
        }
        assert_eq!((marks.n_pending(), marks.news(1).everything), (0, true));
        assert_eq!(marks.wanted(&tags(["any"])), Ok(Some(at(1, MAX_TAGS as u64))));
        marks.confirmed(&marks.news(1));
        assert_eq!(marks.news(1), News::default());
        assert_eq!(marks.wanted(&[]), Ok(Some(at(1, MAX_TAGS as u64))));
    }
}
