//! The gRPC door to what history tells: decode, look, encode.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mainstay_proto::monitor::v1 as pb;
use mainstay_proto::monitor::v1::analysis_service_server::{AnalysisService, AnalysisServiceServer};
use mainstay_rpc::{Failure, Reply, Request, Response};

use super::{decode, encode, failure};
use crate::analysis::band::{self, Judged, Method, Settings};
use crate::analysis::bottleneck::Cause;
use crate::analysis::change;
use crate::analysis::endpoint::Red;
use crate::analysis::forecast::{Line, Reach};
use crate::analysis::quality::without_season;
use crate::analysis::trend;
use crate::monitor::{LookError, Monitor, SloStatus, SteppedSeries};

/// Serves `mainstay.monitor.v1.AnalysisService`.
pub(crate) struct AnalysisGrpc {
    monitor: Arc<Monitor>,
}

const S: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
/// Steps that a stretch is cut into.
const STEPS: u32 = 120;
const BAND_STEPS: u32 = 500;
/// Seasons from which a band is learned, and steps where there is no season.
const LEARNED_SEASONS: u32 = 7;
const LEARNED_STEPS: u32 = 200;
/// Steps of one band, with those it is learned from.
const BAND_STEPS_MAX: u128 = 10_000;
const SENSITIVITY: f64 = 5.0;
/// Bounds of a forecast hold with this probability times the spread.
const BETWEEN_Z: f64 = 1.645;

/// What every host and pool can run out of, and what is the end of it.
const RESOURCES: [(&str, f64); 3] =
    [("host_disk_used_ratio", 1.0), ("host_memory_used_ratio", 1.0), ("host_fds_used_ratio", 1.0)];

impl AnalysisGrpc {
    pub(crate) fn new(monitor: Arc<Monitor>) -> Self {
        Self { monitor }
    }

    pub(crate) fn into_server(self) -> AnalysisServiceServer<Self> {
        AnalysisServiceServer::new(self)
    }

    fn now(&self) -> SystemTime {
        self.monitor.clock().now()
    }

    async fn stepped(
        &self,
        metric: &str,
        labels: &BTreeMap<String, String>,
        between: (SystemTime, SystemTime),
        step: Duration,
    ) -> Result<(Vec<SteppedSeries>, bool), Failure> {
        let stepped = self.monitor.stepped(metric, labels, between, step).await;
        stepped.map_err(|error| match error {
            LookError::Range(error) => failure::invalid_range(&error),
            LookError::Store(error) => failure::not_read(error),
        })
    }

    async fn forecasts_of(
        &self,
        (metric, limit): (&str, Option<f64>),
        labels: &BTreeMap<String, String>,
        (window, ahead): (Duration, Duration),
        answer: &mut pb::ForecastsResponse,
    ) -> Result<(), Failure> {
        let now = self.now();
        let (series, truncated) =
            self.stepped(metric, labels, back(now, window), step_of(window, STEPS)).await?;
        answer.truncated |= truncated;
        let forecasts = series.into_iter().filter_map(|series| {
            let line = Line::through(&series.steps)?;
            Some(forecast(metric, series.labels, &line, limit, ahead))
        });
        answer.forecasts.extend(forecasts);
        Ok(())
    }
}

#[tonic::async_trait]
impl AnalysisService for AnalysisGrpc {
    async fn trends(&self, request: Request<pb::TrendsRequest>) -> Reply<pb::TrendsResponse> {
        let request = request.into_inner();
        let window = within("window", request.window, HOUR, S * 10..=DAY * 31)?;
        let earlier = within("earlier", request.earlier, DAY, S..=DAY * 400)?;
        let labels: BTreeMap<String, String> = request.labels.into_iter().collect();
        let (now, step) = (self.now(), step_of(window, STEPS));
        let (newer, truncated) = self.stepped(&request.metric, &labels, back(now, window), step).await?;
        let then = now.checked_sub(earlier).unwrap_or(SystemTime::UNIX_EPOCH);
        let (older, _) = self.stepped(&request.metric, &labels, back(then, window), step).await?;
        let trends = newer.into_iter().filter_map(|newer| {
            let older = older.iter().find(|older| older.labels == newer.labels);
            let nothing = || crate::analysis::steps::Steps { values: Vec::new(), ..newer.steps.clone() };
            let trend =
                trend::compare(&newer.steps, &older.map_or_else(nothing, |older| older.steps.clone()))?;
            Some(pb::Trend {
                labels: newer.labels.into_iter().collect(),
                now: trend.now,
                before: trend.before,
                change: trend.change,
                direction: trend.direction.as_str().to_owned(),
                per_hour: trend.per_hour,
                confidence: trend.confidence,
            })
        });
        Ok(Response::new(pb::TrendsResponse { trends: trends.collect(), truncated }))
    }

    async fn forecasts(&self, request: Request<pb::ForecastsRequest>) -> Reply<pb::ForecastsResponse> {
        let request = request.into_inner();
        let window = within("window", request.window, HOUR, MINUTE..=DAY * 31)?;
        let ahead = within("ahead", request.ahead, window, S..=DAY * 400)?;
        if request.limit.is_some_and(|limit| !limit.is_finite()) {
            return Err(Failure::invalid("limit", "must be a finite number").into());
        }
        let labels: BTreeMap<String, String> = request.labels.into_iter().collect();
        let mut answer = pb::ForecastsResponse::default();
        if request.metric.is_empty() {
            for (metric, limit) in RESOURCES {
                let limit = Some(request.limit.unwrap_or(limit));
                self.forecasts_of((metric, limit), &labels, (window, ahead), &mut answer).await?;
            }
        } else {
            let of = (request.metric.as_str(), request.limit);
            self.forecasts_of(of, &labels, (window, ahead), &mut answer).await?;
        }
        Ok(Response::new(answer))
    }

    async fn anomalies(&self, request: Request<pb::AnomaliesRequest>) -> Reply<pb::AnomaliesResponse> {
        let request = request.into_inner();
        let asked = BandQuery::try_new(&request, self.now())?;
        let labels: BTreeMap<String, String> = request.labels.into_iter().collect();
        let between = (asked.learned_from, asked.to);
        let (series, truncated) = self.stepped(&request.metric, &labels, between, asked.step).await?;
        let series = series.into_iter().map(|series| banded(series, &asked)).collect();
        let step = encode::duration(asked.step);
        Ok(Response::new(pb::AnomaliesResponse { series, truncated, step }))
    }

    async fn endpoints(&self, request: Request<pb::EndpointsRequest>) -> Reply<pb::EndpointsResponse> {
        let pb::EndpointsRequest { window, service } = request.into_inner();
        let window = within("window", window, MINUTE * 5, S * 5..=self.monitor.keeps())?;
        let found = self.monitor.endpoints(window, Duration::ZERO).into_iter();
        let wanted = found.filter(|red| service.is_empty() || red.endpoint.service == service);
        Ok(Response::new(pb::EndpointsResponse { endpoints: wanted.map(endpoint).collect() }))
    }

    async fn bottlenecks(&self, request: Request<pb::BottlenecksRequest>) -> Reply<pb::BottlenecksResponse> {
        let longest = self.monitor.keeps() / 2;
        let default = (MINUTE * 5).min(longest);
        let window = within("window", request.into_inner().window, default, S * 5..=longest)?;
        let bottlenecks = self.monitor.bottlenecks(window).into_iter().map(bottleneck).collect();
        Ok(Response::new(pb::BottlenecksResponse { bottlenecks }))
    }

    async fn slos(&self, _: Request<pb::SlosRequest>) -> Reply<pb::SlosResponse> {
        let slos = self.monitor.slos().into_iter().map(slo).collect();
        Ok(Response::new(pb::SlosResponse { slos }))
    }
}

/// Holds a question for bands that can be answered.
struct BandQuery {
    learned_from: SystemTime,
    from: SystemTime,
    to: SystemTime,
    step: Duration,
    settings: Settings,
}

impl BandQuery {
    fn try_new(request: &pb::AnomaliesRequest, now: SystemTime) -> Result<Self, Failure> {
        let to = decode::time("to", request.to)?.unwrap_or(now);
        let from = decode::time("from", request.from)?.unwrap_or_else(|| back(to, HOUR).0);
        let Ok(length) = to.duration_since(from) else {
            return Err(Failure::invalid("from", "must lie before `to`"));
        };
        let method = method(request.method());
        let finest = step_of(length, BAND_STEPS);
        let step = within("step", request.step, finest, S..=DAY)?;
        let no_season = if method == Method::Seasonal { DAY } else { Duration::ZERO };
        let season = within("season", request.season, no_season, Duration::ZERO..=DAY * 7)?;
        let steps = season.as_nanos() / step.as_nanos();
        if method == Method::Seasonal && steps < 2 {
            return Err(Failure::invalid("season", "must be at least two steps long"));
        }
        let sensitivity = if request.sensitivity == 0.0 { SENSITIVITY } else { request.sensitivity };
        if !(1.0..=50.0).contains(&sensitivity) {
            return Err(Failure::invalid("sensitivity", "must be 1 to 50 standard deviations"));
        }
        let seasons = if method == Method::Seasonal { LEARNED_SEASONS } else { 2 };
        let learned = (season * seasons).max(step * LEARNED_STEPS);
        if (length + learned).as_nanos() / step.as_nanos() > BAND_STEPS_MAX {
            return Err(Failure::invalid(
                "step",
                "is too fine for so long a time and season: 10000 steps at most",
            ));
        }
        let learned_from = from.checked_sub(learned).unwrap_or(SystemTime::UNIX_EPOCH);
        let season = usize::try_from(steps).unwrap_or_default();
        Ok(Self { learned_from, from, to, step, settings: Settings { method, sensitivity, season } })
    }
}

fn banded(series: SteppedSeries, asked: &BandQuery) -> pb::Banded {
    let steps = &series.steps;
    let asked_for = |index: usize| steps.at(index) >= asked.from;
    let judged = band::judge(&steps.values, &asked.settings);
    let judged: Vec<Judged> = judged.into_iter().filter(|judged| asked_for(judged.index)).collect();
    let mut anomalies: Vec<(usize, pb::Anomaly)> = Vec::new();
    for odd in judged.iter().filter(|judged| judged.is_anomaly()) {
        let to = Some(steps.at(odd.index + 1).into());
        match anomalies.last_mut().filter(|(end, _)| *end == odd.index) {
            Some((end, anomaly)) => {
                (*end, anomaly.to) = (odd.index + 1, to);
                if odd.score.abs() > anomaly.score.abs() {
                    (anomaly.score, anomaly.value, anomaly.expected) = (odd.score, odd.value, odd.expected);
                }
            }
            None => {
                let from = Some(steps.at(odd.index).into());
                let (score, value, expected) = (odd.score, odd.value, odd.expected);
                anomalies.push((odd.index + 1, pb::Anomaly { from, to, score, value, expected }));
            }
        }
    }
    let changes = change::changes(&without_season(&steps.values, asked.settings.season));
    let changes = changes.into_iter().filter(|change| asked_for(change.index));
    let changes = changes.map(|change| pb::LevelChange {
        at: Some(steps.at(change.index).into()),
        before: change.before,
        after: change.after,
        score: change.score,
    });
    let point = |judged: &Judged| pb::BandPoint {
        at: Some(steps.at(judged.index).into()),
        value: judged.value,
        expected: judged.expected,
        lower: judged.lower,
        upper: judged.upper,
        score: judged.score,
    };
    pb::Banded {
        points: judged.iter().map(point).collect(),
        anomalies: anomalies.into_iter().map(|(_, anomaly)| anomaly).collect(),
        changes: changes.collect(),
        labels: series.labels.into_iter().collect(),
    }
}

fn forecast(
    metric: &str,
    labels: BTreeMap<String, String>,
    line: &Line,
    limit: Option<f64>,
    ahead: Duration,
) -> pb::Forecast {
    let seconds = ahead.as_secs_f64();
    let noise = BETWEEN_Z * line.spread;
    let after = |slope: f64| line.now + slope * seconds;
    let (low, high) = line.slope_between;
    let reach = |reach: Reach| pb::Reach {
        after: encode::duration(reach.after),
        earliest: encode::duration(reach.earliest),
        latest: reach.latest.and_then(encode::duration),
    };
    pb::Forecast {
        metric: metric.to_owned(),
        labels: labels.into_iter().collect(),
        now: line.now,
        per_second: line.per_second,
        confidence: line.confidence,
        expected: after(line.per_second),
        lower: after(low) - noise,
        upper: after(high) + noise,
        limit,
        reaches: limit.and_then(|limit| line.reach(limit)).map(reach),
    }
}

fn endpoint(red: Red) -> pb::EndpointFigures {
    let quantile = |index: usize| red.quantiles.map(|quantiles| quantiles[index]);
    pb::EndpointFigures {
        per_second: red.rate,
        error_share: red.errors,
        refused_share: red.refused,
        mean_seconds: red.mean,
        p50_seconds: quantile(0),
        p95_seconds: quantile(1),
        p99_seconds: quantile(2),
        busy: red.busy,
        service: red.endpoint.service,
        protocol: red.endpoint.protocol.to_owned(),
        name: red.endpoint.name,
    }
}

fn bottleneck(cause: Cause) -> pb::Bottleneck {
    let evidence = cause.evidence.into_iter();
    let evidence = evidence.map(|e| pb::Evidence { metric: e.metric, value: e.value, level: e.level });
    pb::Bottleneck {
        kind: cause.kind.as_str().to_owned(),
        source: cause.source,
        subject: cause.subject,
        score: cause.score,
        summary: cause.summary,
        evidence: evidence.collect(),
    }
}

fn slo(status: SloStatus) -> pb::Slo {
    let burns = status.burns.iter();
    let burns = burns.map(|(window, rate)| pb::Burn { window: encode::duration(*window), rate: *rate });
    pb::Slo {
        name: status.name,
        objective: status.objective,
        period: encode::duration(status.period),
        known_from: status.known_from.map(Into::into),
        total: status.outcome.total,
        bad: status.outcome.bad,
        right_share: status.budget.right,
        budget_left: status.budget.left,
        burns: burns.collect(),
    }
}

fn back(to: SystemTime, window: Duration) -> (SystemTime, SystemTime) {
    (to.checked_sub(window).unwrap_or(SystemTime::UNIX_EPOCH), to)
}

/// Cuts a stretch into steps of whole seconds.
fn step_of(window: Duration, steps: u32) -> Duration {
    Duration::from_secs(window.as_secs().div_ceil(u64::from(steps))).max(S)
}

fn within(
    field: &str,
    asked: Option<prost_types::Duration>,
    default: Duration,
    legal: std::ops::RangeInclusive<Duration>,
) -> Result<Duration, Failure> {
    let asked = decode::duration(field, asked)?.unwrap_or(default);
    if legal.contains(&asked) {
        return Ok(asked);
    }
    let (shortest, longest) =
        (humantime::format_duration(*legal.start()), humantime::format_duration(*legal.end()));
    Err(Failure::invalid(field, format!("must be {shortest} to {longest}")))
}

pub(super) fn method(method: pb::BandMethod) -> Method {
    match method {
        pb::BandMethod::Unspecified | pb::BandMethod::Ewma => Method::Ewma,
        pb::BandMethod::HoltWinters => Method::HoltWinters,
        pb::BandMethod::Seasonal => Method::Seasonal,
    }
}

pub(super) fn encode_method(method: Method) -> pb::BandMethod {
    match method {
        Method::Ewma => pb::BandMethod::Ewma,
        Method::HoltWinters => pb::BandMethod::HoltWinters,
        Method::Seasonal => pb::BandMethod::Seasonal,
    }
}
