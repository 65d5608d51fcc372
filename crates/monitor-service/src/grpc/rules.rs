//! Rules, silences, channels and errors on the wire.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use mainstay_proto::common::v1 as common;
use mainstay_proto::introspect::v1 as introspect;
use mainstay_proto::monitor::v1 as pb;
use mainstay_rpc::Failure;
use uuid::Uuid;

use super::{analysis, decode, encode};
use crate::alert::Record;
use crate::monitor::Figure;
use crate::notify::ChannelStatus;
use crate::roster::ErrorReport;
use crate::rule::definition::{Comparison, RuleKind, RuleSpec, check_name};
use crate::rule::import::Import;
use crate::rule::{Episode, Origin, Rule, RuleStatus};

use crate::silence::Silence;

const METRICS_MAX: usize = 50;
/// Problems of a file that are told; there may be one for each of its lines.
const PROBLEMS_MAX: usize = 100;

/// Reads a rule and tells everything that is wrong with it at once.
pub(super) fn rule(rule: Option<pb::Rule>, keep: Duration) -> Result<Rule, Failure> {
    let rule = rule.ok_or_else(|| Failure::invalid("rule", "must be there"))?;
    let mut problems: Vec<(String, String)> = Vec::new();
    let mut report = |field: &str, message: String| problems.push((format!("rule.{field}"), message));
    check_name(&rule.name, &mut report);
    let kind = kind(rule.kind()).unwrap_or_else(|| {
        report("kind", "must be one of the kinds of a rule".to_owned());
        RuleKind::default()
    });
    let mut time = |field: &str, time: Option<prost_types::Duration>| {
        decode::duration(field, time).unwrap_or_else(|_| {
            report(field, "must not be negative".to_owned());
            None
        })
    };
    let defaults = RuleSpec::default();
    let window = time("window", rule.window).unwrap_or(defaults.window);
    let season = time("season", rule.season).unwrap_or_default();
    let (fires_after, clears_after) =
        (time("fires_after", rule.fires_after), time("clears_after", rule.clears_after));
    let rule_method = rule.method();
    let severity = decode::severity(rule.severity).unwrap_or(defaults.severity);
    let comparison = match rule.comparison() {
        pb::Comparison::Below => Comparison::Below,
        pb::Comparison::Equal => Comparison::Equal,
        pb::Comparison::Unequal => Comparison::Unequal,
        pb::Comparison::Beyond => Comparison::Beyond,
        pb::Comparison::Above | pb::Comparison::Unspecified => Comparison::Above,
    };
    let spec = RuleSpec {
        kind,
        metric: rule.metric,
        labels: rule.labels.into_iter().collect(),
        divisor: rule.divisor,
        divisor_labels: rule.divisor_labels.into_iter().collect(),
        service: rule.service,
        quantile: if kind == RuleKind::Quantile { rule.quantile } else { defaults.quantile },
        comparison,
        warning: rule.warning,
        critical: rule.critical,
        clear: rule.clear,
        method: analysis::method(rule_method),
        season,
        limit: rule.limit,
        objective: if kind == RuleKind::BurnRate { rule.objective } else { defaults.objective },
        severity,
        window,
        fires_after,
        clears_after,
        min_traffic: rule.min_traffic,
        summary: rule.summary,
        annotations: rule.annotations.into_iter().collect(),
        disabled: rule.disabled,
    };
    spec.check(keep, &mut report);
    match all(problems) {
        Some(failure) => Err(failure),
        None => Ok(Rule { name: rule.name, spec }),
    }
}

/// Reads a file of rules in the syntax of Prometheus and tells everything that is wrong with it at once.
pub(super) fn import(text: &str, keep: Duration) -> Result<Vec<Rule>, Failure> {
    let mut import = Import::new(keep);
    match import.take(text) {
        Ok(()) => Ok(import.into_rules()),
        Err(problems) => {
            let told = problems.into_iter().take(PROBLEMS_MAX);
            let told = told.map(|problem| ("text".to_owned(), problem.to_string())).collect();
            Err(all(told).unwrap_or_else(|| Failure::invalid("text", "must be a file of rules")))
        }
    }
}

/// Reads a silence and tells everything that is wrong with it at once.
pub(super) fn silence(
    request: pb::CreateSilenceRequest,
    by: String,
    now: SystemTime,
) -> Result<Silence, Failure> {
    let starts_at = decode::time("starts_at", request.starts_at)?.unwrap_or(now);
    let duration = decode::duration("duration", request.duration)?.unwrap_or_default();
    let ends_at = starts_at.checked_add(duration).unwrap_or(starts_at);
    let matchers: BTreeMap<String, String> = request.matchers.into_iter().collect();
    let silence = Silence { id: Uuid::new_v4(), matchers, starts_at, ends_at, by, comment: request.comment };
    let problems = silence.check(now).into_iter();
    let problems = problems.map(|(field, message)| (field.to_owned(), message.to_owned())).collect();
    all(problems).map_or(Ok(silence), Err)
}

pub(super) fn all(problems: Vec<(String, String)>) -> Option<Failure> {
    let mut problems = problems.into_iter();
    let (field, message) = problems.next()?;
    let first = Failure::invalid(field, message);
    Some(problems.fold(first, |failure, (field, message)| failure.field(field, message)))
}

pub(super) fn id(field: &str, id: &str) -> Result<Uuid, Failure> {
    Uuid::parse_str(id).map_err(|_| Failure::invalid(field, "must be a UUID"))
}

pub(super) fn status(status: RuleStatus) -> pb::RuleStatus {
    let origin = match status.origin {
        Origin::Stock => pb::RuleOrigin::Stock,
        Origin::Config => pb::RuleOrigin::Config,
        Origin::Runtime => pb::RuleOrigin::Runtime,
    };
    pb::RuleStatus {
        rule: Some(encode_rule(status.rule)),
        origin: origin.into(),
        matched: u32::try_from(status.look.n_matched).unwrap_or(u32::MAX),
        problem: status.look.problem.to_owned(),
        evaluated_at: status.look.at.map(Into::into),
    }
}

fn encode_rule(rule: Rule) -> pb::Rule {
    let spec = rule.spec;
    let kind = match spec.kind {
        RuleKind::Threshold => pb::RuleKind::Threshold,
        RuleKind::Rate => pb::RuleKind::Rate,
        RuleKind::Ratio => pb::RuleKind::Ratio,
        RuleKind::Share => pb::RuleKind::Share,
        RuleKind::Quantile => pb::RuleKind::Quantile,
        RuleKind::Absence => pb::RuleKind::Absence,
        RuleKind::Anomaly => pb::RuleKind::Anomaly,
        RuleKind::Forecast => pb::RuleKind::Forecast,
        RuleKind::BurnRate => pb::RuleKind::BurnRate,
    };
    let comparison = match spec.comparison {
        Comparison::Above => pb::Comparison::Above,
        Comparison::Below => pb::Comparison::Below,
        Comparison::Equal => pb::Comparison::Equal,
        Comparison::Unequal => pb::Comparison::Unequal,
        Comparison::Beyond => pb::Comparison::Beyond,
    };
    pb::Rule {
        name: rule.name,
        kind: kind.into(),
        metric: spec.metric,
        labels: spec.labels.into_iter().collect(),
        divisor: spec.divisor,
        divisor_labels: spec.divisor_labels.into_iter().collect(),
        service: spec.service,
        quantile: if spec.kind == RuleKind::Quantile { spec.quantile } else { 0.0 },
        comparison: comparison.into(),
        warning: spec.warning,
        critical: spec.critical,
        clear: spec.clear,
        severity: encode::severity(spec.severity).into(),
        window: encode::duration(spec.window),
        fires_after: spec.fires_after.and_then(encode::duration),
        clears_after: spec.clears_after.and_then(encode::duration),
        min_traffic: spec.min_traffic,
        summary: spec.summary,
        annotations: spec.annotations.into_iter().collect(),
        disabled: spec.disabled,
        method: analysis::encode_method(spec.method).into(),
        season: (!spec.season.is_zero()).then(|| encode::duration(spec.season)).flatten(),
        limit: spec.limit,
        objective: if spec.kind == RuleKind::BurnRate { spec.objective } else { 0.0 },
    }
}

fn kind(kind: pb::RuleKind) -> Option<RuleKind> {
    match kind {
        pb::RuleKind::Threshold => Some(RuleKind::Threshold),
        pb::RuleKind::Rate => Some(RuleKind::Rate),
        pb::RuleKind::Ratio => Some(RuleKind::Ratio),
        pb::RuleKind::Share => Some(RuleKind::Share),
        pb::RuleKind::Quantile => Some(RuleKind::Quantile),
        pb::RuleKind::Absence => Some(RuleKind::Absence),
        pb::RuleKind::Anomaly => Some(RuleKind::Anomaly),
        pb::RuleKind::Forecast => Some(RuleKind::Forecast),
        pb::RuleKind::BurnRate => Some(RuleKind::BurnRate),
        pb::RuleKind::Unspecified => None,
    }
}

pub(super) fn episode(episode: Episode) -> pb::Episode {
    pb::Episode {
        subject: episode.subject,
        severity: encode::severity(episode.severity).into(),
        fired_at: Some(episode.fired_at.into()),
        resolved_at: episode.resolved_at.map(Into::into),
        value: episode.value,
    }
}

pub(super) fn encode_silence(silence: Silence) -> pb::Silence {
    pb::Silence {
        id: silence.id.to_string(),
        matchers: silence.matchers.into_iter().collect(),
        starts_at: Some(silence.starts_at.into()),
        ends_at: Some(silence.ends_at.into()),
        by: silence.by,
        comment: silence.comment,
    }
}

pub(super) fn channel(status: ChannelStatus) -> pb::Channel {
    let figures = status.figures;
    let health = match (figures.failing_since, figures.last_delivered_at) {
        (Some(_), _) => common::Health::Unhealthy,
        (None, Some(_)) => common::Health::Healthy,
        (None, None) => common::Health::Unknown,
    };
    pb::Channel {
        name: status.name,
        kind: status.kind.to_owned(),
        address: status.address,
        health: health.into(),
        queued: u32::try_from(status.queued).unwrap_or(u32::MAX),
        delivered: figures.delivered,
        failures: figures.failures,
        last_error: figures.last_error,
        dropped: figures.dropped,
        events: figures.events,
        last_delivered_at: figures.last_delivered_at.map(Into::into),
    }
}

pub(super) fn event(record: Record, silenced: bool) -> pb::AlertEvent {
    pb::AlertEvent {
        id: record.id,
        at: Some(record.at.into()),
        change: record.change.into_owned(),
        by: record.by,
        alert: Some(encode::alert(record.alert, silenced)),
    }
}

fn figure(Figure { metric, latest, rate }: Figure) -> pb::Figure {
    pb::Figure { metric, labels: latest.labels.into_iter().collect(), value: latest.value, per_second: rate }
}

pub(super) fn figures(figures: Vec<Figure>, at: SystemTime) -> pb::Figures {
    pb::Figures { at: Some(at.into()), figures: figures.into_iter().map(figure).collect() }
}

/// Reads the names of metrics that figures are asked of.
pub(super) fn metrics(metrics: &[String]) -> Result<(), Failure> {
    if metrics.len() > METRICS_MAX {
        return Err(Failure::invalid(
            "metrics",
            format!("must be at most {METRICS_MAX}, are {}", metrics.len()),
        ));
    }
    Ok(())
}

/// Joins the groups of several instances of a service; latest first.
pub(super) fn errors(
    reports: Vec<(String, String, ErrorReport)>,
    request: &pb::ListErrorGroupsRequest,
) -> Vec<pb::ServiceErrorGroup> {
    let mut groups: BTreeMap<(String, String), (ErrorReport, Vec<String>)> = BTreeMap::new();
    let wanted = |asked: &str, own: &str| asked.is_empty() || asked == own;
    for (service, endpoint, report) in reports {
        if !wanted(&request.service, &service) || !wanted(&request.fingerprint, &report.fingerprint) {
            continue;
        }
        let key = (service, report.fingerprint.clone());
        let Some((joined, endpoints)) = groups.get_mut(&key) else {
            groups.insert(key, (report, vec![endpoint]));
            continue;
        };
        endpoints.push(endpoint);
        let count = joined.count + report.count;
        let first = [joined.first_seen_at, report.first_seen_at].into_iter().flatten().min();
        if report.last_seen_at > joined.last_seen_at {
            *joined = report;
        }
        (joined.count, joined.first_seen_at) = (count, first);
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, (report, _))| std::cmp::Reverse(report.last_seen_at));
    let limit = decode::limited(request.limit, (100, 1_000));
    groups
        .into_iter()
        .take(limit)
        .map(|((service, _), (report, endpoints))| encode_error(service, report, endpoints))
        .collect()
}

fn encode_error(service: String, report: ErrorReport, endpoints: Vec<String>) -> pb::ServiceErrorGroup {
    let group = introspect::ErrorGroup {
        fingerprint: report.fingerprint,
        code: report.code,
        target: report.target,
        message: report.message,
        count: report.count,
        first_seen_at: report.first_seen_at.map(Into::into),
        last_seen_at: report.last_seen_at.map(Into::into),
        trace_id: report.trace_id,
    };
    pb::ServiceErrorGroup { service, group: Some(group), endpoints }
}

/// A stream says what was wrong with the request before it begins.
pub(super) fn watch(request: &pb::WatchRequest) -> Result<Duration, Failure> {
    let every = decode::duration("every", request.every)?.unwrap_or(Duration::from_secs(1));
    if !(Duration::from_secs(1)..=Duration::from_mins(1)).contains(&every) {
        return Err(Failure::invalid("every", "must be 1s to 1m"));
    }
    metrics(&request.metrics)?;
    Ok(every)
}
