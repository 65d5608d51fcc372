use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Remembers which key ranges were found equal when, and says which to verify next; does no I/O and reads no clock.
///
/// Ranges cover all keys without gap or overlap, so a row is in exactly one. They hold about `bucket_rows` rows each: one
/// that has grown to twice that is split. In each round the range with the highest keys comes first, because new rows
/// arrive there, then those that differed, then the one verified longest ago.
#[derive(Debug)]
pub(super) struct Ledger {
    bucket_rows: u64,
    /// By lower end; the first begins below all keys, each ends where the next begins.
    buckets: BTreeMap<i64, Bucket>,
    /// Ranges begun since the round began.
    round_begun_at: Option<Instant>,
    rows_in_round: u64,
    rows_compared: u64,
    rows_per_second: f64,
}

#[derive(Debug, Clone, Default)]
struct Bucket {
    verified_at: Option<Instant>,
    legacy_rows: u64,
    partitioned_rows: u64,
    differences: Vec<Difference>,
    differs: bool,
}

/// Keys from `from` on, below `below`; `None` for all above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KeyRange {
    pub from: i64,
    pub below: Option<i64>,
}

/// What one statement found in both tables for one range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sums {
    pub legacy_rows: u64,
    pub partitioned_rows: u64,
    /// Checksums as the database prints them, legacy and partitioned.
    pub checksums: (String, String),
}

/// A row that is not the same in both tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Difference {
    pub key: i64,
    pub kind: DifferenceKind,
}

/// How a row differs, seen from the partitioned table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DifferenceKind {
    Missing,
    Extra,
    Changed,
    /// Its key is there more than once, in either table.
    Duplicated,
}

/// Whether both tables hold the same rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Not all ranges were verified yet, and no difference was found.
    Unknown,
    Equal,
    Different,
}

/// The ledger at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Standing {
    pub verdict: Verdict,
    pub n_buckets: u32,
    pub n_verified: u32,
    pub n_mismatched: u32,
    pub legacy_rows: u64,
    pub partitioned_rows: u64,
    /// Of the range verified longest ago; `None` while some range never was.
    pub oldest_age: Option<Duration>,
    pub rows_compared: u64,
    pub rows_per_second: f64,
    pub differences: Vec<Difference>,
}

const LOWEST: i64 = i64::MIN;
const MAX_DIFFERENCES: usize = 100;

impl Ledger {
    pub(super) fn new(bucket_rows: u64) -> Self {
        Self {
            bucket_rows: bucket_rows.max(1),
            buckets: BTreeMap::from([(LOWEST, Bucket::default())]),
            round_begun_at: None,
            rows_in_round: 0,
            rows_compared: 0,
            rows_per_second: 0.0,
        }
    }

    pub(super) fn begin_round(&mut self, now: Instant) {
        self.round_begun_at = Some(now);
        self.rows_in_round = 0;
    }

    pub(super) fn end_round(&mut self, now: Instant) {
        let took = self.round_begun_at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        if !took.is_zero() {
            self.rows_per_second = self.rows_in_round as f64 / took.as_secs_f64();
        }
    }

    /// Tells whether every range was verified in this round.
    pub(super) fn is_round_done(&self) -> bool {
        self.buckets.values().all(|bucket| self.in_round(bucket))
    }

    /// Returns the range to verify next; with a number of rows when it should be split there first.
    pub(super) fn next(&self) -> (KeyRange, Option<u64>) {
        let (last, _) = self.buckets.last_key_value().expect("the ranges cover all keys");
        let urgency = |(from, bucket): &(&i64, &Bucket)| {
            let in_round = self.in_round(bucket);
            (in_round, **from != *last, !bucket.differs, bucket.verified_at)
        };
        let (&from, bucket) = self.buckets.iter().min_by_key(urgency).expect("the ranges cover all keys");
        let range = self.range(from);
        let n_rows = bucket.legacy_rows.max(bucket.partitioned_rows);
        let unknown = bucket.verified_at.is_none() && range.below.is_none();
        let wants_split = unknown || n_rows >= 2 * self.bucket_rows;
        (range, wants_split.then_some(self.bucket_rows))
    }

    /// Splits a range at `boundary`, and returns its lower part; without one it stays whole.
    pub(super) fn split(&mut self, range: KeyRange, boundary: Option<i64>) -> KeyRange {
        let inside = |at: &i64| *at > range.from && range.below.is_none_or(|below| *at < below);
        let Some(at) = boundary.filter(inside) else { return range };
        if let Some(bucket) = self.buckets.get_mut(&range.from) {
            // Both halves are known no better than not at all.
            *bucket = Bucket::default();
        }
        self.buckets.insert(at, Bucket::default());
        KeyRange { from: range.from, below: Some(at) }
    }

    /// Notes what was found in a range.
    pub(super) fn record(
        &mut self,
        range: KeyRange,
        sums: &Sums,
        differences: Vec<Difference>,
        now: Instant,
    ) {
        let Some(bucket) = self.buckets.get_mut(&range.from) else { return };
        let n_rows = sums.legacy_rows + sums.partitioned_rows;
        self.rows_in_round += n_rows;
        self.rows_compared += n_rows;
        *bucket = Bucket {
            verified_at: Some(now),
            legacy_rows: sums.legacy_rows,
            partitioned_rows: sums.partitioned_rows,
            differs: !sums.is_equal(),
            differences,
        };
    }

    /// Returns the range that a key is in.
    pub(super) fn range_of(&self, key: i64) -> KeyRange {
        let (from, _) = self.buckets.range(..=key).next_back().expect("the ranges cover all keys");
        self.range(*from)
    }

    /// Counts rows that were compared one by one.
    pub(super) fn compared(&mut self, n_rows: u64) {
        self.rows_in_round += n_rows;
        self.rows_compared += n_rows;
    }

    /// Takes all evidence back; the counts stay until they are made anew.
    pub(super) fn forget(&mut self) {
        for bucket in self.buckets.values_mut() {
            bucket.verified_at = None;
        }
    }

    pub(super) fn standing(&self, now: Instant) -> Standing {
        let count = |wanted: &dyn Fn(&Bucket) -> bool| {
            u32::try_from(self.buckets.values().filter(|bucket| wanted(bucket)).count()).unwrap_or(u32::MAX)
        };
        let (n_buckets, n_verified) = (count(&|_| true), count(&|bucket| bucket.verified_at.is_some()));
        let n_mismatched = count(&|bucket| bucket.differs);
        let oldest = self.buckets.values().map(|bucket| bucket.verified_at).min().flatten();
        Standing {
            verdict: match (n_mismatched, n_verified == n_buckets) {
                (0, true) => Verdict::Equal,
                (0, false) => Verdict::Unknown,
                _ => Verdict::Different,
            },
            n_buckets,
            n_verified,
            n_mismatched,
            legacy_rows: self.buckets.values().map(|bucket| bucket.legacy_rows).sum(),
            partitioned_rows: self.buckets.values().map(|bucket| bucket.partitioned_rows).sum(),
            oldest_age: oldest.map(|at| now.saturating_duration_since(at)),
            rows_compared: self.rows_compared,
            rows_per_second: self.rows_per_second,
            differences: self
                .buckets
                .values()
                .flat_map(|bucket| bucket.differences.iter().cloned())
                .take(MAX_DIFFERENCES)
                .collect(),
        }
    }

    fn in_round(&self, bucket: &Bucket) -> bool {
        matches!((bucket.verified_at, self.round_begun_at), (Some(at), Some(begun)) if at >= begun)
    }

    fn range(&self, from: i64) -> KeyRange {
        let above = self.buckets.range((std::ops::Bound::Excluded(from), std::ops::Bound::Unbounded)).next();
        KeyRange { from, below: above.map(|(below, _)| *below) }
    }
}

impl Sums {
    pub(super) fn is_equal(&self) -> bool {
        self.legacy_rows == self.partitioned_rows && self.checksums.0 == self.checksums.1
    }
}

impl DifferenceKind {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Extra => "extra",
            Self::Changed => "changed",
            Self::Duplicated => "duplicated",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::test_time::origin;

    const SECOND: Duration = Duration::from_secs(1);

    fn sums(rows: u64, same: bool) -> Sums {
        let checksum = if same { "a" } else { "b" };
        Sums { legacy_rows: rows, partitioned_rows: rows, checksums: ("a".to_owned(), checksum.to_owned()) }
    }

    fn in_range(keys: &BTreeSet<i64>, range: KeyRange) -> Vec<i64> {
        keys.iter()
            .copied()
            .filter(|key| *key >= range.from && range.below.is_none_or(|below| *key < below))
            .collect()
    }

    /// Verifies one range as the shell does.
    fn verify_one(ledger: &mut Ledger, keys: &BTreeSet<i64>, bad: Option<i64>, now: Instant) -> KeyRange {
        let (range, wants_split) = ledger.next();
        let range = match wants_split {
            Some(n) => ledger.split(range, in_range(keys, range).get(n as usize).copied()),
            None => range,
        };
        let found = in_range(keys, range);
        let differs = bad.is_some_and(|bad| found.contains(&bad));
        let differences = bad
            .filter(|_| differs)
            .map(|key| Difference { key, kind: DifferenceKind::Changed })
            .into_iter()
            .collect();
        ledger.record(range, &sums(found.len() as u64, !differs), differences, now);
        range
    }

    fn verify_all(ledger: &mut Ledger, keys: &BTreeSet<i64>, bad: Option<i64>, now: Instant) -> usize {
        ledger.begin_round(now);
        for n in 1..10_000 {
            verify_one(ledger, keys, bad, now);
            if ledger.is_round_done() {
                return n;
            }
        }
        panic!("a round never ends");
    }

    proptest! {
        #[test]
        fn one_round_finds_any_one_row_and_counts_all(
            keys in prop::collection::btree_set(any::<i64>(), 1..300),
            bucket_rows in 1_u64..50,
            pick in any::<prop::sample::Index>(),
        ) {
            let (now, mut ledger) = (origin(), Ledger::new(bucket_rows));
            let rounds = verify_all(&mut ledger, &keys, None, now);
            prop_assert!(rounds <= 2 * (keys.len() / bucket_rows as usize + 2), "{rounds} ranges");
            let standing = ledger.standing(now);
            prop_assert_eq!((standing.verdict, standing.legacy_rows), (Verdict::Equal, keys.len() as u64));
            let bad = *keys.iter().nth(pick.index(keys.len())).unwrap();
            verify_all(&mut ledger, &keys, Some(bad), now + SECOND);
            let standing = ledger.standing(now + SECOND);
            prop_assert_eq!((standing.verdict, standing.n_mismatched), (Verdict::Different, 1));
            prop_assert_eq!(standing.differences[0].key, bad);
            verify_all(&mut ledger, &keys, None, now + SECOND * 2);
            prop_assert_eq!(ledger.standing(now).verdict, Verdict::Equal);
        }
    }

    #[test]
    fn new_rows_come_first_then_what_differed_then_what_is_oldest() {
        let (now, mut ledger) = (origin(), Ledger::new(10));
        let keys: BTreeSet<i64> = (0..40).collect();
        verify_all(&mut ledger, &keys, Some(15), now);
        ledger.begin_round(now + SECOND);
        let order: Vec<_> =
            (0..4).map(|n| verify_one(&mut ledger, &keys, None, now + SECOND + SECOND * n).from).collect();
        assert_eq!(order, [30, 10, i64::MIN, 20]);
    }

    #[test]
    fn the_last_range_is_split_as_it_grows() {
        let (now, mut ledger) = (origin(), Ledger::new(10));
        verify_all(&mut ledger, &(0..15).collect(), None, now);
        let before = ledger.standing(now).n_buckets;
        let grown: BTreeSet<i64> = (0..100).collect();
        verify_all(&mut ledger, &grown, None, now + SECOND);
        verify_all(&mut ledger, &grown, None, now + SECOND * 2);
        let standing = ledger.standing(now + SECOND * 2);
        assert!(before == 2 && standing.n_buckets >= 8, "{standing:?}");
        assert_eq!((standing.legacy_rows, standing.oldest_age), (100, Some(Duration::ZERO)));
    }

    #[test]
    fn nothing_is_equal_before_it_was_looked_at() {
        let standing = Ledger::new(10).standing(origin());
        assert_eq!((standing.verdict, standing.oldest_age), (Verdict::Unknown, None));
    }
}
