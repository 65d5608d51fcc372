use std::sync::Arc;

use crate::shared::{BadField, Name};

/// What messages are published under: 1 to 256 bytes of UTF-8 without control characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Topic(Arc<str>);

/// Topics by shape: each `*` stands for any number of characters, everything else for itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Pattern(Arc<str>);

/// What a stream listens to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Interest {
    Topic(Topic),
    Pattern(Pattern),
}

const LONGEST: usize = 256;
/// Redis looks at all ways in which they may match.
const MOST_STARS: usize = 4;
/// Names in Redis that begin with `_` are no namespace's.
const BEFORE: &str = "_pubsub:";

impl Topic {
    pub(crate) fn try_new(field: &'static str, text: &str) -> Result<Self, BadField> {
        Ok(Self(Name::try_new(field, text, LONGEST)?.into_boxed_str().into()))
    }

    /// Reads the name of a channel without the prefix of this installation.
    pub(super) fn of_channel(channel: &str) -> Option<Self> {
        Self::try_new("topic", channel.strip_prefix(BEFORE)?).ok()
    }

    /// Returns the name of its channel without the prefix of this installation.
    pub(super) fn channel(&self) -> String {
        [BEFORE, &self.0].concat()
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Pattern {
    pub(crate) fn try_new(field: &'static str, text: &str) -> Result<Self, BadField> {
        let name = Name::try_new(field, text, LONGEST)?;
        if !(1..=MOST_STARS).contains(&text.matches('*').count()) {
            return Err(BadField::new(field, format!("a pattern has 1 to {MOST_STARS} `*`")));
        }
        Ok(Self(name.into_boxed_str().into()))
    }

    pub(super) fn matches(&self, topic: &Topic) -> bool {
        let mut parts = self.0.split('*');
        let (Some(first), Some(last)) = (parts.next(), parts.next_back()) else { return false };
        let Some(mut rest) = topic.0.strip_prefix(first) else { return false };
        for part in parts {
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
        }
        rest.ends_with(last)
    }

    /// Returns the pattern of its channels as Redis reads it.
    pub(super) fn channels(&self, prefix: &str) -> String {
        let mut glob = String::with_capacity(prefix.len() + self.0.len() + 16);
        let literal = |glob: &mut String, sign: char| {
            if matches!(sign, '*' | '?' | '[' | ']' | '\\') {
                glob.push('\\');
            }
            glob.push(sign);
        };
        prefix.chars().chain(BEFORE.chars()).for_each(|sign| literal(&mut glob, sign));
        for sign in self.0.chars() {
            match sign {
                '*' => glob.push('*'),
                sign => literal(&mut glob, sign),
            }
        }
        glob
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn topic(text: &str) -> Topic {
        Topic::try_new("topic", text).unwrap()
    }

    fn pattern(text: &str) -> Pattern {
        Pattern::try_new("pattern", text).unwrap()
    }

    #[test]
    fn a_star_stands_for_any_characters_and_all_else_for_itself() {
        for (of, matching, other) in [
            ("orders.*", &["orders.", "orders.eu.1"][..], &["order.1", "xorders.1"][..]),
            ("*.eu", &[".eu", "a.b.eu"], &["a.eu.x"]),
            ("a*b*a", &["aba", "axbya", "abba"], &["ab", "ba", "aa"]),
            ("a*a", &["aa", "aba"], &["a"]),
            ("*", &["x", "ü"], &[]),
            ("[ab]?\\*", &["[ab]?\\", "[ab]?\\x"], &["a1x", "b?"]),
        ] {
            matching.iter().for_each(|text| assert!(pattern(of).matches(&topic(text)), "{of} {text}"));
            other.iter().for_each(|text| assert!(!pattern(of).matches(&topic(text)), "{of} {text}"));
        }
    }

    #[test]
    fn what_redis_would_read_as_a_sign_is_escaped() {
        assert_eq!(pattern("a?[*").channels("p*:"), "p\\*:_pubsub:a\\?\\[*");
    }

    #[test]
    fn topics_and_patterns_have_bounds() {
        for text in ["", "a\n", &"a".repeat(257)] {
            assert!(Topic::try_new("topic", text).is_err(), "{text:?}");
        }
        for text in ["", "no star", "*****", "\u{7}*"] {
            assert!(Pattern::try_new("pattern", text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_pattern_matches_what_is_made_from_it(parts in prop::collection::vec("[ab]{0,3}", 2..=5), fill in "[abc]{0,4}") {
            let made = parts.join(&fill);
            prop_assume!(!made.is_empty());
            prop_assert!(pattern(&parts.join("*")).matches(&topic(&made)));
        }
    }
}
