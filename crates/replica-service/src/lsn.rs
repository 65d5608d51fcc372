//! A position in PostgreSQL's write-ahead log.

use std::{fmt, str::FromStr};

/// A byte position in the write-ahead log; written `0/1A2B3C`.
///
/// Positions of different timelines must not be compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Lsn(pub u64);

/// How the log of one cluster is cut into segments and pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WalShape {
    pub page_bytes: u64,
    pub segment_bytes: u64,
}

/// A position together with the history it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    pub timeline: u32,
    pub lsn: Lsn,
}

/// Header of the first page of a segment, and of every other page (`XLogLongPageHeaderData`, `XLogPageHeaderData`).
const LONG_HEADER_BYTES: u64 = 40;
const SHORT_HEADER_BYTES: u64 = 24;

impl Lsn {
    /// Returns how many bytes this position is ahead of `earlier`; 0 when it is not.
    pub(crate) fn bytes_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Turns an insert position into the end of the last record before it.
    ///
    /// When a record ends exactly with a page, the insert position already stands behind the header of the next page,
    /// while the replay position stays at the page's start. Without this an idle replica looks 24 or 40 bytes behind.
    #[must_use]
    pub(crate) fn end_of_record(self, shape: WalShape) -> Self {
        let in_segment = self.0 % shape.segment_bytes;
        let in_page = self.0 % shape.page_bytes;
        if in_segment == LONG_HEADER_BYTES || (in_page == SHORT_HEADER_BYTES && in_segment != in_page) {
            Self(self.0 - in_page)
        } else {
            self
        }
    }
}

impl Default for WalShape {
    fn default() -> Self {
        Self { page_bytes: 8192, segment_bytes: 16 << 20 }
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = InvalidLsn;

    fn from_str(text: &str) -> Result<Self, InvalidLsn> {
        let half = |digits: &str| {
            let legal = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
            legal.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
        };
        let (high, low) = text.split_once('/').ok_or(InvalidLsn)?;
        Ok(Self(half(high).ok_or(InvalidLsn)? << 32 | half(low).ok_or(InvalidLsn)?))
    }
}

/// Says that a text is not two hexadecimal numbers with a slash between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a WAL position is two hexadecimal numbers with a slash between, such as 0/1A2B3C")]
pub(crate) struct InvalidLsn;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_insert_position_behind_an_empty_page_is_the_end_of_the_page_before() {
        let shape = WalShape::default();
        for (insert, end) in [
            ("0/3000028", "0/3000000"),
            ("0/3002018", "0/3002000"),
            ("0/3002028", "0/3002028"),
            ("0/3002019", "0/3002019"),
            ("0/3000018", "0/3000018"),
            ("0/3000100", "0/3000100"),
        ] {
            let insert: Lsn = insert.parse().unwrap();
            assert_eq!(insert.end_of_record(shape).to_string(), end);
        }
    }

    #[test]
    fn text_that_is_no_position_is_refused() {
        for text in ["", "/", "0", "0/", "/0", "0/G", "0/1/2", "123456789/0", "+1/0", " 0/1"] {
            assert_eq!(text.parse::<Lsn>(), Err(InvalidLsn), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn text_form_reads_back(raw in any::<u64>()) {
            prop_assert_eq!(Lsn(raw).to_string().parse(), Ok(Lsn(raw)));
        }
    }
}
