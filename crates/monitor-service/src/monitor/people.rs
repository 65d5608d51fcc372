//! What people do: acknowledge, silence, set rules. Each answer waits until it is durable.

use std::collections::BTreeSet;
use std::time::SystemTime;

use uuid::Uuid;

use super::Monitor;
use crate::alert::{AcknowledgeError, Acknowledgement, Alert, Record};
use crate::notify::ChannelStatus;
use crate::rule::{Episode, Look, Rule, RuleStatus, dry_run};
use crate::silence::Silence;
use crate::store::{Changes, StoreError};

/// Says why something was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PutError<E: std::error::Error + 'static> {
    /// It is not possible.
    #[error("{0}")]
    Refused(E),
    /// It holds for now, but would not survive a restart.
    #[error("it holds, but is not stored yet")]
    NotStored(#[source] StoreError),
}

/// Says why something cannot be removed, or added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DeleteError {
    /// There is none.
    #[error("there is none of that name")]
    NotFound,
    /// There is no room for another one.
    #[error("there are too many already")]
    TooMany,
}

impl Monitor {
    /// Records that somebody looks after an alert.
    pub(crate) async fn acknowledge(
        &self,
        id: Uuid,
        by: Acknowledgement,
        if_version: Option<u32>,
    ) -> Result<Alert, PutError<AcknowledgeError>> {
        let (alert, commit) = {
            let silences = self.silences.lock();
            let mut alerts = self.alerts.lock();
            let who = by.by.clone();
            let event = alerts.acknowledge(id, by, if_version).map_err(PutError::Refused)?;
            let (number, alert) = (event.alert.number, event.alert.clone());
            let changes = self.changes(&mut alerts, &silences, vec![event], &who, self.clock.now());
            // As it is on record, its new version included.
            let alert = alerts.kept(number).map_or(alert, |kept| kept.alert);
            (alert, self.store.commit(changes))
        };
        self.share_soon();
        commit.done().await.map_err(PutError::NotStored)?;
        Ok(alert)
    }

    /// Lists what happened to alerts, newest first.
    pub(crate) async fn records(
        &self,
        alert: Option<Uuid>,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        self.store.records(alert, before, limit).await
    }

    /// Lists the rules about figures.
    pub(crate) fn rules(&self) -> Vec<RuleStatus> {
        self.rules.lock().list()
    }

    /// Sets a rule.
    pub(crate) async fn put_rule(&self, rule: Rule) -> Result<RuleStatus, PutError<DeleteError>> {
        let name = rule.name.clone();
        let commit = {
            let mut rules = self.rules.lock();
            if !rules.put(rule.clone()) {
                return Err(PutError::Refused(DeleteError::TooMany));
            }
            self.store.commit(Changes { rules: vec![(name.clone(), Some(rule))], ..Changes::default() })
        };
        self.judge_soon();
        commit.done().await.map_err(PutError::NotStored)?;
        let status = self.rules().into_iter().find(|status| status.rule.name == name);
        status.ok_or(PutError::Refused(DeleteError::NotFound))
    }

    /// Sets several rules, all or none.
    pub(crate) async fn put_rules(&self, all: Vec<Rule>) -> Result<Vec<RuleStatus>, PutError<DeleteError>> {
        let names: BTreeSet<String> = all.iter().map(|rule| rule.name.clone()).collect();
        let commit = {
            let mut rules = self.rules.lock();
            if !rules.has_room(&names) {
                return Err(PutError::Refused(DeleteError::TooMany));
            }
            for rule in &all {
                rules.put(rule.clone());
            }
            let changed = all.into_iter().map(|rule| (rule.name.clone(), Some(rule))).collect();
            self.store.commit(Changes { rules: changed, ..Changes::default() })
        };
        self.judge_soon();
        commit.done().await.map_err(PutError::NotStored)?;
        Ok(self.rules().into_iter().filter(|status| names.contains(&status.rule.name)).collect())
    }

    /// Tells what a rule would have done over the history in memory.
    pub(crate) fn dry_run(&self, rule: &Rule) -> (Look, Vec<Episode>) {
        dry_run(rule, &self.history.lock(), &self.config.alerts, self.clock.now())
    }

    /// Removes a rule that was set at run time.
    pub(crate) async fn delete_rule(&self, name: String) -> Result<(), PutError<DeleteError>> {
        let commit = {
            let mut rules = self.rules.lock();
            if !rules.delete(&name) {
                return Err(PutError::Refused(DeleteError::NotFound));
            }
            self.store.commit(Changes { rules: vec![(name, None)], ..Changes::default() })
        };
        self.judge_soon();
        commit.done().await.map_err(PutError::NotStored)
    }

    /// Lists silences.
    pub(crate) fn silences(&self) -> Vec<Silence> {
        self.silences.lock().list()
    }

    /// Tells which of these alerts people are not told of.
    pub(crate) fn silenced(&self, alerts: &[Alert], now: SystemTime) -> Vec<bool> {
        let silences = self.silences.lock();
        let book = self.alerts.lock();
        let explained = self.quiet.among(book.firing_now());
        alerts.iter().map(|alert| explained.cover(alert, &silences, now)).collect()
    }

    /// Adds a silence.
    pub(crate) async fn silence(&self, silence: Silence) -> Result<(), PutError<DeleteError>> {
        let commit = {
            let mut silences = self.silences.lock();
            let changes =
                Changes { silences: vec![(silence.id, Some(silence.clone()))], ..Changes::default() };
            if !silences.add(silence) {
                return Err(PutError::Refused(DeleteError::TooMany));
            }
            self.store.commit(changes)
        };
        self.share_soon();
        commit.done().await.map_err(PutError::NotStored)
    }

    /// Ends a silence.
    pub(crate) async fn end_silence(&self, id: Uuid) -> Result<(), PutError<DeleteError>> {
        let commit = {
            let mut silences = self.silences.lock();
            if !silences.remove(id) {
                return Err(PutError::Refused(DeleteError::NotFound));
            }
            self.store.commit(Changes { silences: vec![(id, None)], ..Changes::default() })
        };
        self.share_soon();
        commit.done().await.map_err(PutError::NotStored)
    }

    /// Describes the channels.
    pub(crate) fn channels(&self) -> Vec<ChannelStatus> {
        self.outbox.list()
    }

    /// Tells where all that is kept.
    pub(crate) fn kept_in(&self) -> String {
        let store = &self.config.store;
        if store.is_memory() { "memory".to_owned() } else { store.path.display().to_string() }
    }
}
