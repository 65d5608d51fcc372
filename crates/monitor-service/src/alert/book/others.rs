//! Alerts that other monitors may see, too.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::{AlertBook, Change, Event};
use crate::alert::{Acknowledgement, Alert, AlertState};

impl AlertBook {
    /// Lists, by fingerprint, who looks after open alerts that other monitors may see, too.
    pub(crate) fn acknowledged(&self) -> impl Iterator<Item = (String, &Acknowledgement)> {
        let open = self.open.values().filter_map(|track| self.alerts.get(&track.number));
        open.filter_map(|alert| Some((alert.acknowledgement.as_ref()?, alert)))
            .filter_map(|(acknowledgement, alert)| Some((alert.fingerprint()?, acknowledgement)))
    }

    /// Tells, by fingerprint, when alerts that other monitors may see, too, were last over.
    pub(crate) fn ended(&self) -> BTreeMap<String, SystemTime> {
        let ended = self.alerts.values().filter_map(|alert| Some((alert.fingerprint()?, alert.resolved_at?)));
        let mut last = BTreeMap::new();
        for (fingerprint, at) in ended {
            let known = last.entry(fingerprint).or_insert(at);
            *known = at.max(*known);
        }
        last
    }

    /// Records that somebody looks after an alert, as another monitor was told; none if no such alert is open, or only one that
    /// began more than `apart` after that was said.
    pub(crate) fn take_over(
        &mut self,
        fingerprint: &str,
        by: Acknowledgement,
        apart: Duration,
    ) -> Option<Event> {
        let is_it = |alert: &&Alert| {
            alert.started_at <= by.at + apart && alert.fingerprint().as_deref() == Some(fingerprint)
        };
        let open = self.open.values().filter_map(|track| self.alerts.get(&track.number));
        let number = open.filter(|alert| alert.state != AlertState::Resolved).find(is_it)?.number;
        let alert = self.alerts.get_mut(&number)?;
        alert.acknowledgement = Some(by);
        Some(Event { change: Change::Acknowledged, alert: alert.clone() })
    }
}
