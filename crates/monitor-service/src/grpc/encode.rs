//! From what the monitor knows to answers.

use std::time::Duration;

use mainstay_proto::common::v1 as common;
use mainstay_proto::introspect::v1 as introspect;
use mainstay_proto::monitor::v1 as pb;
use mainstay_runtime::{ComponentKind, Health};

use crate::alert::{Acknowledgement, Alert, AlertState, Counts, Severity};
use crate::monitor::AlertPage;
use crate::roster::{ComponentReport, Entry, Verdict};
use crate::series::{Bucket, RangeAnswer, SeriesName};

pub(super) fn instance(entry: &Entry, verdict: Verdict) -> pb::Instance {
    let report = entry.report.as_ref();
    pb::Instance {
        service: entry.target.service.clone(),
        instance: report.map(|report| report.instance.clone()).unwrap_or_default(),
        address: entry.target.endpoint.clone(),
        health: health(verdict.health).into(),
        detail: verdict.detail,
        version: report.map(|report| report.version.clone()).unwrap_or_default(),
        started_at: report.and_then(|report| report.started_at).map(Into::into),
        ready: entry.current().is_some_and(|report| report.ready),
        components: report.into_iter().flat_map(|report| &report.components).map(component).collect(),
        seen_at: report.map(|report| report.seen_at.into()),
        pull_latency: report.and_then(|report| duration(report.latency)),
        pulls: entry.pulls,
        pull_failures: entry.pull_failures,
        kind: entry.target.terms.kind.as_str().to_owned(),
    }
}

pub(super) fn series_name(name: SeriesName) -> pb::Series {
    pb::Series { metric: name.metric, labels: name.labels.into_iter().collect(), points: Vec::new() }
}

pub(super) fn range_answer(metric: &str, answer: RangeAnswer) -> pb::QueryRangeResponse {
    let series = answer.series.into_iter().map(|series| pb::Series {
        metric: metric.to_owned(),
        labels: series.labels.into_iter().collect(),
        points: series.points.into_iter().map(point).collect(),
    });
    pb::QueryRangeResponse { series: series.collect(), truncated: answer.truncated }
}

pub(super) fn alert_page(page: AlertPage, silenced: Vec<bool>) -> pb::ListAlertsResponse {
    let next_cursor = page.next_before.map(|number| number.to_string()).unwrap_or_default();
    pb::ListAlertsResponse {
        alerts: page.alerts.into_iter().zip(silenced).map(|(each, silenced)| alert(each, silenced)).collect(),
        page: Some(common::PageInfo { next_cursor }),
        firing: Some(counts(page.firing)),
    }
}

pub(super) fn alert(alert: Alert, silenced: bool) -> pb::Alert {
    pb::Alert {
        id: alert.id.to_string(),
        rule: alert.key.rule.into_owned(),
        severity: severity(alert.severity).into(),
        state: state(alert.state).into(),
        source: alert.key.source,
        subject: alert.key.subject,
        summary: alert.summary,
        value: alert.value,
        threshold: alert.threshold,
        started_at: Some(alert.started_at.into()),
        fired_at: alert.fired_at.map(Into::into),
        resolved_at: alert.resolved_at.map(Into::into),
        acknowledgement: alert.acknowledgement.map(acknowledgement),
        labels: alert.labels.into_iter().collect(),
        silenced,
        flapping: alert.flapping,
        version: alert.version,
    }
}

pub(super) fn counts(counts: Counts) -> pb::AlertCounts {
    pb::AlertCounts { critical: counts.critical, warning: counts.warning, info: counts.info }
}

fn acknowledgement(acknowledgement: Acknowledgement) -> pb::Acknowledgement {
    pb::Acknowledgement {
        by: acknowledgement.by,
        at: Some(acknowledgement.at.into()),
        comment: acknowledgement.comment,
        expires_at: acknowledgement.expires_at.map(Into::into),
    }
}

fn component(component: &ComponentReport) -> introspect::Component {
    introspect::Component {
        name: component.name.clone(),
        kind: kind(component.kind).into(),
        health: health(component.health).into(),
        critical: component.critical,
        detail: component.detail.clone(),
        since: Some(component.since.into()),
        checked_at: component.checked_at.map(Into::into),
        latency: component.latency.and_then(duration),
        attributes: component.attributes.clone().into_iter().collect(),
    }
}

fn point(bucket: Bucket) -> pb::Point {
    let Bucket { at, min, max, mean, last } = bucket;
    pb::Point { at: Some(at.into()), min, max, mean, last }
}

fn state(state: AlertState) -> pb::AlertState {
    match state {
        AlertState::Pending => pb::AlertState::Pending,
        AlertState::Firing => pb::AlertState::Firing,
        AlertState::Resolved => pb::AlertState::Resolved,
    }
}

pub(super) fn severity(severity: Severity) -> pb::Severity {
    match severity {
        Severity::Info => pb::Severity::Info,
        Severity::Warning => pb::Severity::Warning,
        Severity::Critical => pb::Severity::Critical,
    }
}

pub(super) fn health(health: Health) -> common::Health {
    match health {
        Health::Healthy => common::Health::Healthy,
        Health::Degraded => common::Health::Degraded,
        Health::Unhealthy => common::Health::Unhealthy,
        Health::Unknown => common::Health::Unknown,
    }
}

fn kind(kind: ComponentKind) -> introspect::ComponentKind {
    match kind {
        ComponentKind::Internal => introspect::ComponentKind::Internal,
        ComponentKind::Datastore => introspect::ComponentKind::Datastore,
        ComponentKind::Upstream => introspect::ComponentKind::Upstream,
        ComponentKind::System => introspect::ComponentKind::System,
    }
}

/// Converts; none for a duration of more than 10,000 years.
pub(super) fn duration(duration: Duration) -> Option<prost_types::Duration> {
    duration.try_into().ok()
}
