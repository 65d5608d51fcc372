//! Follows the configuration when it has changed, without a restart.

use std::{sync::Arc, time::SystemTime};

use anyhow::Context as _;
use mainstay_runtime::{Component, ComponentKind, Context};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Mutex,
    task::spawn_blocking,
};

use crate::{
    config::{Change, ReplicaConfig},
    fleet::Fleet,
    metrics::ReloadMetrics,
    report::Reports,
    watch::Watch,
};

/// Reads the configuration again when it is asked to, and has everybody follow what can be followed.
///
/// A configuration with any mistake is refused whole. Statements under way end on the node and on the connection on which
/// they began.
pub(crate) struct Reloader {
    fleet: Arc<Fleet>,
    reports: Arc<Reports>,
    watch: Watch,
    component: Component,
    metrics: ReloadMetrics,
    cx: Context,
    /// What is followed now; held by one reload at a time.
    followed: Mutex<ReplicaConfig>,
    standing: parking_lot::Mutex<Standing>,
}

/// Which configuration counts, and how the last attempt to change it ended.
#[derive(Debug, Clone)]
pub(crate) struct Standing {
    /// Configurations that were followed since the start; the first is 1.
    pub generation: u64,
    pub since: SystemTime,
    /// Keys that have changed where the configuration is kept, and wait for a restart.
    pub needs_restart: Vec<String>,
    /// `None` before the first one.
    pub last: Option<Reload>,
}

/// One attempt.
#[derive(Debug, Clone)]
pub(crate) struct Reload {
    pub at: SystemTime,
    /// Who asked for it: a caller, or the name of a signal.
    pub by: String,
    pub outcome: Outcome,
    /// Keys that are followed since.
    pub applied: Vec<String>,
    /// Everything that is wrong with what was read, one line each.
    pub problems: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Something is followed that was not before.
    Applied,
    /// There was nothing to follow.
    Unchanged,
    /// Nothing was changed: what was read is wrong.
    Refused,
}

impl Outcome {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Unchanged => "unchanged",
            Self::Refused => "refused",
        }
    }
}

impl Reloader {
    /// Begins with the configuration that the process was started with; the fleet follows it already.
    pub(crate) fn new(
        fleet: &Arc<Fleet>,
        reports: &Arc<Reports>,
        watch: Watch,
        config: &ReplicaConfig,
        cx: &Context,
    ) -> Arc<Self> {
        let standing =
            Standing { generation: 1, since: cx.clock().now(), needs_restart: Vec::new(), last: None };
        let metrics = fleet.world.metrics.reload.clone();
        metrics.generation.set(1);
        let component = cx.component("configuration", ComponentKind::Internal, false);
        component.healthy("generation 1");
        Arc::new(Self {
            fleet: Arc::clone(fleet),
            reports: Arc::clone(reports),
            watch,
            component,
            metrics,
            cx: cx.clone(),
            followed: Mutex::new(config.clone()),
            standing: parking_lot::Mutex::new(standing),
        })
    }

    /// Reloads at each SIGHUP.
    pub(crate) fn listen(self: &Arc<Self>) -> anyhow::Result<()> {
        let mut hangups = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
        let (reloader, stopping) = (Arc::clone(self), self.cx.stopping());
        self.cx.spawn("reload", async move {
            loop {
                tokio::select! {
                    () = stopping.cancelled() => return Ok(()),
                    _ = hangups.recv() => drop(reloader.reload("SIGHUP").await),
                }
            }
        });
        Ok(())
    }

    pub(crate) fn standing(&self) -> Standing {
        self.standing.lock().clone()
    }

    /// Reads the configuration, and follows it where nothing is wrong with it. Whoever stops waiting changes nothing: it is
    /// not begun, or done.
    pub(crate) async fn reload(&self, by: &str) -> Standing {
        let mut followed = self.followed.lock().await;
        let cx = self.cx.clone();
        let read = spawn_blocking(move || cx.read_config::<ReplicaConfig>()).await;
        let read = read.unwrap_or_else(|error| Err(vec![format!("cannot be read: {error}")]));
        let outcome = read.and_then(|read| {
            let change = followed.change_to(&read);
            if !change.applied.is_empty() {
                self.follow(&change.followed, &followed).map_err(|error| vec![format!("{error:#}")])?;
                *followed = change.followed.clone();
            }
            Ok(change)
        });
        self.tell(by, outcome)
    }

    fn follow(&self, config: &ReplicaConfig, before: &ReplicaConfig) -> anyhow::Result<()> {
        let topology = self.fleet.follow(config, before)?;
        self.reports.follow(&topology);
        self.watch.follow(config, Some(before));
        self.reports.publish(&self.fleet);
        self.cx.adopt_config(config);
        Ok(())
    }

    fn tell(&self, by: &str, outcome: Result<Change, Vec<String>>) -> Standing {
        let at = self.cx.clock().now();
        let mut standing = self.standing.lock();
        let reload = match outcome {
            Ok(Change { applied, needs_restart, .. }) => {
                let outcome = if applied.is_empty() { Outcome::Unchanged } else { Outcome::Applied };
                if outcome == Outcome::Applied {
                    standing.generation += 1;
                    standing.since = at;
                }
                tracing::info!(
                    by,
                    ?applied,
                    ?needs_restart,
                    generation = standing.generation,
                    "configuration reloaded"
                );
                standing.needs_restart = needs_restart;
                Reload { at, by: by.to_owned(), outcome, applied, problems: Vec::new() }
            }
            Err(problems) => {
                tracing::error!(
                    by,
                    problems = problems.join("; "),
                    "configuration refused, nothing is changed"
                );
                Reload { at, by: by.to_owned(), outcome: Outcome::Refused, applied: Vec::new(), problems }
            }
        };
        self.metrics.told(reload.outcome, standing.generation, standing.needs_restart.len());
        let generation = standing.generation;
        match (&*reload.problems, &*standing.needs_restart) {
            ([], []) => self.component.healthy(format!("generation {generation}")),
            ([], keys) => {
                self.component
                    .degraded(format!("generation {generation}, needs restart: {}", keys.join(", ")));
            }
            (problems, _) => self.component.degraded(format!(
                "generation {generation}, the last reload was refused: {}",
                problems.join("; ")
            )),
        }
        standing.last = Some(reload);
        standing.clone()
    }
}
