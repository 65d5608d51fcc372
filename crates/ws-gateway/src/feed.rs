//! Feeds: connections to sources of messages elsewhere, each of which is published into a channel.
//!
//! A feed is run by one node at a time, which holds a lease in Redis for it (`feed/lease.rs`); `feed/roster.rs` is which feeds
//! there are, `feed/shelf.rs` keeps those that are put at run time. `feed/run.rs` is one feed at work: `feed/order.rs` says
//! what is new and in which order, `feed/pool.rs` which source is next and when, `feed/source.rs` speaks WebSocket and reads
//! server-sent events, `feed/read.rs` finds what is asked for in a message.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use mainstay_proto::realtime::v1::FeedState;
use parking_lot::Mutex;

use crate::config::FeedConfig;
use crate::metrics::Metrics;

mod events;
mod lease;
mod order;
mod outlet;
mod place;
mod pool;
mod read;
mod roster;
mod run;
mod shelf;
mod source;
mod spec;

use events::Event;
pub(crate) use outlet::Outlet;
use pool::Endpoint;
use read::Told;
pub(crate) use roster::{Listed, NotPut, Roster};
pub(crate) use spec::shown_spec;

/// One feed as everybody may see it.
pub(crate) struct Feed {
    pub(crate) name: String,
    pub(crate) config: FeedConfig,
    endpoints: Vec<Endpoint>,
    figures: Mutex<Figures>,
    metrics: Metrics,
    /// It was removed, and is to leave nothing behind.
    is_gone: AtomicBool,
}

/// What is known of a feed.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    pub(crate) state: FeedState,
    pub(crate) since: SystemTime,
    /// The node that holds the lease, as seen from here; empty when none does.
    pub(crate) holder: String,
    pub(crate) endpoint: String,
    /// States of the breakers, in the order of the endpoints.
    pub(crate) breakers: Vec<&'static str>,
    pub(crate) last_message_at: Option<SystemTime>,
    pub(crate) received: u64,
    pub(crate) published: u64,
    pub(crate) duplicates: u64,
    pub(crate) rejected: u64,
    pub(crate) gaps: u64,
    pub(crate) missed: u64,
    pub(crate) renumbered: u64,
    pub(crate) failures: u64,
    pub(crate) last_failure: String,
}

impl Feed {
    pub(crate) fn try_new(
        name: &str,
        config: &FeedConfig,
        metrics: Metrics,
        now: SystemTime,
    ) -> anyhow::Result<Self> {
        let endpoints = config.endpoints.iter().map(|url| Endpoint::try_new(url, config));
        let endpoints = endpoints.collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Self::made(name, config, endpoints, metrics, Figures::new(FeedState::Standby, now)))
    }

    /// Stands for a feed that this node cannot run.
    fn unusable(name: &str, config: &FeedConfig, metrics: Metrics, now: SystemTime, reason: String) -> Self {
        let mut figures = Figures::new(FeedState::Unusable, now);
        figures.last_failure = reason;
        Self::made(name, config, Vec::new(), metrics, figures)
    }

    fn made(
        name: &str,
        config: &FeedConfig,
        endpoints: Vec<Endpoint>,
        metrics: Metrics,
        figures: Figures,
    ) -> Self {
        let (name, config) = (name.to_owned(), config.clone());
        let is_gone = AtomicBool::new(false);
        Self { name, config, endpoints, figures: Mutex::new(figures), metrics, is_gone }
    }

    pub(crate) fn figures(&self) -> Figures {
        self.figures.lock().clone()
    }

    /// Returns each endpoint, as far as it may be shown, with the state of its breaker.
    pub(crate) fn endpoints(&self) -> Vec<(String, &'static str)> {
        let breakers = self.figures.lock().breakers.clone();
        let states = breakers.into_iter().chain(std::iter::repeat("closed"));
        self.endpoints.iter().map(Endpoint::shown).zip(states).collect()
    }

    fn is_gone(&self) -> bool {
        self.is_gone.load(Ordering::Relaxed)
    }

    fn note(&self, change: impl FnOnce(&mut Figures)) {
        change(&mut self.figures.lock());
    }

    fn enter(&self, state: FeedState, now: SystemTime) {
        self.note(|figures| {
            if figures.state != state {
                (figures.state, figures.since) = (state, now);
                self.metrics.feeds.set_live(&self.name, state == FeedState::Live);
            }
        });
    }

    fn read(&self, event: Event) -> Option<Told> {
        Told::read(event, &self.config)
    }
}

impl Figures {
    fn new(state: FeedState, since: SystemTime) -> Self {
        Self {
            state,
            since,
            holder: String::new(),
            endpoint: String::new(),
            breakers: Vec::new(),
            last_message_at: None,
            received: 0,
            published: 0,
            duplicates: 0,
            rejected: 0,
            gaps: 0,
            missed: 0,
            renumbered: 0,
            failures: 0,
            last_failure: String::new(),
        }
    }
}
