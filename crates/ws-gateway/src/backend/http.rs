//! A backend that speaks plain HTTP: each call is one POST of a JSON document.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use mainstay_proto::realtime::v1::{BackendError, BackendRpcRequest, BackendRpcResponse};
use mainstay_resilience::breaker::{Breaker, Outcome, Permit};
use mainstay_rpc::{Connector, http_client_tls, trace};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout};

use super::NoAnswer;
use crate::config::HttpBackendConfig;

const IDLE_FOR: Duration = Duration::from_secs(30);

/// Asks one HTTP server, under a breaker. Redirects are not followed.
pub(super) struct HttpBackend {
    rpc_url: Uri,
    headers: HeaderMap,
    client: Client<Connector, Full<Bytes>>,
    max_answer_bytes: usize,
    breaker: Mutex<Breaker>,
}

/// Says why a server did not answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    #[error("the backend fails and is left alone for a while")]
    BreakerOpen,
    #[error("the backend did not answer in time")]
    Timeout,
    #[error("the exchange with the backend broke")]
    Broken(#[source] legacy::Error),
    #[error("the answer of the backend broke off or is too large")]
    Body(#[source] Box<dyn Error + Send + Sync>),
    #[error("the backend answered {0}")]
    Status(StatusCode),
}

#[derive(Serialize)]
struct Asked<'a> {
    client: &'a str,
    user: &'a str,
    method: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    meta: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Told {
    #[serde(default)]
    data: Option<Box<RawValue>>,
    #[serde(default)]
    error: Option<ToldError>,
}

#[derive(Deserialize)]
struct ToldError {
    code: u32,
    #[serde(default)]
    message: String,
    #[serde(default)]
    temporary: bool,
}

impl HttpBackend {
    pub(super) fn try_new(
        config: &HttpBackendConfig,
        max_in_flight: u32,
        max_answer_bytes: usize,
    ) -> anyhow::Result<Self> {
        let rpc_url: Uri = config.rpc_url.parse()?;
        let is_https = rpc_url.scheme_str() == Some("https");
        let tls = is_https.then(|| http_client_tls(&config.tls)).transpose()?;
        let connector = Connector::dial(&rpc_url, tls, &config.tls.domain, config.connect_within)?;
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_FOR)
            .pool_max_idle_per_host(max_in_flight as usize)
            .build(connector);
        let breaker = Mutex::new(Breaker::new(config.breaker.clone().into()));
        Ok(Self { rpc_url, headers: headers(config)?, client, max_answer_bytes, breaker })
    }

    pub(super) async fn rpc(
        &self,
        asked: &BackendRpcRequest,
        within: Duration,
    ) -> Result<BackendRpcResponse, NoAnswer> {
        let client = asked.client.clone().unwrap_or_default();
        let document = |bytes: &Bytes| -> Result<Option<Box<RawValue>>, NoAnswer> {
            if bytes.is_empty() {
                return Ok(None);
            }
            serde_json::from_slice(bytes)
                .map(Some)
                .map_err(|_| NoAnswer::Broken("a question that is not JSON"))
        };
        let (data, meta) = (document(&asked.data)?, document(&client.meta)?);
        let body = Asked {
            client: &client.client,
            user: &client.user,
            method: &asked.method,
            data: data.as_deref(),
            meta: meta.as_deref(),
        };
        let body = serde_json::to_vec(&body).expect("texts and checked JSON can be written");
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.rpc_url.clone();
        *request.headers_mut() = self.headers.clone();
        trace::inject(request.headers_mut());
        let answer = self.exchange(request, within).await.map_err(NoAnswer::Http)?;
        let told: Told = serde_json::from_slice(&answer)
            .map_err(|_| NoAnswer::Broken("a body that is not the JSON expected"))?;
        let error = told.error.map(|error| BackendError {
            code: error.code,
            message: error.message,
            temporary: error.temporary,
        });
        let data = told.data.map(|data| Bytes::from(data.get().to_owned())).unwrap_or_default();
        Ok(BackendRpcResponse { data, error })
    }

    async fn exchange(&self, request: Request<Full<Bytes>>, within: Duration) -> Result<Bytes, HttpError> {
        let admission = self.admit()?;
        let answer = timeout(within, self.send(request)).await.unwrap_or(Err(HttpError::Timeout));
        let speaks_against_it = match &answer {
            Ok(_) | Err(HttpError::Body(_)) => false,
            Err(HttpError::Status(status)) => status.is_server_error() || status.as_u16() == 429,
            Err(_) => true,
        };
        admission.end(if speaks_against_it { Outcome::Failure } else { Outcome::Success });
        answer
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Bytes, HttpError> {
        let answer = self.client.request(request).await.map_err(HttpError::Broken)?;
        let (parts, body) = answer.into_parts();
        if !parts.status.is_success() {
            return Err(HttpError::Status(parts.status));
        }
        let body = Limited::new(body, self.max_answer_bytes).collect().await.map_err(HttpError::Body)?;
        Ok(body.to_bytes())
    }

    fn admit(&self) -> Result<Admission<'_>, HttpError> {
        let started = Instant::now();
        let permit = self.breaker.lock().admit(started.into_std()).map_err(|_| HttpError::BreakerOpen)?;
        Ok(Admission { backend: self, permit: Some(permit), started })
    }
}

fn headers(config: &HttpBackendConfig) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    headers.insert(USER_AGENT, HeaderValue::from_static("mainstay-ws-gateway"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if !config.authorization.is_empty() {
        let mut value = HeaderValue::try_from(config.authorization.expose())?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    Ok(headers)
}

/// Holds the breaker's permit for one exchange; gives it back unjudged when the caller goes away.
struct Admission<'a> {
    backend: &'a HttpBackend,
    permit: Option<Permit>,
    started: Instant,
}

impl Admission<'_> {
    fn end(mut self, outcome: Outcome) {
        let Some(permit) = self.permit.take() else { return };
        let now = Instant::now();
        let change = self.backend.breaker.lock().record(permit, outcome, now - self.started, now.into_std());
        if let Some(change) = change {
            let (from, to) = (change.from.as_str(), change.to.as_str());
            tracing::warn!(from, to, "breaker of the backend changed");
        }
    }
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            self.backend.breaker.lock().cancel(permit, Instant::now().into_std());
        }
    }
}
