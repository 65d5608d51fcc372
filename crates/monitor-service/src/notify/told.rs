//! What a channel was told of an alert, whichever monitor told it; pure.

use std::time::{Duration, SystemTime};

use crate::alert::{AlertState, Record, Severity};

/// Says what a channel was last told of an alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Told {
    /// That it is over, rather than that it fires.
    pub(super) is_over: bool,
    /// How bad it was.
    pub(super) severity: Severity,
    /// When that happened, in milliseconds since 1970, by the clock of who told it.
    pub(super) at_ms: u64,
}

const FIRING: &str = "firing";
const OVER: &str = "over";

impl Told {
    /// Says what a channel knows once it was told of this.
    pub(super) fn of(record: &Record) -> Self {
        let is_over = record.alert.state == AlertState::Resolved;
        Self { is_over, severity: record.alert.severity, at_ms: unix_ms(record.at) }
    }

    /// Writes it as it lies in Redis: `firing critical 1700000000000`.
    pub(super) fn to_text(self) -> String {
        let Self { is_over, severity, at_ms } = self;
        format!("{} {} {at_ms}", if is_over { OVER } else { FIRING }, severity.as_str())
    }

    /// Reads it; none where nothing, or nothing of ours, is written.
    pub(super) fn from_text(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let is_over = match words.next()? {
            OVER => true,
            FIRING => false,
            _ => return None,
        };
        let severity = words.next()?;
        let severity = Severity::ALL.into_iter().find(|known| known.as_str() == severity)?;
        Some(Self { is_over, severity, at_ms: words.next()?.parse().ok()? })
    }

    /// Tells whether the channel need not be told of this any more. `is_over_here`: by what this monitor sees, too, the
    /// alert has ended since; `again_after` is how long after a message the channel wants another one.
    pub(super) fn covers(self, record: &Record, is_over_here: bool, again_after: Duration) -> bool {
        if record.alert.state == AlertState::Resolved {
            return self.is_over;
        }
        let at_ms = unix_ms(record.at);
        if self.is_over {
            // Told as a whole by somebody who was quicker. What still fires here is told: rather twice than never.
            return is_over_here && self.at_ms >= at_ms;
        }
        if record.change == "repeated" {
            // Monitors do not repeat at the same moment.
            let since = Duration::from_millis(at_ms.saturating_sub(self.at_ms));
            return since < again_after / 2;
        }
        self.severity >= record.alert.severity
    }
}

fn unix_ms(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::group::tests::record_at;
    use crate::roster::tests::at;

    fn record(change: &'static str, severity: Severity, second: u64) -> Record {
        let mut record = record_at(change, at(second));
        record.alert.severity = severity;
        record.alert.state = if change == "resolved" { AlertState::Resolved } else { AlertState::Firing };
        record
    }

    #[test]
    fn what_another_monitor_told_is_told_again_only_where_it_says_something_new() {
        let (warning, critical) = (Severity::Warning, Severity::Critical);
        let hour = Duration::from_hours(1);
        let firing = |severity, second| Told { is_over: false, severity, at_ms: unix_ms(at(second)) };
        let over = |second| Told { is_over: true, severity: critical, at_ms: unix_ms(at(second)) };
        let table = [
            ("the same", firing(critical, 100), record("fired", critical, 101), false, true),
            ("worse", firing(warning, 100), record("fired", critical, 101), false, false),
            ("raised, known", firing(critical, 100), record("raised", critical, 99), false, true),
            ("raised, news", firing(warning, 100), record("raised", critical, 99), false, false),
            ("over, news", firing(critical, 100), record("resolved", critical, 110), true, false),
            ("over, known", over(110), record("resolved", critical, 111), true, true),
            ("the next episode", over(110), record("fired", critical, 150), false, false),
            ("fires on here only", over(110), record("fired", critical, 101), false, false),
            ("late, and over here too", over(110), record("fired", critical, 101), true, true),
            ("a new one that is over already", over(110), record("fired", critical, 150), true, false),
            ("repeated, just told", firing(critical, 100), record("repeated", critical, 200), false, true),
            ("repeated, long ago", firing(critical, 100), record("repeated", critical, 3_700), false, false),
            ("released", firing(critical, 100), record("released", critical, 101), false, true),
            ("escalated", firing(critical, 100), record("escalated", critical, 101), false, true),
        ];
        for (name, told, record, is_over_here, expected) in table {
            assert_eq!(told.covers(&record, is_over_here, hour), expected, "{name}");
        }
    }

    #[test]
    fn what_lies_in_redis_is_read_as_it_was_written_and_nothing_else() {
        for change in ["fired", "resolved"] {
            let told = Told::of(&record(change, Severity::Warning, 7));
            assert_eq!(Told::from_text(&told.to_text()), Some(told), "{}", told.to_text());
        }
        for text in ["", "held", "firing", "firing critical", "firing bad 7", "over critical x"] {
            assert_eq!(Told::from_text(text), None, "{text:?}");
        }
    }
}
