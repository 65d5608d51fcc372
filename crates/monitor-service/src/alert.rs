//! Alerts: episodes of a rule being broken by one subject.

mod acknowledgement;
mod book;
mod flap;
mod record;
pub(crate) mod state;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

pub(crate) use acknowledgement::{Acknowledgement, InvalidAcknowledgement};
pub(crate) use book::{AcknowledgeError, AlertBook, Change, Event, Filter, Kept};
pub(crate) use record::Record;
use state::Timing;

use crate::rule::SLO_BURN;

/// Holds one episode, from the moment the condition first held until it is resolved, and after.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Alert {
    /// Counts episodes since the monitor started; later episodes have greater numbers.
    pub number: u64,
    /// Stays the same for the whole episode; the next episode of the same subject gets another one.
    pub id: Uuid,
    /// Which rule, and who breaks it.
    pub key: Key,
    /// As bad as the episode has been; never falls before it ends.
    pub severity: Severity,
    /// How far it has come.
    pub state: AlertState,
    /// One line for a person.
    pub summary: String,
    /// The value that broke the rule. For rules about a state: for how many seconds it had held.
    pub value: f64,
    /// What the value was compared with.
    pub threshold: f64,
    /// More about where it comes from.
    pub labels: BTreeMap<String, String>,
    /// When the condition first held.
    pub started_at: SystemTime,
    /// When it had held long enough.
    pub fired_at: Option<SystemTime>,
    /// When it had been gone long enough.
    pub resolved_at: Option<SystemTime>,
    /// Who looks after it.
    pub acknowledgement: Option<Acknowledgement>,
    /// What people were told of it.
    pub notice: Notice,
    /// It comes and goes too often to be told each time.
    pub flapping: bool,
    /// Grows with everything that happens to it.
    #[serde(default)]
    pub version: u32,
    /// Channels that were told because nobody looked after it; the newest is last.
    #[serde(default)]
    pub escalated: Vec<String>,
    /// When people were last told something new of it.
    #[serde(default)]
    pub told_at: Option<SystemTime>,
    /// Channels that were told again that it fires, each with when it was last; the newest is last.
    #[serde(default)]
    pub repeated: Vec<Repeated>,
}

/// Says when a channel was last told again of an alert.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Repeated {
    /// Which channel.
    pub channel: String,
    /// When.
    pub at: SystemTime,
}

/// Says what people were told of an alert.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Notice {
    /// Nothing yet: it has not fired.
    #[default]
    Nothing,
    /// It fires, and was held back by a silence or by its flapping.
    HeldBack,
    /// That it fires.
    Sent,
}

/// Tells one possible alert from all others. Two instances of a service that break the same rule are two alerts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Key {
    /// Name of the rule.
    pub rule: Cow<'static, str>,
    /// Service it comes from.
    pub source: String,
    /// Endpoint it comes from; empty when the monitor speaks of itself.
    pub endpoint: String,
    /// What it is about, e.g. `postgres.replica1`.
    pub subject: String,
}

/// Says how bad an alert is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Somebody should look today.
    Warning,
    /// Somebody should look now.
    Critical,
}

impl Alert {
    /// Tells it from all others, and is the same on every monitor that watches the same; none for what a monitor says of
    /// itself and of its machine, which is its own.
    pub(crate) fn fingerprint(&self) -> Option<String> {
        let Key { rule, source, endpoint, subject } = &self.key;
        if endpoint.is_empty() && rule != SLO_BURN {
            return None;
        }
        // None of them has a line's end in it.
        let text = format!("{rule}\n{source}\n{endpoint}\n{subject}");
        Some(hex::encode(&Sha256::digest(text.as_bytes())[..16]))
    }
}

impl AlertState {
    /// Returns the lower-case name.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Firing => "firing",
            Self::Resolved => "resolved",
        }
    }
}

impl Severity {
    /// Lists all of them.
    pub(crate) const ALL: [Self; 3] = [Self::Info, Self::Warning, Self::Critical];

    /// Returns the lower-case name.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// Says how far an alert has come, as others see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AlertState {
    /// The condition holds, but not long enough yet.
    Pending,
    /// Somebody should know.
    Firing,
    /// Over.
    Resolved,
}

/// Tells that a rule is broken now.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Breach {
    /// Which rule, and who breaks it.
    pub key: Key,
    /// How bad it is.
    pub severity: Severity,
    /// One line for a person.
    pub summary: String,
    /// The value that breaks the rule.
    pub value: f64,
    /// What it was compared with.
    pub threshold: f64,
    /// More about where it comes from.
    pub labels: BTreeMap<String, String>,
    /// Since when, where the evidence knows better than the first look.
    pub since: Option<SystemTime>,
    /// How long it must last, and be gone.
    pub timing: Timing,
}

/// Tells what is known about a subject that breaks its rule no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Absence {
    /// Nobody has looked since the monitor started: all stays as it was.
    Waiting,
    /// Nobody could look.
    Unseen,
    /// Somebody looked and it is fine; since when, where that is known.
    Fine(Option<SystemTime>),
}

/// Counts alerts by severity.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Alerts for information.
    pub info: u32,
    /// Warnings.
    pub warning: u32,
    /// Critical alerts.
    pub critical: u32,
}

impl Counts {
    /// Returns the count of one severity.
    pub(crate) fn of(&self, severity: Severity) -> u32 {
        match severity {
            Severity::Info => self.info,
            Severity::Warning => self.warning,
            Severity::Critical => self.critical,
        }
    }

    fn add(&mut self, severity: Severity) {
        match severity {
            Severity::Info => self.info += 1,
            Severity::Warning => self.warning += 1,
            Severity::Critical => self.critical += 1,
        }
    }
}
