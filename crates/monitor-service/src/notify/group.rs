//! Which events go into one message, and when it is time for it; pure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::Delivery;
use crate::alert::{Alert, Record};
use crate::config::ChannelConfig;
use crate::silence::value_of;

/// Values of the labels that a channel groups by, in its order.
pub(super) type Group = Vec<String>;

/// Holds what waits for a channel, with the group that it belongs to.
#[derive(Debug)]
pub(super) struct Waiting {
    /// What waits.
    pub delivery: Delivery,
    /// With what it may be told.
    pub group: Group,
    /// Since when, by a clock that nobody sets.
    pub since: Instant,
}

/// Says what a channel has to do next.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// Tell these together, oldest first.
    Tell(Group, Vec<Record>),
    /// Wait until then, or until more arrives.
    At(Instant),
    /// Wait until something arrives.
    Nothing,
}

/// Remembers which groups were told lately.
#[derive(Debug)]
pub(super) struct Groups {
    /// None tells each event at once, in a message of its own.
    terms: Option<Terms>,
    told_at: BTreeMap<Group, Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Terms {
    wait: Duration,
    interval: Duration,
}

/// Events in one message; the rest of a group follows in the next.
const TOGETHER_MAX: usize = 100;

impl Groups {
    /// Starts without having told anything.
    pub(super) fn new(config: &ChannelConfig) -> Self {
        let terms = Terms { wait: config.group_wait, interval: config.group_interval };
        Self { terms: config.is_grouped().then_some(terms), told_at: BTreeMap::new() }
    }

    /// Finds the group whose turn it is; `waiting` is in the order of arrival.
    pub(super) fn next(&self, waiting: &VecDeque<Waiting>, now: Instant) -> Next {
        let Some(terms) = self.terms else {
            let front = waiting.front();
            return front.map_or(Next::Nothing, |front| {
                Next::Tell(Group::new(), vec![front.delivery.record.clone()])
            });
        };
        let mut seen = BTreeSet::new();
        let oldest = waiting.iter().filter(|waiting| seen.insert(&waiting.group));
        let due = oldest.map(|oldest| (self.due(terms, oldest), &oldest.group)).min_by_key(|(due, _)| *due);
        match due {
            None => Next::Nothing,
            Some((due, _)) if due > now => Next::At(due),
            Some((_, group)) => {
                let all = waiting.iter().filter(|waiting| waiting.group == *group).take(TOGETHER_MAX);
                Next::Tell(group.clone(), all.map(|waiting| waiting.delivery.record.clone()).collect())
            }
        }
    }

    /// Notes that a group has been told, or given up.
    pub(super) fn told(&mut self, group: Group, now: Instant) {
        let Some(Terms { interval, .. }) = self.terms else { return };
        self.told_at.retain(|_, told_at| *told_at + interval > now);
        self.told_at.insert(group, now);
    }

    /// What is new waits for others; what was told lately waits until its interval is over.
    fn due(&self, terms: Terms, oldest: &Waiting) -> Instant {
        let again_at = self.told_at.get(&oldest.group).map(|told_at| *told_at + terms.interval);
        match again_at {
            Some(again_at) if again_at > oldest.since => again_at,
            _ => oldest.since + terms.wait,
        }
    }
}

/// Returns the group of an alert; what it has no value for is empty.
pub(super) fn group_of(config: &ChannelConfig, alert: &Alert) -> Group {
    let value = |name: &String| value_of(alert, name).unwrap_or_default().to_owned();
    config.group_by.iter().map(value).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::alert::{AlertState, Key, Notice, Severity};
    use crate::roster::tests::at;

    fn waiting(id: u64, source: &str, since: Instant) -> Waiting {
        let mut record = record_at("fired", at(0));
        (record.id, record.alert.number) = (id, id);
        source.clone_into(&mut record.alert.key.source);
        let group = group_of(&by_source(), &record.alert);
        Waiting { delivery: Delivery { channel: "c".to_owned(), record }, group, since }
    }

    pub(in crate::notify) fn record_at(change: &'static str, at: SystemTime) -> Record {
        let key = Key {
            rule: "r".into(),
            source: "a".to_owned(),
            endpoint: String::new(),
            subject: "s".to_owned(),
        };
        let alert = Alert {
            number: 1,
            id: uuid::Uuid::nil(),
            key,
            severity: Severity::Warning,
            state: AlertState::Firing,
            summary: String::new(),
            value: 0.0,
            threshold: 0.0,
            labels: BTreeMap::new(),
            started_at: at,
            fired_at: Some(at),
            resolved_at: None,
            acknowledgement: None,
            notice: Notice::Sent,
            flapping: false,
            version: 0,
            escalated: Vec::new(),
            told_at: None,
            repeated: Vec::new(),
        };
        Record { id: 1, at, change: change.into(), by: String::new(), alert }
    }

    fn by_source() -> ChannelConfig {
        ChannelConfig {
            group_by: vec!["source".to_owned(), "region".to_owned()],
            group_wait: Duration::from_secs(30),
            group_interval: Duration::from_secs(300),
            ..ChannelConfig::default()
        }
    }

    fn told(next: &Next) -> Vec<u64> {
        match next {
            Next::Tell(_, records) => records.iter().map(|record| record.id).collect(),
            Next::At(_) | Next::Nothing => Vec::new(),
        }
    }

    #[test]
    fn new_group_waits_for_others_and_one_that_was_told_for_its_interval() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut groups = Groups::new(&by_source());
        let mut queue = VecDeque::new();
        assert_eq!(groups.next(&queue, start), Next::Nothing);
        queue.extend([waiting(1, "a", after(0)), waiting(2, "b", after(10)), waiting(3, "a", after(20))]);
        assert_eq!(groups.next(&queue, after(29)), Next::At(after(30)));
        let next = groups.next(&queue, after(30));
        assert_eq!(told(&next), [1, 3], "what came later goes with it");
        let Next::Tell(group, _) = next else { panic!("it was time") };
        assert_eq!(group, ["a", ""]);
        groups.told(group, after(31));
        queue.retain(|waiting| waiting.group[0] != "a");
        assert_eq!(told(&groups.next(&queue, after(40))), [2]);

        queue.clear();
        queue.push_back(waiting(4, "a", after(100)));
        assert_eq!(groups.next(&queue, after(330)), Next::At(after(331)), "told lately");
        assert_eq!(told(&groups.next(&queue, after(331))), [4]);
        queue.clear();
        queue.push_back(waiting(5, "a", after(400)));
        assert_eq!(groups.next(&queue, after(400)), Next::At(after(430)), "it counts as new again");
        groups.told(vec!["b".to_owned(), String::new()], after(400));
        assert_eq!(groups.told_at.len(), 1, "what was told long ago is forgotten");
    }

    #[test]
    fn channel_that_does_not_group_is_told_at_once_and_in_order() {
        let start = Instant::now();
        let groups = Groups::new(&ChannelConfig::default());
        let queue = VecDeque::from([waiting(1, "a", start), waiting(2, "a", start)]);
        assert_eq!(told(&groups.next(&queue, start)), [1]);
    }

    #[test]
    fn group_that_is_too_large_for_one_message_takes_several() {
        let start = Instant::now();
        let config = ChannelConfig { group_wait: Duration::from_secs(1), ..ChannelConfig::default() };
        let groups = Groups::new(&config);
        let queue: VecDeque<_> = (0..250).map(|id| waiting(id, "a", start)).collect();
        assert_eq!(told(&groups.next(&queue, start + Duration::from_secs(1))).len(), TOGETHER_MAX);
    }
}
