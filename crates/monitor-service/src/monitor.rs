//! What the monitor knows and decides; the file to read first.
//!
//! Pullers put in what they see ([`Monitor::answered`], [`Monitor::missed`]), the evaluation turns it into alerts
//! ([`Monitor::evaluate`]), and the gRPC doors read.

mod agree;
mod history;
mod insight;
mod instances;
mod people;
mod slo;
mod watch;

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use mainstay_runtime::{Clock, Trigger};
use parking_lot::Mutex;
use tokio::time::Instant;
use uuid::Uuid;

use crate::alert::state::Transition;
use crate::alert::{Alert, AlertBook, Change, Counts, Event, Filter, Key, Notice, Severity};
use crate::collect::{Answer, Miss, readings};
use crate::config::Config;
use crate::host::HostFigure;
use crate::journal::Journal;
use crate::metrics::{MonitorMetrics, PullResult};
use crate::notify::Outbox;
use crate::quiet::Quiet;
use crate::roster::{Entry, Reach, Roster, Verdict};
use crate::rule::{self, Facts, FigureRules, REPLICA_LAG_METRIC, Rule, Scene};
use crate::series::{History, Reading, SeriesName};
use crate::silence::Silences;
use crate::store::{Changes, Restored, Store};
use crate::target::Target;

/// Holds targets, history and alerts. Every method is short and blocks on nothing but its locks.
///
/// Whoever needs two locks takes them in the order of the fields.
#[derive(Debug)]
pub(crate) struct Monitor {
    config: Config,
    clock: Clock,
    metrics: MonitorMetrics,
    store: Store,
    outbox: Outbox,
    host: Arc<Target>,
    quiet: Quiet,
    history: Mutex<History>,
    roster: Mutex<Roster>,
    rules: Mutex<FigureRules>,
    silences: Mutex<Silences>,
    alerts: Mutex<AlertBook>,
    journal: Mutex<Journal>,
    slos: Mutex<Vec<SloStatus>>,
    /// Of the next target that is found.
    next_index: AtomicUsize,
    /// Asks for an evaluation.
    judge: OnceLock<Trigger>,
    /// Tells other monitors what people said.
    sharer: OnceLock<Trigger>,
}

/// Holds what a monitor works with.
pub(crate) struct Parts {
    /// How it is set up.
    pub config: Config,
    /// Tells the time.
    pub clock: Clock,
    /// Its instruments.
    pub metrics: MonitorMetrics,
    /// Where what must survive goes.
    pub store: Store,
    /// Where messages wait.
    pub outbox: Outbox,
    /// Rules from files that the configuration names.
    pub imported: Vec<Rule>,
}

pub(crate) use insight::{LookError, SteppedSeries};
pub(crate) use people::{DeleteError, PutError};
pub(crate) use slo::SloStatus;
pub(crate) use watch::Figure;

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

/// Where nothing is read of a target, rules look at it nevertheless after so many times `collect.every`.
const UNREAD_TIMES: u32 = 2;

/// Series of the monitor's own making: 1 while the target answers, else 0.
const UP: &str = "up";
/// Series of the monitor's own making: time of an answered pull, in seconds.
const PULL_DURATION: &str = "pull_duration_seconds";

impl Monitor {
    /// Starts with targets it knows nothing of, and goes on with the alerts that an earlier process stored.
    pub(crate) fn new(parts: Parts, restored: Restored) -> Self {
        let Parts { config, clock, metrics, store, outbox, imported } = parts;
        let sources = config.all_sources();
        let host = sources.last().cloned().expect("the host is always a source");
        let keep = config.alerts.keep.try_into().unwrap_or(std::num::NonZeroUsize::MIN);
        let mut alerts = AlertBook::new(keep);
        alerts.restore(restored.alerts);
        outbox.extend(restored.deliveries);
        Self {
            history: Mutex::new(History::new(&sources, config.ticks(), config.history.max_series)),
            roster: Mutex::new(Roster::new(&config.all_targets())),
            rules: Mutex::new(FigureRules::new(imported, &config.rules, restored.rules)),
            silences: Mutex::new(Silences::new(restored.silences)),
            alerts: Mutex::new(alerts),
            journal: Mutex::new(Journal::new(restored.records, clock.now())),
            slos: Mutex::new(Vec::new()),
            next_index: AtomicUsize::new(sources.len()),
            judge: OnceLock::new(),
            sharer: OnceLock::new(),
            quiet: Quiet::new(&config.maintenance, &config.inhibitions),
            config,
            clock,
            metrics,
            store,
            outbox,
            host,
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

    /// Takes who is asked for an evaluation as soon as there is something new to judge.
    pub(crate) fn judged_by(&self, judge: Trigger) {
        // There is one; a second one would do the same.
        let _ = self.judge.set(judge);
    }

    /// Asks for an evaluation; those asked for while one is under way are one.
    fn judge_soon(&self) {
        if let Some(judge) = self.judge.get() {
            judge.fire();
        }
    }

    /// Takes who tells other monitors what people said.
    pub(crate) fn shared_by(&self, sharer: Trigger) {
        // As above.
        let _ = self.sharer.set(sharer);
    }

    fn share_soon(&self) {
        if let Some(sharer) = self.sharer.get() {
            sharer.fire();
        }
    }

    /// Takes what a target answered.
    pub(crate) fn answered(&self, target: &Target, answer: Answer) {
        let Answer { report, metrics } = answer;
        let (seen_at, latency) = (report.seen_at, report.latency);
        let own = [(UP, 1.0), (PULL_DURATION, latency.as_secs_f64())];
        let own = own.map(|(metric, value)| Reading { metric, labels: &[], value });
        let theirs = metrics
            .as_ref()
            .ok()
            .into_iter()
            .flat_map(|metrics| readings(metrics, &self.config.history.buckets));
        self.record(target, seen_at, own.into_iter().chain(theirs));
        let unreadable = metrics.err();
        let result = if unreadable.is_none() { PullResult::Ok } else { PullResult::Partial };
        self.metrics.pulled(&target.service, result, Some(latency));
        self.roster.lock().answered(target, report, unreadable);
        self.judge_soon();
    }

    /// Takes that a target did not answer, and what that tells.
    pub(crate) fn missed(&self, target: &Target, miss: Miss) {
        let Miss { reason, figures } = miss;
        let now = self.clock.now();
        let own = [Reading { metric: UP, labels: &[], value: 0.0 }];
        self.record(target, now, own.into_iter().chain(readings(&figures, &self.config.history.buckets)));
        self.metrics.pulled(&target.service, PullResult::Failed, None);
        self.roster.lock().failed(target, reason, now);
        self.judge_soon();
    }

    /// Takes what was read of the host.
    pub(crate) fn host_read(&self, figures: &[HostFigure]) {
        let readings = figures.iter().map(|figure| Reading {
            metric: figure.metric,
            labels: &figure.labels,
            value: figure.value,
        });
        self.record(&self.host, self.clock.now(), readings);
        self.judge_soon();
    }

    /// Looks with every rule at what was read since the last time, moves the alerts, and queues what is to be stored and told.
    pub(crate) fn evaluate(&self) {
        let started_at = Instant::now();
        let now = self.clock.now();
        let failing_channels = self.outbox.failing();
        let store_trouble = self.store.trouble();
        let burning: Vec<_> = self.slos.lock().iter().filter_map(|slo| slo.burning.clone()).collect();
        let mut history = self.history.lock();
        let news = history.take_news();
        let history = &*history;
        let not_before = now.checked_sub(self.config.alerts.missing_for).unwrap_or(SystemTime::UNIX_EPOCH);
        let replica_lags = history.latest(REPLICA_LAG_METRIC, not_before);
        let capped = history.capped_now();
        let roster = self.roster.lock();
        let mut rules = self.rules.lock();
        let mut silences = self.silences.lock();
        let mut alerts = self.alerts.lock();
        let facts = Facts {
            roster: &roster,
            replica_lags: &replica_lags,
            refused_series: history.refused_now(),
            max_series: history.max_series(),
            capped: &capped,
            failing_channels: &failing_channels,
            store_trouble: store_trouble.as_ref(),
            burning: &burning,
            now,
        };
        let settings = &self.config.alerts;
        let scene = Scene { history, roster: &roster, config: settings, now };
        let at_latest = self.config.collect.every * UNREAD_TIMES;
        let n_looks = rules.look(&scene, &news, at_latest, |key| alerts.severity(key));
        let mut breaches = rule::find(&facts, settings);
        breaches.extend(rules.breaches());
        let absence = |key: &Key| {
            let by_figure = rules.absence(key, history, &roster, now);
            by_figure.unwrap_or_else(|| rule::absence(&facts, key))
        };
        let mut events = alerts.evaluate(breaches, absence, now, Uuid::new_v4);
        let explained = self.quiet.among(alerts.firing_now());
        events.extend(alerts.released(now, |alert| explained.cover(alert, &silences, now)));
        let escalating = self.outbox.escalating();
        events.extend(alerts.escalated(&escalating, now, |alert| explained.cover(alert, &silences, now)));
        let repeating = |alert: &Alert| self.outbox.repeating(alert);
        events.extend(alerts.repeated(repeating, now, |alert| explained.cover(alert, &silences, now)));
        self.metrics.firing(alerts.firing());
        self.metrics.evaluated(started_at.elapsed(), n_looks, alerts.refused_now());
        let ended = silences.expire(now).into_iter().map(|id| (id, None)).collect();
        let mut changes = self.changes(&mut alerts, &silences, events, "", now);
        changes.silences = ended;
        if self.store.take_resync() {
            let numbers = alerts.numbers();
            changes.alerts = numbers.into_iter().filter_map(|number| alerts.kept(number)).collect();
        }
        if !changes.is_empty() {
            self.store.queue(changes);
        }
    }

    /// Puts events on record, decides who is told of them, and returns what all that changes.
    fn changes(
        &self,
        alerts: &mut AlertBook,
        silences: &Silences,
        events: Vec<Event>,
        by: &str,
        now: SystemTime,
    ) -> Changes {
        let mut changes = Changes::default();
        let mut journal = self.journal.lock();
        let explained = self.quiet.among(alerts.firing_now());
        for mut event in events {
            log(&event);
            let is_silenced = explained.cover(&event.alert, silences, now);
            let told = alerts.notify(&mut event, is_silenced, now);
            let number = event.alert.number;
            let record = journal.add(event, by, now);
            if told {
                changes.deliveries.extend(self.outbox.route(&record));
            }
            changes.records.push((*record).clone());
            changes.alerts.retain(|kept| kept.alert.number != number);
            changes.alerts.extend(alerts.kept(number));
        }
        changes.forgotten = alerts.take_forgotten();
        changes
    }

    /// Adds up the memory of the samples; walks all series.
    pub(crate) fn sample_bytes(&self) -> usize {
        self.history.lock().sample_bytes()
    }

    /// Measures the memory of the history; walks all series, so not every second.
    pub(crate) fn measure(&self) {
        self.metrics.history_size(self.sample_bytes());
        self.metrics.rules_in_force(&self.rules.lock().count());
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

    /// Counts what fires now.
    pub(crate) fn firing(&self) -> Counts {
        self.alerts.lock().firing()
    }

    /// Lists what fires and people were told of.
    pub(crate) fn told_and_firing(&self) -> Vec<Alert> {
        let book = self.alerts.lock();
        book.firing_now().filter(|alert| alert.notice == Notice::Sent).cloned().collect()
    }

    /// Lists alerts, newest first; see [`AlertBook::page`].
    pub(crate) fn alerts(&self, filter: &Filter, before: Option<u64>, limit: usize) -> AlertPage {
        let book = self.alerts.lock();
        let page = book.page(filter, before, limit);
        let alerts: Vec<Alert> = page.alerts.into_iter().cloned().collect();
        AlertPage { alerts, next_before: page.next_before, firing: book.firing() }
    }

    fn record<'r>(&self, target: &Target, at: SystemTime, readings: impl IntoIterator<Item = Reading<'r>>) {
        let mut history = self.history.lock();
        let recorded = history.record(target, at, readings);
        self.metrics.recorded(recorded, &history);
    }
}

fn log(event: &Event) {
    let Alert { id: alert_id, key, severity, summary, .. } = &event.alert;
    let (rule, source, subject) = (&*key.rule, &*key.source, &*key.subject);
    let (change, level) = (event.change.as_str(), severity.as_str());
    match event.change {
        Change::State(Transition::Fired) | Change::Raised if *severity > Severity::Info => {
            tracing::warn!(%alert_id, rule, source, subject, level, summary, "alert firing");
        }
        Change::State(Transition::Fired | Transition::Resolved)
        | Change::Raised
        | Change::Released
        | Change::Escalated
        | Change::Repeated
        | Change::Acknowledged
        | Change::AcknowledgementExpired => {
            tracing::info!(%alert_id, rule, source, subject, level, change, "alert changed");
        }
        Change::State(_) => tracing::debug!(%alert_id, rule, source, subject, level, change, "alert changed"),
    }
}
