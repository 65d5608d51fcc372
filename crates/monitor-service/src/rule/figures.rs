//! All rules about figures, and what became of them when they were last looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use super::definition::{Rule, RuleKind, RuleSpec};
use super::look::{Matched, Scene, Seen, look, problem};
use super::stock;
use crate::alert::{Absence, Breach, Key, Severity};
use crate::roster::Roster;
use crate::series::History;

/// Holds the rules in force: stock ones, replaced by configured ones, replaced by those set at run time.
#[derive(Debug)]
pub(crate) struct FigureRules {
    base: BTreeMap<String, (Rule, Origin)>,
    runtime: BTreeMap<String, Rule>,
    /// By the index of the target.
    seen: BTreeMap<usize, Seen>,
}

/// Says where a rule comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Ours.
    Stock,
    /// The configuration.
    Config,
    /// Set at run time.
    Runtime,
}

/// Tells what a rule saw when it was last looked at.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Look {
    /// Series, or targets of sums.
    pub n_matched: usize,
    /// Why it cannot fire, if so.
    pub problem: &'static str,
    /// When.
    pub at: Option<SystemTime>,
}

/// Holds a rule with what became of it.
#[derive(Debug, Clone)]
pub(crate) struct RuleStatus {
    /// The rule.
    pub rule: Rule,
    /// Where it comes from.
    pub origin: Origin,
    /// What it saw.
    pub look: Look,
}

/// Rules set at run time at most.
pub(crate) const RUNTIME_MAX: usize = 1_000;

impl Origin {
    /// Returns the lower-case name.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Stock => "stock",
            Self::Config => "config",
            Self::Runtime => "runtime",
        }
    }
}

impl FigureRules {
    /// Puts the rules together.
    pub(crate) fn new(
        imported: Vec<Rule>,
        configured: &BTreeMap<String, RuleSpec>,
        runtime: Vec<Rule>,
    ) -> Self {
        let stock = stock::stock().into_iter().map(|rule| (rule, Origin::Stock));
        let imported = imported.into_iter().map(|rule| (rule, Origin::Config));
        let configured = configured
            .iter()
            .map(|(name, spec)| (Rule { name: name.clone(), spec: spec.clone() }, Origin::Config));
        Self {
            base: stock
                .chain(imported)
                .chain(configured)
                .map(|(rule, origin)| (rule.name.clone(), (rule, origin)))
                .collect(),
            runtime: runtime.into_iter().map(|rule| (rule.name.clone(), rule)).collect(),
            seen: BTreeMap::new(),
        }
    }

    /// Lists the rules in force, by name.
    pub(crate) fn list(&self) -> Vec<RuleStatus> {
        let status = |(rule, origin): (&Rule, Origin)| RuleStatus {
            rule: rule.clone(),
            origin,
            look: self.seen_by(rule),
        };
        let mut all: Vec<RuleStatus> = self.in_force().map(status).collect();
        all.sort_by(|one, other| one.rule.name.cmp(&other.rule.name));
        all
    }

    /// Sums up what a rule saw of all targets.
    fn seen_by(&self, rule: &Rule) -> Look {
        let Some(at) = self.seen.values().map(|seen| seen.at).max().filter(|_| !rule.spec.disabled) else {
            return Look::default();
        };
        let of_rule = self.seen.values().filter_map(|seen| seen.matched.get(&rule.name));
        let Matched { n, n_quiet } = of_rule.fold(Matched::default(), |sum, matched| Matched {
            n: sum.n + matched.n,
            n_quiet: sum.n_quiet + matched.n_quiet,
        });
        Look { n_matched: n, problem: problem(n, n_quiet), at: Some(at) }
    }

    /// Counts the rules in force by where they come from: stock, configured, set at run time.
    pub(crate) fn count(&self) -> [(Origin, usize); 3] {
        [Origin::Stock, Origin::Config, Origin::Runtime]
            .map(|origin| (origin, self.in_force().filter(|(_, of)| *of == origin).count()))
    }

    /// Tells whether all of these could be set at run time.
    pub(crate) fn has_room(&self, names: &BTreeSet<String>) -> bool {
        let n_new = names.iter().filter(|name| !self.runtime.contains_key(*name)).count();
        self.runtime.len() + n_new <= RUNTIME_MAX
    }

    /// Sets a rule at run time; false when there are too many.
    pub(crate) fn put(&mut self, rule: Rule) -> bool {
        if self.runtime.len() >= RUNTIME_MAX && !self.runtime.contains_key(&rule.name) {
            return false;
        }
        self.seen.clear();
        self.runtime.insert(rule.name.clone(), rule);
        true
    }

    /// Removes a rule that was set at run time; false when there was none.
    pub(crate) fn delete(&mut self, name: &str) -> bool {
        self.seen.clear();
        self.runtime.remove(name).is_some()
    }

    /// Looks at the targets in `news`, and at those that nobody looked at for `at_latest`, since windows move on also where
    /// nothing is read; `open` tells how bad an open alert is. Returns how many those were.
    pub(crate) fn look(
        &mut self,
        scene: &Scene<'_>,
        news: &BTreeSet<usize>,
        at_latest: Duration,
        open: impl Fn(&Key) -> Option<Severity>,
    ) -> usize {
        let rests = |seen: &Seen| scene.now.duration_since(seen.at).is_ok_and(|since| since < at_latest);
        let is_due = |index: &usize| news.contains(index) || !self.seen.get(index).is_some_and(rests);
        let watched: BTreeMap<usize, _> =
            scene.history.watched().map(|target| (target.index, target)).collect();
        let due: Vec<usize> = watched.keys().copied().filter(is_due).collect();
        for index in &due {
            let seen = look(self.in_force().map(|(rule, _)| rule), watched[index], scene, &open);
            self.seen.insert(*index, seen);
        }
        self.seen.retain(|index, _| watched.contains_key(index));
        due.len()
    }

    /// Returns what was broken when each target was last looked at.
    pub(crate) fn breaches(&self) -> impl Iterator<Item = Breach> + '_ {
        self.seen.values().flat_map(|seen| &seen.breaches).cloned()
    }

    /// Tells what is known about an open alert that is not among the breaches; none if no rule here gave it.
    pub(crate) fn absence(
        &self,
        key: &Key,
        history: &History,
        roster: &Roster,
        now: SystemTime,
    ) -> Option<Absence> {
        let base = || self.base.get(&*key.rule).map(|(rule, _)| rule);
        let rule = self.runtime.get(&*key.rule).or_else(base)?;
        if roster.isolated_since().is_some() && !key.endpoint.is_empty() {
            return Some(Absence::Unseen);
        }
        let first = history.first_at(&key.source, &key.endpoint);
        let needs = match rule.spec.kind {
            RuleKind::Threshold => Duration::ZERO,
            RuleKind::Rate
            | RuleKind::Ratio
            | RuleKind::Share
            | RuleKind::Quantile
            | RuleKind::Absence
            | RuleKind::Anomaly
            | RuleKind::Forecast
            | RuleKind::BurnRate => rule.spec.window,
        };
        let watched = first.is_some_and(|first| now.duration_since(first).unwrap_or_default() >= needs);
        if !watched && history.knows(&key.source, &key.endpoint) {
            return Some(Absence::Waiting);
        }
        let silent = roster.find(&key.source, &key.endpoint).is_some_and(|entry| entry.current().is_none());
        Some(if silent { Absence::Unseen } else { Absence::Fine(None) })
    }

    fn in_force(&self) -> impl Iterator<Item = (&Rule, Origin)> {
        let base = self.base.iter().filter(|(name, _)| !self.runtime.contains_key(*name));
        let base = base.map(|(_, (rule, origin))| (rule, *origin));
        base.chain(self.runtime.values().map(|rule| (rule, Origin::Runtime)))
    }
}

#[cfg(test)]
mod tests;
