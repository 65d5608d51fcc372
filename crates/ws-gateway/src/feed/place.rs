//! How far a feed got.

use std::fmt;

/// The last message that was published, so that whoever runs the feed next goes on after it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// Tells one numbering from the one before it; 0 for the first.
    pub(super) numbering: u64,
    /// None before the first message with a number.
    pub(super) number: Option<u64>,
    /// Of an event stream; empty for none.
    pub(super) event_id: String,
}

impl Place {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, ' ');
        let numbering = parts.next()?.parse().ok()?;
        let number = match parts.next()? {
            "-" => None,
            number => Some(number.parse().ok()?),
        };
        Some(Self { numbering, number, event_id: parts.next()?.to_owned() })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { numbering, number, event_id } = self;
        match number {
            Some(number) => write!(f, "{numbering} {number} {event_id}"),
            None => write!(f, "{numbering} - {event_id}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_was_written() {
        for (number, event_id) in [(None, ""), (Some(0), "a b"), (Some(u64::MAX), "ü")] {
            let place = Place { numbering: 7, number, event_id: event_id.to_owned() };
            assert_eq!(Place::parse(&place.to_string()), Some(place));
        }
        for foreign in ["", "1", "1 2", "x 2 ", "1 x "] {
            assert_eq!(Place::parse(foreign), None, "{foreign:?}");
        }
    }
}
