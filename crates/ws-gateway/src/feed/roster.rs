//! Which feeds there are: those of the configuration, and those that were put at run time, the same on every node.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use mainstay_proto::realtime::v1::{FeedSpec, FeedState, KeptFeed};
use mainstay_redis::{Redis, RedisError};
use mainstay_runtime::{Component, ComponentKind, Context, Problems, Schedule};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::lease::Lease;
use super::run::Runner;
use super::shelf::{Change, Content, Kept, Shelf};
use super::spec::config_of;
use super::{Feed, Outlet};
use crate::config::{FeedConfig, GatewayConfig, RunTimeFeedsConfig};
use crate::error::Refusal;

/// How often it is looked whether feeds were put or taken away on another node.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Knows all feeds, and starts and ends their work on this node.
pub(crate) struct Roster {
    cx: Context,
    outlet: Arc<Outlet>,
    redis: Option<Arc<Redis>>,
    shelf: Option<Shelf>,
    limits: RunTimeFeedsConfig,
    entries: Mutex<BTreeMap<String, Entry>>,
    /// What was put, as last seen; one look at a time.
    known: tokio::sync::Mutex<Content>,
    component: Component,
}

struct Entry {
    listed: Listed,
    ends: CancellationToken,
}

/// A feed, and where it comes from.
#[derive(Clone)]
pub(crate) struct Listed {
    pub(crate) feed: Arc<Feed>,
    /// None for one of the configuration.
    pub(crate) origin: Option<Origin>,
}

/// Who put a feed.
#[derive(Clone)]
pub(crate) struct Origin {
    pub(crate) version: u64,
    pub(crate) put_by: String,
    pub(crate) put_at: Option<prost_types::Timestamp>,
}

/// Says why feeds stay as they are.
pub(crate) enum NotPut {
    Refused(Refusal),
    /// Fields of a feed, and what is wrong with each.
    Wrong(Vec<(String, String)>),
}

impl Roster {
    pub(crate) fn new(
        cx: &Context,
        config: &GatewayConfig,
        outlet: Arc<Outlet>,
        redis: Option<Arc<Redis>>,
    ) -> Arc<Self> {
        let limits = config.run_time_feeds.clone();
        let within = config.redis.command_within;
        Arc::new(Self {
            cx: cx.clone(),
            outlet,
            shelf: redis.clone().map(|redis| Shelf::new(redis, within, limits.max)),
            redis,
            limits,
            entries: Mutex::default(),
            known: tokio::sync::Mutex::default(),
            component: cx.component("feeds", ComponentKind::Internal, false),
        })
    }

    /// Starts the feeds of the configuration, and looks for others.
    pub(crate) fn start(self: &Arc<Self>, feeds: &BTreeMap<String, FeedConfig>) -> anyhow::Result<()> {
        for (name, feed) in feeds {
            let entry = self.begin(name, feed, None).with_context(|| format!("feeds.{name}"))?;
            self.entries.lock().insert(name.clone(), entry);
        }
        let looking = Arc::clone(self);
        self.cx.background("feeds.look", Schedule::Every(LOOK_EVERY), move || {
            let roster = Arc::clone(&looking);
            async move {
                // A Redis that is away is the component's news.
                if let Err(error) = roster.look().await {
                    tracing::debug!(error = error.in_full(), "feeds cannot be looked for");
                }
                roster.report();
                Ok(())
            }
        });
        Ok(())
    }

    /// Returns the feeds, or one of them, by name.
    pub(crate) fn list(&self, name: &str) -> Vec<Listed> {
        let entries = self.entries.lock();
        let wanted = entries.iter().filter(|(known, _)| name.is_empty() || *known == name);
        wanted.map(|(_, entry)| entry.listed.clone()).collect()
    }

    /// Looks whether feeds were put or taken away, and follows.
    pub(crate) async fn look(&self) -> Result<(), RedisError> {
        let Some(shelf) = &self.shelf else { return Ok(()) };
        let mut known = self.known.lock().await;
        let Some(found) = shelf.read(&known.revision).await? else { return Ok(()) };
        if found.revision.number() < known.revision.number() {
            // A server took over that lacks the last changes, or all was lost.
            if shelf.put_back(&known).await? {
                tracing::warn!(revision = known.revision.number(), "redis had lost feeds: they are put back");
            }
            return Ok(());
        }
        self.adopt(&found);
        *known = found;
        Ok(())
    }

    /// Puts a feed, on all nodes.
    pub(crate) async fn put(
        &self,
        name: &str,
        spec: FeedSpec,
        if_version: Option<u64>,
        put_by: String,
    ) -> Result<(), NotPut> {
        let shelf = self.changeable(name)?;
        self.check(name, &spec)?;
        let feed = KeptFeed { spec: Some(spec), put_by, put_at: Some(self.cx.clock().now().into()) };
        let change = shelf.put(name, Some(&feed), if_version).await;
        self.settle(change).await
    }

    /// Takes a feed away that was put, on all nodes.
    pub(crate) async fn remove(&self, name: &str, if_version: Option<u64>) -> Result<(), NotPut> {
        let shelf = self.changeable(name)?;
        let change = shelf.put(name, None, if_version).await;
        self.settle(change).await
    }

    fn changeable(&self, name: &str) -> Result<&Shelf, NotPut> {
        let entries = self.entries.lock();
        if entries.get(name).is_some_and(|entry| entry.listed.origin.is_none()) {
            return Err(NotPut::Refused(Refusal::FeedConfigured));
        }
        self.shelf.as_ref().ok_or(NotPut::Refused(Refusal::FeedsNeedRedis))
    }

    async fn settle(&self, change: Result<Change, RedisError>) -> Result<(), NotPut> {
        let refused = |refusal| Err(NotPut::Refused(refusal));
        match change {
            Ok(Change::Done) => {
                // It is done in any case; this node follows with the next look.
                if let Err(error) = self.look().await {
                    tracing::debug!(error = error.in_full(), "feeds cannot be looked for");
                }
                Ok(())
            }
            Ok(Change::Version(version)) => refused(Refusal::FeedVersion { version }),
            Ok(Change::Unknown) => refused(Refusal::FeedUnknown),
            Ok(Change::Full) => refused(Refusal::TooManyFeeds { max: self.limits.max }),
            Err(error) => {
                tracing::debug!(error = error.in_full(), "a feed cannot be put");
                refused(Refusal::FeedsUnavailable)
            }
        }
    }

    /// Finds everything that is wrong with a feed.
    fn check(&self, name: &str, spec: &FeedSpec) -> Result<(), NotPut> {
        let one = |field: &str, text: &str| NotPut::Wrong(vec![(field.to_owned(), text.to_owned())]);
        if !FeedConfig::is_name(name) {
            return Err(one("name", FeedConfig::LEGAL_NAME));
        }
        let config = config_of(spec).map_err(|field| one(field, "must be a time that is not below zero"))?;
        let mut problems = Problems::default();
        config.check("", &mut problems);
        if let Err(refusal) = self.outlet.place(&config.channel) {
            problems.add("channel", refusal.to_string());
        }
        for (index, endpoint) in config.endpoints.iter().enumerate() {
            let host = FeedConfig::endpoint(endpoint).and_then(|(url, _)| Some(url.host()?.to_owned()));
            let allowed = host.is_none_or(|host| self.limits.allows(&host));
            let key = format!("endpoints[{index}]");
            problems.ensure(allowed, &key, "its host is none of run_time_feeds.hosts");
        }
        if problems.is_empty()
            && let Err(error) = Feed::try_new(name, &config, self.metrics(), self.cx.clock().now())
        {
            problems.add("endpoints", format!("{error:#}"));
        }
        let wire = |key: &str| if key == "max_message" { "max_message_bytes" } else { key }.to_owned();
        let wrong: Vec<_> = problems.each().map(|(key, text)| (wire(key), text.to_owned())).collect();
        if wrong.is_empty() { Ok(()) } else { Err(NotPut::Wrong(wrong)) }
    }

    fn metrics(&self) -> crate::metrics::Metrics {
        self.outlet.hub.metrics().clone()
    }

    /// Begins what is new, and ends what is gone; what is as it was goes on.
    fn adopt(&self, found: &Content) {
        let mut entries = self.entries.lock();
        let is_left = |name: &String, entry: &Entry| match (&entry.listed.origin, found.feeds.get(name)) {
            (None, _) => true,
            (Some(origin), Some(kept)) => origin.version == kept.version,
            (Some(_), None) => false,
        };
        entries.retain(|name, entry| {
            let stays = is_left(name, entry);
            if !stays {
                let is_gone = !found.feeds.contains_key(name);
                entry.listed.feed.is_gone.store(is_gone, Ordering::Relaxed);
                entry.ends.cancel();
            }
            stays
        });
        for (name, kept) in &found.feeds {
            match entries.get(name).map(|entry| entry.listed.origin.is_none()) {
                None => drop(entries.insert(name.clone(), self.begin_kept(name, kept))),
                Some(true) => {
                    tracing::warn!(feed = name, "a feed of the configuration was put elsewhere too")
                }
                Some(false) => {}
            }
        }
    }

    fn begin_kept(&self, name: &str, kept: &Kept) -> Entry {
        let KeptFeed { spec, put_by, put_at } = kept.feed.clone();
        let origin = Origin { version: kept.version, put_by, put_at };
        let spec = spec.unwrap_or_default();
        // It was checked by the node that took it, whose configuration may be another.
        let outcome = match self.check(name, &spec) {
            Err(NotPut::Wrong(wrong)) => {
                Err(wrong.iter().map(|(key, text)| format!("{key}: {text}")).collect())
            }
            Err(NotPut::Refused(refusal)) => Err(vec![refusal.to_string()]),
            Ok(()) => {
                let config = config_of(&spec).unwrap_or_default();
                self.begin(name, &config, Some(origin.clone())).map_err(|error| vec![format!("{error:#}")])
            }
        };
        outcome.unwrap_or_else(|wrong: Vec<String>| {
            let reason = wrong.join("; ");
            tracing::warn!(feed = name, reason, "a feed that was put cannot be run here");
            let config = FeedConfig { channel: spec.channel, ..FeedConfig::default() };
            let feed = Feed::unusable(name, &config, self.metrics(), self.cx.clock().now(), reason);
            let listed = Listed { feed: Arc::new(feed), origin: Some(origin) };
            Entry { listed, ends: CancellationToken::new() }
        })
    }

    /// Runs a feed for as long as the node does, whenever it is this node's turn.
    fn begin(&self, name: &str, config: &FeedConfig, origin: Option<Origin>) -> anyhow::Result<Entry> {
        let feed = Arc::new(Feed::try_new(name, config, self.metrics(), self.cx.clock().now())?);
        let ends = self.cx.stopping().child_token();
        let runner = Runner {
            feed: Arc::clone(&feed),
            outlet: Arc::clone(&self.outlet),
            lease: Lease::new(name, &self.cx.identity().instance, self.redis.clone(), config),
            cx: self.cx.clone(),
        };
        // What a source sends must not end the process, whatever it is.
        self.cx.spawn_work(runner.run(ends.clone()));
        Ok(Entry { listed: Listed { feed, origin }, ends })
    }

    /// Tells how the feeds fare that run here.
    fn report(&self) {
        let (mut n_live, mut unwell) = (0, Vec::new());
        let node = &self.cx.identity().instance;
        for listed in self.list("") {
            let figures = listed.feed.figures();
            match figures.state {
                FeedState::Live => n_live += 1,
                FeedState::Unusable => unwell.push(listed.feed.name.clone()),
                _ if figures.holder == *node && figures.failures > 0 => unwell.push(listed.feed.name.clone()),
                _ => {}
            }
        }
        if unwell.is_empty() {
            self.component.healthy(format!("{n_live} run here"));
        } else {
            unwell.truncate(5);
            self.component.degraded(format!("{n_live} run here, not {}", unwell.join(", ")));
        }
    }
}
