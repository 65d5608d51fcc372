//! Which messages of a feed are new, and in which order they go on: ids and numbers in, messages out.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

/// What came of a message, or of the time that has passed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step<T> {
    /// What goes on now, in order.
    pub(super) ready: Vec<T>,
    pub(super) is_duplicate: bool,
    /// Numbers are missing, since now: the source is to be asked for them.
    pub(super) is_gap: bool,
    /// Numbers that are waited for no longer.
    pub(super) missed: u64,
    /// The numbering has begun anew, with this message.
    pub(super) is_renumbered: bool,
}

/// Puts messages in order. Without numbers they go on as they come.
#[derive(Debug)]
pub(super) struct Order<T> {
    limits: Limits,
    seen: HashSet<Box<str>>,
    /// The same, oldest first.
    recent: VecDeque<Box<str>>,
    /// The number that goes on next; none before the first.
    next: Option<u64>,
    /// By number, with the size of each.
    held: BTreeMap<u64, (usize, T)>,
    held_bytes: usize,
    gap_since: Option<Instant>,
    /// Since when nothing but numbers of the past has come.
    past_since: Option<Instant>,
}

/// A message as far as its order goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark<'a> {
    pub(super) id: Option<&'a str>,
    pub(super) number: Option<u64>,
    pub(super) len_bytes: usize,
}

/// What is remembered, and what waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Ids.
    pub(super) window: usize,
    /// Messages that wait for earlier ones, and their size.
    pub(super) hold: usize,
    pub(super) hold_bytes: usize,
    pub(super) hold_for: Duration,
    pub(super) renumbered_after: Duration,
}

impl<T> Order<T> {
    /// Goes on after the message with the number `last`.
    pub(super) fn new(limits: Limits, last: Option<u64>) -> Self {
        Self {
            limits,
            seen: HashSet::new(),
            recent: VecDeque::new(),
            next: last.and_then(|last| last.checked_add(1)),
            held: BTreeMap::new(),
            held_bytes: 0,
            gap_since: None,
            past_since: None,
        }
    }

    /// Takes a message.
    pub(super) fn take(&mut self, mark: Mark<'_>, item: T, now: Instant) -> Step<T> {
        let mut step = Step::nothing();
        let is_past = mark.number.is_some_and(|number| self.next.is_some_and(|next| number < next));
        let past_since = self.past_since;
        self.past_since = is_past.then(|| past_since.unwrap_or(now));
        if is_past && past_since.is_some_and(|since| now - since >= self.limits.renumbered_after) {
            step = self.begin_anew();
            step.is_renumbered = true;
        } else if is_past || mark.number.is_some_and(|number| self.held.contains_key(&number)) {
            step.is_duplicate = true;
            return step;
        }
        if mark.id.is_some_and(|id| self.seen.contains(id)) {
            // It went on already; what its number is good for is to close a gap.
            step.is_duplicate = true;
            self.pass(mark.number, &mut step.ready);
            return step;
        }
        if let Some(id) = mark.id {
            self.remember(id);
        }
        match mark.number {
            None => step.ready.push(item),
            Some(number) if self.next.is_none_or(|next| next == number) => {
                step.ready.push(item);
                self.next = number.checked_add(1);
                self.release(&mut step.ready);
            }
            Some(number) => {
                self.held.insert(number, (mark.len_bytes, item));
                self.held_bytes += mark.len_bytes;
                step.is_gap = self.gap_since.is_none();
                self.gap_since.get_or_insert(now);
                if self.held.len() > self.limits.hold || self.held_bytes > self.limits.hold_bytes {
                    self.give_up(&mut step);
                }
            }
        }
        step
    }

    /// Waits no longer for what is missing, if it was long enough.
    pub(super) fn on_timer(&mut self, now: Instant) -> Step<T> {
        let mut step = Step::nothing();
        if self.next_at().is_some_and(|at| at <= now) {
            self.give_up(&mut step);
        }
        step
    }

    /// Returns when [`Order::on_timer`] has something to do.
    pub(super) fn next_at(&self) -> Option<Instant> {
        self.gap_since.map(|since| since + self.limits.hold_for)
    }

    /// Returns the number of the last message that went on, 0 before the first.
    pub(super) fn last(&self) -> u64 {
        self.next.map_or(0, |next| next.saturating_sub(1))
    }

    /// Lets go what waits, and forgets the numbering.
    pub(super) fn begin_anew(&mut self) -> Step<T> {
        let mut step = Step::nothing();
        self.give_up(&mut step);
        self.next = None;
        self.past_since = None;
        step
    }

    fn remember(&mut self, id: &str) {
        if self.limits.window == 0 {
            return;
        }
        if self.recent.len() >= self.limits.window
            && let Some(oldest) = self.recent.pop_front()
        {
            self.seen.remove(&oldest);
        }
        self.seen.insert(id.into());
        self.recent.push_back(id.into());
    }

    /// Counts a number that needs not go on.
    fn pass(&mut self, number: Option<u64>, ready: &mut Vec<T>) {
        if number.is_some() && number == self.next {
            self.next = number.and_then(|number| number.checked_add(1));
            self.release(ready);
        }
    }

    /// Lets go what follows without a gap.
    fn release(&mut self, ready: &mut Vec<T>) {
        while let Some((len_bytes, item)) = self.next.and_then(|next| self.held.remove(&next)) {
            ready.push(item);
            self.held_bytes -= len_bytes;
            self.next = self.next.and_then(|next| next.checked_add(1));
        }
        if self.held.is_empty() {
            self.gap_since = None;
        }
    }

    fn give_up(&mut self, step: &mut Step<T>) {
        for (number, (_, item)) in std::mem::take(&mut self.held) {
            let missing = self.next.map_or(0, |next| number.saturating_sub(next));
            step.missed = step.missed.saturating_add(missing);
            step.ready.push(item);
            self.next = number.checked_add(1);
        }
        self.held_bytes = 0;
        self.gap_since = None;
    }
}

impl<T> Step<T> {
    fn nothing() -> Self {
        Self { ready: Vec::new(), is_duplicate: false, is_gap: false, missed: 0, is_renumbered: false }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits {
        window: 3,
        hold: 3,
        hold_bytes: 100,
        hold_for: Duration::from_secs(1),
        renumbered_after: Duration::from_secs(60),
    };

    fn numbered<'a>(number: u64) -> Mark<'a> {
        Mark { id: None, number: Some(number), len_bytes: 1 }
    }

    #[test]
    fn what_came_before_is_left_out_as_long_as_it_is_remembered() {
        let (mut order, now) = (Order::new(LIMITS, None), Instant::now());
        let came = ["a", "b", "a", "c", "d", "b", "a"];
        let went = came.map(|id| {
            let mark = Mark { id: Some(id), number: None, len_bytes: 1 };
            order.take(mark, id, now).ready.len()
        });
        assert_eq!(went, [1, 1, 0, 1, 1, 0, 1]);
    }

    #[test]
    fn an_id_that_came_before_still_closes_a_gap() {
        let (mut order, now) = (Order::new(LIMITS, None), Instant::now());
        let mark = |id, number| Mark { id: Some(id), number: Some(number), len_bytes: 1 };
        assert_eq!(order.take(mark("a", 1), 1, now).ready, [1]);
        assert_eq!(order.take(mark("c", 3), 3, now).ready, [0; 0]);
        let step = order.take(mark("a", 2), 2, now);
        assert_eq!((step.is_duplicate, step.ready), (true, vec![3]));
    }

    #[test]
    fn numbers_are_waited_for_as_long_as_is_allowed() {
        let (mut order, now) = (Order::new(LIMITS, None), Instant::now());
        let take = |order: &mut Order<u64>, number| order.take(numbered(number), number, now);
        assert_eq!(take(&mut order, 7).ready, [7]);
        assert!(take(&mut order, 9).is_gap);
        assert!(!take(&mut order, 10).is_gap, "one question for one gap");
        assert!(take(&mut order, 9).is_duplicate && take(&mut order, 7).is_duplicate);
        assert_eq!(take(&mut order, 8).ready, [8, 9, 10]);
        assert_eq!((order.last(), order.next_at()), (10, None));
        // Too long.
        take(&mut order, 13);
        assert!(order.on_timer(now + Duration::from_millis(999)).ready.is_empty());
        let step = order.on_timer(now + Duration::from_secs(1));
        assert_eq!((step.ready, step.missed, order.next_at()), (vec![13], 2, None));
        // Too much.
        for number in [15, 16, 17] {
            assert!(take(&mut order, number).ready.is_empty());
        }
        let step = take(&mut order, 19);
        assert_eq!((step.ready, step.missed), (vec![15, 16, 17, 19], 2));
        assert!(take(&mut order, 14).is_duplicate, "what comes too late stays out");
        // Too large.
        let step = order.take(Mark { len_bytes: 101, ..numbered(30) }, 30, now);
        assert_eq!((step.ready, order.held_bytes), (vec![30], 0));
        // Another numbering.
        take(&mut order, 40);
        assert_eq!(order.begin_anew().ready, [40]);
        assert_eq!(take(&mut order, 1).ready, [1]);
    }

    #[test]
    fn another_node_goes_on_where_the_one_before_was() {
        let (mut order, now) = (Order::new(LIMITS, Some(7)), Instant::now());
        assert!(order.take(numbered(7), 7, now).is_duplicate);
        assert!(order.take(numbered(9), 9, now).is_gap);
        assert_eq!((order.last(), order.take(numbered(8), 8, now).ready), (7, vec![8, 9]));
    }

    #[test]
    fn a_source_that_counts_anew_is_understood_after_a_while() {
        let (mut order, start) = (Order::new(LIMITS, Some(1_000)), Instant::now());
        let mut take =
            |number, after_s| order.take(numbered(number), number, start + Duration::from_secs(after_s));
        assert!(take(1, 0).is_duplicate && take(2, 59).is_duplicate);
        // One that goes on: these were repeated.
        assert_eq!(take(1_001, 59).ready, [1_001]);
        assert!(take(3, 60).is_duplicate && take(4, 119).is_duplicate);
        let step = take(5, 120);
        assert_eq!((step.ready, step.is_renumbered, step.missed), (vec![5], true, 0));
        assert_eq!(take(6, 120).ready, [6]);
    }

    proptest! {
        #[test]
        fn everything_goes_on_once_and_in_order(
            numbers in prop::collection::vec(1_u64..30, 0..100),
            pauses in prop::collection::vec(0_u64..700, 100),
        ) {
            let limits = Limits { renumbered_after: Duration::from_hours(1), ..LIMITS };
            let (mut order, mut now) = (Order::new(limits, None), Instant::now());
            let (mut went, mut missed) = (Vec::new(), 0);
            for (number, pause) in numbers.iter().zip(pauses) {
                now += Duration::from_millis(pause);
                for step in [order.on_timer(now), order.take(numbered(*number), *number, now)] {
                    went.extend(step.ready);
                    missed += step.missed;
                }
                prop_assert!(order.held.len() <= LIMITS.hold);
                prop_assert_eq!(order.held_bytes, order.held.len());
            }
            let step = order.begin_anew();
            went.extend(step.ready);
            missed += step.missed;
            prop_assert!(went.is_sorted_by(|one, next| one < next), "{:?}", went);
            if let (Some(first), Some(last)) = (went.first(), went.last()) {
                prop_assert_eq!(last - first + 1, went.len() as u64 + missed);
            }
        }
    }
}
