//! Times of the week, in UTC.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// Says on which days, and between which hours of them; nothing said means always.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Weekly {
    /// Days on which it begins; none means every day.
    pub days: BTreeSet<Day>,
    /// From when to when, like `08:00-18:00` or, over midnight, `22:00-06:00`; empty means all day.
    pub hours: String,
}

/// Names a day of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Day {
    /// Monday.
    Mon,
    /// Tuesday.
    Tue,
    /// Wednesday.
    Wed,
    /// Thursday.
    Thu,
    /// Friday.
    Fri,
    /// Saturday.
    Sat,
    /// Sunday.
    Sun,
}

const WEEK: [Day; 7] = [Day::Mon, Day::Tue, Day::Wed, Day::Thu, Day::Fri, Day::Sat, Day::Sun];
const DAY_MINUTES: u64 = 24 * 60;
const DAY: Duration = Duration::from_hours(24);

impl Weekly {
    /// Tells whether its hours can be read.
    pub(crate) fn is_legal(&self) -> bool {
        self.hours.is_empty() || self.minutes().is_some()
    }

    /// Tells whether a moment lies within.
    pub(crate) fn covers(&self, at: SystemTime) -> bool {
        let (from, to) = self.minutes().unwrap_or((0, DAY_MINUTES));
        let minute = since_1970(at).as_secs() / 60 % DAY_MINUTES;
        if from < to {
            return (from..to).contains(&minute) && self.begins_on(at);
        }
        // Over midnight: the morning belongs to the day before.
        minute >= from && self.begins_on(at)
            || minute < to && at.checked_sub(DAY).is_some_and(|before| self.begins_on(before))
    }

    fn begins_on(&self, at: SystemTime) -> bool {
        // The first day of 1970 was a Thursday.
        let day = (since_1970(at).as_secs() / DAY.as_secs() + 3) % 7;
        let day = usize::try_from(day).ok().and_then(|day| WEEK.get(day));
        self.days.is_empty() || day.is_some_and(|day| self.days.contains(day))
    }

    fn minutes(&self) -> Option<(u64, u64)> {
        let minute = |text: &str| {
            let (hour, minute) =
                text.split_once(':').filter(|(hour, minute)| hour.len() == 2 && minute.len() == 2)?;
            let (hour, minute): (u64, u64) = (hour.parse().ok()?, minute.parse().ok()?);
            let of_day = hour * 60 + minute;
            (minute < 60 && of_day <= DAY_MINUTES).then_some(of_day)
        };
        let (from, to) = self.hours.split_once('-')?;
        let (from, to) = (minute(from)?, minute(to)?);
        (from != to).then_some((from, to))
    }
}

fn since_1970(at: SystemTime) -> Duration {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SystemTime {
        humantime::parse_rfc3339_weak(text).unwrap()
    }

    fn weekly(days: &[Day], hours: &str) -> Weekly {
        Weekly { days: days.iter().copied().collect(), hours: hours.to_owned() }
    }

    #[test]
    fn night_belongs_to_the_day_on_which_it_begins() {
        let night = weekly(&[Day::Fri], "22:00-06:00");
        // 2026-11-20 was a Friday.
        let table = [
            ("2026-11-20 21:59:59", false),
            ("2026-11-20 22:00:00", true),
            ("2026-11-21 05:59:59", true),
            ("2026-11-21 06:00:00", false),
            ("2026-11-20 03:00:00", false),
            ("2026-11-21 23:00:00", false),
        ];
        for (moment, expected) in table {
            assert_eq!(night.covers(at(moment)), expected, "{moment}");
        }
    }

    #[test]
    fn nothing_said_means_always_and_nonsense_is_refused() {
        assert!(Weekly::default().covers(at("2026-11-21 12:00:00")));
        assert!(weekly(&[Day::Sat], "").covers(at("2026-11-21 00:00:00")));
        assert!(!weekly(&[Day::Sun], "").covers(at("2026-11-21 00:00:00")));
        assert!(weekly(&[], "08:00-24:00").covers(at("2026-11-21 23:59:59")));
        for wrong in ["8-18", "08:00", "08:00-08:00", "08:60-09:00", "25:00-26:00", "always"] {
            assert!(!weekly(&[], wrong).is_legal(), "{wrong}");
        }
    }
}
