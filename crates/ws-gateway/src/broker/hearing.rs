use std::collections::BTreeSet;

use mainstay_redis::{Address, Partition};
use mainstay_runtime::{Component, ComponentKind, Context};
use parking_lot::Mutex;

use crate::metrics::Metrics;

/// What is heard of all partitions, told as one: the component `broker`.
pub(super) struct Hearing {
    component: Component,
    metrics: Metrics,
    parts: Mutex<Box<[Heard]>>,
}

enum Heard {
    Nothing {
        trouble: String,
        /// Subscriptions were ended for it.
        told: bool,
    },
    Channels {
        n_channels: usize,
        on: Option<Address>,
    },
}

impl Hearing {
    pub(super) fn new(n_partitions: usize, metrics: Metrics, cx: &Context) -> Self {
        let nothing = || Heard::Nothing { trouble: "not connected yet".to_owned(), told: false };
        Self {
            component: cx.component("broker", ComponentKind::Internal, false),
            metrics,
            parts: Mutex::new((0..n_partitions).map(|_| nothing()).collect()),
        }
    }

    /// Notes that a partition is heard from now on.
    pub(super) fn begins(&self, partition: Partition) {
        self.note(partition, Heard::Channels { n_channels: 0, on: None }, false);
    }

    /// Notes how much is heard of a partition, and on which server.
    pub(super) fn hears(&self, partition: Partition, n_channels: usize, on: &Address) {
        self.note(partition, Heard::Channels { n_channels, on: Some(on.clone()) }, true);
    }

    /// Notes that nothing is heard of a partition.
    pub(super) fn hears_nothing(&self, partition: Partition, trouble: String, told: bool) {
        self.note(partition, Heard::Nothing { trouble, told }, true);
    }

    fn note(&self, partition: Partition, heard: Heard, is_news: bool) {
        let mut parts = self.parts.lock();
        parts[partition.index()] = heard;
        let n_deaf = parts.iter().filter(|part| matches!(part, Heard::Nothing { .. })).count();
        self.metrics.broker_connected.set(i64::from(n_deaf == 0));
        self.metrics.broker_deaf_partitions.set(n_deaf as i64);
        self.metrics.broker_channels.set(n_channels(&parts) as i64);
        if is_news {
            self.report(&parts);
        }
    }

    fn report(&self, parts: &[Heard]) {
        let deaf = parts.iter().enumerate().filter_map(|(index, part)| match part {
            Heard::Nothing { trouble, told } => Some((index, trouble, *told)),
            Heard::Channels { .. } => None,
        });
        let deaf: Vec<_> = deaf.collect();
        let Some((_, trouble, _)) = deaf.first() else {
            let servers: BTreeSet<String> = parts
                .iter()
                .filter_map(|part| match part {
                    Heard::Channels { on, .. } => on.as_ref().map(ToString::to_string),
                    Heard::Nothing { .. } => None,
                })
                .collect();
            let servers = servers.into_iter().collect::<Vec<_>>().join(", ");
            return self.component.healthy(format!("listens to {} channels on {servers}", n_channels(parts)));
        };
        let what = if parts.len() == 1 {
            "hears nothing".to_owned()
        } else {
            let indexes: Vec<String> = deaf.iter().map(|(index, ..)| index.to_string()).collect();
            format!("hears nothing of {} of {} partitions ({})", deaf.len(), parts.len(), indexes.join(", "))
        };
        if deaf.iter().any(|(.., told)| *told) {
            self.component.unhealthy(format!("{what}, ended what counts positions: {trouble}"));
        } else {
            self.component.degraded(format!("{what}: {trouble}"));
        }
    }
}

fn n_channels(parts: &[Heard]) -> usize {
    let counts = parts.iter().map(|part| match part {
        Heard::Channels { n_channels, .. } => *n_channels,
        Heard::Nothing { .. } => 0,
    });
    counts.sum()
}
