//! Figures as people read them.

/// Writes a number with at most four digits behind the point, and of a small one the three that matter.
pub fn number(value: f64) -> String {
    let is_small = value != 0.0 && value.abs() < 0.1;
    let digits = if is_small { (2.0 - value.abs().log10().floor()).clamp(4.0, 12.0) as usize } else { 4 };
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Writes a number with three digits that matter.
pub fn short(value: f64) -> String {
    let digits = (2.0 - value.abs().max(1e-9).log10().floor()).clamp(0.0, 9.0) as usize;
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Writes a share of one.
pub fn percent(share: f64) -> String {
    let percent = share * 100.0;
    let text = if percent == 0.0 || percent.abs() >= 0.1 { format!("{percent:.1}") } else { short(percent) };
    format!("{text} %")
}

/// Writes a time in the two largest units that it has, and a short one with three digits.
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() {
        return format!("{seconds} s");
    }
    let sign = if seconds < 0.0 { "-" } else { "" };
    let length = seconds.abs();
    let units = [("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)];
    let whole = length.round() as u64;
    if whole < 60 {
        let (scaled, unit) = match length {
            length if length == 0.0 || length >= 1.0 => (length, "s"),
            length if length >= 1e-3 => (length * 1e3, "ms"),
            length => (length * 1e6, "us"),
        };
        return format!("{sign}{} {unit}", short(scaled));
    }
    let first = units.iter().position(|(_, width)| whole >= *width).unwrap_or(units.len() - 1);
    let (unit, width) = units[first];
    let rest = units.get(first + 1).map(|(unit, next)| (whole % width / next, unit));
    let rest = rest.filter(|(n, _)| *n > 0).map(|(n, unit)| format!(" {n} {unit}"));
    format!("{sign}{} {unit}{}", whole / width, rest.unwrap_or_default())
}

/// Joins what is wrong with why, where that is known.
pub fn because(what: &str, why: &str) -> String {
    if why.is_empty() { what.to_owned() } else { format!("{what}: {why}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shown_with_the_digits_that_matter() {
        for (value, text) in [(0.0, "0"), (0.012_345, "0.0123"), (1.0, "1"), (123.456, "123"), (0.5, "0.5")] {
            assert_eq!(short(value), text);
        }
        for (value, text) in [
            (0.0, "0"),
            (12.50001, "12.5"),
            (0.1 + 0.2, "0.3"),
            (0.000_012_3, "0.0000123"),
            (-0.000_5, "-0.0005"),
            (1e9, "1000000000"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn shares_and_times_have_their_units() {
        for (share, text) in [(0.998, "99.8 %"), (0.5, "50.0 %"), (0.0, "0.0 %"), (0.000_25, "0.025 %")] {
            assert_eq!(percent(share), text);
        }
        for (seconds, text) in [
            (0.0, "0 s"),
            (0.000_05, "50 us"),
            (0.0523, "52.3 ms"),
            (5.25, "5.25 s"),
            (59.7, "1 min"),
            (125.0, "2 min 5 s"),
            (3_600.0, "1 h"),
            (5_400.4, "1 h 30 min"),
            (300_000.0, "3 d 11 h"),
            (-90.0, "-1 min 30 s"),
        ] {
            assert_eq!(duration(seconds), text, "{seconds}");
        }
    }
}
