//! Calls of servers that speak plain HTTP.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use mainstay_resilience::breaker::{Breaker, Outcome, Permit, State};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tracing::Instrument as _;

use crate::tls::{ClientTls, InvalidTls, http_client_tls};
use crate::trace;
use crate::upstream::{BreakerSection, Connector, InvalidUpstream};

/// What is read of an answer that is no success, so that the connection can be used again.
const REST_BYTES: usize = 64 << 10;
const IDLE_FOR: Duration = Duration::from_secs(30);

/// Asks one HTTP server, under a breaker of its own. Redirects are not followed.
#[derive(Debug)]
pub struct HttpUpstream {
    name: String,
    headers: HeaderMap,
    client: Client<Connector, Full<Bytes>>,
    slots: Semaphore,
    max_in_flight: usize,
    max_answer_bytes: usize,
    breaker: Mutex<Breaker>,
}

/// What holds for every request of an [`HttpUpstream`].
#[derive(Debug)]
pub struct HttpUpstreamOptions<'a> {
    /// Sent with every request.
    pub headers: HeaderMap,
    /// Time for name resolution, TCP and TLS handshakes together.
    pub connect_within: Duration,
    /// For `https`: without `ca`, whom the host trusts is trusted.
    pub tls: &'a ClientTls,
    /// Requests under way at once; more wait, within their deadline.
    pub max_in_flight: u32,
    /// Largest body of a success.
    pub max_answer_bytes: usize,
    /// When requests are held back.
    pub breaker: BreakerSection,
}

/// What a server answered, with the whole body if it was a success.
#[derive(Debug)]
pub struct HttpAnswer {
    /// Any status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Empty where the answer was no success and long.
    pub body: Bytes,
}

/// Says why a server did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// It failed before, so it was not asked.
    #[error("the server fails and is left alone for a while")]
    BreakerOpen,
    /// The deadline has passed.
    #[error("the server did not answer in time")]
    Timeout,
    /// There is no connection, or no longer.
    #[error("the exchange with the server broke")]
    Broken(#[source] legacy::Error),
    /// An answer began and cannot be had.
    #[error("the answer of the server broke off or is too large")]
    Body(#[source] Box<dyn Error + Send + Sync>),
    /// Given by callers for a status that they have no use for.
    #[error("the server answered {0}")]
    Status(StatusCode),
}

/// Says why a server cannot be called as configured.
#[derive(Debug, thiserror::Error)]
pub enum InvalidHttpUpstream {
    /// The certificates cannot be used.
    #[error("tls")]
    Tls(#[from] InvalidTls),
    /// The URL leads nowhere.
    #[error("url")]
    Url(#[from] InvalidUpstream),
}

impl HttpError {
    /// Tells whether the server could not be asked or cannot serve, whatever it is asked for.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::BreakerOpen | Self::Timeout | Self::Broken(_) => true,
            Self::Body(_) => false,
            Self::Status(status) => matches!(status.as_u16(), 429 | 502 | 503 | 504),
        }
    }
}

impl HttpUpstream {
    /// Prepares calls of the server of `url`. Connections are made by the first.
    pub fn try_new(
        name: impl Into<String>,
        url: &Uri,
        options: HttpUpstreamOptions<'_>,
    ) -> Result<Self, InvalidHttpUpstream> {
        let is_https = url.scheme_str() == Some("https");
        let tls = is_https.then(|| http_client_tls(options.tls)).transpose()?;
        let connector = Connector::dial(url, tls, &options.tls.domain, options.connect_within)?;
        let max_in_flight = options.max_in_flight as usize;
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_FOR)
            .pool_max_idle_per_host(max_in_flight)
            .build(connector);
        Ok(Self {
            name: name.into(),
            headers: options.headers,
            client,
            slots: Semaphore::new(max_in_flight),
            max_in_flight,
            max_answer_bytes: options.max_answer_bytes,
            breaker: Mutex::new(Breaker::new(options.breaker.into())),
        })
    }

    /// Returns the state of the breaker.
    pub fn breaker(&self) -> State {
        self.breaker.lock().state(Instant::now().into_std())
    }

    /// Counts the requests under way.
    pub fn in_flight(&self) -> u32 {
        let in_flight = self.max_in_flight.saturating_sub(self.slots.available_permits());
        u32::try_from(in_flight).unwrap_or(u32::MAX)
    }

    /// Makes a request with the headers of all; the host must be that of the server.
    pub fn request(&self, method: Method, url: Uri, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = url;
        *request.headers_mut() = self.headers.clone();
        request
    }

    /// Sends a request and reads the whole answer. Dropping it counts neither for nor against the server.
    ///
    /// # Errors
    /// Fails when there is no answer. Every status is an answer, but 429 and those from 500 on speak against the server.
    pub async fn exchange(
        &self,
        mut request: Request<Full<Bytes>>,
        within: Duration,
    ) -> Result<HttpAnswer, HttpError> {
        let span = self.span(request.method(), request.uri());
        let exchange = async {
            trace::inject(request.headers_mut());
            let until = Instant::now() + within;
            let slot = timeout(within, self.slots.acquire()).await.map_err(|_| HttpError::Timeout)?;
            let _slot = slot.expect("the slots are never closed");
            let admission = self.admit()?;
            let left = until.saturating_duration_since(Instant::now());
            let answer = timeout(left, self.send(request)).await.unwrap_or(Err(HttpError::Timeout));
            let speaks_against_it = match &answer {
                Ok(answer) => answer.status.is_server_error() || answer.status.as_u16() == 429,
                Err(error) => error.is_outage(),
            };
            admission.end(if speaks_against_it { Outcome::Failure } else { Outcome::Success });
            answer
        };
        let answer = exchange.instrument(span.clone()).await;
        match &answer {
            Ok(answer) => drop(span.record("http.response.status_code", answer.status.as_u16())),
            Err(error) => {
                span.record("otel.status_code", "ERROR");
                span.record("otel.status_description", error.to_string());
            }
        }
        answer
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<HttpAnswer, HttpError> {
        let answer = self.client.request(request).await.map_err(HttpError::Broken)?;
        let (parts, body) = answer.into_parts();
        let is_success = parts.status.is_success();
        let most = if is_success { self.max_answer_bytes } else { REST_BYTES };
        let body = match Limited::new(body, most).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if is_success => return Err(HttpError::Body(error)),
            Err(_) => Bytes::new(),
        };
        Ok(HttpAnswer { status: parts.status, headers: parts.headers, body })
    }

    fn span(&self, method: &Method, url: &Uri) -> tracing::Span {
        tracing::info_span!(
            "http.client",
            otel.name = method.as_str(),
            otel.kind = "client",
            otel.status_code = tracing::field::Empty,
            otel.status_description = tracing::field::Empty,
            http.request.method = method.as_str(),
            http.response.status_code = tracing::field::Empty,
            server.address = url.host(),
            upstream = self.name,
        )
    }

    fn admit(&self) -> Result<Admission<'_>, HttpError> {
        let started = Instant::now();
        let permit = self.breaker.lock().admit(started.into_std()).map_err(|_| HttpError::BreakerOpen)?;
        Ok(Admission { server: self, permit: Some(permit), started })
    }
}

/// Holds the breaker's permit for one exchange; gives it back unjudged when the caller goes away.
struct Admission<'a> {
    server: &'a HttpUpstream,
    permit: Option<Permit>,
    started: Instant,
}

impl Admission<'_> {
    fn end(mut self, outcome: Outcome) {
        let Some(permit) = self.permit.take() else { return };
        let now = Instant::now();
        let change = self.server.breaker.lock().record(permit, outcome, now - self.started, now.into_std());
        let Some(change) = change else { return };
        let (server, from, to) = (&self.server.name, change.from.as_str(), change.to.as_str());
        if change.to == State::Open {
            tracing::warn!(server, from, to, "breaker of a server changed");
        } else {
            tracing::info!(server, from, to, "breaker of a server changed");
        }
    }
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            self.server.breaker.lock().cancel(permit, Instant::now().into_std());
        }
    }
}

#[cfg(test)]
mod tests;
