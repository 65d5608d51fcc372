//! Words and numbers for wire enums and times.

use std::time::Duration;

use mainstay_proto::common::v1::Health;
use mainstay_proto::introspect::v1::ComponentKind;
use mainstay_proto::monitor::v1::{AlertState, Severity};
use mainstay_proto::replica::v1::{ProbeState, Role};
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

pub(crate) fn probe_state(value: i32) -> &'static str {
    match ProbeState::try_from(value).unwrap_or(ProbeState::Unspecified) {
        ProbeState::ProbeUp => "up",
        ProbeState::ProbeSuspect => "suspect",
        ProbeState::ProbeOnProbation => "probation",
        ProbeState::ProbeDown => "down",
        ProbeState::Unspecified => "unknown",
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
    let (seconds, nanos) = whole_seconds(at?);
    Some(format!("{seconds}.{:03}Z", nanos / 1_000_000))
}

/// Gives a wire time as RFC 3339 in UTC, to the microsecond, which is what PostgreSQL keeps.
pub(crate) fn rfc3339_micros(at: prost_types::Timestamp) -> String {
    let (seconds, nanos) = whole_seconds(at);
    format!("{seconds}.{:06}Z", nanos / 1_000)
}

/// Writes a time of any year without its fraction and its zone; years outside 0 to 9999 have a sign.
fn whole_seconds(at: prost_types::Timestamp) -> (String, i32) {
    let at = at.normalized();
    let mut text = prost_types::Timestamp { nanos: 0, ..at }.to_string();
    text.truncate(text.trim_end_matches('Z').len());
    (text, at.nanos)
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

#[cfg(test)]
mod tests {
    use prost_types::Timestamp;

    use super::*;

    #[test]
    fn times_of_any_year_are_written() {
        for (seconds, nanos, millis, micros) in [
            (0, 0, "1970-01-01T00:00:00.000Z", "1970-01-01T00:00:00.000000Z"),
            (-1, 999_999_000, "1969-12-31T23:59:59.999Z", "1969-12-31T23:59:59.999999Z"),
            (-62_135_596_800, 1_000, "0001-01-01T00:00:00.000Z", "0001-01-01T00:00:00.000001Z"),
            (1_769_860_800, 123_456_789, "2026-01-31T12:00:00.123Z", "2026-01-31T12:00:00.123456Z"),
            (253_402_300_799, 0, "9999-12-31T23:59:59.000Z", "9999-12-31T23:59:59.000000Z"),
            (253_402_300_800, 0, "+10000-01-01T00:00:00.000Z", "+10000-01-01T00:00:00.000000Z"),
            // Legal on the wire, though nobody should send it.
            (1, -1, "1970-01-01T00:00:00.999Z", "1970-01-01T00:00:00.999999Z"),
        ] {
            let at = Timestamp { seconds, nanos };
            assert_eq!(rfc3339(Some(at)).as_deref(), Some(millis));
            assert_eq!(rfc3339_micros(at), micros);
        }
        for seconds in [i64::MIN, i64::MAX] {
            for nanos in [i32::MIN, i32::MAX] {
                assert!(rfc3339_micros(Timestamp { seconds, nanos }).ends_with('Z'));
            }
        }
    }
}
