//! What every handler can reach.

use std::sync::Arc;
use std::time::Duration;

use mainstay_auth::Authenticator;
use mainstay_runtime::Context;
use tokio::sync::Semaphore;

use crate::config::EdgeConfig;
use crate::figures::Figures;
use crate::upstream::{Peer, Upstreams};

/// Everything a request needs, shared by all of them.
pub(crate) struct App {
    pub(crate) cx: Context,
    pub(crate) authenticator: Authenticator,
    pub(crate) upstreams: Upstreams,
    /// Every configured instance of every service, one by one.
    pub(crate) peers: Vec<Peer>,
    pub(crate) figures: Figures,
    /// Requests that may be under way at once; health checks do not count.
    pub(crate) admission: Arc<Semaphore>,
    pub(crate) request_within: Duration,
    pub(crate) max_body_bytes: usize,
    /// How long a merged answer waits for its slowest part.
    pub(crate) part_within: Duration,
}

impl App {
    pub(crate) fn new(
        cx: Context,
        config: &EdgeConfig,
        authenticator: Authenticator,
        upstreams: Upstreams,
        peers: Vec<Peer>,
        figures: Figures,
    ) -> Self {
        Self {
            cx,
            authenticator,
            upstreams,
            peers,
            figures,
            admission: Arc::new(Semaphore::new(config.http.max_in_flight as usize)),
            request_within: config.http.request_within,
            max_body_bytes: usize::try_from(config.http.max_body_size.as_u64()).unwrap_or(usize::MAX),
            part_within: config.http.part_within,
        }
    }
}
