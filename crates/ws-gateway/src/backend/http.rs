//! A backend that speaks plain HTTP: each call is one POST of a JSON document.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use http::{HeaderMap, Method, Uri};
use mainstay_proto::realtime::v1::{BackendError, BackendRpcRequest, BackendRpcResponse};
use mainstay_rpc::{HttpError, HttpUpstream, HttpUpstreamOptions};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::NoAnswer;
use crate::config::HttpBackendConfig;

/// Asks one HTTP server.
pub(super) struct HttpBackend {
    rpc_url: Uri,
    server: HttpUpstream,
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
        let options = HttpUpstreamOptions {
            headers: headers(config)?,
            connect_within: config.connect_within,
            tls: &config.tls,
            max_in_flight,
            max_answer_bytes,
            breaker: config.breaker.clone(),
        };
        Ok(Self { server: HttpUpstream::try_new("backend", &rpc_url, options)?, rpc_url })
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
        let request = self.server.request(Method::POST, self.rpc_url.clone(), body.into());
        let answer = self.server.exchange(request, within).await.map_err(NoAnswer::Http)?;
        if !answer.status.is_success() {
            return Err(NoAnswer::Http(HttpError::Status(answer.status)));
        }
        let told: Told = serde_json::from_slice(&answer.body)
            .map_err(|_| NoAnswer::Broken("a body that is not the JSON expected"))?;
        let error = told.error.map(|error| BackendError {
            code: error.code,
            message: error.message,
            temporary: error.temporary,
        });
        let data = told.data.map(|data| Bytes::from(data.get().to_owned())).unwrap_or_default();
        Ok(BackendRpcResponse { data, error })
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
