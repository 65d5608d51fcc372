//! What every handler can reach.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use mainstay_auth::Authenticator;
use mainstay_auth::api_key::{ApiKey, StoredKeys};
use mainstay_runtime::{Context, Trigger};
use tokio::sync::Semaphore;

use crate::audit::Auditor;
use crate::cache_stream::CacheStreams;
use crate::config::EdgeConfig;
use crate::figures::Figures;
use crate::keyring::Keyring;
use crate::limits::Limiter;
use crate::live::Live;
use crate::middleware::deprecation::Deprecations;
use crate::middleware::idempotency::Once;
use crate::routes::docs::Pages;
use crate::upstream::{Peer, Upstreams};

/// Everything a request needs, shared by all of them.
pub(crate) struct App {
    pub(crate) cx: Context,
    pub(crate) authenticator: Authenticator,
    /// API keys of the configuration.
    pub(crate) configured_keys: Vec<ApiKey>,
    /// API keys that were made over REST.
    pub(crate) keyring: Keyring,
    /// Changes that are to be put on record.
    pub(crate) auditor: Auditor,
    pub(crate) upstreams: Upstreams,
    /// The short way to the cache.
    pub(crate) cache_streams: CacheStreams,
    /// Every configured instance of every service, one by one.
    pub(crate) peers: Vec<Peer>,
    pub(crate) figures: Figures,
    pub(crate) limiter: Limiter,
    pub(crate) pages: Pages,
    pub(crate) live: Live,
    /// Wakes the task that tells watchers; set once, at start.
    live_trigger: OnceLock<Trigger>,
    /// Requests that may be under way at once; health checks do not count.
    pub(crate) admission: Arc<Semaphore>,
    pub(crate) deprecations: Deprecations,
    pub(crate) request_within: Duration,
    pub(crate) once: Once,
    pub(crate) access_log: bool,
    /// What browsers are told about TLS; nothing where there is none.
    pub(crate) hsts: Option<Duration>,
    pub(crate) max_body_bytes: usize,
    /// How long a merged answer waits for its slowest part.
    pub(crate) part_within: Duration,
}

impl App {
    pub(crate) fn new(
        cx: Context,
        config: &EdgeConfig,
        (authenticator, stored): (Authenticator, StoredKeys),
        (upstreams, cache_streams): (Upstreams, CacheStreams),
        peers: Vec<Peer>,
        figures: Figures,
        pages: Pages,
    ) -> Self {
        Self {
            cx,
            authenticator,
            configured_keys: config.auth.configured_keys(),
            keyring: Keyring::new(&config.auth.stored_keys, stored, figures.clone()),
            auditor: Auditor::new(!config.upstreams.monitor.endpoints.is_empty(), figures.clone()),
            upstreams,
            cache_streams,
            peers,
            limiter: Limiter::new(&config.limits, figures.clone()),
            figures,
            pages,
            live: Live::default(),
            live_trigger: OnceLock::new(),
            admission: Arc::new(Semaphore::new(config.http.max_in_flight as usize)),
            deprecations: Deprecations::new(&config.http.deprecated),
            request_within: config.http.request_within,
            once: config.idempotency.once(config.http.request_within),
            access_log: config.http.access_log,
            hsts: (config.http.tls.cert.is_some() && !config.http.hsts.is_zero()).then_some(config.http.hsts),
            max_body_bytes: usize::try_from(config.http.max_body_size.as_u64()).unwrap_or(usize::MAX),
            part_within: config.http.part_within,
        }
    }

    /// Tells [`Self::wake_live`] whom to wake.
    pub(crate) fn live_is_told_by(&self, trigger: Trigger) {
        // Set once, at start: a second call has nothing to add.
        let _ = self.live_trigger.set(trigger);
    }

    /// Has the figures told now: a new watcher need not wait for the next second.
    pub(crate) fn wake_live(&self) {
        if let Some(trigger) = self.live_trigger.get() {
            trigger.fire();
        }
    }
}
