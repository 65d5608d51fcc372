//! From the wire to what the monitor works with.

use std::time::{Duration, SystemTime};

use mainstay_proto::common::v1 as common;
use mainstay_proto::introspect::v1 as pb;
use mainstay_runtime::{ComponentKind, Health};

use crate::roster::{ComponentReport, ErrorReport, Report};

/// Puts a report together. Times of components are carried over to the monitor's clock by their age, since the clocks
/// of two hosts need not agree.
pub(super) fn report(
    describe: pb::DescribeResponse,
    components: pb::ComponentsResponse,
    errors: Vec<pb::ErrorGroup>,
    seen_at: SystemTime,
    latency: Duration,
) -> Report {
    let there = time(components.collected_at);
    let here = |at: Option<prost_types::Timestamp>| {
        let age = there?.duration_since(time(at)?).unwrap_or_default();
        seen_at.checked_sub(age)
    };
    let component = |component: pb::Component| ComponentReport {
        kind: kind(component.kind()),
        health: health(component.health()),
        since: here(component.since).unwrap_or(seen_at),
        checked_at: here(component.checked_at),
        latency: component.latency.and_then(|latency| latency.try_into().ok()),
        name: component.name,
        critical: component.critical,
        detail: component.detail,
        attributes: component.attributes.into_iter().collect(),
    };
    Report {
        seen_at,
        latency,
        started_at: time(describe.started_at),
        instance: describe.instance,
        version: describe.version,
        ready: describe.ready,
        not_ready_because: describe.not_ready_because,
        draining: describe.draining,
        components: components.components.into_iter().map(component).collect(),
        errors: errors.into_iter().map(error).collect(),
    }
}

fn error(group: pb::ErrorGroup) -> ErrorReport {
    ErrorReport {
        fingerprint: group.fingerprint,
        code: group.code,
        target: group.target,
        message: group.message,
        count: group.count,
        first_seen_at: time(group.first_seen_at),
        last_seen_at: time(group.last_seen_at),
        trace_id: group.trace_id,
    }
}

fn time(timestamp: Option<prost_types::Timestamp>) -> Option<SystemTime> {
    timestamp.and_then(|timestamp| timestamp.try_into().ok())
}

fn kind(kind: pb::ComponentKind) -> ComponentKind {
    match kind {
        pb::ComponentKind::Datastore => ComponentKind::Datastore,
        pb::ComponentKind::Upstream => ComponentKind::Upstream,
        pb::ComponentKind::System => ComponentKind::System,
        pb::ComponentKind::Internal | pb::ComponentKind::Unspecified => ComponentKind::Internal,
    }
}

fn health(health: common::Health) -> Health {
    match health {
        common::Health::Healthy => Health::Healthy,
        common::Health::Degraded => Health::Degraded,
        common::Health::Unhealthy => Health::Unhealthy,
        common::Health::Unknown | common::Health::Unspecified => Health::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roster::tests::at;

    #[test]
    fn times_of_a_target_with_another_clock_are_carried_over_by_age() {
        let there = |second: u64| Some((at(second) + Duration::from_hours(5)).into());
        let component = pb::Component {
            name: "redis".to_owned(),
            health: common::Health::Unhealthy.into(),
            since: there(40),
            checked_at: there(99),
            ..pb::Component::default()
        };
        let future = pb::Component { since: there(200), ..component.clone() };
        let silent = pb::Component { since: None, ..component.clone() };
        let components =
            pb::ComponentsResponse { components: vec![component, future, silent], collected_at: there(100) };
        let report = report(pb::DescribeResponse::default(), components, Vec::new(), at(100), Duration::ZERO);
        let since: Vec<_> = report.components.iter().map(|component| component.since).collect();
        assert_eq!(since, [at(40), at(100), at(100)]);
        assert_eq!(report.components[0].checked_at, Some(at(99)));
        assert_eq!(report.components[0].health, Health::Unhealthy);
    }
}
