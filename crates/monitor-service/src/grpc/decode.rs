//! From requests to what the monitor works with. All limits of the door are here.

use std::time::{Duration, SystemTime};

use mainstay_proto::monitor::v1 as pb;
use mainstay_rpc::Failure;
use uuid::Uuid;

use super::failure;
use crate::alert::{Acknowledgement, AlertState, Filter, Severity};
use crate::series::Range;

/// Asks for a page of alerts.
#[derive(Debug)]
pub(super) struct AlertQuery {
    pub(super) filter: Filter,
    pub(super) before: Option<u64>,
    pub(super) limit: usize,
}

/// Series listed when the request does not say how many, and at most.
const SERIES: (u32, u32) = (1_000, 10_000);
/// Alerts on a page when the request does not say how many, and at most.
const ALERTS: (u32, u32) = (100, 1_000);
/// Width of a bucket when the request does not say.
const STEP: Duration = Duration::from_secs(10);
/// Where the range of `google.protobuf.Timestamp` ends.
const YEAR_10000_S: i64 = 253_402_300_800;

pub(super) fn series_limit(limit: u32) -> usize {
    limited(limit, SERIES)
}

pub(super) fn range(
    request: pb::QueryRangeRequest,
    now: SystemTime,
    keep: Duration,
) -> Result<Range, Failure> {
    let to = time("to", request.to)?.unwrap_or(now);
    let from = time("from", request.from)?.or_else(|| to.checked_sub(keep)).unwrap_or(SystemTime::UNIX_EPOCH);
    let step = duration("step", request.step)?.unwrap_or(STEP);
    let labels = request.labels.into_iter().collect();
    Range::try_new(request.metric, labels, from, to, step).map_err(|error| failure::invalid_range(&error))
}

pub(super) fn alert_query(request: pb::ListAlertsRequest) -> Result<AlertQuery, Failure> {
    let states = request.states.into_iter().map(state).collect::<Result<_, _>>()?;
    let severities = request.severities.into_iter().map(severity).collect::<Result<_, _>>()?;
    let page = request.page.unwrap_or_default();
    let filter = Filter {
        states,
        severities,
        source: Some(request.source).filter(|source| !source.is_empty()),
        from: time("from", request.from)?,
        to: time("to", request.to)?,
    };
    Ok(AlertQuery { filter, before: cursor(&page.cursor)?, limit: limited(page.limit, ALERTS) })
}

pub(super) fn acknowledgement(
    request: pb::AcknowledgeAlertRequest,
    by: String,
    now: SystemTime,
) -> Result<(Uuid, Acknowledgement), Failure> {
    let id =
        Uuid::parse_str(&request.alert_id).map_err(|_| Failure::invalid("alert_id", "must be a UUID"))?;
    let expires_in = duration("expires_in", request.expires_in)?;
    let acknowledgement = Acknowledgement::try_new(by, request.comment, expires_in, now)
        .map_err(|error| failure::invalid_acknowledgement(&error))?;
    Ok((id, acknowledgement))
}

fn state(number: i32) -> Result<AlertState, Failure> {
    match pb::AlertState::try_from(number) {
        Ok(pb::AlertState::Pending) => Ok(AlertState::Pending),
        Ok(pb::AlertState::Firing) => Ok(AlertState::Firing),
        Ok(pb::AlertState::Resolved) => Ok(AlertState::Resolved),
        Ok(pb::AlertState::Unspecified) | Err(_) => {
            Err(Failure::invalid("states", "must be pending, firing or resolved"))
        }
    }
}

pub(super) fn severity(number: i32) -> Result<Severity, Failure> {
    match pb::Severity::try_from(number) {
        Ok(pb::Severity::Info) => Ok(Severity::Info),
        Ok(pb::Severity::Warning) => Ok(Severity::Warning),
        Ok(pb::Severity::Critical) => Ok(Severity::Critical),
        Ok(pb::Severity::Unspecified) | Err(_) => {
            Err(Failure::invalid("severities", "must be info, warning or critical"))
        }
    }
}

fn cursor(cursor: &str) -> Result<Option<u64>, Failure> {
    if cursor.is_empty() {
        return Ok(None);
    }
    cursor.parse().map(Some).map_err(|_| Failure::invalid("page.cursor", "must come from an earlier answer"))
}

pub(super) fn limited(limit: u32, (default, cap): (u32, u32)) -> usize {
    let limit = if limit == 0 { default } else { limit.min(cap) };
    usize::try_from(limit).unwrap_or(usize::MAX)
}

pub(super) fn time(
    field: &str,
    timestamp: Option<prost_types::Timestamp>,
) -> Result<Option<SystemTime>, Failure> {
    let Some(timestamp) = timestamp else { return Ok(None) };
    let time =
        SystemTime::try_from(timestamp).ok().filter(|_| (0..YEAR_10000_S).contains(&timestamp.seconds));
    time.map(Some).ok_or_else(|| Failure::invalid(field, "must lie between the years 1970 and 9999"))
}

pub(super) fn duration(
    field: &str,
    duration: Option<prost_types::Duration>,
) -> Result<Option<Duration>, Failure> {
    let converted = duration.map(Duration::try_from).transpose();
    converted.map_err(|_| Failure::invalid(field, "must not be negative"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roster::tests::at;
    use mainstay_proto::common::v1::PageRequest;

    fn field(failure: &Failure) -> &str {
        &failure.fields()[0].field
    }

    #[test]
    fn bad_requests_name_the_field() {
        let page = |cursor: &str| Some(PageRequest { limit: 0, cursor: cursor.to_owned() });
        let cases = [
            (pb::ListAlertsRequest { states: vec![0], ..Default::default() }, "states"),
            (pb::ListAlertsRequest { severities: vec![99], ..Default::default() }, "severities"),
            (pb::ListAlertsRequest { page: page("first"), ..Default::default() }, "page.cursor"),
            (
                pb::ListAlertsRequest {
                    to: Some(prost_types::Timestamp { seconds: YEAR_10000_S, nanos: 0 }),
                    ..Default::default()
                },
                "to",
            ),
            (
                pb::ListAlertsRequest {
                    from: Some(prost_types::Timestamp { seconds: -1, nanos: 0 }),
                    ..Default::default()
                },
                "from",
            ),
        ];
        for (request, expected) in cases {
            let failure = alert_query(request.clone()).unwrap_err();
            assert_eq!(field(&failure), expected, "{request:?}");
        }
        let negative = Some(prost_types::Duration { seconds: -1, nanos: 0 });
        let request = pb::QueryRangeRequest { metric: "m".to_owned(), step: negative, ..Default::default() };
        assert_eq!(field(&range(request, at(0), Duration::from_hours(1)).unwrap_err()), "step");
        let request = pb::AcknowledgeAlertRequest { alert_id: "7".to_owned(), ..Default::default() };
        assert_eq!(field(&acknowledgement(request, "ann".to_owned(), at(0)).unwrap_err()), "alert_id");
    }

    #[test]
    fn limits_have_a_default_and_a_cap() {
        let limit = |limit| {
            let page = Some(PageRequest { limit, cursor: String::new() });
            alert_query(pb::ListAlertsRequest { page, ..Default::default() }).unwrap().limit
        };
        assert_eq!((limit(0), limit(7), limit(5000)), (100, 7, 1000));
        assert_eq!((series_limit(0), series_limit(7), series_limit(u32::MAX)), (1000, 7, 10_000));
    }

    #[test]
    fn range_without_times_covers_what_is_kept() {
        let request = pb::QueryRangeRequest { metric: "m".to_owned(), ..Default::default() };
        let expected = Range::try_new("m", Default::default(), at(0), at(3600), STEP).unwrap();
        assert_eq!(range(request, at(3600), Duration::from_hours(1)).unwrap(), expected);
    }
}
