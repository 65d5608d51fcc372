//! What people said to other monitors.

use std::collections::BTreeMap;

use super::Monitor;
use crate::alert::Acknowledgement;
use crate::said::{Board, Difference, Entry, Said, Topic, compare};
use crate::store::Changes;

impl Monitor {
    /// Takes over what was said to others and is news here; returns what is news to them. See [`compare`].
    ///
    /// An acknowledgement is of an episode: of one that began after it was given nothing is known. Clocks may differ by
    /// `notify.lease`.
    pub(crate) fn agree(&self, board: &Board, once: &mut Board) -> Vec<Entry> {
        let now = self.clock.now();
        let mut silences = self.silences.lock();
        let mut alerts = self.alerts.lock();
        let mut own: BTreeMap<Topic, Said> = silences.said().collect();
        let acknowledged = alerts.acknowledged();
        own.extend(acknowledged.map(|(alert, by)| (Topic::Alert(alert), Said::Acknowledged(by.clone()))));
        let ended = if board.is_empty() { BTreeMap::new() } else { alerts.ended() };
        let is_over = |alert: &str, by: &Acknowledgement| ended.get(alert).is_some_and(|at| *at >= by.at);
        let Difference { news, entries } = compare(board, once, &own, is_over, now);
        for (topic, said) in news {
            let (changes, what) = match (topic, said) {
                (Topic::Alert(alert), Said::Acknowledged(acknowledgement)) => {
                    let by = acknowledgement.by.clone();
                    let Some(event) = alerts.take_over(&alert, acknowledgement, self.config.notify.lease)
                    else {
                        continue;
                    };
                    (self.changes(&mut alerts, &silences, vec![event], &by, now), "acknowledgement")
                }
                (Topic::Silence(id), Said::Silenced(silence)) if silences.add(silence.clone()) => {
                    (Changes { silences: vec![(id, Some(silence))], ..Changes::default() }, "silence")
                }
                (Topic::Silence(id), Said::Ended { until }) if silences.end(id, until) => {
                    (Changes { silences: vec![(id, None)], ..Changes::default() }, "silence")
                }
                _ => continue,
            };
            self.metrics.taken_over(what);
            self.store.queue(changes);
        }
        entries
    }
}
