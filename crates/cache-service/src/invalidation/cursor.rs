use std::fmt;

/// Follows the log and notices what is missing.
///
/// Every entry names the one before it. An entry whose predecessor is not the last one read means that some were trimmed,
/// or were lost by a failover.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor {
    /// Number of the last entry read; 0 before the first.
    position: u64,
}

/// What an entry of the log means for the reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Next,
    /// Entries before this one are missing.
    Gap,
}

/// One change, as Redis numbered it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogEntry {
    pub(crate) position: u64,
    pub(crate) previous: u64,
    /// By the clock of the Redis server.
    pub(crate) at_unix_ms: u64,
    pub(crate) event: Event,
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// A key was set or removed; `namespace:key`.
    Key(String),
    /// Everything with a tag is out of date.
    Tag { namespace: String, tag: String },
    /// Everything in a namespace is out of date.
    Namespace(String),
    /// The run-time policy of a namespace changed.
    Policy(String),
}

impl Cursor {
    pub(super) fn position(self) -> u64 {
        self.position
    }

    /// Goes on from a place that was looked up, not read.
    pub(super) fn jump_to(&mut self, position: u64) {
        self.position = position;
    }

    pub(super) fn step(&mut self, entry: &LogEntry) -> Step {
        let step = if entry.previous == self.position { Step::Next } else { Step::Gap };
        self.position = entry.position;
        step
    }
}

impl LogEntry {
    /// Reads what the scripts write: `previous kind unix_ms name`.
    pub(crate) fn parse(position: u64, text: &str) -> Option<Self> {
        let mut parts = text.splitn(4, ' ');
        let previous = parts.next()?.parse().ok()?;
        let kind = parts.next()?;
        let at_unix_ms = parts.next()?.parse().ok()?;
        let name = parts.next()?;
        let event = match kind {
            "k" => Event::Key(name.to_owned()),
            "n" => Event::Namespace(name.to_owned()),
            "p" => Event::Policy(name.to_owned()),
            "t" => {
                let (namespace, tag) = name.split_once(':')?;
                Event::Tag { namespace: namespace.to_owned(), tag: tag.to_owned() }
            }
            _ => return None,
        };
        Some(Self { position, previous, at_unix_ms, event })
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(_) => f.write_str("key"),
            Self::Tag { .. } => f.write_str("tag"),
            Self::Namespace(_) => f.write_str("namespace"),
            Self::Policy(_) => f.write_str("policy"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_the_scripts_write_is_read() {
        let read = |text: &str| LogEntry::parse(7, text).map(|entry| (entry.previous, entry.event));
        assert_eq!(read("5 k 1 users:a b"), Some((5, Event::Key("users:a b".to_owned()))));
        let tag = Event::Tag { namespace: "users".to_owned(), tag: "eu:west".to_owned() };
        assert_eq!(read("5 t 1 users:eu:west"), Some((5, tag)));
        assert_eq!(read("5 n 1 users"), Some((5, Event::Namespace("users".to_owned()))));
        assert_eq!(read("5 p 1 users"), Some((5, Event::Policy("users".to_owned()))));
        for illegal in ["", "5", "x k 1 a", "5 z 1 a", "5 k x a", "5 t 1 nocolon", "5 k 1"] {
            assert_eq!(read(illegal), None, "{illegal:?}");
        }
    }

    proptest! {
        /// Whichever entries are lost, the reader learns of it with the next one it reads.
        #[test]
        fn no_missing_entry_goes_unnoticed(lost in prop::collection::vec(any::<bool>(), 1..40)) {
            let mut cursor = Cursor::default();
            let mut missing = false;
            for (number, lost) in lost.iter().enumerate() {
                let position = number as u64 * 3 + 3;
                let entry = LogEntry {
                    position,
                    previous: position - 3,
                    at_unix_ms: 0,
                    event: Event::Key(String::new()),
                };
                if *lost {
                    missing = true;
                } else {
                    prop_assert_eq!(cursor.step(&entry) == Step::Gap, missing);
                    missing = false;
                }
            }
        }
    }
}
