use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::config::AdvanceConfig;

/// Counts reads of both tables of a pair and says whether more of them may go to the partitioned one; does no I/O and
/// reads no clock.
#[derive(Debug, Default)]
pub(crate) struct Exposure {
    percent: u32,
    changed_at: Option<Instant>,
    legacy: Window,
    partitioned: Window,
    /// p95 of the legacy table when it last had reads enough.
    legacy_p95: Option<Duration>,
}

/// Where a read of the pair goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Legacy,
    Partitioned,
}

/// Reads of one table: those of the last minute, or the last few where it was read less; at most so many.
#[derive(Debug, Default)]
struct Window(VecDeque<(Instant, Duration, bool)>);

/// Reads of one table in figures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ReadStats {
    pub calls: u64,
    pub errors: u64,
    pub p95: Option<Duration>,
}

/// Shares of reads, in this order and none left out.
pub(crate) const PERCENTS: [u32; 7] = [0, 1, 5, 10, 25, 50, 100];
const MAX_READS: usize = 2_000;
const MAX_AGE: Duration = Duration::from_secs(60);
/// Differences below this are noise, whatever their ratio.
const NOISE: Duration = Duration::from_millis(5);

impl Exposure {
    /// Chooses for one read; `dice` is at random below 100.
    pub(crate) fn choose(&self, dice: u32) -> Side {
        if dice < self.percent { Side::Partitioned } else { Side::Legacy }
    }

    /// Takes over what the record says; what was counted at another share does not count for this one.
    pub(crate) fn set(&mut self, percent: u32, now: Instant) {
        if percent != self.percent {
            self.percent = percent;
            self.changed_at = Some(now);
            self.partitioned = Window::default();
        }
    }

    pub(crate) fn record(&mut self, side: Side, took: Duration, ok: bool, now: Instant) {
        let window = match side {
            Side::Legacy => &mut self.legacy,
            Side::Partitioned => &mut self.partitioned,
        };
        window.push(now, took, ok);
    }

    pub(crate) fn stats(&mut self, gates: &AdvanceConfig, now: Instant) -> [ReadStats; 2] {
        [self.legacy.stats(gates, now), self.partitioned.stats(gates, now)]
    }

    /// Returns why the partitioned table does worse than it may; `None` while it does well or was read too little.
    pub(crate) fn trouble(&mut self, gates: &AdvanceConfig, now: Instant) -> Option<String> {
        let [legacy, partitioned] = self.stats(gates, now);
        if legacy.calls >= gates.min_reads.into() {
            self.legacy_p95 = legacy.p95;
        }
        if partitioned.calls < gates.min_reads.max(1).into() {
            return None;
        }
        let (errors, usual) = (partitioned.error_ratio(), legacy.error_ratio());
        if errors > usual + gates.max_error_ratio {
            return Some(format!(
                "{:.1} % of the reads of the partitioned table fail, {:.1} % of the others",
                errors * 100.0,
                usual * 100.0
            ));
        }
        let (p95, usual) = (partitioned.p95?, self.legacy_p95?);
        let most = usual.mul_f64(gates.max_latency_ratio) + NOISE;
        (p95 > most).then(|| {
            format!("95 % of the reads of the partitioned table take up to {p95:.1?}, of the legacy one {usual:.1?}")
        })
    }

    /// Returns why the share may not grow yet, for want of evidence.
    pub(crate) fn unproven(&mut self, gates: &AdvanceConfig, now: Instant) -> Option<String> {
        if self.percent == 0 {
            return None;
        }
        let held = self.changed_at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let calls = self.partitioned.stats(gates, now).calls;
        if held < gates.hold {
            Some(format!("{} % were read for {held:.0?} only, {:?} are needed", self.percent, gates.hold))
        } else if calls < gates.min_reads.into() {
            let percent = self.percent;
            Some(format!("{calls} reads at {percent} %, {} are needed", gates.min_reads))
        } else {
            None
        }
    }
}

impl Window {
    fn push(&mut self, now: Instant, took: Duration, ok: bool) {
        if self.0.len() >= MAX_READS {
            self.0.pop_front();
        }
        self.0.push_back((now, took, ok));
    }

    /// What is older than a minute speaks only where there is no newer evidence: at a share of 1 %, a pair that is read
    /// ten times a second would never show a hundred reads within one.
    fn stats(&mut self, gates: &AdvanceConfig, now: Instant) -> ReadStats {
        let enough = gates.min_reads as usize;
        let is_old = |at: &Instant| now.saturating_duration_since(*at) > MAX_AGE;
        while self.0.len() > enough && self.0.front().is_some_and(|(at, ..)| is_old(at)) {
            self.0.pop_front();
        }
        let mut times: Vec<_> = self.0.iter().map(|(_, took, _)| *took).collect();
        times.sort_unstable();
        ReadStats {
            calls: times.len() as u64,
            errors: self.0.iter().filter(|(.., ok)| !ok).count() as u64,
            p95: times.get((times.len() * 95).div_ceil(100).saturating_sub(1)).copied(),
        }
    }
}

impl ReadStats {
    fn error_ratio(&self) -> f64 {
        if self.calls == 0 { 0.0 } else { self.errors as f64 / self.calls as f64 }
    }
}

/// Returns the next share, and the one before.
pub(crate) fn neighbours(percent: u32) -> (Option<u32>, Option<u32>) {
    let next = PERCENTS.into_iter().find(|other| *other > percent);
    let before = PERCENTS.into_iter().rev().find(|other| *other < percent);
    (next, before)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_time::origin;

    const MS: Duration = Duration::from_millis(1);

    fn gates() -> AdvanceConfig {
        AdvanceConfig { min_reads: 10, hold: MS * 1_000, max_error_ratio: 0.05, max_latency_ratio: 2.0 }
    }

    fn read(exposure: &mut Exposure, side: Side, n: u32, took: Duration, ok: bool) {
        for _ in 0..n {
            exposure.record(side, took, ok, origin());
        }
    }

    fn at_five() -> Exposure {
        let mut exposure = Exposure::default();
        exposure.set(5, origin());
        read(&mut exposure, Side::Legacy, 100, MS * 10, true);
        exposure
    }

    #[test]
    fn exactly_the_share_goes_to_the_partitioned_table() {
        for percent in PERCENTS {
            let mut exposure = Exposure::default();
            exposure.set(percent, origin());
            let n = (0..100).filter(|dice| exposure.choose(*dice) == Side::Partitioned).count();
            assert_eq!(n, percent as usize);
        }
    }

    #[test]
    fn more_errors_or_slower_reads_than_the_legacy_table_are_trouble() {
        let mut well = at_five();
        read(&mut well, Side::Partitioned, 20, MS * 12, true);
        assert_eq!(well.trouble(&gates(), origin()), None);

        let mut slow = at_five();
        read(&mut slow, Side::Partitioned, 20, MS * 40, true);
        assert!(slow.trouble(&gates(), origin()).unwrap().contains("take up to 40.0ms"));

        let mut failing = at_five();
        read(&mut failing, Side::Partitioned, 20, MS, false);
        assert!(failing.trouble(&gates(), origin()).unwrap().contains("100.0 % of the reads"));

        // Statements that fail in both tables are their callers' fault.
        let mut both = at_five();
        read(&mut both, Side::Legacy, 100, MS, false);
        read(&mut both, Side::Partitioned, 10, MS, true);
        read(&mut both, Side::Partitioned, 10, MS, false);
        assert_eq!(both.trouble(&gates(), origin()), None);
    }

    #[test]
    fn a_share_must_be_held_and_read_enough_before_the_next() {
        let mut exposure = at_five();
        assert!(exposure.unproven(&gates(), origin()).unwrap().contains("read for"));
        let later = origin() + MS * 1_500;
        assert!(exposure.unproven(&gates(), later).unwrap().contains("0 reads at 5 %"));
        for _ in 0..10 {
            exposure.record(Side::Partitioned, MS, true, later);
        }
        assert_eq!(exposure.unproven(&gates(), later), None);
        exposure.set(10, later);
        assert_eq!(exposure.stats(&gates(), later)[1], ReadStats::default());
    }

    #[test]
    fn reads_that_come_slowly_add_up_and_older_ones_leave_as_newer_come() {
        let mut exposure = at_five();
        let mut now = origin();
        for n_reads in 0..10 {
            assert!(exposure.unproven(&gates(), now).is_some(), "{n_reads}");
            now += MAX_AGE;
            exposure.record(Side::Partitioned, MS * 10, false, now);
        }
        assert_eq!(exposure.unproven(&gates(), now), None);
        assert!(exposure.trouble(&gates(), now).unwrap().contains("100.0 % of the reads"));
        now += MAX_AGE * 2;
        for _ in 0..10 {
            exposure.record(Side::Partitioned, MS * 10, true, now);
        }
        assert_eq!(exposure.trouble(&gates(), now), None);
        assert_eq!(exposure.stats(&gates(), now)[1].calls, 10);
    }

    #[test]
    fn shares_have_neighbours() {
        assert_eq!(neighbours(0), (Some(1), None));
        assert_eq!(neighbours(25), (Some(50), Some(10)));
        assert_eq!(neighbours(100), (None, Some(50)));
    }
}
