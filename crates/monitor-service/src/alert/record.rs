//! What happened to an alert, on record.

use std::borrow::Cow;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::Alert;

/// Tells that something happened to an alert: kept for the audit, streamed to watchers, sent to people.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Grows with time, also across restarts.
    pub id: u64,
    /// When.
    pub at: SystemTime,
    /// What, e.g. `fired`.
    pub change: Cow<'static, str>,
    /// Who did it; empty for what the rules did.
    pub by: String,
    /// The alert after it.
    pub alert: Alert,
}
