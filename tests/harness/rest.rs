//! A REST client that shows everything of an answer.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

/// Longest wait for one answer; the edge promises its own within 5 s.
const ANSWER_WITHIN: Duration = Duration::from_mins(2);

/// A client of the edge; keeps connections alive as browsers and SDKs do.
#[derive(Clone)]
pub struct Rest {
    client: Client<HttpConnector, Full<Bytes>>,
    base: String,
    headers: HeaderMap,
}

/// One whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Rest {
    pub fn new(address: SocketAddr) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { client, base: format!("http://{address}"), headers: HeaderMap::new() }
    }

    pub fn with_api_key(self, key: &str) -> Self {
        self.with_header("x-api-key", key)
    }

    pub fn with_header(mut self, name: &'static str, value: &str) -> Self {
        let value = HeaderValue::try_from(value).expect("tests send legal headers");
        self.headers.insert(HeaderName::from_static(name), value);
        self
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, Bytes::new()).await.expect("the edge answers")
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, Bytes::new()).await.expect("the edge answers")
    }

    pub async fn put(&self, path: &str, body: impl Into<Bytes>) -> Answer {
        self.send(Method::PUT, path, body.into()).await.expect("the edge answers")
    }

    pub async fn patch(&self, path: &str, body: impl Into<Bytes>) -> Answer {
        self.send(Method::PATCH, path, body.into()).await.expect("the edge answers")
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        let json = self.clone().with_header("content-type", "application/json");
        json.send(Method::POST, path, body.to_string().into()).await.expect("the edge answers")
    }

    /// Sends one request and gives the status, with the body where it is a problem; an answer without an end, as of an
    /// event stream, is left after its head.
    ///
    /// # Errors
    /// Says in words why no answer came.
    pub async fn head(&self, method: Method, path: &str, body: Bytes) -> Result<(StatusCode, Value), String> {
        let answer = tokio::time::timeout(ANSWER_WITHIN, self.begin(method, path, body));
        let answer = answer.await.unwrap_or_else(|_| Err("no answer in time".to_owned()))?;
        let status = answer.status();
        if !status.is_client_error() {
            return Ok((status, Value::Null));
        }
        let body = answer.into_body().collect().await.map_err(chain)?.to_bytes();
        Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
    }

    /// Sends one request.
    ///
    /// # Errors
    /// Says in words why no whole answer came.
    pub async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Answer, String> {
        let whole = async {
            let (parts, body) = self.begin(method, path, body).await?.into_parts();
            let body = body.collect().await.map_err(chain)?.to_bytes();
            Ok(Answer { status: parts.status, headers: parts.headers, body })
        };
        tokio::time::timeout(ANSWER_WITHIN, whole)
            .await
            .unwrap_or_else(|_| Err("no answer in time".to_owned()))
    }

    /// Sends one request and waits for the head of its answer; the body may go on without end.
    ///
    /// # Errors
    /// Says in words why no answer came.
    pub async fn begin(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<http::Response<Incoming>, String> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() =
            format!("{}{path}", self.base).parse().map_err(|error| format!("bad path: {error}"))?;
        *request.headers_mut() = self.headers.clone();
        self.client.request(request).await.map_err(chain)
    }
}

fn chain(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

impl Answer {
    /// Reads the body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Gives one header, or "" where it is missing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Checks that the answer is a problem+json document of this status and code, and gives it.
    pub fn problem(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        assert_eq!(self.header(CONTENT_TYPE.as_str()), "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["status"], status);
        assert_eq!(problem["requestId"], self.header("x-request-id"));
        problem
    }

    /// Checks that the answer is a success, and reads it as JSON.
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text());
        self.json()
    }
}
