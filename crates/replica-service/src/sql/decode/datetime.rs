use std::fmt::Write as _;

use crate::sql::Value;

/// Days from 0000-03-01 (proleptic Gregorian) to 2000-01-01, PostgreSQL's epoch.
const EPOCH_DAYS: i64 = 730_425;
/// Seconds from 1970-01-01 to 2000-01-01.
const EPOCH_UNIX_S: i64 = 946_684_800;
const US_PER_S: i64 = 1_000_000;
const US_PER_DAY: i64 = 86_400 * US_PER_S;
/// The instants that a protobuf timestamp may hold: the years 1 to 9999.
const FIRST_UNIX_S: i64 = -62_135_596_800;
const LAST_UNIX_S: i64 = 253_402_300_799;

/// Reads microseconds since 2000-01-01 UTC.
pub(super) fn timestamptz(us: i64) -> Value {
    let seconds = us.div_euclid(US_PER_S) + EPOCH_UNIX_S;
    if (FIRST_UNIX_S..=LAST_UNIX_S).contains(&seconds) {
        let nanos = i32::try_from(us.rem_euclid(US_PER_S) * 1_000).unwrap_or(0);
        return Value::Timestamp { seconds, nanos };
    }
    let text = timestamp_text(us);
    let with_zone = match text.strip_suffix(" BC") {
        Some(positive) => format!("{positive}+00 BC"),
        None if text.ends_with("infinity") => text,
        None => format!("{text}+00"),
    };
    Value::Text(with_zone)
}

/// Writes an instant as `2026-01-02 03:04:05.123456+00`; `None` outside the years 1 to 9999.
///
/// PostgreSQL keeps microseconds; finer digits are cut off.
pub(crate) fn timestamptz_text(seconds: i64, nanos: i32) -> Option<String> {
    if !(FIRST_UNIX_S..=LAST_UNIX_S).contains(&seconds) || !(0..1_000_000_000).contains(&nanos) {
        return None;
    }
    let us = (seconds - EPOCH_UNIX_S) * US_PER_S + i64::from(nanos) / 1_000;
    Some(format!("{}+00", timestamp_text(us)))
}

pub(super) fn timestamp_text(us: i64) -> String {
    match us {
        i64::MAX => return "infinity".to_owned(),
        i64::MIN => return "-infinity".to_owned(),
        _ => {}
    }
    let (year, month, day) = civil(us.div_euclid(US_PER_DAY));
    let time = time_text(us.rem_euclid(US_PER_DAY));
    let (year, era) = era(year);
    format!("{year:04}-{month:02}-{day:02} {time}{era}")
}

pub(super) fn date_text(days: i32) -> String {
    match days {
        i32::MAX => return "infinity".to_owned(),
        i32::MIN => return "-infinity".to_owned(),
        _ => {}
    }
    let (year, month, day) = civil(days.into());
    let (year, era) = era(year);
    format!("{year:04}-{month:02}-{day:02}{era}")
}

/// Writes a time of day; 24:00:00 is legal.
pub(super) fn time_text(us: i64) -> String {
    let (seconds, fraction) = (us.div_euclid(US_PER_S), us.rem_euclid(US_PER_S));
    let mut text = format!("{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60);
    write_fraction(&mut text, fraction);
    text
}

/// Writes a time of day with its zone, which travels as seconds west of UTC.
pub(super) fn timetz_text(us: i64, west_s: i32) -> String {
    let mut text = time_text(us);
    let sign = if west_s > 0 { '-' } else { '+' };
    let offset = west_s.unsigned_abs();
    let _ = write!(text, "{sign}{:02}", offset / 3_600);
    if !offset.is_multiple_of(3_600) {
        let _ = write!(text, ":{:02}", offset / 60 % 60);
    }
    if !offset.is_multiple_of(60) {
        let _ = write!(text, ":{:02}", offset % 60);
    }
    text
}

/// Writes an interval in the style `1 year 2 mons -3 days +04:05:06.7`.
pub(super) fn interval_text(us: i64, days: i32, months: i32) -> String {
    match (us, days, months) {
        (i64::MAX, i32::MAX, i32::MAX) => return "infinity".to_owned(),
        (i64::MIN, i32::MIN, i32::MIN) => return "-infinity".to_owned(),
        _ => {}
    }
    let mut text = String::new();
    // After a negative field a positive one shows its sign.
    let mut after_negative = false;
    for (amount, unit) in [(months / 12, "year"), (months % 12, "mon"), (days, "day")] {
        if amount == 0 {
            continue;
        }
        let space = if text.is_empty() { "" } else { " " };
        let sign = if after_negative && amount > 0 { "+" } else { "" };
        let plural = if amount == 1 { "" } else { "s" };
        let _ = write!(text, "{space}{sign}{amount} {unit}{plural}");
        after_negative = amount < 0;
    }
    if us == 0 && !text.is_empty() {
        return text;
    }
    if !text.is_empty() {
        text.push(' ');
    }
    if us < 0 {
        text.push('-');
    } else if after_negative {
        text.push('+');
    }
    let us = us.unsigned_abs();
    let (seconds, fraction) = (us / 1_000_000, us % 1_000_000);
    let _ = write!(text, "{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60);
    write_fraction(&mut text, i64::try_from(fraction).unwrap_or(0));
    text
}

fn write_fraction(text: &mut String, us: i64) {
    if us != 0 {
        let digits = format!("{us:06}");
        text.push('.');
        text.push_str(digits.trim_end_matches('0'));
    }
}

/// There is no year 0: the year before 1 is 1 BC.
fn era(year: i64) -> (i64, &'static str) {
    if year > 0 { (year, "") } else { (1 - year, " BC") }
}

/// Turns days since 2000-01-01 into year, month and day.
///
/// Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + EPOCH_DAYS;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_printed_like_postgresql_prints_them() {
        for (days, wanted) in [
            (0, "2000-01-01"),
            (-1, "1999-12-31"),
            (60, "2000-03-01"),
            (9_827, "2026-11-27"),
            (-730_119, "0001-01-01"),
            (-730_120, "0001-12-31 BC"),
            (i32::MAX, "infinity"),
        ] {
            assert_eq!(date_text(days), wanted);
        }
    }

    #[test]
    fn intervals_are_printed_like_postgresql_prints_them() {
        const HOUR: i64 = 3_600_000_000;
        for (us, days, months, wanted) in [
            (0, 0, 0, "00:00:00"),
            (0, 1, 0, "1 day"),
            (4 * HOUR + 500_000, 3, 14, "1 year 2 mons 3 days 04:00:00.5"),
            (HOUR, -3, 0, "-3 days +01:00:00"),
            (-HOUR, 3, -1, "-1 mons +3 days -01:00:00"),
            (-1, 0, 0, "-00:00:00.000001"),
            (30 * HOUR, 0, -12, "-1 years +30:00:00"),
        ] {
            assert_eq!(interval_text(us, days, months), wanted);
        }
    }

    #[test]
    fn an_instant_written_is_the_instant_read() {
        assert_eq!(
            timestamptz_text(1_767_323_045, 123_456_789),
            Some("2026-01-02 03:04:05.123456+00".to_owned())
        );
        assert_eq!(timestamptz_text(FIRST_UNIX_S - 1, 0), None);
        assert_eq!(timestamptz_text(0, 1_000_000_000), None);
        let us = (1_767_323_045 - EPOCH_UNIX_S) * US_PER_S;
        assert_eq!(timestamptz(us), Value::Timestamp { seconds: 1_767_323_045, nanos: 0 });
        assert_eq!(timestamptz(i64::MIN), Value::Text("-infinity".to_owned()));
    }
}
