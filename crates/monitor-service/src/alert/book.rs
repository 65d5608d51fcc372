//! All alerts: what is open, and what was.

mod others;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::flap::Flaps;
use super::state::{Input, Machine, Phase, Timing, Transition};
use super::{Absence, Acknowledgement, Alert, AlertState, Breach, Counts, Key, Notice, Repeated, Severity};

/// Keeps at most `keep` alerts, in memory: the open ones, and as many resolved ones as there is room for.
///
/// When there is no room the oldest resolved alert goes. While all that is kept is open, new conditions are refused.
#[derive(Debug)]
pub(crate) struct AlertBook {
    /// By episode number: the newest is last.
    alerts: BTreeMap<u64, Alert>,
    open: BTreeMap<Key, Track>,
    next_number: u64,
    keep: NonZeroUsize,
    refused: usize,
    flaps: Flaps,
    forgotten: Vec<u64>,
}

/// Holds an alert as it is stored, with what it takes to go on with it after a restart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// The alert.
    pub alert: Alert,
    /// Where its machine stands; none once it is over.
    pub open: Option<(Machine, Timing)>,
}

#[derive(Debug)]
struct Track {
    machine: Machine,
    timing: Timing,
    number: u64,
}

/// Tells that an alert changed; the alert is as it was afterwards.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    /// What happened.
    pub change: Change,
    /// The alert after it.
    pub alert: Alert,
}

/// Names what happened to an alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Its state changed.
    State(Transition),
    /// It got worse while open.
    Raised,
    /// Somebody looks after it.
    Acknowledged,
    /// Its acknowledgement ran out.
    AcknowledgementExpired,
    /// It still fires, and what held its notification back is over.
    Released,
    /// It still fires, and nobody looks after it: the channel named last in it is told.
    Escalated,
    /// It fires on, and nobody looks after it: the channel named last in it is told again.
    Repeated,
}

impl Change {
    /// Returns a word for it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::State(transition) => transition.as_str(),
            Self::Raised => "raised",
            Self::Acknowledged => "acknowledged",
            Self::AcknowledgementExpired => "acknowledgement_expired",
            Self::Released => "released",
            Self::Escalated => "escalated",
            Self::Repeated => "repeated",
        }
    }
}

/// Says which alerts are wanted; empty and absent mean all.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    /// Any of these.
    pub states: Vec<AlertState>,
    /// Any of these.
    pub severities: Vec<Severity>,
    /// The service they come from.
    pub source: Option<String>,
    /// Started then or later.
    pub from: Option<SystemTime>,
    /// Started before.
    pub to: Option<SystemTime>,
}

/// Holds a part of a list, newest first.
#[derive(Debug, Default)]
pub(crate) struct Page<'b> {
    /// At most as many as asked for.
    pub alerts: Vec<&'b Alert>,
    /// Ask for what is before this number to get the next page; absent on the last one.
    pub next_before: Option<u64>,
}

/// Says why an alert cannot be acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AcknowledgeError {
    /// Never was, or has been forgotten.
    #[error("no such alert")]
    NotFound,
    /// It is not as the caller saw it.
    #[error("the alert has changed: its version is {0}")]
    Changed(u32),
    /// There is nothing left to look after.
    #[error("the alert is already resolved")]
    AlreadyResolved,
}

impl AlertBook {
    /// Starts empty.
    pub(crate) fn new(keep: NonZeroUsize) -> Self {
        Self {
            alerts: BTreeMap::new(),
            open: BTreeMap::new(),
            next_number: 1,
            keep,
            refused: 0,
            flaps: Flaps::default(),
            forgotten: Vec::new(),
        }
    }

    /// Goes on with what an earlier process stored.
    pub(crate) fn restore(&mut self, kept: impl IntoIterator<Item = Kept>) {
        for Kept { alert, open } in kept {
            self.next_number = self.next_number.max(alert.number + 1);
            if let Some((machine, timing)) = open {
                self.open.insert(alert.key.clone(), Track { machine, timing, number: alert.number });
            } else if self.alerts.len() >= self.keep.get() {
                continue;
            }
            self.alerts.insert(alert.number, alert);
        }
    }

    /// Copies an alert as it is to be stored; none if it has been forgotten.
    pub(crate) fn kept(&self, number: u64) -> Option<Kept> {
        let alert = self.alerts.get(&number)?.clone();
        let open = self.open.get(&alert.key).filter(|track| track.number == number);
        Some(Kept { alert, open: open.map(|track| (track.machine, track.timing)) })
    }

    /// Returns the numbers of alerts that were forgotten since the last call.
    pub(crate) fn take_forgotten(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.forgotten)
    }

    /// Lists the numbers of all alerts, oldest first.
    pub(crate) fn numbers(&self) -> Vec<u64> {
        self.alerts.keys().copied().collect()
    }

    /// Tells whether an episode of this is open, and how bad it is.
    pub(crate) fn severity(&self, key: &Key) -> Option<Severity> {
        let alert = self.alerts.get(&self.open.get(key)?.number)?;
        (alert.state == AlertState::Firing).then_some(alert.severity)
    }

    /// Decides whether people are told of an event, and keeps in mind what they were told.
    ///
    /// What is silenced or flaps is held back, once it fires; that it is over is told to those who know of it.
    pub(crate) fn notify(&mut self, event: &mut Event, is_silenced: bool, now: SystemTime) -> bool {
        let Some(alert) = self.alerts.get_mut(&event.alert.number) else { return false };
        if event.change == Change::Repeated {
            // Nothing happened to the alert itself.
            return true;
        }
        alert.version = alert.version.saturating_add(1);
        event.alert.version = alert.version;
        let tell = match event.change {
            Change::State(Transition::Fired) if is_silenced || alert.flapping => {
                alert.notice = Notice::HeldBack;
                false
            }
            Change::State(Transition::Fired) | Change::Released => {
                alert.notice = Notice::Sent;
                true
            }
            Change::Escalated => !is_silenced,
            Change::Raised => alert.notice == Notice::Sent && !is_silenced,
            Change::State(Transition::Resolved) => alert.notice == Notice::Sent,
            Change::State(_) | Change::Acknowledged | Change::AcknowledgementExpired | Change::Repeated => {
                false
            }
        };
        if tell {
            alert.told_at = Some(now);
        }
        event.alert.notice = alert.notice;
        event.alert.told_at = alert.told_at;
        tell
    }

    /// Finds what fires, was held back and has no reason to be held back any longer.
    pub(crate) fn released(&self, now: SystemTime, is_silenced: impl Fn(&Alert) -> bool) -> Vec<Event> {
        let open = self.open.values().filter_map(|track| self.alerts.get(&track.number));
        let held = open.filter(|alert| alert.notice == Notice::HeldBack && !is_silenced(alert));
        let calm =
            held.filter(|alert| !alert.flapping || alert.fired_at.is_some_and(|at| Flaps::is_calm(at, now)));
        calm.map(|alert| Event { change: Change::Released, alert: alert.clone() }).collect()
    }

    /// Takes all breaches there are now; `absent` tells about an open alert that is not among them.
    ///
    /// Returns what changed, in order. `fresh_id` names new episodes.
    pub(crate) fn evaluate(
        &mut self,
        breaches: Vec<Breach>,
        absent: impl Fn(&Key) -> Absence,
        now: SystemTime,
        mut fresh_id: impl FnMut() -> Uuid,
    ) -> Vec<Event> {
        let mut events = Vec::new();
        self.expire_acknowledgements(now, &mut events);
        self.refused = 0;
        let mut broken = BTreeSet::new();
        for breach in breaches {
            broken.insert(breach.key.clone());
            let input = Input::Breach { since: breach.since.unwrap_or(now) };
            if !self.open.contains_key(&breach.key) && !self.open_episode(&breach, now, &mut fresh_id) {
                self.refused += 1;
                continue;
            }
            self.refresh(&breach, &mut events);
            self.drive(&breach.key, input, now, &mut events);
        }
        let gone: Vec<Key> = self.open.keys().filter(|key| !broken.contains(*key)).cloned().collect();
        for key in gone {
            let input = match absent(&key) {
                Absence::Waiting => continue,
                Absence::Unseen => Input::Unseen,
                Absence::Fine(since) => Input::Clear { since: since.unwrap_or(now) },
            };
            self.drive(&key, input, now, &mut events);
        }
        events
    }

    /// Walks the alerts that fire.
    pub(crate) fn firing_now(&self) -> impl Iterator<Item = &Alert> {
        let open = self.open.values().filter_map(|track| self.alerts.get(&track.number));
        open.filter(|alert| alert.state == AlertState::Firing)
    }

    /// Finds what people were told of and nobody looks after, for as long as a channel waits for that: each channel once.
    pub(crate) fn escalated(
        &mut self,
        channels: &[(String, Duration)],
        now: SystemTime,
        is_silenced: impl Fn(&Alert) -> bool,
    ) -> Vec<Event> {
        let mut events = Vec::new();
        for track in self.open.values() {
            let Some(alert) = self.alerts.get_mut(&track.number) else { continue };
            let alone = alert.state == AlertState::Firing
                && alert.notice == Notice::Sent
                && alert.acknowledgement.is_none();
            let Some(fired_at) = alert.fired_at.filter(|_| alone) else { continue };
            let since = now.duration_since(fired_at).unwrap_or_default();
            for (channel, after) in channels {
                if since >= *after && !alert.escalated.contains(channel) && !is_silenced(alert) {
                    alert.escalated.push(channel.clone());
                    events.push(Event { change: Change::Escalated, alert: alert.clone() });
                }
            }
        }
        events
    }

    /// Finds what people were told of, fires on, and nobody looks after; `due` tells which channels want to hear of it again,
    /// and how long after they last did.
    pub(crate) fn repeated(
        &mut self,
        due: impl Fn(&Alert) -> Vec<(String, Duration)>,
        now: SystemTime,
        is_silenced: impl Fn(&Alert) -> bool,
    ) -> Vec<Event> {
        let mut events = Vec::new();
        for track in self.open.values() {
            let Some(alert) = self.alerts.get_mut(&track.number) else { continue };
            let alone = alert.state == AlertState::Firing
                && alert.notice == Notice::Sent
                && alert.acknowledgement.is_none();
            let Some(told_at) = alert.told_at.or(alert.fired_at).filter(|_| alone) else { continue };
            for (channel, every) in due(alert) {
                let again = alert.repeated.iter().position(|repeated| repeated.channel == channel);
                let last = again.map_or(told_at, |again| alert.repeated[again].at.max(told_at));
                if now.duration_since(last).unwrap_or_default() < every || is_silenced(alert) {
                    continue;
                }
                if let Some(again) = again {
                    alert.repeated.remove(again);
                }
                alert.repeated.push(Repeated { channel, at: now });
                events.push(Event { change: Change::Repeated, alert: alert.clone() });
            }
        }
        events
    }

    /// Records that somebody looks after an alert; replaces an earlier acknowledgement. With a version, only if that is
    /// the alert's.
    pub(crate) fn acknowledge(
        &mut self,
        id: Uuid,
        by: Acknowledgement,
        if_version: Option<u32>,
    ) -> Result<Event, AcknowledgeError> {
        let alert = self.alerts.values_mut().rev().find(|alert| alert.id == id);
        let alert = alert.ok_or(AcknowledgeError::NotFound)?;
        if alert.state == AlertState::Resolved {
            return Err(AcknowledgeError::AlreadyResolved);
        }
        if if_version.is_some_and(|version| version != alert.version) {
            return Err(AcknowledgeError::Changed(alert.version));
        }
        alert.acknowledgement = Some(by);
        Ok(Event { change: Change::Acknowledged, alert: alert.clone() })
    }

    /// Lists alerts, newest first, from the one before `before` on.
    pub(crate) fn page(&self, filter: &Filter, before: Option<u64>, limit: usize) -> Page<'_> {
        let from_newest = self.alerts.range(..before.unwrap_or(u64::MAX)).rev().map(|(_, alert)| alert);
        let mut matching = from_newest.filter(|alert| filter.lets_through(alert));
        let alerts: Vec<&Alert> = matching.by_ref().take(limit).collect();
        let next_before = alerts.last().filter(|_| matching.next().is_some()).map(|alert| alert.number);
        Page { alerts, next_before }
    }

    /// Counts what fires now.
    pub(crate) fn firing(&self) -> Counts {
        let mut counts = Counts::default();
        for alert in self.alerts.values().filter(|alert| alert.state == AlertState::Firing) {
            counts.add(alert.severity);
        }
        counts
    }

    /// Counts the conditions that the last evaluation found no room for.
    pub(crate) fn refused_now(&self) -> usize {
        self.refused
    }

    fn open_episode(
        &mut self,
        breach: &Breach,
        now: SystemTime,
        fresh_id: &mut impl FnMut() -> Uuid,
    ) -> bool {
        if !self.make_room() {
            return false;
        }
        let number = self.next_number;
        self.next_number += 1;
        let alert = Alert {
            number,
            id: fresh_id(),
            key: breach.key.clone(),
            severity: breach.severity,
            state: AlertState::Pending,
            summary: String::new(),
            value: breach.value,
            threshold: breach.threshold,
            labels: BTreeMap::new(),
            started_at: breach.since.unwrap_or(now).min(now),
            fired_at: None,
            resolved_at: None,
            acknowledgement: None,
            notice: Notice::Nothing,
            flapping: false,
            version: 0,
            escalated: Vec::new(),
            told_at: None,
            repeated: Vec::new(),
        };
        self.alerts.insert(number, alert);
        let track = Track { machine: Machine::default(), timing: breach.timing, number };
        self.open.insert(breach.key.clone(), track);
        true
    }

    fn make_room(&mut self) -> bool {
        if self.alerts.len() < self.keep.get() {
            return true;
        }
        let oldest =
            self.alerts.values().find(|alert| alert.state == AlertState::Resolved).map(|alert| alert.number);
        self.forgotten.extend(oldest);
        oldest.is_some_and(|number| self.alerts.remove(&number).is_some())
    }

    fn refresh(&mut self, breach: &Breach, events: &mut Vec<Event>) {
        let Some(track) = self.open.get_mut(&breach.key) else { return };
        track.timing = breach.timing;
        let Some(alert) = self.alerts.get_mut(&track.number) else { return };
        alert.summary.clone_from(&breach.summary);
        alert.labels.clone_from(&breach.labels);
        alert.value = breach.value;
        alert.threshold = breach.threshold;
        if breach.severity > alert.severity {
            alert.severity = breach.severity;
            if alert.state == AlertState::Firing {
                events.push(Event { change: Change::Raised, alert: alert.clone() });
            }
        }
    }

    fn drive(&mut self, key: &Key, input: Input, now: SystemTime, events: &mut Vec<Event>) {
        let Some(track) = self.open.get_mut(key) else { return };
        while let Some(transition) = track.machine.step(input, track.timing, now) {
            let Some(alert) = self.alerts.get_mut(&track.number) else { break };
            match transition {
                Transition::Fired => {
                    alert.state = AlertState::Firing;
                    alert.fired_at = Some(now);
                    alert.flapping = self.flaps.fired(key, now);
                }
                Transition::Resolved => {
                    alert.state = AlertState::Resolved;
                    alert.resolved_at = Some(now);
                }
                Transition::Started
                | Transition::Withdrawn
                | Transition::Recovering
                | Transition::Relapsed => {}
            }
            events.push(Event { change: Change::State(transition), alert: alert.clone() });
        }
        match track.machine.phase() {
            Phase::Inactive => {
                self.alerts.remove(&track.number);
                self.forgotten.push(track.number);
                self.open.remove(key);
            }
            Phase::Resolved => {
                self.open.remove(key);
            }
            Phase::Pending { .. } | Phase::Firing { .. } | Phase::Recovering { .. } => {}
        }
    }

    fn expire_acknowledgements(&mut self, now: SystemTime, events: &mut Vec<Event>) {
        for track in self.open.values() {
            let Some(alert) = self.alerts.get_mut(&track.number) else { continue };
            if alert.acknowledgement.take_if(|acknowledgement| !acknowledgement.holds(now)).is_some() {
                events.push(Event { change: Change::AcknowledgementExpired, alert: alert.clone() });
            }
        }
    }
}

impl Filter {
    fn lets_through(&self, alert: &Alert) -> bool {
        (self.states.is_empty() || self.states.contains(&alert.state))
            && (self.severities.is_empty() || self.severities.contains(&alert.severity))
            && self.source.as_ref().is_none_or(|source| *source == alert.key.source)
            && self.from.is_none_or(|from| alert.started_at >= from)
            && self.to.is_none_or(|to| alert.started_at < to)
    }
}

#[cfg(test)]
mod tests;
