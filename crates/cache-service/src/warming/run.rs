//! One run: what it was asked to do, how far it came, and how it ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::config::WarmPlan;

/// Problems that are kept of a run; all are counted.
const MOST_PROBLEMS: usize = 20;
const LONGEST_PROBLEM: usize = 300;

/// A run that waits, is under way, or has ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) id: u64,
    pub(crate) namespace: Box<str>,
    pub(crate) trigger: Trigger,
    /// Who asked for it on demand.
    pub(crate) by: String,
    pub(crate) plan: Arc<WarmPlan>,
    pub(super) cancelled: CancellationToken,
    pub(super) counts: Counts,
    stage: Mutex<Stage>,
}

/// What began a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trigger {
    Start,
    Schedule,
    Demand,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Done,
    Time,
    Bytes,
    Memory,
    Cancelled,
    Stopped,
    /// A source could not be read.
    Failed,
}

/// Keys by how they ended.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) loaded: AtomicU64,
    pub(super) present: AtomicU64,
    pub(super) absent: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) stood_aside_ms: AtomicU64,
}

#[derive(Debug, Clone, Default)]
struct Stage {
    started_at_unix_ms: Option<u64>,
    ended: Option<(End, u64)>,
    problems: Vec<String>,
}

/// What is told of a run.
#[derive(Debug, Clone)]
pub(crate) struct RunFigures {
    pub(crate) state: &'static str,
    pub(crate) started_at_unix_ms: Option<u64>,
    pub(crate) ended_at_unix_ms: Option<u64>,
    pub(crate) loaded: u64,
    pub(crate) present: u64,
    pub(crate) absent: u64,
    pub(crate) failed: u64,
    pub(crate) refused: u64,
    pub(crate) bytes: u64,
    pub(crate) stood_aside: Duration,
    pub(crate) problems: Vec<String>,
}

impl Run {
    pub(super) fn new(id: u64, namespace: &str, trigger: Trigger, by: String, plan: Arc<WarmPlan>) -> Self {
        Self {
            id,
            namespace: namespace.into(),
            trigger,
            by,
            plan,
            cancelled: CancellationToken::new(),
            counts: Counts::default(),
            stage: Mutex::default(),
        }
    }

    pub(super) fn begin(&self, unix_ms: u64) {
        self.stage.lock().started_at_unix_ms = Some(unix_ms);
    }

    pub(super) fn end(&self, end: End, unix_ms: u64) {
        self.stage.lock().ended = Some((end, unix_ms));
    }

    pub(super) fn has_ended(&self) -> bool {
        self.stage.lock().ended.is_some()
    }

    /// Keeps a problem, if there are not too many by now.
    pub(super) fn problem(&self, problem: &str) {
        let mut stage = self.stage.lock();
        if stage.problems.len() < MOST_PROBLEMS {
            let shown: String = problem.chars().take(LONGEST_PROBLEM).collect();
            stage.problems.push(shown);
        }
    }

    pub(crate) fn figures(&self) -> RunFigures {
        let Stage { started_at_unix_ms, ended, problems } = self.stage.lock().clone();
        let state = match (started_at_unix_ms, ended) {
            (_, Some((end, _))) => end.as_str(),
            (Some(_), None) => "running",
            (None, None) => "waiting",
        };
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        RunFigures {
            state,
            started_at_unix_ms,
            ended_at_unix_ms: ended.map(|(_, at)| at),
            loaded: count(&self.counts.loaded),
            present: count(&self.counts.present),
            absent: count(&self.counts.absent),
            failed: count(&self.counts.failed),
            refused: count(&self.counts.refused),
            bytes: count(&self.counts.bytes),
            stood_aside: Duration::from_millis(count(&self.counts.stood_aside_ms)),
            problems,
        }
    }
}

impl Trigger {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Schedule => "schedule",
            Self::Demand => "demand",
        }
    }
}

impl End {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Time => "time",
            Self::Bytes => "bytes",
            Self::Memory => "memory",
            Self::Cancelled => "cancelled",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}
