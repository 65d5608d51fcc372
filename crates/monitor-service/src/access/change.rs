use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// One request that changed something, or was refused to, as an edge saw it end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecordedChange {
    /// Tells it from others, also when it is told twice.
    pub id: Uuid,
    pub at: SystemTime,
    pub kind: ChangeKind,
    /// Who, and how that was known.
    pub subject: String,
    pub method: String,
    pub role: String,
    /// From where.
    pub address: String,
    pub agent: String,
    /// What.
    pub verb: String,
    pub route: String,
    pub target: String,
    /// How it ended.
    pub status: u16,
    pub code: String,
    pub request_id: String,
    pub edge: String,
}

/// What was changed; each kind is kept by itself, so that traffic does not push out how the house is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ChangeKind {
    Control,
    Data,
}

/// Which recorded changes are asked for.
#[derive(Debug, Default)]
pub(crate) struct ChangeFilter {
    pub kind: Option<ChangeKind>,
    pub subject: Option<String>,
    pub route: Option<String>,
    /// Only what was refused or failed.
    pub failed: bool,
    pub from: Option<SystemTime>,
    pub to: Option<SystemTime>,
    /// Only those with a smaller number.
    pub before: Option<u64>,
    pub limit: usize,
}

impl ChangeKind {
    /// Lists both.
    pub(crate) const ALL: [Self; 2] = [Self::Control, Self::Data];

    /// Returns its name in the store.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Data => "data",
        }
    }
}
