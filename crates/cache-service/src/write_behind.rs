//! Lets origins have the changes of `write_behind` namespaces, after the callers were answered.
//!
//! Every node looks at the queues; a lease says which of them empties one. A change leaves its queue when the origin has
//! taken it, so after the death of a node, or of a connection at the wrong moment, it is told again: at least once, and
//! in the order of versions for each key.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use mainstay_resilience::backoff::Backoff;
use mainstay_runtime::Component;
use tokio::task::{self, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::config::WriteBehindConfig;
use crate::engine::Engine;
use crate::layer::redis::LayerError;
use crate::origin::{Change, OriginError};

mod metrics;
mod plan;
mod queue;

use metrics::NamespaceLabel;
pub(crate) use metrics::WriteBehindMetrics;
use plan::{Planned, coalesce};
use queue::{Buried, Head};
pub(crate) use queue::{DeadLetter, NAMES, Queues, queue_of, waiting_of};

/// Queues that other nodes filled are found within this time.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A change that waits longer is told in the health of the service.
const OLD_AFTER: Duration = Duration::from_mins(1);
/// Most of what an origin says of a refusal.
const REASON_CHARS: usize = 500;

/// Empties queues, for as long as the service runs.
#[derive(Debug)]
pub(crate) struct WriteBehind {
    engine: Arc<Engine>,
    queues: Arc<Queues>,
    config: WriteBehindConfig,
    metrics: WriteBehindMetrics,
    component: Component,
    stopping: CancellationToken,
}

/// The queues that this node empties, or tries to.
#[derive(Default)]
struct Drains {
    running: JoinSet<()>,
    names: HashMap<task::Id, String>,
    /// Those that were found again while they were under way: there may be more in them by now.
    found_again: HashSet<String>,
}

impl Drains {
    fn begin(&mut self, worker: &Arc<WriteBehind>, name: String) {
        if self.names.values().any(|under_way| *under_way == name) {
            self.found_again.insert(name);
            return;
        }
        let (worker, drained) = (Arc::clone(worker), name.clone());
        let drain = self.running.spawn(async move { worker.drain(&drained).await });
        self.names.insert(drain.id(), name);
    }

    /// Tells whether there may be more in the queue.
    fn ended(&mut self, drained: Result<(task::Id, ()), JoinError>) -> bool {
        let id = drained.map_or_else(|panicked| panicked.id(), |(id, ())| id);
        self.names.remove(&id).is_some_and(|name| self.found_again.remove(&name))
    }
}

/// How far a batch came.
enum Progress {
    /// All of it has left the queue.
    Done,
    /// Some of it is to be tried again, later.
    Held,
    /// Another node has the queue, or Redis does not say.
    Lost,
}

impl WriteBehind {
    pub(crate) fn new(
        engine: Arc<Engine>,
        queues: Queues,
        config: &WriteBehindConfig,
        metrics: WriteBehindMetrics,
        component: Component,
        stopping: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            engine,
            queues: Arc::new(queues),
            config: config.clone(),
            metrics,
            component,
            stopping,
        })
    }

    pub(crate) fn queues(&self) -> Arc<Queues> {
        Arc::clone(&self.queues)
    }

    pub(crate) async fn run(self: Arc<Self>) -> anyhow::Result<()> {
        let mut drains = Drains::default();
        let mut shown_at: Option<Instant> = None;
        while !self.stopping.is_cancelled() {
            if let Ok(names) = self.queues.names().await {
                if shown_at.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
                    shown_at = Some(Instant::now());
                    self.show(&names).await;
                }
                for name in names {
                    drains.begin(&self, name);
                }
            }
            self.wait_for_work(&mut drains).await;
        }
        while drains.running.join_next().await.is_some() {}
        Ok(())
    }

    /// Waits until a look at the queues may find something to do.
    async fn wait_for_work(&self, drains: &mut Drains) {
        let next_look_at = Instant::now() + LOOK_EVERY;
        loop {
            tokio::select! {
                () = self.stopping.cancelled() => return,
                () = sleep_until(next_look_at) => return,
                () = self.engine.queued.notified() => {
                    // Those who write now are to be told of together.
                    let _ = timeout(self.config.linger, self.stopping.cancelled()).await;
                    return;
                }
                Some(drained) = drains.running.join_next_with_id() => if drains.ended(drained) { return },
            }
        }
    }

    /// Empties a queue, if no other node does.
    async fn drain(&self, namespace: &str) {
        let retry = Backoff::try_new(self.config.retry_base, self.config.retry_cap);
        let mut retry = retry.expect("checked with the configuration");
        let mut attempts: HashMap<String, u32> = HashMap::new();
        while !self.stopping.is_cancelled() {
            let head = match self.queues.take(namespace, self.config.batch).await {
                Ok(Some(head)) if !head.taken.is_empty() || !head.damaged.is_empty() => head,
                Ok(_) | Err(_) => return,
            };
            attempts.retain(|id, _| head.taken.iter().any(|taken| taken.id == *id));
            match self.store(namespace, head, &mut attempts).await {
                Ok(Progress::Done) => retry.reset(),
                Ok(Progress::Held) => {
                    if !self.wait(namespace, retry.next(rand::random())).await {
                        return;
                    }
                }
                Ok(Progress::Lost) => return,
                Err(error) => {
                    tracing::debug!(
                        namespace,
                        error = &error as &dyn std::error::Error,
                        "queue out of reach"
                    );
                    return;
                }
            }
        }
        self.queues.release(namespace).await;
    }

    /// Waits and keeps the queue meanwhile; false when it is lost.
    async fn wait(&self, namespace: &str, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let part = left.min(self.config.lease / 3);
            if timeout(part, self.stopping.cancelled()).await.is_ok() || left <= part {
                return true;
            }
            if !matches!(self.queues.renew(namespace).await, Ok(true)) {
                return false;
            }
        }
    }

    async fn store(
        &self,
        namespace: &str,
        head: Head,
        attempts: &mut HashMap<String, u32>,
    ) -> Result<Progress, LayerError> {
        for id in &head.damaged {
            if !self.bury(namespace, id, "cannot be read", 0).await? {
                return Ok(Progress::Lost);
            }
        }
        let n_taken = head.taken.len();
        let planned = coalesce(head.taken);
        let changes: Vec<Change> = planned.iter().map(|planned| planned.change.clone()).collect();
        match self.tell(namespace, &changes).await {
            Ok(()) => {
                self.metrics.stored.inc_by(planned.len() as u64);
                self.metrics.coalesced.inc_by((n_taken - planned.len()) as u64);
                let done = self.queues.done(namespace, planned.iter().flat_map(Planned::places)).await?;
                Ok(if done { Progress::Done } else { Progress::Lost })
            }
            Err(error) if error.is_outage() => {
                self.hold(namespace, &error);
                Ok(Progress::Held)
            }
            Err(error) if planned.len() == 1 => self.refused(namespace, &planned[0], &error, attempts).await,
            Err(_) => self.store_one_by_one(namespace, &planned, attempts).await,
        }
    }

    /// Finds those among the changes of a batch that the origin refuses.
    async fn store_one_by_one(
        &self,
        namespace: &str,
        planned: &[Planned],
        attempts: &mut HashMap<String, u32>,
    ) -> Result<Progress, LayerError> {
        let mut progress = Progress::Done;
        for planned in planned {
            if !self.queues.renew(namespace).await? {
                return Ok(Progress::Lost);
            }
            match self.tell(namespace, std::slice::from_ref(&planned.change)).await {
                Ok(()) => {
                    self.metrics.stored.inc();
                    self.metrics.coalesced.inc_by(planned.older.len() as u64);
                    if !self.queues.done(namespace, planned.places()).await? {
                        return Ok(Progress::Lost);
                    }
                }
                Err(error) if error.is_outage() => {
                    self.hold(namespace, &error);
                    return Ok(Progress::Held);
                }
                Err(error) => match self.refused(namespace, planned, &error, attempts).await? {
                    Progress::Done => {}
                    Progress::Held => progress = Progress::Held,
                    Progress::Lost => return Ok(Progress::Lost),
                },
            }
        }
        Ok(progress)
    }

    /// Counts a refusal, and makes the change a dead letter when there were enough.
    async fn refused(
        &self,
        namespace: &str,
        planned: &Planned,
        error: &OriginError,
        attempts: &mut HashMap<String, u32>,
    ) -> Result<Progress, LayerError> {
        self.metrics.refused.inc();
        let n_attempts = attempts.entry(planned.id.clone()).or_default();
        *n_attempts += 1;
        if *n_attempts < self.config.attempts {
            return Ok(Progress::Held);
        }
        let reason: String = reason_of(error).chars().take(REASON_CHARS).collect();
        // Those that it makes superfluous stay until it is buried, for there may be no room.
        if !self.bury(namespace, &planned.id, &reason, *n_attempts).await? {
            return Ok(Progress::Held);
        }
        let done = planned.older.is_empty() || self.queues.done(namespace, planned.older_places()).await?;
        Ok(if done { Progress::Done } else { Progress::Lost })
    }

    /// Makes a change a dead letter; false when that was not possible.
    async fn bury(&self, namespace: &str, id: &str, reason: &str, attempts: u32) -> Result<bool, LayerError> {
        let buried = self.queues.bury(namespace, id, self.config.max_dead, reason, attempts).await?;
        match buried {
            Buried::Done => {
                self.metrics.dead.inc();
                tracing::warn!(namespace, reason, attempts, "change became a dead letter");
            }
            Buried::NoRoom => tracing::warn!(namespace, "there is no room for more dead letters"),
            Buried::NotOurs => {}
        }
        Ok(buried == Buried::Done)
    }

    /// A call of the origin ends well before the lease, so no two nodes tell it of a key at once.
    async fn tell(&self, namespace: &str, changes: &[Change]) -> Result<(), OriginError> {
        let policy = self.engine.namespaces.get(namespace);
        let policy = policy.ok_or_else(|| OriginError::Unknown(String::new()))?;
        let within = policy.policy.hard_deadline.min(self.config.lease / 3);
        let told = self.engine.loads.origins.store(&policy.policy.origin, changes, within);
        timeout(within, told).await.unwrap_or(Err(OriginError::Late))
    }

    fn hold(&self, namespace: &str, error: &OriginError) {
        self.metrics.outages.inc();
        tracing::debug!(namespace, error = error as &dyn std::error::Error, "origin does not take changes");
    }

    /// Shows lengths and ages of the queues, of whatever node.
    async fn show(&self, names: &[String]) {
        let mut statuses = Vec::new();
        for name in names {
            let Ok(status) = self.queues.status(name).await else { return };
            statuses.push((name, status));
        }
        // What is not there any longer is empty.
        self.metrics.queued.clear();
        self.metrics.oldest_age_ms.clear();
        self.metrics.dead_letters.clear();
        let (mut oldest, mut n_dead) = (Duration::ZERO, 0);
        for (name, status) in statuses {
            let label = NamespaceLabel { namespace: name.clone() };
            let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
            let age_ms = u64::try_from(status.oldest_age.as_millis()).unwrap_or(u64::MAX);
            self.metrics.queued.get_or_create(&label).set(gauge(status.n_queued));
            self.metrics.oldest_age_ms.get_or_create(&label).set(gauge(age_ms));
            self.metrics.dead_letters.get_or_create(&label).set(gauge(status.n_dead));
            oldest = oldest.max(status.oldest_age);
            n_dead += status.n_dead;
        }
        if oldest > OLD_AFTER {
            self.component.degraded(format!("a change waits for its origin since {} s", oldest.as_secs()));
        } else if n_dead > 0 {
            self.component.degraded(format!("{n_dead} dead letters"));
        } else {
            self.component.healthy("");
        }
    }
}

/// Says it with its cause.
fn reason_of(error: &OriginError) -> String {
    let cause = std::error::Error::source(error);
    cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}
