//! Alerts that come and go.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, SystemTime};

use super::Key;

/// Remembers when alerts fired, to tell those that flap.
#[derive(Debug, Default)]
pub(super) struct Flaps {
    fired_at: BTreeMap<Key, VecDeque<SystemTime>>,
}

/// Fires within [`FLAPPING_WITHIN`] that are still told one by one.
const FIRES_MAX: usize = 5;
/// How far back fires count, and how long one that flapped must fire on to be told after all.
pub(super) const FLAPPING_WITHIN: Duration = Duration::from_mins(10);
/// Subjects remembered at most; when there are more, all are forgotten and nobody flaps for a while.
const KEYS_MAX: usize = 10_000;

impl Flaps {
    /// Takes that an alert fires; tells whether it does so too often.
    pub(super) fn fired(&mut self, key: &Key, now: SystemTime) -> bool {
        if self.fired_at.len() >= KEYS_MAX && !self.fired_at.contains_key(key) {
            self.fired_at.retain(|_, times| times.back().is_some_and(|last| !Self::is_calm(*last, now)));
            if self.fired_at.len() >= KEYS_MAX {
                self.fired_at.clear();
            }
        }
        let times = self.fired_at.entry(key.clone()).or_default();
        while times.len() > FIRES_MAX || times.front().is_some_and(|first| Self::is_calm(*first, now)) {
            times.pop_front();
        }
        times.push_back(now);
        times.len() > FIRES_MAX
    }

    /// Tells whether something is so long ago that it counts no longer. A clock that was set back stands still.
    pub(super) fn is_calm(since: SystemTime, now: SystemTime) -> bool {
        now.duration_since(since).unwrap_or_default() >= FLAPPING_WITHIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    #[test]
    fn sixth_fire_within_ten_minutes_flaps_until_it_is_rare_again() {
        let mut flaps = Flaps::default();
        let key = |subject: &str| Key {
            rule: "r".into(),
            source: "s".to_owned(),
            endpoint: String::new(),
            subject: subject.to_owned(),
        };
        let at = |second| UNIX_EPOCH + Duration::from_secs(second);
        let verdicts: Vec<bool> = (0..8).map(|n| flaps.fired(&key("a"), at(n * 60))).collect();
        assert_eq!(verdicts, [false, false, false, false, false, true, true, true]);
        assert!(!flaps.fired(&key("b"), at(480)), "another subject is another matter");
        assert!(!flaps.fired(&key("a"), at(480 + 600)), "ten calm minutes are forgiven");
    }
}
