//! What the monitoring paths answer.

use std::collections::{BTreeMap, HashMap};

use mainstay_proto::monitor::v1 as wire;
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::Problem;
use crate::live::AlertNow;
use crate::part::{Freshness, PartInfo};
use crate::recent::Traffic;
use crate::routes::cache::CacheStats;
use crate::routes::database::DatabaseInfo;
use crate::routes::partitions::PartitionFigures;
use crate::routes::realtime::WebsocketFigures;
use crate::routes::system::SystemMetrics;
use crate::routes::words::{Status, alert_state, rfc3339, severity};

/// One status and its reasons.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct QuickCheck {
    pub(super) status: Status,
    pub(super) uptime_seconds: u64,
    pub(super) reasons: Vec<String>,
}

/// Figures of every part; a part that does not answer is null, and `parts` says why.
#[derive(Clone, Serialize, ToSchema)]
pub(crate) struct UnifiedMetrics {
    pub(super) system: SystemFigures,
    /// What this edge answered itself.
    pub(super) edge: Traffic,
    pub(super) partitions: Option<PartitionFigures>,
    pub(super) cache: Option<CacheStats>,
    pub(super) replicas: Option<DatabaseInfo>,
    pub(super) websockets: Option<WebsocketFigures>,
    /// The machines, and what each process takes of them.
    pub(super) host: Option<SystemMetrics>,
    pub(super) alerts: Option<AlertsSummary>,
    pub(super) parts: BTreeMap<&'static str, PartInfo>,
}

#[derive(Clone, Serialize, ToSchema)]
pub(crate) struct SystemFigures {
    pub(super) status: Status,
    /// Seconds since the edge began to listen.
    pub(super) uptime: u64,
    pub(super) reasons: Vec<String>,
}

/// How many alerts fire now, and the newest few of any state.
#[derive(Clone, Serialize, ToSchema)]
pub(crate) struct AlertsSummary {
    #[serde(flatten)]
    firing: FiringAlerts,
    recent: Vec<Alert>,
}

/// Alerts that fire now, by level.
#[derive(Clone, Serialize, ToSchema)]
struct FiringAlerts {
    critical: u32,
    warning: u32,
    info: u32,
}

/// One page of alerts, newest first.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AlertsPage {
    alerts: Vec<Alert>,
    firing: FiringAlerts,
    /// Goes into `cursor` for the next page; null on the last.
    next_cursor: Option<String>,
}

/// The alert after it was acknowledged.
#[derive(Serialize, ToSchema)]
pub(crate) struct Acknowledged {
    pub(super) alert: Option<Alert>,
}

/// One episode of a rule being broken by one subject.
#[derive(Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Alert {
    id: String,
    rule: String,
    level: &'static str,
    state: &'static str,
    source: String,
    subject: String,
    summary: String,
    value: f64,
    threshold: f64,
    started_at: Option<String>,
    fired_at: Option<String>,
    resolved_at: Option<String>,
    labels: HashMap<String, String>,
    /// Grows with everything that happens to it; goes into `ifVersion`.
    version: u32,
    /// True while a silence, a maintenance window or an alert that explains it keeps people from being told.
    silenced: bool,
    acknowledgement: Option<Acknowledgement>,
}

#[derive(Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Acknowledgement {
    by: String,
    at: Option<String>,
    comment: String,
    expires_at: Option<String>,
}

/// Series over a range, one bucket per step.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct History {
    pub(super) step_seconds: Option<f64>,
    pub(super) series: Vec<HistorySeries>,
    /// True when more series matched than are given.
    pub(super) truncated: bool,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct HistorySeries {
    metric: String,
    labels: HashMap<String, String>,
    points: Vec<HistoryPoint>,
}

#[derive(Serialize, ToSchema)]
struct HistoryPoint {
    at: Option<String>,
    min: f64,
    max: f64,
    mean: f64,
    last: f64,
}

/// Collects the parts of a merged answer and what is to be said of each.
#[derive(Default)]
pub(crate) struct Parts {
    pub(crate) told: BTreeMap<&'static str, PartInfo>,
    pub(crate) incomplete: bool,
}

impl Parts {
    /// Takes one part's outcome; a service that is left out on purpose makes nothing incomplete.
    pub(crate) fn take<T>(&mut self, name: &'static str, outcome: Result<T, Problem>) -> Option<T> {
        let (value, freshness, reason) = match outcome {
            Ok(value) => (Some(value), Freshness::Fresh, None),
            Err(problem) if problem.code() == "SERVICE_NOT_CONFIGURED" => {
                (None, Freshness::Absent, Some(problem.detail().to_owned()))
            }
            Err(problem) => {
                self.incomplete = true;
                (None, Freshness::Missing, Some(problem.detail().to_owned()))
            }
        };
        let age_seconds = value.is_some().then_some(0.0);
        self.told.insert(name, PartInfo { freshness, age_seconds, reason });
        value
    }
}

impl From<wire::ListAlertsResponse> for AlertsSummary {
    fn from(answer: wire::ListAlertsResponse) -> Self {
        Self {
            firing: answer.firing.unwrap_or_default().into(),
            recent: answer.alerts.into_iter().map(Alert::from).collect(),
        }
    }
}

impl From<wire::AlertCounts> for FiringAlerts {
    fn from(counts: wire::AlertCounts) -> Self {
        Self { critical: counts.critical, warning: counts.warning, info: counts.info }
    }
}

impl From<wire::ListAlertsResponse> for AlertsPage {
    fn from(answer: wire::ListAlertsResponse) -> Self {
        Self {
            alerts: answer.alerts.into_iter().map(Alert::from).collect(),
            firing: answer.firing.unwrap_or_default().into(),
            next_cursor: answer.page.map(|page| page.next_cursor).filter(|cursor| !cursor.is_empty()),
        }
    }
}

impl From<wire::Alert> for Alert {
    fn from(alert: wire::Alert) -> Self {
        Self {
            id: alert.id,
            rule: alert.rule,
            level: severity(alert.severity),
            state: alert_state(alert.state),
            source: alert.source,
            subject: alert.subject,
            summary: alert.summary,
            value: alert.value,
            threshold: alert.threshold,
            started_at: rfc3339(alert.started_at),
            fired_at: rfc3339(alert.fired_at),
            resolved_at: rfc3339(alert.resolved_at),
            labels: alert.labels,
            version: alert.version,
            silenced: alert.silenced,
            acknowledgement: alert.acknowledgement.map(|ack| Acknowledgement {
                by: ack.by,
                at: rfc3339(ack.at),
                comment: ack.comment,
                expires_at: rfc3339(ack.expires_at),
            }),
        }
    }
}

impl From<wire::Series> for HistorySeries {
    fn from(series: wire::Series) -> Self {
        let point = |point: wire::Point| HistoryPoint {
            at: rfc3339(point.at),
            min: point.min,
            max: point.max,
            mean: point.mean,
            last: point.last,
        };
        Self {
            metric: series.metric,
            labels: series.labels,
            points: series.points.into_iter().map(point).collect(),
        }
    }
}

impl UnifiedMetrics {
    /// Lists the newest alerts with the words whose change is news; nothing where the monitor did not answer.
    pub(crate) fn alerts_now(&self) -> Option<Vec<AlertNow>> {
        let recent = &self.alerts.as_ref()?.recent;
        let now = |alert: &Alert| AlertNow {
            id: alert.id.clone(),
            phase: format!("{} {} {}", alert.state, alert.level, alert.acknowledgement.is_some()),
            json: serde_json::to_string(alert).expect("alerts always serialize"),
        };
        Some(recent.iter().map(now).collect())
    }
}
