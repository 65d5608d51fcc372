//! Which web pages may open a connection.

use std::str::FromStr;

/// A pattern for the `Origin` of a request, e.g. `https://*.example.org`. A `*` stands for any number of characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OriginPattern {
    /// The pieces between the asterisks, in lower case; one piece means an exact match.
    pieces: Vec<String>,
}

impl OriginPattern {
    /// Compares without regard to case: schemes and hosts have none (RFC 6454, section 4).
    pub(crate) fn matches(&self, origin: &str) -> bool {
        let origin = origin.to_ascii_lowercase();
        let (first, rest) = self.pieces.split_first().expect("splitting a text gives at least one piece");
        let Some((last, middle)) = rest.split_last() else { return origin == *first };
        let Some(mut left) =
            origin.strip_prefix(first.as_str()).and_then(|left| left.strip_suffix(last.as_str()))
        else {
            return false;
        };
        for piece in middle {
            // The earliest place is never worse than a later one.
            let Some(at) = left.find(piece.as_str()) else { return false };
            left = &left[at + piece.len()..];
        }
        true
    }
}

impl FromStr for OriginPattern {
    type Err = InvalidOrigin;

    fn from_str(pattern: &str) -> Result<Self, InvalidOrigin> {
        if pattern != "*"
            && (!pattern.contains("://") || pattern.bytes().any(|byte| !byte.is_ascii_graphic()))
        {
            return Err(InvalidOrigin);
        }
        Ok(Self { pieces: pattern.to_ascii_lowercase().split('*').map(str::to_owned).collect() })
    }
}

/// Says that a text is no pattern for origins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must read scheme://host or scheme://host:port, where * stands for anything, or be * alone")]
pub(crate) struct InvalidOrigin;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_whole_origins() {
        for (pattern, origin, expected) in [
            ("https://example.org", "https://example.org", true),
            ("https://example.org", "HTTPS://Example.ORG", true),
            ("https://example.org", "https://example.org:8443", false),
            ("https://example.org", "https://example.org.evil.net", false),
            ("https://*.example.org", "https://app.example.org", true),
            ("https://*.example.org", "https://example.org", false),
            ("https://*.example.org", "https://evil.net/.example.org.net", false),
            ("http://localhost:*", "http://localhost:3000", true),
            ("*://*.example.*:80", "http://a.example.net:80", true),
            ("https://a*a", "https://a", false),
            ("https://*b*b", "https://b", false),
            ("*", "null", true),
        ] {
            assert_eq!(
                pattern.parse::<OriginPattern>().unwrap().matches(origin),
                expected,
                "{pattern} {origin}"
            );
        }
    }

    #[test]
    fn texts_that_no_origin_can_match_are_refused() {
        for pattern in ["", "example.org", "**", "https://a b", "https://\u{e9}"] {
            assert_eq!(pattern.parse::<OriginPattern>(), Err(InvalidOrigin), "{pattern:?}");
        }
    }
}
