//! Sources that speak plain HTTP.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT};
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use mainstay_resilience::breaker::{Breaker, Outcome, Permit, State};
use mainstay_rpc::{Connector, http_client_tls, trace};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tracing::Instrument as _;

use super::{Change, EndpointFigures, Loaded, OriginError};
use crate::config::HttpOriginConfig;
use crate::engine::WriteOutcome;
use crate::key::{ContentType, Key, Tags};

mod keys_url;
mod template;

pub(crate) use keys_url::KeysUrl;
pub(crate) use template::Template;

/// Tells an origin the version of a change, so that it can drop what it has newer.
const VERSION: HeaderName = HeaderName::from_static("x-mainstay-version");
/// What is read of an answer that is no value, so that the connection can be used again.
const REST_BYTES: usize = 64 << 10;
/// Changes of one call that are under way at once.
const CONCURRENT: usize = 8;
const IDLE_FOR: Duration = Duration::from_secs(30);

/// Asks one HTTP server, under a breaker of its own. Redirects are not followed.
#[derive(Debug)]
pub(super) struct HttpOrigin {
    name: String,
    template: Template,
    keys_url: Option<KeysUrl>,
    headers: HeaderMap,
    client: Client<Connector, Full<Bytes>>,
    slots: Semaphore,
    max_in_flight: usize,
    max_answer_bytes: usize,
    breaker: Mutex<Breaker>,
}

/// Says why a server did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    #[error("the origin fails and is left alone for a while")]
    BreakerOpen,
    #[error("the origin did not answer in time")]
    Timeout,
    #[error("the exchange with the origin broke")]
    Broken(#[source] legacy::Error),
    #[error("the answer of the origin broke off or is too large")]
    Body(#[source] Box<dyn Error + Send + Sync>),
    #[error("the origin answered {0}")]
    Status(StatusCode),
}

impl HttpError {
    /// Tells whether a change may have been taken all the same.
    pub(super) fn outcome(&self) -> WriteOutcome {
        match self {
            Self::BreakerOpen => WriteOutcome::NotApplied,
            Self::Status(status) if status.is_client_error() => WriteOutcome::NotApplied,
            Self::Timeout | Self::Broken(_) | Self::Body(_) | Self::Status(_) => WriteOutcome::Unknown,
        }
    }

    /// Tells whether the origin could not be asked or cannot serve, whatever it is asked for.
    pub(super) fn is_outage(&self) -> bool {
        match self {
            Self::BreakerOpen | Self::Timeout | Self::Broken(_) => true,
            Self::Body(_) => false,
            Self::Status(status) => matches!(status.as_u16(), 429 | 502 | 503 | 504),
        }
    }
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl HttpOrigin {
    pub(super) fn try_new(name: &str, config: &HttpOriginConfig) -> anyhow::Result<Self> {
        let template = Template::try_new(&config.url)?;
        let is_https = template.example().scheme_str() == Some("https");
        let tls = is_https.then(|| http_client_tls(&config.tls)).transpose()?;
        let connector = Connector::dial(template.example(), tls, &config.tls.domain, config.connect_within)?;
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_FOR)
            .pool_max_idle_per_host(config.max_in_flight as usize)
            .build(connector);
        Ok(Self {
            name: name.to_owned(),
            keys_url: KeysUrl::try_new(&config.keys_url, &template)?,
            template,
            headers: headers(config)?,
            client,
            slots: Semaphore::new(config.max_in_flight as usize),
            max_in_flight: config.max_in_flight as usize,
            max_answer_bytes: usize::try_from(config.max_answer.as_u64()).unwrap_or(usize::MAX),
            breaker: Mutex::new(Breaker::new(config.breaker.clone().into())),
        })
    }

    pub(super) fn endpoint(&self) -> EndpointFigures {
        let url = self.template.example();
        // No more of it: a path or a query may tell what is not for everybody.
        let (scheme, authority) = (url.scheme_str().unwrap_or_default(), url.authority());
        let host = authority.map(|authority| authority.as_str().rsplit('@').next().unwrap_or_default());
        let in_flight = self.max_in_flight.saturating_sub(self.slots.available_permits());
        EndpointFigures {
            endpoint: format!("{scheme}://{}", host.unwrap_or_default()),
            breaker: self.breaker.lock().state(Instant::now().into_std()).as_str(),
            in_flight: u32::try_from(in_flight).unwrap_or(u32::MAX),
        }
    }

    /// Asks for a key; none when the server says 404 or 410.
    pub(super) async fn load(&self, key: &Key, within: Duration) -> Result<Option<Loaded>, OriginError> {
        let request = self.request(Method::GET, key, Bytes::new())?;
        let answer = self.exchange(request, within).await.map_err(OriginError::Http)?;
        match answer.status {
            StatusCode::OK | StatusCode::NON_AUTHORITATIVE_INFORMATION => {
                let content_type = answer.headers.get(CONTENT_TYPE).map_or(Ok(""), HeaderValue::to_str);
                let illegal = || OriginError::Illegal("its content type".to_owned());
                let content_type = content_type.map_err(|_| illegal())?;
                let content_type = ContentType::try_new(content_type).map_err(|_| illegal())?;
                Ok(Some(Loaded { value: answer.body, content_type, ttl: None, tags: Tags::default() }))
            }
            StatusCode::NOT_FOUND | StatusCode::GONE => Ok(None),
            status => Err(OriginError::Http(HttpError::Status(status))),
        }
    }

    /// Asks for the key list of a namespace: lines, each a key or an object with one.
    pub(super) async fn list_keys(&self, namespace: &str, within: Duration) -> Result<Bytes, OriginError> {
        let url = self.keys_url.as_ref().ok_or(OriginError::NoKeys)?;
        let mut request = Request::new(Full::default());
        *request.uri_mut() = url.of(namespace);
        *request.headers_mut() = self.headers.clone();
        let answer = self.exchange(request, within).await.map_err(OriginError::Http)?;
        match answer.status {
            StatusCode::OK => Ok(answer.body),
            status => Err(OriginError::Http(HttpError::Status(status))),
        }
    }

    /// Tells the server of changes of different keys.
    pub(super) async fn store(&self, changes: &[Change], within: Duration) -> Result<(), OriginError> {
        let stores: Vec<_> = changes.iter().map(|change| self.store_one(change, within)).collect();
        stream::iter(stores).buffer_unordered(CONCURRENT).try_collect().await
    }

    async fn store_one(&self, change: &Change, within: Duration) -> Result<(), OriginError> {
        let mut request = match &change.value {
            Some(loaded) => {
                let mut request = self.request(Method::PUT, &change.key, loaded.value.clone())?;
                let content_type = loaded.content_type.as_str();
                if !content_type.is_empty() {
                    let value = HeaderValue::from_str(content_type).expect("visible ASCII characters");
                    request.headers_mut().insert(CONTENT_TYPE, value);
                }
                request
            }
            None => self.request(Method::DELETE, &change.key, Bytes::new())?,
        };
        request.headers_mut().insert(VERSION, HeaderValue::from(change.version));
        let answer = self.exchange(request, within).await.map_err(OriginError::Http)?;
        let is_gone =
            change.value.is_none() && matches!(answer.status, StatusCode::NOT_FOUND | StatusCode::GONE);
        if answer.status.is_success() || is_gone {
            return Ok(());
        }
        Err(OriginError::Http(HttpError::Status(answer.status)))
    }

    fn request(&self, method: Method, key: &Key, body: Bytes) -> Result<Request<Full<Bytes>>, OriginError> {
        let url = self.template.url(key).map_err(|wrong| OriginError::Illegal(wrong.to_string()))?;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = url;
        *request.headers_mut() = self.headers.clone();
        Ok(request)
    }

    async fn exchange(
        &self,
        mut request: Request<Full<Bytes>>,
        within: Duration,
    ) -> Result<Answer, HttpError> {
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

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Answer, HttpError> {
        let answer = self.client.request(request).await.map_err(HttpError::Broken)?;
        let (parts, body) = answer.into_parts();
        let is_value = parts.status.is_success();
        let most = if is_value { self.max_answer_bytes } else { REST_BYTES };
        let body = match Limited::new(body, most).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if is_value => return Err(HttpError::Body(error)),
            Err(_) => Bytes::new(),
        };
        Ok(Answer { status: parts.status, headers: parts.headers, body })
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
        Ok(Admission { origin: self, permit: Some(permit), started })
    }
}

fn headers(config: &HttpOriginConfig) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    headers.insert(USER_AGENT, HeaderValue::from_static("mainstay-cache-service"));
    for (name, value) in &config.headers {
        headers.insert(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
    }
    if !config.authorization.is_empty() {
        let mut value = HeaderValue::try_from(config.authorization.expose())?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    Ok(headers)
}

/// Holds the breaker's permit for one exchange; gives it back unjudged when the caller goes away.
struct Admission<'a> {
    origin: &'a HttpOrigin,
    permit: Option<Permit>,
    started: Instant,
}

impl Admission<'_> {
    fn end(mut self, outcome: Outcome) {
        let Some(permit) = self.permit.take() else { return };
        let now = Instant::now();
        let change = self.origin.breaker.lock().record(permit, outcome, now - self.started, now.into_std());
        let Some(change) = change else { return };
        let (origin, from, to) = (&self.origin.name, change.from.as_str(), change.to.as_str());
        if change.to == State::Open {
            tracing::warn!(origin, from, to, "breaker of an origin changed");
        } else {
            tracing::info!(origin, from, to, "breaker of an origin changed");
        }
    }
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            self.origin.breaker.lock().cancel(permit, Instant::now().into_std());
        }
    }
}
