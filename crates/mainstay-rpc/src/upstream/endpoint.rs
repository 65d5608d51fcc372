use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use http::Uri;
use http::uri::{Authority, Scheme};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use mainstay_resilience::breaker::{Breaker, Outcome, Permit, Rejected, State, Transition};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::config::{UpstreamConfig, parse_endpoint};
use super::connector::Connector;
use super::lane::{Head, HttpClient, Lane};
use super::verdict::Verdict;
use super::{EndpointSnapshot, InvalidUpstream};

/// Values may be large; small windows would make each a row of round trips.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// Statuses with details are headers.
const MAX_HEADER_BYTES: u32 = 32 << 10;

/// Holds one instance of a service: its connection and what is known about its health.
pub(super) struct Endpoint {
    uri: Uri,
    address: String,
    scheme: Scheme,
    authority: Authority,
    dial: Dial,
    client: Mutex<Arc<HttpClient>>,
    breaker: Mutex<Breaker>,
    in_flight: AtomicU32,
    calls: AtomicU64,
    failures: AtomicU64,
}

impl Endpoint {
    pub(super) fn try_new(
        endpoint: &str,
        config: &UpstreamConfig,
        tls: Option<&Arc<rustls::ClientConfig>>,
    ) -> Result<Self, InvalidUpstream> {
        let uri = parse_endpoint(endpoint)?;
        let (Some(scheme), Some(authority)) = (uri.scheme().cloned(), uri.authority().cloned()) else {
            return Err(InvalidUpstream::NoEndpoint);
        };
        let dial = Dial {
            connector: Connector::try_new(&uri, config, tls)?,
            keepalive_every: config.keepalive_every,
            keepalive_within: config.keepalive_within,
        };
        Ok(Self {
            address: authority.to_string(),
            uri,
            scheme,
            authority,
            client: Mutex::new(dial.client()),
            dial,
            breaker: Mutex::new(Breaker::new(config.breaker.clone().into())),
            in_flight: AtomicU32::new(0),
            calls: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        })
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(super) fn seems_open_for_calls(&self, now: std::time::Instant) -> bool {
        self.breaker.lock().state(now) != State::Open
    }

    pub(super) fn admit(&self, index: usize, now: std::time::Instant) -> Result<Attempt<'_>, Rejected> {
        let permit = self.breaker.lock().admit(now)?;
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Ok(Attempt { endpoint: self, index, permit: Some(permit), started: Instant::now() })
    }

    pub(super) fn snapshot(&self, now: std::time::Instant) -> EndpointSnapshot {
        EndpointSnapshot {
            uri: self.uri.to_string().trim_end_matches('/').to_owned(),
            breaker: self.breaker.lock().state(now).as_str(),
            in_flight: self.in_flight(),
            calls: self.calls.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
        }
    }

    fn turned(&self, upstream: &str, transition: Transition) {
        let endpoint = self.address.as_str();
        if transition.to == State::Open {
            // Connections to a peer that stalls look healthy until a ping fails; probes shall not wait for that.
            *self.client.lock() = self.dial.client();
            tracing::warn!(upstream, endpoint, "calls are held back: the endpoint does not answer");
        } else {
            tracing::info!(upstream, endpoint, "the endpoint answers again");
        }
    }
}

/// Is one attempt under way; whatever happens to it, the endpoint learns of its end.
pub(super) struct Attempt<'a> {
    endpoint: &'a Endpoint,
    index: usize,
    permit: Option<Permit>,
    started: Instant,
}

impl Attempt<'_> {
    pub(super) fn index(&self) -> usize {
        self.index
    }

    pub(super) fn lane(&self, head: Head) -> Lane {
        tracing::Span::current().record("server.address", self.endpoint.address.as_str());
        let client = Arc::clone(&self.endpoint.client.lock());
        Lane::new(client, self.endpoint.scheme.clone(), self.endpoint.authority.clone(), head)
    }

    pub(super) fn succeeded(self, upstream: &str) {
        self.end(upstream, Outcome::Success);
    }

    pub(super) fn failed(self, upstream: &str, verdict: &Verdict) {
        let outcome = if verdict.against_endpoint { Outcome::Failure } else { Outcome::Success };
        self.end(upstream, outcome);
    }

    fn end(mut self, upstream: &str, outcome: Outcome) {
        let Some(permit) = self.permit.take() else { return };
        self.endpoint.calls.fetch_add(1, Ordering::Relaxed);
        if outcome == Outcome::Failure {
            self.endpoint.failures.fetch_add(1, Ordering::Relaxed);
        }
        let now = Instant::now();
        let took: Duration = now - self.started;
        let transition = self.endpoint.breaker.lock().record(permit, outcome, took, now.into_std());
        if let Some(transition) = transition {
            self.endpoint.turned(upstream, transition);
        }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.endpoint.in_flight.fetch_sub(1, Ordering::Relaxed);
        if let Some(permit) = self.permit.take() {
            self.endpoint.breaker.lock().cancel(permit, Instant::now().into_std());
        }
    }
}

/// Knows how to open connections to one endpoint.
struct Dial {
    connector: Connector,
    keepalive_every: Duration,
    keepalive_within: Duration,
}

impl Dial {
    /// Makes a client that keeps one HTTP/2 connection and opens it when it is first needed.
    fn client(&self) -> Arc<HttpClient> {
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(None)
            .http2_only(true)
            .http2_initial_stream_window_size(STREAM_WINDOW_BYTES)
            .http2_initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_max_header_list_size(MAX_HEADER_BYTES)
            .http2_keep_alive_interval(self.keepalive_every)
            .http2_keep_alive_timeout(self.keepalive_within)
            .http2_keep_alive_while_idle(true)
            .build(self.connector.clone());
        Arc::new(client)
    }
}
