//! Silences: times in which people are not told of matching alerts.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::alert::Alert;
use crate::said::{Said, Topic};

/// Keeps notifications of matching alerts back; the alerts themselves go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Silence {
    /// Tells it from others.
    pub id: Uuid,
    /// What an alert must have, exactly: `rule`, `source`, `subject`, `severity` or a label of it.
    pub matchers: BTreeMap<String, String>,
    /// When it begins.
    pub starts_at: SystemTime,
    /// When it ends.
    pub ends_at: SystemTime,
    /// Who wanted it.
    pub by: String,
    /// Why.
    pub comment: String,
}

/// Holds all silences that have not ended.
#[derive(Debug, Default)]
pub(crate) struct Silences {
    silences: BTreeMap<Uuid, Silence>,
    /// Those that were ended before their time, and when that would have been.
    ended: BTreeMap<Uuid, SystemTime>,
}

/// Silences at once.
const SILENCES_MAX: usize = 1_000;
const MATCHERS_MAX: usize = 10;
const DURATION_MAX: Duration = Duration::from_hours(24 * 90);
const COMMENT_MAX: usize = 1_000;

impl Silence {
    /// Reports everything that is wrong with it, field by field.
    pub(crate) fn check(&self, now: SystemTime) -> Vec<(&'static str, &'static str)> {
        let mut problems = Vec::new();
        let mut ensure = |holds: bool, field, message| {
            if !holds {
                problems.push((field, message));
            }
        };
        let n = self.matchers.len();
        ensure((1..=MATCHERS_MAX).contains(&n), "matchers", "must be 1 to 10");
        let legal =
            |(name, value): (&String, &String)| !name.is_empty() && name.len() <= 200 && value.len() <= 500;
        ensure(
            self.matchers.iter().all(legal),
            "matchers",
            "must have names up to 200 and values up to 500 bytes",
        );
        let lasts = self.ends_at.duration_since(self.starts_at).unwrap_or_default();
        ensure(
            !lasts.is_zero() && lasts <= DURATION_MAX,
            "duration",
            "must be above zero and at most 90 days",
        );
        ensure(self.ends_at > now, "starts_at", "must not lie so far back that it is over");
        let written = self.comment.trim().chars().count();
        ensure((1..=COMMENT_MAX).contains(&written), "comment", "must say why, in 1 to 1000 characters");
        problems
    }

    fn covers(&self, alert: &Alert, now: SystemTime) -> bool {
        self.starts_at <= now
            && now < self.ends_at
            && self.matchers.iter().all(|(name, value)| value_of(alert, name) == Some(value))
    }
}

/// Returns what an alert has under a name that a matcher may use.
pub(crate) fn value_of<'a>(alert: &'a Alert, name: &str) -> Option<&'a str> {
    match name {
        "rule" => Some(&*alert.key.rule),
        "source" => Some(&alert.key.source),
        "endpoint" => Some(&alert.key.endpoint),
        "subject" => Some(&alert.key.subject),
        "severity" => Some(alert.severity.as_str()),
        label => alert.labels.get(label).map(String::as_str),
    }
}

impl Silences {
    /// Goes on with what was stored.
    pub(crate) fn new(stored: Vec<Silence>) -> Self {
        let silences = stored.into_iter().map(|silence| (silence.id, silence)).collect();
        Self { silences, ended: BTreeMap::new() }
    }

    /// Adds one; false when there are too many.
    pub(crate) fn add(&mut self, silence: Silence) -> bool {
        if self.silences.len() >= SILENCES_MAX {
            return false;
        }
        self.silences.insert(silence.id, silence);
        true
    }

    /// Ends one before its time; false when there was none.
    pub(crate) fn remove(&mut self, id: Uuid) -> bool {
        let until = self.silences.get(&id).map(|silence| silence.ends_at);
        until.is_some_and(|until| self.end(id, until))
    }

    /// Takes that one was ended that would have lasted until then; false when there was none.
    pub(crate) fn end(&mut self, id: Uuid, until: SystemTime) -> bool {
        while self.ended.len() >= SILENCES_MAX {
            let next = self.ended.iter().min_by_key(|(_, until)| **until).map(|(id, _)| *id);
            next.and_then(|id| self.ended.remove(&id));
        }
        self.ended.insert(id, until);
        self.silences.remove(&id).is_some()
    }

    /// Lists what people said of silences.
    pub(crate) fn said(&self) -> impl Iterator<Item = (Topic, Said)> {
        let silenced = self.silences.iter().map(|(id, silence)| (*id, Said::Silenced(silence.clone())));
        let ended = self.ended.iter().map(|(id, until)| (*id, Said::Ended { until: *until }));
        silenced.chain(ended).map(|(id, said)| (Topic::Silence(id), said))
    }

    /// Forgets those that have ended, and returns which they were.
    pub(crate) fn expire(&mut self, now: SystemTime) -> Vec<Uuid> {
        self.ended.retain(|_, until| *until > now);
        let ended = self.silences.values().filter(|silence| silence.ends_at <= now);
        let ended: Vec<Uuid> = ended.map(|silence| silence.id).collect();
        for id in &ended {
            self.silences.remove(id);
        }
        ended
    }

    /// Lists them, the one that ends first before the others.
    pub(crate) fn list(&self) -> Vec<Silence> {
        let mut all: Vec<Silence> = self.silences.values().cloned().collect();
        all.sort_by_key(|silence| silence.ends_at);
        all
    }

    /// Tells whether people are not to be told of an alert.
    pub(crate) fn cover(&self, alert: &Alert, now: SystemTime) -> bool {
        self.silences.values().any(|silence| silence.covers(alert, now))
    }
}
