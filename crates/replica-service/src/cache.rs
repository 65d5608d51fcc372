//! Answers that are kept in cache-service, and given again while they are new enough.

use std::{sync::Arc, time::Duration};

use mainstay_proto::replica::v1::{CacheFiguresResponse, CacheState, CacheUse, KeptAnswer, QueryResponse};
use mainstay_rpc::{ErrorCode, Failure, Upstream};
use mainstay_runtime::{Context, Trigger};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};

use crate::{
    cluster::Primary,
    config::ReplicaConfig,
    engine::{Engine, Read},
    error::QueryError,
    lsn::Position,
    metrics::CacheMetrics,
    token::Token,
};

mod flight;
mod marks;
mod remote;
mod turn;
mod wish;

use flight::{Flights, Lead, Part, follow};
use marks::{Marks, later, shows};
use remote::{Remote, RemoteError, shown};
use turn::{Taken, Turn};
use wish::Key;
pub(crate) use wish::{Wish, check_tags};

/// Keeps answers of reads that wish it, and never gives one that lacks a write its caller may know of.
///
/// Each answer carries a position in the log: it shows everything that was committed up to there. It is given again
/// only to whom that position is enough: to the token of the caller, and to the last write that named one of its
/// tags. So an invalidation cannot be overtaken by a replica that is behind: what such a replica answers is read
/// again. Without a cache, or when it does not answer in time, the database does.
pub(crate) struct QueryCache {
    remote: Option<Remote>,
    engine: Arc<Engine>,
    database: String,
    pub max_ttl: Duration,
    /// Bounds the time between an answer and the beginning of its age.
    kept_within: Duration,
    /// Of the wait for another process.
    flight_within: Duration,
    marks: Mutex<Marks>,
    flights: Flights<Fresh>,
    metrics: CacheMetrics,
    deliver: std::sync::OnceLock<Trigger>,
    cx: Context,
}

/// An answer of the database, for all who asked for it at once.
struct Fresh {
    response: QueryResponse,
    shown: Option<Position>,
}

/// What an answer must keep to be given to one caller.
struct Needs {
    written: Option<Position>,
    token: Option<Position>,
    /// What lacks as many bytes of the log as the caller bears.
    behind: Option<Position>,
    /// Of the primary, while there is one: an answer of an older one may hold what was lost with it.
    timeline: Option<u32>,
    max_staleness: Option<Duration>,
}

/// A write whose tags are told to the cache when it has ended; dropped before, it may have happened.
pub(crate) struct Writing {
    cache: Arc<QueryCache>,
    tags: Vec<String>,
    open: bool,
}

/// Marks told to the cache at once.
const DELIVERED_AT_ONCE: usize = 500;

impl QueryCache {
    pub(crate) fn new(engine: Arc<Engine>, config: &ReplicaConfig, cx: &Context) -> anyhow::Result<Self> {
        let remote = if config.cache.upstream.endpoints.is_empty() {
            None
        } else {
            let upstream = Upstream::try_new("cache-service", &config.cache.upstream)?;
            Some(Remote::new(upstream, &config.cache, config.postgres.statement_within))
        };
        Ok(Self {
            remote,
            database: config.postgres.database.clone(),
            max_ttl: config.cache.max_ttl,
            kept_within: config.cache.invalidate_within,
            flight_within: config.cache.flight_within,
            marks: Mutex::default(),
            flights: Flights::default(),
            metrics: engine.metrics.cache.clone(),
            deliver: std::sync::OnceLock::new(),
            cx: cx.clone(),
            engine,
        })
    }

    /// Tells how the background task is woken that tells the cache what it does not know yet.
    pub(crate) fn set_trigger(&self, trigger: Trigger) {
        // Set once, at assembly.
        let _ = self.deliver.set(trigger);
    }

    /// Answers one read from the cache, or from the database and keeps the answer.
    pub(crate) async fn query(
        self: &Arc<Self>,
        wish: Wish,
        mut read: Read,
        encode: fn(crate::engine::Answered) -> QueryResponse,
    ) -> Result<QueryResponse, QueryError> {
        let Some(remote) = &self.remote else {
            return self.ask(read, CacheState::CacheOff, &wish, encode).await;
        };
        // Refuses a token of another cluster before anything is answered.
        self.engine.needs(&read)?;
        let identity = self.engine.fleet.look(|_, cluster| cluster.system_identifier());
        let local = self.marks.lock().wanted(&wish.tags);
        let behind = |bytes| self.engine.fleet.look(|_, cluster| cluster.position_behind(bytes));
        let behind = read.max_lag_bytes.map(behind);
        let is_bound_known = behind != Some(None);
        let (Some(identity), Ok(local), true) = (identity, local, is_bound_known) else {
            return self.ask(read, CacheState::CacheBypassed, &wish, encode).await;
        };
        let key = wish.key(identity, &self.database);
        let found = match remote.look(&key, &wish.tags).await {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "read goes past the cache");
                return self.ask(read, CacheState::CacheBypassed, &wish, encode).await;
            }
        };
        let needs = Needs {
            written: [found.written, local].into_iter().flatten().reduce(later),
            token: read.after.map(|token| token.position),
            behind: behind.flatten(),
            timeline: self.timeline(),
            max_staleness: read.max_staleness,
        };
        if let Some((kept, age)) = found.answer {
            if needs.are_met(Some(shown(&kept)), kept_staleness(&kept, age)) {
                self.metrics.read(CacheState::CacheHit);
                return Ok(from_cache(kept, age, wish.tags));
            }
            self.metrics.outdated.inc();
        }
        read.written = needs.written.filter(|written| needs.timeline == Some(written.timeline));
        match self.flights.join(&key.answer()) {
            Part::Lead(lead) => match self.turn(&key, &wish.tags, &needs, read.until.at).await {
                Turn::Ours(taken) => self.load(lead, Some(taken), key, wish, read, encode).await,
                Turn::Nobodys => self.load(lead, None, key, wish, read, encode).await,
                Turn::Landed(kept, age) => {
                    self.metrics.read(CacheState::CacheHit);
                    let position = shown(&kept);
                    let response = from_cache(*kept, age, wish.tags);
                    lead.land(Arc::new(Fresh { response: response.clone(), shown: Some(position) }));
                    Ok(response)
                }
            },
            Part::Follow(result) => {
                let landed = timeout_at(read.until.at, follow(result)).await;
                let staleness = |fresh: &Fresh| {
                    let served = fresh.response.served.as_ref()?;
                    Duration::try_from(served.staleness?).ok()
                };
                match landed {
                    Ok(Some(fresh)) if needs.are_met(fresh.shown, staleness(&fresh)) => {
                        self.metrics.read(CacheState::CacheShared);
                        let mut response = fresh.response.clone();
                        response.cache = Some(CacheUse {
                            state: CacheState::CacheShared.into(),
                            age: None,
                            tags: wish.tags,
                        });
                        Ok(response)
                    }
                    Ok(_) => self.ask(read, CacheState::CacheMiss, &wish, encode).await,
                    Err(_) => Err(QueryError::Deadline { within: read.until.within, committing: false }),
                }
            }
        }
    }

    async fn ask(
        &self,
        read: Read,
        state: CacheState,
        wish: &Wish,
        encode: fn(crate::engine::Answered) -> QueryResponse,
    ) -> Result<QueryResponse, QueryError> {
        self.metrics.read(state);
        let mut response = encode(self.engine.query(read).await?);
        response.cache = Some(CacheUse { state: state.into(), age: None, tags: wish.tags.clone() });
        Ok(response)
    }

    async fn load(
        self: &Arc<Self>,
        lead: Lead<'_, Fresh>,
        taken: Option<Taken>,
        key: Key,
        wish: Wish,
        read: Read,
        encode: fn(crate::engine::Answered) -> QueryResponse,
    ) -> Result<QueryResponse, QueryError> {
        self.metrics.read(CacheState::CacheMiss);
        let answered = self.engine.query(read).await?;
        let position = answered.shown;
        let mut response = encode(answered);
        let fresh = Arc::new(Fresh { response: response.clone(), shown: position });
        lead.land(Arc::clone(&fresh));
        if let Some(position) = position {
            let (cache, tags) = (Arc::clone(self), wish.tags.clone());
            self.cx.spawn_work(async move {
                cache.keep(&key, &fresh, position, wish.ttl, &tags).await;
                // Only now: who waits looks for the answer before it takes its turn.
                drop(taken);
            });
        }
        response.cache = Some(CacheUse { state: CacheState::CacheMiss.into(), age: None, tags: wish.tags });
        Ok(response)
    }

    async fn keep(&self, key: &Key, fresh: &Fresh, at: Position, ttl: Duration, tags: &[String]) {
        let Some(remote) = &self.remote else { return };
        let mut served = fresh.response.served.clone();
        if let Some(served) = &mut served {
            let then = served.staleness.and_then(|then| Duration::try_from(then).ok()).unwrap_or_default();
            served.staleness = (then + self.kept_within).try_into().ok();
        }
        let kept = KeptAnswer {
            columns: fresh.response.columns.clone(),
            rows: fresh.response.rows.clone(),
            truncated: fresh.response.truncated,
            served,
            timeline: at.timeline,
            lsn: at.lsn.0,
        };
        match remote.keep(key, &kept, ttl, tags).await {
            Ok(true) => self.metrics.stored.inc(),
            Ok(false) => self.metrics.not_stored.inc(),
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "answer not kept");
                self.metrics.not_stored.inc()
            }
        };
    }

    fn timeline(&self) -> Option<u32> {
        self.engine.fleet.look(|_, cluster| match cluster.primary() {
            Primary::Node { timeline, .. } => Some(*timeline),
            Primary::None | Primary::SplitBrain(_) => None,
        })
    }

    /// Begins a write that changes tags.
    pub(crate) fn write(self: &Arc<Self>, tags: Vec<String>) -> Writing {
        let open = self.remote.is_some() && !tags.is_empty();
        Writing { cache: Arc::clone(self), tags, open }
    }

    /// Tells the cache what it does not know yet; nothing is forgotten before it has confirmed it.
    pub(crate) async fn deliver(&self) -> anyhow::Result<()> {
        let Some(remote) = &self.remote else { return Ok(()) };
        let (identity, end) = self.engine.fleet.look(|_, cluster| {
            let end = match cluster.primary() {
                Primary::Node { node, timeline } => cluster
                    .last(*node)
                    .map(|(moment, seen)| (Position { timeline: *timeline, lsn: seen.lsn }, moment.asked_at)),
                Primary::None | Primary::SplitBrain(_) => None,
            };
            (cluster.system_identifier(), end)
        });
        let news = {
            let mut marks = self.marks.lock();
            if let Some((end, asked_at)) = end {
                marks.settle(end, asked_at);
            }
            marks.news(DELIVERED_AT_ONCE)
        };
        let Some(identity) = identity else { return Ok(()) };
        let key = Key::of_marks(identity, &self.database);
        let told = async {
            if news.everything {
                remote
                    .invalidate(Vec::new(), true)
                    .await
                    .map_err(|failure| RemoteError::Call(Box::new(failure)))?;
            }
            if !news.tags.is_empty() {
                remote.mark(&key, &news.tags).await?;
            }
            Ok::<_, RemoteError>(())
        };
        let told = told.await;
        let mut marks = self.marks.lock();
        if told.is_ok() {
            marks.confirmed(&news);
        }
        self.metrics.pending.set(marks.n_pending() as i64);
        drop(marks);
        Ok(told?)
    }

    /// Forgets answers because an operator says so.
    pub(crate) async fn purge(&self, tags: Vec<String>, all: bool) -> Result<(), Failure> {
        match &self.remote {
            Some(remote) => remote.invalidate(tags, all).await,
            None => Err(Failure::new(ErrorCode::FailedPrecondition, "CACHE_OFF", "no cache is configured")),
        }
    }

    pub(crate) fn figures(&self) -> CacheFiguresResponse {
        let figure = |state| self.metrics.reads(state);
        CacheFiguresResponse {
            configured: self.remote.is_some(),
            hits: figure(CacheState::CacheHit),
            misses: figure(CacheState::CacheMiss),
            shared: figure(CacheState::CacheShared),
            bypassed: figure(CacheState::CacheBypassed),
            outdated: self.metrics.outdated.get(),
            stored: self.metrics.stored.get(),
            not_stored: self.metrics.not_stored.get(),
            pending: u32::try_from(self.marks.lock().n_pending()).unwrap_or(u32::MAX),
        }
    }
}

impl Writing {
    /// Tells the cache that the write is committed; returns `true` when it could not be told yet.
    pub(crate) async fn committed(mut self, token: Option<Token>) -> bool {
        // Without a position it counts as a write of unknown place, which the end of the scope notes.
        let Some(token) = token.filter(|_| self.open) else { return self.open };
        self.open = false;
        self.cache.marks.lock().written(&self.tags, token.position);
        let told = self.cache.deliver().await;
        if let Err(error) = &told {
            tracing::warn!(%error, "the cache does not know of a write yet");
            self.cache.wake();
        }
        told.is_err()
    }

    /// Says why there was no answer; the write may have happened all the same.
    pub(crate) fn failed(mut self, error: &QueryError) {
        self.open &= error.leaves_outcome_open();
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if self.open {
            self.cache.marks.lock().unknown(&self.tags, Instant::now().into_std());
            self.cache.wake();
        }
    }
}

impl QueryCache {
    fn wake(&self) {
        if let Some(trigger) = self.deliver.get() {
            trigger.fire();
        }
    }
}

impl Needs {
    fn are_met(&self, shown: Option<Position>, staleness: Option<Duration>) -> bool {
        let Some(shown) = shown else { return false };
        let wanted = [self.written, self.token, self.behind];
        let wanted = wanted.into_iter().flatten().all(|wanted| shows(shown, wanted));
        let of_now = self.timeline.is_none_or(|timeline| shown.timeline == timeline);
        let young = self.max_staleness.is_none_or(|most| staleness.unwrap_or_default() <= most);
        wanted && of_now && young
    }
}

/// Returns an upper bound: as stale as it was when it was read, and everything since.
fn kept_staleness(kept: &KeptAnswer, age: Duration) -> Option<Duration> {
    let then = kept.served.as_ref().and_then(|served| served.staleness);
    Some(then.and_then(|then| Duration::try_from(then).ok()).unwrap_or_default() + age)
}

fn from_cache(kept: KeptAnswer, age: Duration, tags: Vec<String>) -> QueryResponse {
    let staleness = kept_staleness(&kept, age).and_then(|staleness| staleness.try_into().ok());
    let served = kept.served.map(|served| mainstay_proto::replica::v1::Served { staleness, ..served });
    QueryResponse {
        columns: kept.columns,
        rows: kept.rows,
        truncated: kept.truncated,
        served,
        cache: Some(CacheUse { state: CacheState::CacheHit.into(), age: age.try_into().ok(), tags }),
    }
}
