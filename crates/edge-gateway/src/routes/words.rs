//! Words and numbers for wire enums and times.

use std::time::{Duration, SystemTime};

use mainstay_proto::common::v1::Health;
use mainstay_proto::introspect::v1::ComponentKind;
use mainstay_proto::monitor::v1::{AlertState, Severity};
use mainstay_proto::replica::v1::Role;
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::Problem;

/// Overall health of something that has parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    Healthy,
    Degraded,
    Unhealthy,
}

pub(crate) fn health(value: i32) -> &'static str {
    match Health::try_from(value).unwrap_or(Health::Unknown) {
        Health::Healthy => "healthy",
        Health::Degraded => "degraded",
        Health::Unhealthy => "unhealthy",
        Health::Unknown | Health::Unspecified => "unknown",
    }
}

pub(crate) fn component_kind(value: i32) -> &'static str {
    match ComponentKind::try_from(value).unwrap_or(ComponentKind::Unspecified) {
        ComponentKind::Datastore => "datastore",
        ComponentKind::Upstream => "upstream",
        ComponentKind::System => "system",
        ComponentKind::Internal | ComponentKind::Unspecified => "component",
    }
}

pub(crate) fn role(value: i32) -> &'static str {
    match Role::try_from(value).unwrap_or(Role::Unknown) {
        Role::Primary => "primary",
        Role::Replica => "replica",
        Role::Unknown | Role::Unspecified => "unknown",
    }
}

pub(crate) fn severity(value: i32) -> &'static str {
    match Severity::try_from(value).unwrap_or(Severity::Unspecified) {
        Severity::Critical => "critical",
        Severity::Warning => "warning",
        Severity::Info | Severity::Unspecified => "info",
    }
}

pub(crate) fn severity_of(word: &str) -> Option<Severity> {
    [("critical", Severity::Critical), ("warning", Severity::Warning), ("info", Severity::Info)]
        .into_iter()
        .find_map(|(name, severity)| (name == word).then_some(severity))
}

pub(crate) fn alert_state(value: i32) -> &'static str {
    match AlertState::try_from(value).unwrap_or(AlertState::Unspecified) {
        AlertState::Pending => "pending",
        AlertState::Firing => "firing",
        AlertState::Resolved => "resolved",
        AlertState::Unspecified => "unknown",
    }
}

pub(crate) fn alert_state_of(word: &str) -> Option<AlertState> {
    [("pending", AlertState::Pending), ("firing", AlertState::Firing), ("resolved", AlertState::Resolved)]
        .into_iter()
        .find_map(|(name, state)| (name == word).then_some(state))
}

/// Gives a wire duration in seconds, to the microsecond.
pub(crate) fn seconds(duration: Option<prost_types::Duration>) -> Option<f64> {
    duration.map(|duration| {
        let exact = duration.seconds as f64 + f64::from(duration.nanos) / 1e9;
        (exact * 1e6).round() / 1e6
    })
}

/// Gives a wire time as RFC 3339 in UTC, to the millisecond.
pub(crate) fn rfc3339(at: Option<prost_types::Timestamp>) -> Option<String> {
    let at = SystemTime::try_from(at?).ok()?;
    Some(humantime::format_rfc3339_millis(at).to_string())
}

/// Reads a time like `30s` of a field.
pub(crate) fn duration_of(
    field: &str,
    text: Option<String>,
) -> Result<Option<prost_types::Duration>, Problem> {
    let parsed = text.map(|text| humantime::parse_duration(&text).map(wire_duration)).transpose();
    parsed.map_err(|_| Problem::invalid(field, "must be a duration like 500ms, 30s, 5m or 1h"))
}

/// Reads a time as people write it; an empty text is none.
pub(crate) fn time(field: &str, text: &str) -> Result<Option<prost_types::Timestamp>, Problem> {
    if text.is_empty() {
        return Ok(None);
    }
    let at = humantime::parse_rfc3339_weak(text)
        .map_err(|_| Problem::invalid(field, "must be a time in UTC like 2026-01-31T12:00:00Z"))?;
    Ok(Some(at.into()))
}

pub(crate) fn wire_duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}
