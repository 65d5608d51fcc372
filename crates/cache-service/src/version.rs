//! Versions of entries: a hybrid logical clock in microseconds.

use std::sync::atomic::{AtomicU64, Ordering};

/// Gives versions that grow: the time of day in microseconds, or one more than the highest seen where that is greater.
///
/// Microseconds, because a version must fit into the 53 exact bits of a double: Redis scripts and JSON readers count
/// in doubles. See "Logical Physical Clocks" (Kulkarni et al., 2014) for the idea.
#[derive(Debug, Default)]
pub(crate) struct Versions {
    highest: AtomicU64,
}

impl Versions {
    /// Returns a version above every one given or seen before.
    pub(crate) fn next(&self, unix_us: u64) -> u64 {
        let grown = |highest: u64| Some(unix_us.max(highest.saturating_add(1)));
        let before = self.highest.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown);
        grown(before.expect("grown is never none")).expect("grown is never none")
    }

    /// Takes note of a version that another node or Redis gave.
    pub(crate) fn see(&self, version: u64) {
        self.highest.fetch_max(version, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_grow_although_the_clock_stands_or_goes_back() {
        let versions = Versions::default();
        let given: Vec<u64> = [100, 100, 50, 200].into_iter().map(|now| versions.next(now)).collect();
        assert_eq!(given, [100, 101, 102, 200]);
    }

    #[test]
    fn a_version_seen_elsewhere_is_passed() {
        let versions = Versions::default();
        versions.see(1_000);
        assert_eq!(versions.next(10), 1_001);
        versions.see(5);
        assert_eq!(versions.next(10), 1_002);
    }
}
