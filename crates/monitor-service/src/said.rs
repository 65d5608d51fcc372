//! What people said to one of several monitors, so that it holds on all of them: acknowledgements and silences.
//!
//! All of it lies in one hash of Redis, a field for each alert and each silence. A monitor compares that with what it knows
//! itself, takes over what is news to it, and writes what is news to the others; a field is only written over the text that
//! it was compared with, so two that write at once do not lose one another's. Which of two texts holds is decided by
//! [`Said::beats`], and nothing but their contents: all monitors come to the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mainstay_runtime::Activate;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::alert::Acknowledgement;
use crate::monitor::Monitor;
use crate::notify::Shared;
use crate::silence::Silence;

/// Holds one thing that was said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Said {
    /// Somebody looks after an alert.
    Acknowledged(Acknowledgement),
    /// People are not to be told of some alerts.
    Silenced(Silence),
    /// A silence was ended before its time; when that would have been.
    Ended {
        /// From then on nobody needs to know any more.
        until: SystemTime,
    },
}

/// Names what was said, as its field in Redis does.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Topic {
    /// An alert, by its fingerprint.
    Alert(String),
    /// A silence.
    Silence(Uuid),
}

/// What lies in Redis, by field: texts of [`Said`].
pub(crate) type Board = BTreeMap<String, String>;

/// Writes a field, if it still is as it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Which.
    pub field: String,
    /// What it was; empty where there was none.
    pub seen: String,
    /// What it is to be; empty to remove it.
    pub text: String,
}

/// An acknowledgement without an end of its own is of no use to others after this: a silence lasts no longer.
const REMEMBERED: Duration = Duration::from_hours(24 * 90);
const ALERT: &str = "alert:";
const SILENCE: &str = "silence:";

impl Said {
    /// Reads a text; none that is not ours.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// Writes it as it lies in Redis.
    pub(crate) fn to_text(&self) -> String {
        serde_json::to_string(self).expect("times after 1970 and texts can be written")
    }

    /// Decides which of two things said about one topic holds: that a silence was ended is final, and of two
    /// acknowledgements the later one holds; of two at the same moment, always the same one.
    pub(crate) fn beats(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Acknowledged(one), Self::Acknowledged(other)) => {
                (one.at, &one.by, &one.comment, one.expires_at)
                    > (other.at, &other.by, &other.comment, other.expires_at)
            }
            (Self::Ended { .. }, Self::Silenced(_)) => true,
            _ => false,
        }
    }

    /// Tells when nobody needs to know of it any more.
    fn until(&self) -> SystemTime {
        match self {
            Self::Acknowledged(Acknowledgement { at, expires_at, .. }) => {
                // A text in Redis may name a moment after which there are no others.
                expires_at.or_else(|| at.checked_add(REMEMBERED)).unwrap_or(*at)
            }
            Self::Silenced(silence) => silence.ends_at,
            Self::Ended { until } => *until,
        }
    }
}

impl Topic {
    /// Reads the name of a field; none that is not ours.
    fn of(field: &str) -> Option<Self> {
        let alert = field.strip_prefix(ALERT).map(|fingerprint| Self::Alert(fingerprint.to_owned()));
        alert.or_else(|| Uuid::parse_str(field.strip_prefix(SILENCE)?).ok().map(Self::Silence))
    }

    fn field(&self) -> String {
        match self {
            Self::Alert(fingerprint) => format!("{ALERT}{fingerprint}"),
            Self::Silence(id) => format!("{SILENCE}{id}"),
        }
    }
}

/// What two sides know of one another's.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    /// What others said, and this one does not know.
    pub news: BTreeMap<Topic, Said>,
    /// What is to be written.
    pub entries: Vec<Entry>,
}

/// Compares what lies in Redis with what a monitor knows; `is_over` tells of an acknowledgement whether this monitor has seen
/// that alert end since.
///
/// What was in Redis once and is there no more was removed by somebody for whom it was over: it is not written again. `once`
/// keeps that in mind; who begins with nothing in it writes all that is missing.
pub(crate) fn compare(
    board: &Board,
    once: &mut Board,
    own: &BTreeMap<Topic, Said>,
    is_over: impl Fn(&str, &Acknowledgement) -> bool,
    now: SystemTime,
) -> Difference {
    let mut difference = Difference::default();
    once.retain(|field, _| Topic::of(field).is_some_and(|topic| own.contains_key(&topic)));
    once.extend(board.clone());
    for (field, text) in board {
        // Of another version of ours, or of somebody else: it is left alone.
        let Some((topic, said)) = Topic::of(field).zip(Said::from_text(text)) else { continue };
        let is_done = match (&topic, &said) {
            (Topic::Alert(fingerprint), Said::Acknowledged(acknowledgement)) => {
                is_over(fingerprint, acknowledgement)
            }
            _ => false,
        };
        if is_done || said.until() <= now {
            difference.entries.push(Entry { field: field.clone(), seen: text.clone(), text: String::new() });
        } else if own.get(&topic).is_none_or(|own| said.beats(own)) {
            difference.news.insert(topic, said);
        }
    }
    for (topic, said) in own.iter().filter(|(_, said)| said.until() > now) {
        let field = topic.field();
        let seen = board.get(&field).cloned().unwrap_or_default();
        let theirs = Said::from_text(&seen);
        // Nobody needs to know that a silence is over of which nobody knew.
        let text = said.to_text();
        let is_news = match (&theirs, said) {
            (None, Said::Ended { .. }) => false,
            (None, _) => seen.is_empty() && once.get(&field) != Some(&text),
            (Some(theirs), said) => said.beats(theirs),
        };
        if is_news {
            difference.entries.push(Entry { field, seen, text });
        }
    }
    difference
}

/// Keeps what people said the same on all monitors.
pub(crate) struct Sharer {
    shared: Arc<Shared>,
    monitor: Arc<Monitor>,
    board: Board,
    /// What was on the board since it is there.
    once: Board,
    /// Of the board; empty before it was read.
    version: String,
}

impl Sharer {
    /// Knows nothing of the others yet.
    pub(crate) fn new(shared: Arc<Shared>, monitor: Arc<Monitor>) -> Self {
        Self { shared, monitor, board: Board::new(), once: Board::new(), version: String::new() }
    }
}

impl Activate for Sharer {
    /// Reads what has changed, takes it over, and writes what others do not know.
    async fn activate(&mut self) -> anyhow::Result<()> {
        if let Some((version, board)) = self.shared.read_board(&self.version).await? {
            if version.is_empty() {
                // Redis has lost all of it, or never had it.
                self.once.clear();
            }
            (self.version, self.board) = (version, board);
        }
        let entries = self.monitor.agree(&self.board, &mut self.once);
        Ok(self.shared.write_board(&entries).await?)
    }
}

#[cfg(test)]
mod tests;
