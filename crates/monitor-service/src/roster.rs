//! What is known of every target right now.

mod verdict;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mainstay_runtime::{ComponentKind, Health};

use crate::target::{Target, TargetKind};
pub(crate) use verdict::Verdict;

/// Holds the last known state of each target, and for how long one has not answered.
#[derive(Debug)]
pub(crate) struct Roster {
    entries: Vec<Entry>,
    reunited_at: Option<SystemTime>,
}

/// Holds what is known of one target. What it said last stays, with its age, while it does not answer.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Which target.
    pub target: Arc<Target>,
    /// What it said when it last answered.
    pub report: Option<Report>,
    /// Present while it does not answer.
    pub failing: Option<Failing>,
    /// Why its metrics could not be read, although it answers.
    pub unreadable: Option<String>,
    /// Pulls made.
    pub pulls: u64,
    /// Pulls that failed.
    pub pull_failures: u64,
    /// Pulls that failed since the last one after which the target was as it should be.
    pub bad_in_a_row: u32,
    /// It has left DNS: nothing is held against it if it ends.
    pub is_leaving: bool,
}

/// Tells since when and why a target does not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failing {
    /// When the first pull of this row failed.
    pub since: SystemTime,
    /// Why the last one did.
    pub reason: String,
}

/// Holds what a process says about itself.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    /// When it was pulled.
    pub seen_at: SystemTime,
    /// How long the pull took.
    pub latency: Duration,
    /// Name the process gave itself; new after a restart.
    pub instance: String,
    /// Version of its binary.
    pub version: String,
    /// When it started.
    pub started_at: Option<SystemTime>,
    /// Whether it can serve traffic.
    pub ready: bool,
    /// What keeps it from that.
    pub not_ready_because: Vec<String>,
    /// Whether it is shutting down.
    pub draining: bool,
    /// What it is made of and leans on.
    pub components: Vec<ComponentReport>,
    /// Internal errors it has met, grouped.
    pub errors: Vec<ErrorReport>,
}

/// Holds one group of internal errors of a process.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ErrorReport {
    /// Tells groups apart.
    pub fingerprint: String,
    /// Error code.
    pub code: String,
    /// Where it was handled.
    pub target: String,
    /// The latest message.
    pub message: String,
    /// Occurrences since the process started.
    pub count: u64,
    /// When it was first seen.
    pub first_seen_at: Option<SystemTime>,
    /// When it was last seen.
    pub last_seen_at: Option<SystemTime>,
    /// A trace of it; may be empty.
    pub trace_id: String,
}

/// Holds what a process says about a part of it. Times are by the monitor's clock.
#[derive(Debug, Clone)]
pub(crate) struct ComponentReport {
    /// Unique within the process.
    pub name: String,
    /// Its role.
    pub kind: ComponentKind,
    /// How well it works.
    pub health: Health,
    /// The process is not ready without it.
    pub critical: bool,
    /// One line for a person.
    pub detail: String,
    /// Since when its health is what it is.
    pub since: SystemTime,
    /// When it was last looked at.
    pub checked_at: Option<SystemTime>,
    /// How long that took.
    pub latency: Option<Duration>,
    /// Facts worth showing.
    pub attributes: BTreeMap<String, String>,
}

/// Tells how the collection as a whole goes. A target that was not asked yet neither answers nor fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reach {
    /// Addresses watched.
    pub(crate) n_targets: usize,
    /// Those that answered the last pull.
    pub(crate) n_answering: usize,
    /// Those that did not.
    pub(crate) n_failing: usize,
}

impl Roster {
    /// Starts without knowing anything of its targets.
    pub(crate) fn new(targets: &[Arc<Target>]) -> Self {
        Self { entries: targets.iter().map(Entry::new).collect(), reunited_at: None }
    }

    /// Takes a target, whose index is greater than any before.
    pub(crate) fn add(&mut self, target: &Arc<Target>) {
        self.entries.push(Entry::new(target));
    }

    /// Takes that a target is expected to end, or is not.
    pub(crate) fn leaves(&mut self, target: &Target, is_leaving: bool) {
        if let Some(entry) = self.entry_mut(target) {
            entry.is_leaving = is_leaving;
        }
    }

    /// Forgets a target.
    pub(crate) fn remove(&mut self, target: &Target) {
        self.entries.retain(|entry| entry.target.index != target.index);
    }

    fn entry_mut(&mut self, target: &Target) -> Option<&mut Entry> {
        let position = self.entries.binary_search_by_key(&target.index, |entry| entry.target.index).ok()?;
        self.entries.get_mut(position)
    }

    fn staying(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| !entry.is_leaving)
    }

    /// Takes an answer. `unreadable` says what was wrong with its metrics, if anything was.
    pub(crate) fn answered(&mut self, target: &Target, report: Report, unreadable: Option<String>) {
        let was_isolated = self.isolated_since().is_some();
        if self.entry_mut(target).is_some() && was_isolated {
            self.reunited_at = Some(report.seen_at);
        }
        let Some(entry) = self.entry_mut(target) else { return };
        entry.pulls += 1;
        entry.bad_in_a_row = if report.ready { 0 } else { entry.bad_in_a_row.saturating_add(1) };
        entry.report = Some(report);
        entry.unreadable = unreadable;
        entry.failing = None;
    }

    /// Takes a pull that brought no answer.
    pub(crate) fn failed(&mut self, target: &Target, reason: String, now: SystemTime) {
        let Some(entry) = self.entry_mut(target) else { return };
        entry.pulls += 1;
        entry.pull_failures += 1;
        entry.bad_in_a_row = entry.bad_in_a_row.saturating_add(1);
        match &mut entry.failing {
            Some(failing) => failing.reason = reason,
            none => *none = Some(Failing { since: now, reason }),
        }
    }

    /// Tells since when no target at all answers; then the monitor is the one that is cut off.
    ///
    /// With a single target nothing can be told apart, and that target is taken to be down. Where there are services, they
    /// decide, since they are asked most often; what is asked less often speaks against it only by an answer from after
    /// the last of them failed.
    pub(crate) fn isolated_since(&self) -> Option<SystemTime> {
        if self.staying().count() < 2 {
            return None;
        }
        let is_service = |entry: &&Entry| entry.target.terms.kind == TargetKind::Service;
        let n_services = self.staying().filter(is_service).count();
        let decides = |entry: &&Entry| n_services < 2 || is_service(entry);
        let since = |entry: &Entry| entry.failing.as_ref().map(|failing| failing.since);
        let since = self
            .staying()
            .filter(decides)
            .map(since)
            .try_fold(SystemTime::UNIX_EPOCH, |latest, since| Some(latest.max(since?)))?;
        let has_answered = |entry: &Entry| entry.current().is_some_and(|report| report.seen_at > since);
        (!self.entries.iter().any(has_answered)).then_some(since)
    }

    /// Tells since when a target does not answer, not counting the time in which no target did.
    pub(crate) fn down_since(&self, entry: &Entry) -> Option<SystemTime> {
        let failing = entry.failing.as_ref()?;
        if self.isolated_since().is_some() {
            return None;
        }
        Some(self.reunited_at.map_or(failing.since, |reunited_at| failing.since.max(reunited_at)))
    }

    /// Returns every target with what is known of it.
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Finds a target by its address.
    pub(crate) fn find(&self, service: &str, endpoint: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.target.service == service && entry.target.endpoint == endpoint)
    }

    /// Tells how the collection as a whole goes.
    pub(crate) fn reach(&self) -> Reach {
        Reach {
            n_targets: self.staying().count(),
            n_answering: self.staying().filter(|entry| entry.current().is_some()).count(),
            n_failing: self.staying().filter(|entry| entry.failing.is_some()).count(),
        }
    }
}

impl Entry {
    fn new(target: &Arc<Target>) -> Self {
        Self {
            target: Arc::clone(target),
            report: None,
            failing: None,
            unreadable: None,
            pulls: 0,
            pull_failures: 0,
            bad_in_a_row: 0,
            is_leaving: false,
        }
    }

    /// Returns what the target says about itself, while it answers.
    pub(crate) fn current(&self) -> Option<&Report> {
        self.report.as_ref().filter(|_| self.failing.is_none())
    }
}

impl Report {
    /// Makes that of something which says nothing about itself but answers; `not_ready_because` tells what is wrong.
    pub(crate) fn of_stranger(
        seen_at: SystemTime,
        latency: Duration,
        version: String,
        not_ready_because: Vec<String>,
    ) -> Self {
        Self {
            seen_at,
            latency,
            instance: String::new(),
            version,
            started_at: None,
            ready: not_ready_because.is_empty(),
            not_ready_because,
            draining: false,
            components: Vec::new(),
            errors: Vec::new(),
        }
    }

    /// Finds a component by its name.
    pub(crate) fn component(&self, name: &str) -> Option<&ComponentReport> {
        self.components.iter().find(|component| component.name == name)
    }
}

#[cfg(test)]
pub(crate) mod tests;
