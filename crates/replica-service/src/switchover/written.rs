use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use super::catalog::{Catalog, Table};

/// Follows what is written to the two tables of a pair, by the counters that the primary keeps of each table; does no I/O and
/// reads no clock.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// As each table last told, by its oid.
    told: HashMap<i64, Counts>,
    legacy: Counts,
    partitioned: Counts,
    /// Sums of both as of the looks of the last minute, and of the one before.
    looks: VecDeque<(Instant, [u64; 2])>,
}

/// Rows written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub inserted: u64,
    pub updated: u64,
    pub deleted: u64,
}

/// What was written to one side of a pair since it is watched, and how much a second of late.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Writes {
    pub counts: Counts,
    pub per_second: f64,
}

/// How far back "of late" reaches.
const RECENT: Duration = Duration::from_secs(60);

impl Written {
    /// Takes over what the primary has told; nothing where it has not.
    pub(super) fn look(&mut self, catalog: &Catalog, now: Instant) {
        let Some(legacy) = catalog.legacy.as_ref().filter(|table| table.written.is_some()) else { return };
        let since = self.since(legacy);
        self.legacy.add(since);
        for partition in &catalog.partitions {
            let since = self.since(partition);
            self.partitioned.add(since);
        }
        let there =
            |oid: &i64| *oid == legacy.oid || catalog.partitions.iter().any(|table| table.oid == *oid);
        self.told.retain(|oid, _| there(oid));
        self.looks.push_back((now, [self.legacy.sum(), self.partitioned.sum()]));
        let is_old = |at: Instant| now.saturating_duration_since(at) > RECENT;
        while self.looks.len() > 2 && is_old(self.looks[0].0) {
            self.looks.pop_front();
        }
    }

    /// Returns what was written to the legacy table and to the partitioned one; `None` before the second look, and when the
    /// last is longer ago than `max_age`.
    pub(super) fn writes(&self, now: Instant, max_age: Duration) -> Option<[Writes; 2]> {
        let ((begun_at, before), (ended_at, after)) = (self.looks.front()?, self.looks.back()?);
        let seconds = ended_at.saturating_duration_since(*begun_at).as_secs_f64();
        if seconds == 0.0 || now.saturating_duration_since(*ended_at) > max_age {
            return None;
        }
        let per_second = |side: usize| (after[side] - before[side]) as f64 / seconds;
        Some([
            Writes { counts: self.legacy, per_second: per_second(0) },
            Writes { counts: self.partitioned, per_second: per_second(1) },
        ])
    }

    /// Counts from the first time that a table is seen. One that tells less than before counts from zero: its statistics were
    /// reset, or another server is the primary.
    fn since(&mut self, table: &Table) -> Counts {
        let Some(now) = table.written else { return Counts::default() };
        match self.told.insert(table.oid, now) {
            None => Counts::default(),
            Some(before) => now.less(before).unwrap_or(now),
        }
    }
}

impl Counts {
    pub(crate) fn sum(self) -> u64 {
        self.inserted + self.updated + self.deleted
    }

    fn add(&mut self, more: Self) {
        self.inserted += more.inserted;
        self.updated += more.updated;
        self.deleted += more.deleted;
    }

    fn less(self, before: Self) -> Option<Self> {
        Some(Self {
            inserted: self.inserted.checked_sub(before.inserted)?,
            updated: self.updated.checked_sub(before.updated)?,
            deleted: self.deleted.checked_sub(before.deleted)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{super::catalog::tests::table, *};
    use crate::test_time::origin;

    const SECOND: Duration = Duration::from_secs(1);
    const LEGACY: i64 = 1;

    fn counts(inserted: u64) -> Counts {
        Counts { inserted, ..Counts::default() }
    }

    fn told(oid: i64, inserted: u64) -> Table {
        Table { oid, written: Some(counts(inserted)), ..table("t", None) }
    }

    fn catalog(legacy: u64, partitions: &[(i64, u64)]) -> Catalog {
        let partitions = partitions.iter().map(|(oid, inserted)| told(*oid, *inserted)).collect();
        Catalog { legacy: Some(told(LEGACY, legacy)), partitions, ..Catalog::default() }
    }

    fn inserted(written: &Written, now: Instant) -> [(u64, f64); 2] {
        let writes = written.writes(now, SECOND * 30).unwrap();
        writes.map(|writes| (writes.counts.inserted, writes.per_second))
    }

    #[test]
    fn what_was_written_before_the_first_look_does_not_count_and_all_after_it_does() {
        let (mut written, now) = (Written::default(), origin());
        written.look(&catalog(1_000, &[(2, 700), (3, 300)]), now);
        assert_eq!(written.writes(now, SECOND * 30), None);
        written.look(&catalog(1_010, &[(2, 704), (3, 306), (4, 99)]), now + SECOND * 10);
        assert_eq!(inserted(&written, now + SECOND * 10), [(10, 1.0), (10, 1.0)]);
        // The new partition counts from when it was seen; one that is gone takes nothing back.
        written.look(&catalog(1_030, &[(2, 704), (4, 119)]), now + SECOND * 20);
        assert_eq!(inserted(&written, now + SECOND * 20), [(30, 1.5), (30, 1.5)]);
    }

    #[test]
    fn counters_that_begin_anew_lose_nothing_that_was_counted() {
        let (mut written, now) = (Written::default(), origin());
        written.look(&catalog(100, &[(2, 100)]), now);
        written.look(&catalog(150, &[(2, 150)]), now + SECOND);
        written.look(&catalog(7, &[(2, 5)]), now + SECOND * 2);
        assert_eq!(inserted(&written, now + SECOND * 2), [(57, 28.5), (55, 27.5)]);
    }

    #[test]
    fn the_rate_is_that_of_the_last_minute_and_ends_with_the_looks() {
        let (mut written, now) = (Written::default(), origin());
        for second in 0..=300 {
            // Busy for two minutes, then nothing.
            let n = 10 * second.min(120);
            written.look(&catalog(n, &[(2, n)]), now + SECOND * u32::try_from(second).unwrap());
            if second == 150 {
                assert_eq!(inserted(&written, now + SECOND * 150), [(1_200, 5.0); 2]);
            }
        }
        let end = now + SECOND * 300;
        assert_eq!(inserted(&written, end), [(1_200, 0.0); 2]);
        // A primary that does not answer tells nothing, and what is known grows old.
        written.look(&Catalog { legacy: Some(table("t", None)), ..Catalog::default() }, end + SECOND * 20);
        assert!(written.writes(end + SECOND * 30, SECOND * 30).is_some());
        assert_eq!(written.writes(end + SECOND * 31, SECOND * 30), None);
    }

    #[test]
    fn looks_further_apart_than_a_minute_give_the_rate_between_the_last_two() {
        let (mut written, now) = (Written::default(), origin());
        for look in 0..5_u32 {
            let n = u64::from(look * look) * 600;
            written.look(&catalog(n, &[(2, n)]), now + SECOND * 600 * look);
        }
        assert_eq!(inserted(&written, now + SECOND * 2_400), [(9_600, 7.0); 2]);
    }
}
