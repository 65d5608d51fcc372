use std::time::Duration;

use hashbrown::HashMap;

/// Counts by pattern of keys; no more than so many patterns, the rest counts as one.
#[derive(Debug, Clone, Default)]
pub(super) struct Patterns {
    by_pattern: HashMap<String, Sums>,
    /// Where patterns are put together: most of them are known.
    text: String,
}

/// Figures of the keys of one pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PatternFigures {
    pub(crate) namespace: String,
    pub(crate) pattern: String,
    pub(crate) keys: u64,
    pub(crate) bytes: u64,
    pub(crate) hits: u64,
    pub(crate) mean_ttl: Duration,
}

#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    keys: u64,
    bytes: u64,
    hits: u64,
    ttl: Duration,
}

const MOST_PATTERNS: usize = 1_000;
/// Stands for all patterns beyond the most, of all namespaces.
const REST: &str = "*:*";
/// Words of so many hexadecimal digits are taken for ids.
const HEX_FROM: usize = 8;
const LONGEST_PATTERN: usize = 128;

impl Patterns {
    pub(super) fn add_entry(&mut self, key: &str, bytes: u64, ttl_left: Duration) {
        let sums = self.sums(key);
        sums.keys += 1;
        sums.bytes += bytes;
        sums.ttl = sums.ttl.saturating_add(ttl_left);
    }

    pub(super) fn add_hit(&mut self, key: &str, weight: u64) {
        self.sums(key).hits += weight;
    }

    /// Returns those with most bytes first, with the hits counted elsewhere.
    pub(super) fn into_figures(self, hits: &Self) -> Vec<PatternFigures> {
        let figures = self.by_pattern.into_iter().map(|(full, sums)| {
            let (namespace, pattern) = full.split_once(':').unwrap_or(("", &full));
            PatternFigures {
                namespace: namespace.to_owned(),
                pattern: pattern.to_owned(),
                keys: sums.keys,
                bytes: sums.bytes,
                hits: hits.by_pattern.get(&full).map_or(0, |sums| sums.hits),
                mean_ttl: sums
                    .ttl
                    .checked_div(u32::try_from(sums.keys).unwrap_or(u32::MAX))
                    .unwrap_or_default(),
            }
        });
        let mut figures: Vec<_> = figures.collect();
        figures.sort_by(|a, b| (b.bytes, &a.namespace, &a.pattern).cmp(&(a.bytes, &b.namespace, &b.pattern)));
        figures
    }

    /// `key` is `namespace:key`.
    fn sums(&mut self, key: &str) -> &mut Sums {
        let Self { by_pattern, text } = self;
        let (namespace, name) = key.split_once(':').unwrap_or((key, ""));
        text.clear();
        text.push_str(namespace);
        text.push(':');
        put_pattern(name, text);
        if by_pattern.len() >= MOST_PATTERNS && !by_pattern.contains_key(text.as_str()) {
            text.clear();
            text.push_str(REST);
        }
        by_pattern.entry_ref(text.as_str()).or_default()
    }
}

/// Puts `*` for what tells keys of one kind apart: digits, UUIDs and words of hexadecimal digits.
fn put_pattern(text: &str, pattern: &mut String) {
    let longest = pattern.len() + LONGEST_PATTERN;
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if pattern.len() >= longest {
            pattern.push('*');
            break;
        }
        let n_word = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
        if n_word == 0 {
            pattern.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        let (word, after) = rest.split_at(n_word);
        if let Some(after_uuid) = skip_uuid(rest) {
            pattern.push('*');
            rest = after_uuid;
        } else if is_hex_id(word) {
            pattern.push('*');
            rest = after;
        } else {
            push_without_digits(pattern, word);
            rest = after;
        }
    }
}

fn push_without_digits(pattern: &mut String, word: &str) {
    let mut in_digits = false;
    for c in word.chars() {
        let is_digit = c.is_ascii_digit();
        if !is_digit {
            pattern.push(c);
        } else if !in_digits {
            pattern.push('*');
        }
        in_digits = is_digit;
    }
}

fn is_hex_id(word: &str) -> bool {
    let hex = word.bytes().all(|byte| byte.is_ascii_hexdigit());
    hex && word.len() >= HEX_FROM && word.bytes().any(|byte| byte.is_ascii_digit())
}

fn skip_uuid(text: &str) -> Option<&str> {
    let mut rest = text;
    for (number, length) in [8, 4, 4, 4, 12].into_iter().enumerate() {
        if number > 0 {
            rest = rest.strip_prefix('-')?;
        }
        let (part, after) = rest.split_at_checked(length)?;
        if !part.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        rest = after;
    }
    (!rest.starts_with(|c: char| c.is_ascii_alphanumeric())).then_some(rest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern_of(text: &str) -> String {
        let mut pattern = String::new();
        put_pattern(text, &mut pattern);
        pattern
    }

    #[test]
    fn what_tells_keys_apart_becomes_a_star() {
        for (key, pattern) in [
            ("users:user:42", "users:user:*"),
            ("users:user:42:name", "users:user:*:name"),
            ("n:550e8400-e29b-41d4-a716-446655440000", "n:*"),
            ("n:a:AAAAAAAA-e29b-41d4-a716-446655440000/x", "n:a:*/x"),
            ("n:5d41402abc4b2a76b9719d911017c592", "n:*"),
            ("n:page12of340", "n:page*of*"),
            ("n:feedface", "n:feedface"),
            ("n:2026-11-21", "n:*-*-*"),
            ("n:größe 7", "n:größe *"),
        ] {
            assert_eq!(pattern_of(key), pattern, "{key}");
        }
    }

    #[test]
    fn patterns_are_bounded() {
        let mut patterns = Patterns::default();
        for number in 0..2 * MOST_PATTERNS {
            let word: String =
                number.to_string().bytes().map(|digit| char::from(digit - b'0' + b'g')).collect();
            patterns.add_entry(&format!("n:{word}"), 1, Duration::from_secs(1));
        }
        let figures = patterns.into_figures(&Patterns::default());
        assert_eq!(figures.len(), MOST_PATTERNS + 1);
        assert_eq!((figures[0].namespace.as_str(), figures[0].pattern.as_str()), ("*", "*"));
        assert_eq!(figures.iter().map(|figures| figures.keys).sum::<u64>(), 2 * MOST_PATTERNS as u64);
        assert_eq!(figures[0].mean_ttl, Duration::from_secs(1));
    }

    proptest! {
        #[test]
        fn a_pattern_has_no_digits_and_is_no_longer_than_its_key(key in "\\PC{0,300}") {
            let pattern = pattern_of(&key);
            prop_assert!(pattern.len() <= key.len() + 1);
            prop_assert!(!pattern.contains(|c: char| c.is_ascii_digit()));
        }
    }
}
