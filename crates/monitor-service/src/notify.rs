//! Telling people: channels, what goes through which, and the queues before them.

mod address;
mod body;
mod channel;
#[cfg(test)]
mod crash;
mod dispatch;
mod group;
mod http;
mod mail;
mod message;
mod shared;
mod told;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::Instant;

pub(crate) use channel::{Channel, DeliveryError};
pub(crate) use dispatch::{Dispatch, run};
pub(crate) use http::client_tls;
pub(crate) use mail::is_address;
pub(crate) use shared::{Keeper, Shared, Terms};

use self::group::{Groups, Next, Waiting, group_of};
use crate::alert::{Alert, AlertState, Record};
use crate::config::{ChannelConfig, NotifyConfig};
use crate::metrics::MonitorMetrics;
use crate::rule::{CHANNEL_FAILING, FailingChannel};

/// Holds one message that has to go through one channel, until it has arrived.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Delivery {
    /// Which channel.
    pub channel: String,
    /// What happened.
    pub record: Record,
}

/// Holds the queues of all channels. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Outbox {
    queues: Arc<BTreeMap<String, Queue>>,
    metrics: MonitorMetrics,
}

/// Holds what waits for one channel, and how its deliveries go.
#[derive(Debug)]
pub(crate) struct Queue {
    config: ChannelConfig,
    queue_max: usize,
    waiting: Mutex<VecDeque<Waiting>>,
    arrived: Notify,
    figures: Mutex<ChannelFigures>,
}

/// Tells how the deliveries of a channel go.
#[derive(Debug, Clone, Default)]
pub(crate) struct ChannelFigures {
    /// Messages that arrived.
    pub delivered: u64,
    /// Events that they told of.
    pub events: u64,
    /// Attempts that failed.
    pub failures: u64,
    /// Messages given up.
    pub dropped: u64,
    /// Why the last attempt failed.
    pub last_error: String,
    /// Since when no attempt gets through.
    pub failing_since: Option<SystemTime>,
    /// When the last message arrived.
    pub last_delivered_at: Option<SystemTime>,
}

/// Describes a channel.
#[derive(Debug, Clone)]
pub(crate) struct ChannelStatus {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: &'static str,
    /// Where it goes, without secrets.
    pub address: String,
    /// Messages that wait.
    pub queued: usize,
    /// How it goes.
    pub figures: ChannelFigures,
}

impl Outbox {
    /// Makes a queue for every channel.
    pub(crate) fn new(config: &NotifyConfig, metrics: MonitorMetrics) -> Self {
        let queue = |config: &ChannelConfig, queue_max| Queue {
            config: config.clone(),
            queue_max,
            waiting: Mutex::default(),
            arrived: Notify::new(),
            figures: Mutex::default(),
        };
        let queues =
            config.channels.iter().map(|(name, channel)| (name.clone(), queue(channel, config.queue_max)));
        Self { queues: Arc::new(queues.collect()), metrics }
    }

    /// Returns what its figures are counted with.
    pub(crate) fn metrics(&self) -> &MonitorMetrics {
        &self.metrics
    }

    /// Decides who is told of an event. A channel that fails is not told so itself.
    pub(crate) fn route(&self, record: &Record) -> Vec<Delivery> {
        let wanted = self.queues.iter().filter(|(name, queue)| {
            let config = &queue.config;
            wants(name, config, &record.alert)
                && (config.resolved || record.change != "resolved")
                && is_due(name, config, record)
        });
        wanted.map(|(name, _)| Delivery { channel: name.clone(), record: record.clone() }).collect()
    }

    /// Lists the channels that are told only of what nobody looks after, and how long they wait for that.
    pub(crate) fn escalating(&self) -> Vec<(String, Duration)> {
        let waiting = self.queues.iter().filter(|(_, queue)| !queue.config.escalate_after.is_zero());
        waiting.map(|(name, queue)| (name.clone(), queue.config.escalate_after)).collect()
    }

    /// Lists the channels that want to hear of an alert again while it fires, and how long after they last did.
    pub(crate) fn repeating(&self, alert: &Alert) -> Vec<(String, Duration)> {
        let wanted = self.queues.iter().filter(|(name, queue)| {
            let config = &queue.config;
            !config.repeat_interval.is_zero() && wants(name, config, alert) && is_told(name, config, alert)
        });
        wanted.map(|(name, queue)| (name.clone(), queue.config.repeat_interval)).collect()
    }

    /// Queues deliveries; those for a channel that is no longer configured are dropped.
    pub(crate) fn extend(&self, deliveries: impl IntoIterator<Item = Delivery>) {
        for delivery in deliveries {
            let Some(queue) = self.queues.get(&delivery.channel) else { continue };
            let mut waiting = queue.waiting.lock();
            if waiting.len() >= queue.queue_max {
                // The newest tell most about now.
                waiting.pop_front();
                queue.figures.lock().dropped += 1;
                self.metrics.notified(&delivery.channel, "dropped");
            }
            let group = group_of(&queue.config, &delivery.record.alert);
            waiting.push_back(Waiting { delivery, group, since: Instant::now() });
            drop(waiting);
            queue.arrived.notify_one();
        }
    }

    /// Lists the channels that do not get through.
    pub(crate) fn failing(&self) -> Vec<FailingChannel> {
        let failing = self.queues.iter().filter_map(|(name, queue)| {
            let figures = queue.figures.lock();
            let since = figures.failing_since?;
            Some(FailingChannel { name: name.clone(), since, reason: figures.last_error.clone() })
        });
        failing.collect()
    }

    /// Describes every channel.
    pub(crate) fn list(&self) -> Vec<ChannelStatus> {
        let status = |(name, queue): (&String, &Queue)| ChannelStatus {
            name: name.clone(),
            kind: queue.config.kind.as_str(),
            address: queue.config.public_address(),
            queued: queue.waiting.lock().len(),
            figures: queue.figures.lock().clone(),
        };
        self.queues.iter().map(status).collect()
    }
}

/// Tells whether a channel is for such alerts.
fn wants(name: &str, config: &ChannelConfig, alert: &Alert) -> bool {
    let own = alert.key.rule == CHANNEL_FAILING && alert.key.subject == name;
    !own && alert.severity >= config.min_severity
        && (config.sources.is_empty() || config.sources.contains(&alert.key.source))
        && config.during.covers(alert.fired_at.unwrap_or(alert.started_at))
}

/// Tells whether a channel knows of an alert that people were told of.
fn is_told(name: &str, config: &ChannelConfig, alert: &Alert) -> bool {
    config.escalate_after.is_zero() || alert.escalated.iter().any(|told| told == name)
}

/// Tells whether it is a channel's turn: one that waits for acknowledgements hears first of an alert when its wait is over.
fn is_due(name: &str, config: &ChannelConfig, record: &Record) -> bool {
    let alert = &record.alert;
    match record.change.as_ref() {
        "escalated" => alert.escalated.last().is_some_and(|newest| newest == name),
        "repeated" => alert.repeated.last().is_some_and(|newest| newest.channel == name),
        _ => is_told(name, config, alert),
    }
}

impl Queue {
    fn next(&self, groups: &Groups, now: Instant) -> Next {
        groups.next(&self.waiting.lock(), now)
    }

    /// Tells whether it waits to be told, too, that an alert is over.
    fn knows_end(&self, alert: &Alert) -> bool {
        let waiting = self.waiting.lock();
        let over = |waiting: &Waiting| {
            let of = &waiting.delivery.record.alert;
            of.id == alert.id && of.state == AlertState::Resolved
        };
        waiting.iter().any(over)
    }

    /// Removes what is done; a full queue may have pushed some of it out meanwhile.
    fn remove(&self, done: &[Record]) {
        let mut done: BTreeSet<u64> = done.iter().map(|record| record.id).collect();
        let mut waiting = self.waiting.lock();
        while waiting.pop_front_if(|front| done.remove(&front.delivery.record.id)).is_some() {}
        if !done.is_empty() {
            waiting.retain(|waiting| !done.contains(&waiting.delivery.record.id));
        }
    }
}
