//! What the paths about analysis answer.

use std::collections::BTreeMap;

use mainstay_proto::monitor::v1 as wire;
use serde::Serialize;
use utoipa::ToSchema;

use crate::routes::words::{rfc3339, seconds};

/// How figures compare with themselves earlier.
#[derive(Serialize, ToSchema)]
pub(crate) struct Trends {
    trends: Vec<Trend>,
    /// True when more series matched than are looked at.
    truncated: bool,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Trend {
    labels: BTreeMap<String, String>,
    /// Mean of the newer stretch.
    now: f64,
    /// Mean of the older one; null where nothing is known of it.
    before: Option<f64>,
    /// Change as a share of the older one.
    change: Option<f64>,
    /// `rising`, `falling` or `steady`.
    direction: String,
    per_hour: f64,
    /// Probability that it goes anywhere, 0 to 1.
    confidence: f64,
}

/// Where figures go.
#[derive(Serialize, ToSchema)]
pub(crate) struct Forecasts {
    forecasts: Vec<Forecast>,
    /// True when more series matched than are looked at.
    truncated: bool,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Forecast {
    metric: String,
    labels: BTreeMap<String, String>,
    now: f64,
    per_second: f64,
    /// Probability that there is a trend at all.
    confidence: f64,
    /// What it will be, and between what with a probability of 0.9.
    expected: f64,
    lower: f64,
    upper: f64,
    limit: Option<f64>,
    /// When the limit is reached; null when it goes elsewhere, or so slowly that nobody knows.
    reaches: Option<Reach>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Reach {
    after_seconds: Option<f64>,
    earliest_seconds: Option<f64>,
    /// Null when it may never get there.
    latest_seconds: Option<f64>,
}

/// Bands of figures, and what is outside them.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Anomalies {
    step_seconds: Option<f64>,
    series: Vec<Banded>,
    /// True when more series matched than are looked at.
    truncated: bool,
}

#[derive(Serialize, ToSchema)]
struct Banded {
    labels: BTreeMap<String, String>,
    points: Vec<BandPoint>,
    /// Stretches outside the band.
    anomalies: Vec<Anomaly>,
    /// Changes of level.
    changes: Vec<LevelChange>,
}

#[derive(Serialize, ToSchema)]
struct BandPoint {
    at: Option<String>,
    value: f64,
    expected: f64,
    lower: f64,
    upper: f64,
    /// Standard deviations from what was expected.
    score: f64,
}

#[derive(Serialize, ToSchema)]
struct Anomaly {
    from: Option<String>,
    to: Option<String>,
    /// The one furthest from zero, with its figure and what was expected of it.
    score: f64,
    value: f64,
    expected: f64,
}

#[derive(Serialize, ToSchema)]
struct LevelChange {
    at: Option<String>,
    before: f64,
    after: f64,
    /// Standard errors between the two.
    score: f64,
}

/// Rate, errors and duration of routes and methods.
#[derive(Serialize, ToSchema)]
pub(crate) struct Endpoints {
    endpoints: Vec<EndpointFigures>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct EndpointFigures {
    service: String,
    /// `rest` or `grpc`.
    protocol: String,
    name: String,
    per_second: f64,
    /// Share answered with an error of ours.
    error_share: Option<f64>,
    /// Share answered with an error of the caller's.
    refused_share: Option<f64>,
    mean_seconds: Option<f64>,
    p50_seconds: Option<f64>,
    p95_seconds: Option<f64>,
    p99_seconds: Option<f64>,
    /// Seconds of work in a second.
    busy: f64,
}

/// What holds the system up, the worst first.
#[derive(Serialize, ToSchema)]
pub(crate) struct Bottlenecks {
    bottlenecks: Vec<Bottleneck>,
}

#[derive(Serialize, ToSchema)]
struct Bottleneck {
    /// `saturation`, `errors`, `latency` or `queueing`.
    kind: String,
    source: String,
    subject: String,
    /// 0 to 1.
    score: f64,
    summary: String,
    evidence: Vec<Evidence>,
}

#[derive(Serialize, ToSchema)]
struct Evidence {
    metric: String,
    value: f64,
    /// What it is compared with.
    level: f64,
}

/// How objectives stand.
#[derive(Serialize, ToSchema)]
pub(crate) struct Slos {
    slos: Vec<Slo>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Slo {
    name: String,
    objective: f64,
    period_seconds: Option<f64>,
    /// Since when there is history, if that is less than the period.
    known_from: Option<String>,
    total: f64,
    bad: f64,
    right_share: Option<f64>,
    /// Share of the error budget that is left; below zero when more went wrong than may.
    budget_left: f64,
    burns: Vec<Burn>,
}

/// How fast a budget is used up: 1 is just as fast as allowed.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Burn {
    window_seconds: Option<f64>,
    rate: Option<f64>,
}

impl From<wire::TrendsResponse> for Trends {
    fn from(answer: wire::TrendsResponse) -> Self {
        let trend = |trend: wire::Trend| Trend {
            labels: trend.labels.into_iter().collect(),
            now: trend.now,
            before: trend.before,
            change: trend.change,
            direction: trend.direction,
            per_hour: trend.per_hour,
            confidence: trend.confidence,
        };
        Self { trends: answer.trends.into_iter().map(trend).collect(), truncated: answer.truncated }
    }
}

impl From<wire::ForecastsResponse> for Forecasts {
    fn from(answer: wire::ForecastsResponse) -> Self {
        let reach = |reach: wire::Reach| Reach {
            after_seconds: seconds(reach.after),
            earliest_seconds: seconds(reach.earliest),
            latest_seconds: seconds(reach.latest),
        };
        let forecast = |forecast: wire::Forecast| Forecast {
            metric: forecast.metric,
            labels: forecast.labels.into_iter().collect(),
            now: forecast.now,
            per_second: forecast.per_second,
            confidence: forecast.confidence,
            expected: forecast.expected,
            lower: forecast.lower,
            upper: forecast.upper,
            limit: forecast.limit,
            reaches: forecast.reaches.map(reach),
        };
        Self { forecasts: answer.forecasts.into_iter().map(forecast).collect(), truncated: answer.truncated }
    }
}

impl From<wire::AnomaliesResponse> for Anomalies {
    fn from(answer: wire::AnomaliesResponse) -> Self {
        Self {
            step_seconds: seconds(answer.step),
            series: answer.series.into_iter().map(Banded::from).collect(),
            truncated: answer.truncated,
        }
    }
}

impl From<wire::Banded> for Banded {
    fn from(series: wire::Banded) -> Self {
        let point = |point: wire::BandPoint| BandPoint {
            at: rfc3339(point.at),
            value: point.value,
            expected: point.expected,
            lower: point.lower,
            upper: point.upper,
            score: point.score,
        };
        let anomaly = |anomaly: wire::Anomaly| Anomaly {
            from: rfc3339(anomaly.from),
            to: rfc3339(anomaly.to),
            score: anomaly.score,
            value: anomaly.value,
            expected: anomaly.expected,
        };
        let change = |change: wire::LevelChange| LevelChange {
            at: rfc3339(change.at),
            before: change.before,
            after: change.after,
            score: change.score,
        };
        Self {
            labels: series.labels.into_iter().collect(),
            points: series.points.into_iter().map(point).collect(),
            anomalies: series.anomalies.into_iter().map(anomaly).collect(),
            changes: series.changes.into_iter().map(change).collect(),
        }
    }
}

impl From<wire::EndpointsResponse> for Endpoints {
    fn from(answer: wire::EndpointsResponse) -> Self {
        let endpoint = |figures: wire::EndpointFigures| EndpointFigures {
            service: figures.service,
            protocol: figures.protocol,
            name: figures.name,
            per_second: figures.per_second,
            error_share: figures.error_share,
            refused_share: figures.refused_share,
            mean_seconds: figures.mean_seconds,
            p50_seconds: figures.p50_seconds,
            p95_seconds: figures.p95_seconds,
            p99_seconds: figures.p99_seconds,
            busy: figures.busy,
        };
        Self { endpoints: answer.endpoints.into_iter().map(endpoint).collect() }
    }
}

impl From<wire::BottlenecksResponse> for Bottlenecks {
    fn from(answer: wire::BottlenecksResponse) -> Self {
        let evidence = |evidence: wire::Evidence| Evidence {
            metric: evidence.metric,
            value: evidence.value,
            level: evidence.level,
        };
        let bottleneck = |cause: wire::Bottleneck| Bottleneck {
            kind: cause.kind,
            source: cause.source,
            subject: cause.subject,
            score: cause.score,
            summary: cause.summary,
            evidence: cause.evidence.into_iter().map(evidence).collect(),
        };
        Self { bottlenecks: answer.bottlenecks.into_iter().map(bottleneck).collect() }
    }
}

impl From<wire::SlosResponse> for Slos {
    fn from(answer: wire::SlosResponse) -> Self {
        let burn = |burn: wire::Burn| Burn { window_seconds: seconds(burn.window), rate: burn.rate };
        let slo = |slo: wire::Slo| Slo {
            name: slo.name,
            objective: slo.objective,
            period_seconds: seconds(slo.period),
            known_from: rfc3339(slo.known_from),
            total: slo.total,
            bad: slo.bad,
            right_share: slo.right_share,
            budget_left: slo.budget_left,
            burns: slo.burns.into_iter().map(burn).collect(),
        };
        Self { slos: answer.slos.into_iter().map(slo).collect() }
    }
}
