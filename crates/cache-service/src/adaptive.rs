//! The strategy `adaptive`: what is observed of a namespace, what each behaviour would have cost, and which one follows.
//!
//! Whatever is chosen, a write is taken by the origin before it is answered, so a change of mind never changes what an
//! answer means.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

mod chooser;
mod rereads;
mod window;

use chooser::Chooser;
pub(crate) use chooser::{Estimate, Observed};
use rereads::Rereads;
use window::Window;

use crate::key::Key;

/// What an adaptive namespace can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// A write goes to the origin and out of the cache: the next read loads it.
    ReadThrough,
    /// A write goes to the origin and into the cache.
    WriteThrough,
    /// As `WriteThrough`, and what is read is loaded again before it ends.
    RefreshAhead,
}

impl Behaviour {
    pub(crate) const ALL: [Self; 3] = [Self::ReadThrough, Self::WriteThrough, Self::RefreshAhead];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::ReadThrough => "read_through",
            Self::WriteThrough => "write_through",
            Self::RefreshAhead => "refresh_ahead",
        }
    }
}

/// Observes one namespace and holds its present choice.
#[derive(Debug)]
pub(crate) struct Adaptive {
    choice: AtomicU8,
    n_loads: AtomicU64,
    n_refreshes: AtomicU64,
    n_writes: AtomicU64,
    n_switches: AtomicU64,
    rereads: Rereads,
    judgement: Mutex<Judgement>,
}

#[derive(Debug)]
struct Judgement {
    window: Window,
    chooser: Chooser,
    last: Option<Report>,
    since_unix_ms: u64,
    /// Why it changed its mind last; empty for what it began with.
    chosen_because: String,
}

impl Judgement {
    /// Says what the last look found, and why the present choice was made if that was an earlier one.
    fn told(&self, is_new: bool, reason: &str) -> String {
        if is_new || self.chosen_because.is_empty() {
            reason.to_owned()
        } else {
            format!("{reason}; chosen because {}", self.chosen_because)
        }
    }
}

/// What was seen last, and what follows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Report {
    pub(crate) chosen: Behaviour,
    /// 0 for what it began with.
    pub(crate) since_unix_ms: u64,
    pub(crate) n_switches: u64,
    pub(crate) reason: String,
    pub(crate) observed: Observed,
    pub(crate) estimates: [Estimate; 3],
}

/// What is known of a namespace beside what [`Adaptive`] counts itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Surroundings {
    /// Reads since the start.
    pub(crate) n_reads: u64,
    pub(crate) load_cost: Duration,
    /// Part of memory in use, 0 to 1.
    pub(crate) fill: f64,
    pub(crate) ttl: Duration,
    /// Since the last look.
    pub(crate) elapsed: Duration,
    pub(crate) now_unix_ms: u64,
}

impl Adaptive {
    pub(crate) fn new() -> Arc<Self> {
        let judgement = Judgement {
            window: Window::default(),
            chooser: Chooser::default(),
            last: None,
            since_unix_ms: 0,
            chosen_because: String::new(),
        };
        Arc::new(Self {
            choice: AtomicU8::new(Behaviour::WriteThrough as u8),
            n_loads: AtomicU64::new(0),
            n_refreshes: AtomicU64::new(0),
            n_writes: AtomicU64::new(0),
            n_switches: AtomicU64::new(0),
            rereads: Rereads::default(),
            judgement: Mutex::new(judgement),
        })
    }

    pub(crate) fn chosen(&self) -> Behaviour {
        let chosen = self.choice.load(Ordering::Relaxed);
        Behaviour::ALL[usize::from(chosen)]
    }

    pub(crate) fn n_switches(&self) -> u64 {
        self.n_switches.load(Ordering::Relaxed)
    }

    pub(crate) fn read(&self, key: &Key) {
        self.rereads.read(key);
    }

    pub(crate) fn wrote(&self, key: &Key) {
        self.n_writes.fetch_add(1, Ordering::Relaxed);
        self.rereads.wrote(key);
    }

    /// Takes note of a load that somebody waited for.
    pub(crate) fn loaded(&self) {
        self.n_loads.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes note of a load before an entry ended.
    pub(crate) fn refreshed(&self) {
        self.n_refreshes.fetch_add(1, Ordering::Relaxed);
    }

    /// Looks at what happened since the last time, and chooses; tells what was chosen instead of what.
    pub(crate) fn look(&self, around: Surroundings) -> Option<(Behaviour, Behaviour, String)> {
        let mut judgement = self.judgement.lock();
        let before = self.chosen();
        let (n_reread, n_unread) = self.rereads.settle();
        let totals = window::Totals {
            reads: around.n_reads,
            writes: self.n_writes.load(Ordering::Relaxed),
            loads: self.n_loads.load(Ordering::Relaxed),
            refreshes: self.n_refreshes.load(Ordering::Relaxed),
        };
        let seen = judgement.window.add(totals, n_reread, n_unread, around.elapsed)?;
        let observed = Observed {
            reads: seen.totals.reads,
            writes: seen.totals.writes,
            loads: seen.totals.loads,
            refreshes: seen.totals.refreshes,
            reread_share: seen.reread_share,
            load_cost: around.load_cost,
            fill: around.fill,
            ttl: around.ttl,
            window: seen.window,
        };
        let estimates = observed.estimates(before);
        let (chosen, reason) = judgement.chooser.choose(before, &observed, &estimates);
        if chosen != before {
            self.choice.store(chosen as u8, Ordering::Relaxed);
            self.n_switches.fetch_add(1, Ordering::Relaxed);
            judgement.since_unix_ms = around.now_unix_ms;
            judgement.chosen_because.clone_from(&reason);
            // What was counted under the other behaviour says little of this one.
            judgement.window.restart();
        }
        judgement.last = Some(Report {
            chosen,
            since_unix_ms: judgement.since_unix_ms,
            n_switches: self.n_switches(),
            reason: judgement.told(chosen != before, &reason),
            observed,
            estimates,
        });
        (chosen != before).then_some((chosen, before, reason))
    }

    /// Returns what the last look found; none before the first.
    pub(crate) fn report(&self) -> Option<Report> {
        self.judgement.lock().last.clone()
    }
}
