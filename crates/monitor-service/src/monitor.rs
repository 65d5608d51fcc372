//! What the monitor knows and decides; the file to read first.
//!
//! Pullers put in what they see ([`Monitor::answered`], [`Monitor::missed`]), the evaluation turns it into alerts
//! ([`Monitor::evaluate`]), and the gRPC doors read.

use std::time::{Duration, SystemTime};

use mainstay_runtime::Clock;
use parking_lot::Mutex;
use tokio::time::Instant;
use uuid::Uuid;

use crate::alert::state::Transition;
use crate::alert::{
    AcknowledgeError, Acknowledgement, Alert, AlertBook, Change, Counts, Event, Filter, Severity,
};
use crate::collect::{Answer, readings};
use crate::config::Config;
use crate::metrics::{MonitorMetrics, PullResult};
use crate::roster::{Entry, Reach, Roster, Verdict};
use crate::rule::{self, Facts, REPLICA_LAG_METRIC};
use crate::series::{History, Range, RangeAnswer, Reading, SeriesName};
use crate::target::Target;

/// Holds targets, history and alerts. Every method is short and blocks on nothing but its locks.
///
/// Whoever needs two locks takes them in the order of the fields.
#[derive(Debug)]
pub(crate) struct Monitor {
    config: Config,
    clock: Clock,
    metrics: MonitorMetrics,
    history: Mutex<History>,
    roster: Mutex<Roster>,
    alerts: Mutex<AlertBook>,
}

/// Holds alerts of one page, copied out.
#[derive(Debug, Default)]
pub(crate) struct AlertPage {
    /// Newest first.
    pub alerts: Vec<Alert>,
    /// Where the next page begins.
    pub next_before: Option<u64>,
    /// What fires now, whatever was asked for.
    pub firing: Counts,
}

/// Series of the monitor's own making: 1 while the target answers, else 0.
const UP: &str = "up";
/// Series of the monitor's own making: time of an answered pull, in seconds.
const PULL_DURATION: &str = "pull_duration_seconds";

impl Monitor {
    /// Starts with targets it knows nothing of.
    pub(crate) fn new(config: Config, clock: Clock, metrics: MonitorMetrics) -> Self {
        let targets = config.all_targets();
        let keep = config.alerts.keep.try_into().unwrap_or(std::num::NonZeroUsize::MIN);
        Self {
            history: Mutex::new(History::new(&targets, config.ticks(), config.history.max_series)),
            roster: Mutex::new(Roster::new(&targets)),
            alerts: Mutex::new(AlertBook::new(keep)),
            config,
            clock,
            metrics,
        }
    }

    /// Returns the clock that its records go by.
    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Returns how far back history reaches.
    pub(crate) fn keeps(&self) -> Duration {
        self.config.history.keep
    }

    /// Takes what a target answered.
    pub(crate) fn answered(&self, target: &Target, answer: Answer) {
        let Answer { report, metrics } = answer;
        let (seen_at, latency) = (report.seen_at, report.latency);
        let own = [(UP, 1.0), (PULL_DURATION, latency.as_secs_f64())];
        let own = own.map(|(metric, value)| Reading { metric, labels: &[], value });
        let theirs = metrics.as_ref().ok().into_iter().flat_map(readings);
        self.record(target, seen_at, own.into_iter().chain(theirs));
        let unreadable = metrics.err();
        let result = if unreadable.is_none() { PullResult::Ok } else { PullResult::Partial };
        self.metrics.pulled(&target.service, result, Some(latency));
        self.roster.lock().answered(target, report, unreadable);
    }

    /// Takes that a target did not answer.
    pub(crate) fn missed(&self, target: &Target, reason: String) {
        let now = self.clock.now();
        self.record(target, now, [Reading { metric: UP, labels: &[], value: 0.0 }]);
        self.metrics.pulled(&target.service, PullResult::Failed, None);
        self.roster.lock().failed(target, reason, now);
    }

    /// Looks at every rule and moves the alerts.
    pub(crate) fn evaluate(&self) -> Vec<Event> {
        let started_at = Instant::now();
        let now = self.clock.now();
        let (replica_lags, refused_series, max_series) = {
            let history = self.history.lock();
            let not_before =
                now.checked_sub(self.config.alerts.missing_for).unwrap_or(SystemTime::UNIX_EPOCH);
            (history.latest(REPLICA_LAG_METRIC, not_before), history.refused_now(), history.max_series())
        };
        let roster = self.roster.lock();
        let mut alerts = self.alerts.lock();
        let facts = Facts { roster: &roster, replica_lags: &replica_lags, refused_series, max_series, now };
        let breaches = rule::find(&facts, &self.config.alerts);
        let events = alerts.evaluate(breaches, |key| rule::absence(&facts, key), now, Uuid::new_v4);
        self.metrics.firing(alerts.firing());
        self.metrics.evaluated(started_at.elapsed(), alerts.refused_now());
        drop((alerts, roster));
        events.iter().for_each(log);
        events
    }

    /// Measures the memory of the history; walks all series, so not every second.
    pub(crate) fn measure(&self) {
        let bytes = self.history.lock().sample_bytes();
        self.metrics.history_size(bytes);
    }

    /// Tells how the collection goes.
    pub(crate) fn reach(&self) -> Reach {
        self.roster.lock().reach()
    }

    /// Turns every target, with the verdict on it, into something else.
    pub(crate) fn instances<T>(&self, each: impl Fn(&Entry, Verdict) -> T) -> Vec<T> {
        let roster = self.roster.lock();
        let isolated = roster.isolated_since().is_some();
        roster.entries().iter().map(|entry| each(entry, Verdict::of(entry, isolated))).collect()
    }

    /// Counts series, and tells their cap.
    pub(crate) fn n_series(&self) -> (usize, usize) {
        let history = self.history.lock();
        (history.len(), history.max_series())
    }

    /// Lists series by name; see [`History::names`].
    pub(crate) fn series(&self, prefix: &str, limit: usize) -> (Vec<SeriesName>, usize) {
        self.history.lock().names(prefix, limit)
    }

    /// Answers a range query.
    pub(crate) fn range(&self, range: &Range) -> RangeAnswer {
        self.history.lock().range(range)
    }

    /// Counts what fires now.
    pub(crate) fn firing(&self) -> Counts {
        self.alerts.lock().firing()
    }

    /// Lists alerts, newest first; see [`AlertBook::page`].
    pub(crate) fn alerts(&self, filter: &Filter, before: Option<u64>, limit: usize) -> AlertPage {
        let book = self.alerts.lock();
        let page = book.page(filter, before, limit);
        let alerts = page.alerts.into_iter().cloned().collect();
        AlertPage { alerts, next_before: page.next_before, firing: book.firing() }
    }

    /// Records that somebody looks after an alert.
    pub(crate) fn acknowledge(&self, id: Uuid, by: Acknowledgement) -> Result<Alert, AcknowledgeError> {
        let alert = self.alerts.lock().acknowledge(id, by)?.clone();
        let (rule, subject) = (alert.key.rule, &*alert.key.subject);
        let who = alert.acknowledgement.as_ref().map(|acknowledgement| acknowledgement.by.as_str());
        tracing::info!(alert_id = %id, rule, subject, who, "alert acknowledged");
        Ok(alert)
    }

    fn record<'r>(&self, target: &Target, at: SystemTime, readings: impl IntoIterator<Item = Reading<'r>>) {
        let mut history = self.history.lock();
        let recorded = history.record(target, at, readings);
        self.metrics.recorded(recorded, &history);
    }
}

fn log(event: &Event) {
    let Alert { id: alert_id, key, severity, summary, .. } = &event.alert;
    let (rule, source, subject) = (key.rule, &*key.source, &*key.subject);
    let (change, level) = (event.change.as_str(), severity.as_str());
    match event.change {
        Change::State(Transition::Fired) | Change::Raised if *severity > Severity::Info => {
            tracing::warn!(%alert_id, rule, source, subject, level, summary, "alert firing");
        }
        Change::State(Transition::Fired | Transition::Resolved)
        | Change::Raised
        | Change::AcknowledgementExpired => {
            tracing::info!(%alert_id, rule, source, subject, level, change, "alert changed");
        }
        Change::State(_) => tracing::debug!(%alert_id, rule, source, subject, level, change, "alert changed"),
    }
}
