//! Where values come from: services that implement `mainstay.cache.v1.Origin`, and HTTP servers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use mainstay_resilience::breaker::State;
use mainstay_rpc::{ErrorCode, Failure};

use crate::config::CacheConfig;
use crate::engine::WriteOutcome;
use crate::key::{ContentType, Key, Tags, Ttl};
use crate::metrics::{OriginMetrics, breaker_level};

mod gathering;
mod grpc;
mod http;
mod keys;

pub(crate) use gathering::Seat;
use gathering::Wanted;
use grpc::GrpcOrigin;
use http::HttpOrigin;
pub(crate) use http::{HttpError, KeysUrl, Template};
pub(crate) use keys::KeyPage;

/// Loads that are asked for one by one and are under way at once, of those that came together.
const CONCURRENT: usize = 64;

/// The configured origins, each under its own breaker.
#[derive(Debug, Default)]
pub(crate) struct Origins {
    by_name: HashMap<String, Origin>,
    metrics: OriginMetrics,
}

#[derive(Debug)]
enum Origin {
    Grpc(GrpcOrigin),
    Http(Box<HttpOrigin>),
}

/// A value as an origin gives or takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Loaded {
    pub(crate) value: Bytes,
    pub(crate) content_type: ContentType,
    pub(crate) ttl: Option<Ttl>,
    pub(crate) tags: Tags,
}

/// What an origin is told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) key: Key,
    /// None: deleted.
    pub(crate) value: Option<Loaded>,
    pub(crate) version: u64,
}

/// What is known of an origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OriginFigures {
    pub(crate) name: String,
    /// `grpc` or `http`.
    pub(crate) kind: &'static str,
    pub(crate) endpoints: Vec<EndpointFigures>,
}

/// What is known of one server of an origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EndpointFigures {
    pub(crate) endpoint: String,
    /// `closed`, `half_open` or `open`.
    pub(crate) breaker: &'static str,
    pub(crate) in_flight: u32,
}

impl OriginFigures {
    /// Returns the state of its breaker: that of the server which it is best with.
    pub(crate) fn breaker(&self) -> &'static str {
        let states = self.endpoints.iter().map(|endpoint| endpoint.breaker);
        states.min_by_key(|state| breaker_level(state)).unwrap_or(State::Closed.as_str())
    }
}

/// Says why an origin did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OriginError {
    #[error("the origin failed")]
    Failed(#[source] Failure),
    #[error("the origin failed")]
    Http(#[source] HttpError),
    #[error("the origin did not give the keys of a batch")]
    Together(#[source] Arc<Failure>),
    #[error("the origin did not answer in time")]
    Late,
    #[error("not fit for the cache or the origin: {0}")]
    Illegal(String),
    #[error("the origin does not list its keys")]
    NoKeys,
    #[error("the origin {0:?} is not configured on this node")]
    Unknown(String),
}

impl OriginError {
    /// Tells whether a change may have been taken all the same.
    pub(crate) fn outcome(&self) -> WriteOutcome {
        let of = |failure: &Failure| match failure.code() {
            ErrorCode::Unavailable | ErrorCode::DeadlineExceeded | ErrorCode::Internal => {
                WriteOutcome::Unknown
            }
            _ => WriteOutcome::NotApplied,
        };
        match self {
            Self::Failed(failure) => of(failure),
            Self::Together(failure) => of(failure),
            Self::Http(HttpError::BreakerOpen) => WriteOutcome::NotApplied,
            Self::Http(HttpError::Status(status)) if status.is_client_error() => WriteOutcome::NotApplied,
            Self::Http(_) => WriteOutcome::Unknown,
            Self::Late => WriteOutcome::Unknown,
            Self::Unknown(_) | Self::Illegal(_) | Self::NoKeys => WriteOutcome::NotApplied,
        }
    }

    /// Tells whether the origin cannot be asked now, whatever it is asked for.
    pub(crate) fn is_outage(&self) -> bool {
        let is_outage = |failure: &Failure| {
            matches!(
                failure.code(),
                ErrorCode::Unavailable | ErrorCode::DeadlineExceeded | ErrorCode::ResourceExhausted
            )
        };
        match self {
            Self::Failed(failure) => is_outage(failure),
            Self::Together(failure) => is_outage(failure),
            Self::Http(error) => error.is_outage(),
            Self::Late | Self::Unknown(_) => true,
            Self::Illegal(_) | Self::NoKeys => false,
        }
    }
}

impl Origins {
    pub(crate) fn try_new(config: &CacheConfig, metrics: OriginMetrics) -> anyhow::Result<Self> {
        let origins = config.origins.iter().map(|(name, origin)| {
            let origin = if origin.http.url.is_empty() {
                Origin::Grpc(GrpcOrigin::try_new(name, &origin.grpc)?)
            } else {
                let http = HttpOrigin::try_new(name, &origin.http)?;
                Origin::Http(Box::new(http))
            };
            Ok((name.clone(), origin))
        });
        let by_name = origins.collect::<anyhow::Result<_>>()?;
        Ok(Self { by_name, metrics })
    }

    /// Describes all origins at this instant, by name.
    pub(crate) fn figures(&self) -> Vec<OriginFigures> {
        let figures = self.by_name.iter().map(|(name, origin)| {
            let (kind, endpoints) = match origin {
                Origin::Grpc(origin) => ("grpc", origin.endpoints()),
                Origin::Http(origin) => ("http", vec![origin.endpoint()]),
            };
            OriginFigures { name: name.clone(), kind, endpoints }
        });
        let mut figures: Vec<_> = figures.collect();
        figures.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        figures
    }

    /// Asks for a key; none when the origin does not have it.
    pub(crate) async fn load(
        &self,
        name: &str,
        key: &Key,
        within: Duration,
    ) -> Result<Option<Loaded>, OriginError> {
        let loaded = match self.get(name)? {
            Origin::Grpc(origin) => origin.load(key, within).await,
            Origin::Http(origin) => origin.load(key, within).await,
        };
        self.metrics.called(name, "load", loaded.is_ok());
        loaded
    }

    /// Asks for keys of one namespace in one call where the origin can, else for one after the other.
    async fn load_all(&self, name: &str, wanted: Vec<Wanted>, within: Duration) {
        if let (Ok(Origin::Grpc(origin)), Some(first)) = (self.get(name), wanted.first()) {
            let keys = wanted.iter().map(|wanted| wanted.key.name().to_owned()).collect();
            let namespace = first.key.namespace().to_owned();
            if let Some(loaded) = origin.load_many(&namespace, keys, within).await {
                self.metrics.called(name, "load_many", loaded.is_ok());
                return give(wanted, loaded);
            }
        }
        let loads = wanted.into_iter().map(|wanted| async move {
            let loaded = self.load(name, &wanted.key, within).await;
            // Whoever wanted it may have left.
            let _ = wanted.loaded.send(loaded);
        });
        let loads: Vec<_> = loads.collect();
        stream::iter(loads).buffer_unordered(CONCURRENT).collect::<()>().await;
    }

    /// Tells the origin of changes of one namespace, of different keys.
    pub(crate) async fn store(
        &self,
        name: &str,
        changes: &[Change],
        within: Duration,
    ) -> Result<(), OriginError> {
        let Some(first) = changes.first() else { return Ok(()) };
        let stored = match self.get(name)? {
            Origin::Grpc(origin) => origin.store(first.key.namespace(), changes, within).await,
            Origin::Http(origin) => origin.store(changes, within).await,
        };
        self.metrics.called(name, "store", stored.is_ok());
        stored
    }

    fn get(&self, name: &str) -> Result<&Origin, OriginError> {
        self.by_name.get(name).ok_or_else(|| OriginError::Unknown(name.to_owned()))
    }
}

/// Gives each what was loaded for it. Whoever wanted it may have left.
fn give(wanted: Vec<Wanted>, loaded: Result<Vec<Result<Option<Loaded>, OriginError>>, Failure>) {
    match loaded {
        Ok(loaded) => {
            for (wanted, loaded) in wanted.into_iter().zip(loaded) {
                let _ = wanted.loaded.send(loaded);
            }
        }
        Err(failure) => {
            let failure = Arc::new(failure);
            for wanted in wanted {
                let _ = wanted.loaded.send(Err(OriginError::Together(Arc::clone(&failure))));
            }
        }
    }
}
