//! Filling memory before it is asked: which runs there are, and when.
//!
//! A run reads keys from its sources and brings each in by the same way as a read, so a key that callers load at the same
//! moment is loaded once. Runs are done one after the other by one task (`runner.rs`).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use mainstay_rpc::{ErrorCode, Failure};
use mainstay_runtime::{Problems, Schedule};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::config::{CacheConfig, NamespaceConfig, WarmPlan, WarmSource, WarmingConfig};
use crate::engine::Engine;
use crate::metrics::WarmingMetrics;

mod access_log;
mod lines;
mod ready;
mod run;
mod runner;
mod source;

use access_log::AccessLog;
use ready::Coverage;
pub(crate) use run::{Run, Trigger};
use runner::Runner;

/// Runs that ended and are still told of.
const MOST_ENDED: usize = 100;
/// Runs that wait; more are refused.
const MOST_WAITING: usize = 1_000;
const LOOK_AT_SCHEDULES_EVERY: Duration = Duration::from_millis(500);

/// Knows the runs of this process.
#[derive(Debug)]
pub(crate) struct Warming {
    engine: Arc<Engine>,
    config: CacheConfig,
    metrics: WarmingMetrics,
    runs: Mutex<Runs>,
    /// A run was put into the queue.
    queued: Notify,
    coverage: Coverage,
    /// When the next run by schedule is due, by namespace.
    due: Mutex<HashMap<String, Due>>,
}

#[derive(Debug, Default)]
struct Runs {
    n_made: u64,
    waiting: VecDeque<Arc<Run>>,
    running: Option<Arc<Run>>,
    /// The last first.
    ended: VecDeque<Arc<Run>>,
}

#[derive(Debug, Clone, Copy)]
struct Due {
    every: Duration,
    at: Instant,
}

/// Says why a run was not begun, or not found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WarmingError {
    #[error("{0:?} is not configured, and open_namespaces is off")]
    UnknownNamespace(String),
    #[error("the plan is not legal: {}", .0.join("; "))]
    PlanInvalid(Vec<String>),
    #[error("neither the request nor the policy of the namespace names a source of keys")]
    NoSource,
    #[error("a run of the namespace waits or is under way")]
    UnderWay { run: u64 },
    #[error("too many runs wait")]
    TooMany,
    #[error("no run of the namespace waits or is under way")]
    NoRun,
}

impl Warming {
    pub(crate) fn new(engine: Arc<Engine>, config: &CacheConfig, metrics: WarmingMetrics) -> Arc<Self> {
        Arc::new(Self {
            engine,
            config: config.clone(),
            coverage: Coverage::new(config.warming.ready_hit_ratio, metrics.expected_hit_ratio.clone()),
            metrics,
            runs: Mutex::default(),
            queued: Notify::new(),
            due: Mutex::default(),
        })
    }

    /// Starts the task that does the runs, and those that find when they are due and write the access log.
    pub(crate) fn spawn(self: &Arc<Self>, cx: &mainstay_runtime::Context) {
        let log = self.log_config().log_directory(&self.config);
        let log = log.map(|path| AccessLog::new(path, self.log_config().log_keys as usize));
        if self.log_config().ready_hit_ratio > 0.0 {
            let waiting = Arc::clone(self).wait_until_warm(cx.latch("warming"));
            cx.spawn("warming.ready", waiting);
        }
        cx.spawn("warming", Runner::new(Arc::clone(self), log.clone()).run(cx.stopping()));
        if let Some(log) = log {
            cx.spawn("warming.access_log", Arc::clone(self).keep_log(log, cx.stopping()));
        }
        let warming = Arc::clone(self);
        let look = move || {
            warming.start_what_is_due();
            async { Ok(()) }
        };
        cx.background("warming.schedule", Schedule::Every(LOOK_AT_SCHEDULES_EVERY), look);
    }

    /// Returns the plan of a namespace.
    pub(crate) fn plan(&self, namespace: &str) -> Result<WarmPlan, WarmingError> {
        self.policy(namespace).map(|policy| policy.warm)
    }

    /// Puts a run into the queue.
    pub(crate) fn start(
        &self,
        namespace: &str,
        trigger: Trigger,
        by: String,
        plan: WarmPlan,
    ) -> Result<Arc<Run>, WarmingError> {
        let policy = self.policy(namespace)?;
        let mut problems = Problems::default();
        plan.check("plan", &policy.origin, &self.config, &mut problems);
        if !problems.is_empty() {
            return Err(WarmingError::PlanInvalid(problems.lines()));
        }
        if plan.sources.is_empty() {
            return Err(WarmingError::NoSource);
        }
        let run = self.runs.lock().queue(namespace, trigger, by, plan)?;
        tracing::info!(
            run = run.id,
            namespace,
            trigger = trigger.as_str(),
            by = run.by,
            "warming run queued"
        );
        self.queued.notify_one();
        Ok(run)
    }

    /// Ends the run of a namespace that waits or is under way.
    pub(crate) fn cancel(&self, namespace: &str, by: &str) -> Result<Arc<Run>, WarmingError> {
        let run = self.runs.lock().open(namespace).cloned().ok_or(WarmingError::NoRun)?;
        run.cancelled.cancel();
        tracing::info!(run = run.id, namespace, by, "warming run cancelled");
        Ok(run)
    }

    /// Returns the runs of a namespace, or of all, the last first.
    pub(crate) fn runs(&self, namespace: Option<&str>) -> Vec<Arc<Run>> {
        let runs = self.runs.lock();
        let open = runs.waiting.iter().rev().chain(&runs.running);
        let wanted = |run: &&Arc<Run>| namespace.is_none_or(|namespace| *run.namespace == *namespace);
        open.chain(&runs.ended).filter(wanted).cloned().collect()
    }

    /// Returns the number of keys that the next access log has by now.
    pub(crate) fn n_logged(&self) -> u64 {
        self.engine.insight.recorder().map_or(0, |recorder| recorder.lock().n_keys() as u64)
    }

    pub(crate) fn expected_hit_ratio(&self) -> Option<f64> {
        self.coverage.ratio()
    }

    fn policy(&self, namespace: &str) -> Result<NamespaceConfig, WarmingError> {
        let policy = self.engine.policy(namespace);
        let policy = policy.map_err(|_| WarmingError::UnknownNamespace(namespace.to_owned()))?;
        Ok(policy.effective)
    }

    fn log_config(&self) -> &WarmingConfig {
        &self.config.warming
    }

    /// Puts what is warmed on start into the queue; of those with an access log the one that was read most comes first.
    fn start_all(&self) {
        let mut reads: HashMap<&str, u64> = HashMap::new();
        let hottest = self.engine.insight.recorder().map(|recorder| recorder.lock().hottest(|_| true));
        let hottest = hottest.unwrap_or_default();
        for (key, n_reads) in &hottest {
            let namespace = key.split_once(':').map_or("", |(namespace, _)| namespace);
            *reads.entry(namespace).or_default() += n_reads;
        }
        let mut names: Vec<String> = self.engine.namespaces.all().into_iter().map(|(name, _)| name).collect();
        names.extend(reads.keys().map(|name| (*name).to_owned()));
        names.sort();
        names.dedup();
        names.sort_by_key(|name| std::cmp::Reverse(reads.get(name.as_str()).copied().unwrap_or(0)));
        let mut n_reads = 0;
        for name in &names {
            let Ok(plan) = self.plan(name) else { continue };
            if !plan.on_start || plan.sources.is_empty() {
                continue;
            }
            let has_log = plan.sources.contains(&WarmSource::AccessLog);
            if let Err(error) = self.start(name, Trigger::Start, String::new(), plan) {
                tracing::warn!(namespace = name, %error, "namespace is not warmed on start");
            } else if has_log {
                n_reads += reads.get(name.as_str()).copied().unwrap_or(0);
            }
        }
        self.coverage.expect(n_reads);
    }

    fn start_what_is_due(&self) {
        let now = Instant::now();
        let mut due = self.due.lock();
        let mut planned = HashMap::new();
        for (name, namespace) in self.engine.namespaces.all() {
            let plan = &namespace.policy.warm;
            if plan.every.is_zero() || plan.sources.is_empty() {
                continue;
            }
            let next =
                || Due { every: plan.every, at: now + plan.every.mul_f64(rand::random_range(0.9..=1.1)) };
            let mut is = due.get(&name).copied().filter(|due| due.every == plan.every).unwrap_or_else(next);
            if is.at <= now {
                is = next();
                if let Err(error) = self.start(&name, Trigger::Schedule, String::new(), WarmPlan::clone(plan))
                {
                    tracing::warn!(namespace = name, %error, "namespace is not warmed by schedule");
                }
            }
            planned.insert(name, is);
        }
        *due = planned;
    }

    /// Takes the next run from the queue, as the one under way.
    fn next(&self) -> Option<Arc<Run>> {
        let mut runs = self.runs.lock();
        let run = runs.waiting.pop_front()?;
        runs.running = Some(Arc::clone(&run));
        Some(run)
    }

    fn ended(&self, run: Arc<Run>) {
        let mut runs = self.runs.lock();
        runs.running = None;
        runs.ended.truncate(MOST_ENDED - 1);
        runs.ended.push_front(run);
    }
}

impl Runs {
    fn queue(
        &mut self,
        namespace: &str,
        trigger: Trigger,
        by: String,
        plan: WarmPlan,
    ) -> Result<Arc<Run>, WarmingError> {
        if let Some(run) = self.open(namespace) {
            return Err(WarmingError::UnderWay { run: run.id });
        }
        if self.waiting.len() >= MOST_WAITING {
            return Err(WarmingError::TooMany);
        }
        self.n_made += 1;
        let run = Arc::new(Run::new(self.n_made, namespace, trigger, by, Arc::new(plan)));
        self.waiting.push_back(Arc::clone(&run));
        Ok(run)
    }

    /// Returns the run of a namespace that has not ended.
    fn open(&self, namespace: &str) -> Option<&Arc<Run>> {
        let mut open = self.running.iter().chain(&self.waiting);
        open.find(|run| *run.namespace == *namespace && !run.has_ended())
    }
}

impl From<WarmingError> for Failure {
    fn from(error: WarmingError) -> Self {
        let message = error.to_string();
        match error {
            WarmingError::UnknownNamespace(_) => Self::new(ErrorCode::NotFound, "UNKNOWN_NAMESPACE", message)
                .field("namespace", "is not known"),
            WarmingError::PlanInvalid(_) => {
                Self::new(ErrorCode::InvalidArgument, "WARM_PLAN_INVALID", message)
                    .field("plan", "see the message")
            }
            WarmingError::NoSource => Self::new(ErrorCode::FailedPrecondition, "WARMING_NO_SOURCE", message),
            WarmingError::UnderWay { run } => {
                Self::new(ErrorCode::Conflict, "WARMING_UNDER_WAY", message).detail("run", run.to_string())
            }
            WarmingError::TooMany => Self::new(ErrorCode::ResourceExhausted, "OVERLOADED", message),
            WarmingError::NoRun => Self::new(ErrorCode::NotFound, "WARMING_RUN_NOT_FOUND", message),
        }
    }
}
