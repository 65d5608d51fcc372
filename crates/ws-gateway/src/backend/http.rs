//! A backend that speaks plain HTTP: each question is one POST of a JSON document.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use http::{HeaderMap, Method, Uri};
use mainstay_auth::jwt::Overrides;
use mainstay_proto::realtime::v1::{BackendClient, BackendError, BackendRpcRequest, BackendRpcResponse};
use mainstay_rpc::{HttpError, HttpUpstream, HttpUpstreamOptions};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::hooks::{Question, Told};
use super::{NoAnswer, line};
use crate::config::HttpBackendConfig;

/// Asks one HTTP server.
pub(super) struct HttpBackend {
    /// None where it is not asked such things.
    rpc_url: Option<Uri>,
    hooks: Option<HookUrls>,
    server: HttpUpstream,
}

/// Where each question is posted to.
struct HookUrls {
    connect: Uri,
    refresh: Uri,
    subscribe: Uri,
    sub_refresh: Uri,
    publish: Uri,
}

/// A question; what it has no use for is left out.
#[derive(Default, Serialize)]
struct Asked<'a> {
    client: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    meta: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<&'a HashMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote: Option<&'a str>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Said {
    user: String,
    info: Option<Box<RawValue>>,
    meta: Option<Box<RawValue>>,
    data: Option<Box<RawValue>>,
    channels: Vec<String>,
    expire_at: u64,
    expired: bool,
    #[serde(rename = "override")]
    overrides: Overrides,
    filter: Option<Box<RawValue>>,
    filters: BTreeMap<String, Box<RawValue>>,
    error: Option<SaidError>,
}

#[derive(Deserialize)]
struct SaidError {
    code: u32,
    #[serde(default)]
    message: String,
    #[serde(default)]
    temporary: bool,
}

#[derive(Deserialize)]
struct SaidToRpc {
    #[serde(default)]
    data: Option<Box<RawValue>>,
    #[serde(default)]
    error: Option<SaidError>,
}

impl HttpBackend {
    pub(super) fn try_new(
        config: &HttpBackendConfig,
        max_in_flight: u32,
        max_answer_bytes: usize,
    ) -> anyhow::Result<Self> {
        let given = |url: &str| (!url.is_empty()).then(|| url.parse::<Uri>()).transpose();
        let hooks =
            (!config.hooks_url.is_empty()).then(|| HookUrls::try_new(&config.hooks_url)).transpose()?;
        let rpc_url = given(&config.rpc_url)?;
        let any = rpc_url.as_ref().or_else(|| hooks.as_ref().map(|hooks| &hooks.connect));
        let options = HttpUpstreamOptions {
            headers: headers(config)?,
            connect_within: config.connect_within,
            tls: &config.tls,
            max_in_flight,
            max_answer_bytes,
            breaker: config.breaker.clone(),
        };
        let server = HttpUpstream::try_new("backend", any.context("no url is given")?, options)?;
        Ok(Self { rpc_url, hooks, server })
    }

    pub(super) async fn rpc(
        &self,
        asked: &BackendRpcRequest,
        within: Duration,
    ) -> Result<BackendRpcResponse, NoAnswer> {
        let url = self.rpc_url.clone().ok_or(NoAnswer::Broken("no url for it"))?;
        let client = asked.client.clone().unwrap_or_default();
        let body = Asked { method: Some(&asked.method), data: document(&asked.data)?, ..Asked::of(&client)? };
        let said: SaidToRpc = self.post(url, &body, within).await?;
        let data = said.data.map(|data| Bytes::from(data.get().to_owned())).unwrap_or_default();
        Ok(BackendRpcResponse { data, error: said.error.map(BackendError::from) })
    }

    pub(super) async fn ask(&self, question: Question, within: Duration) -> Result<Told, NoAnswer> {
        let urls = self.hooks.as_ref().ok_or(NoAnswer::Broken("no url for it"))?;
        let (url, client) = match &question {
            Question::Connect(asked) => (&urls.connect, &asked.client),
            Question::Refresh(asked) => (&urls.refresh, &asked.client),
            Question::Subscribe(asked) => (&urls.subscribe, &asked.client),
            Question::SubRefresh(asked) => (&urls.sub_refresh, &asked.client),
            Question::Publish(asked) => (&urls.publish, &asked.client),
        };
        let client = client.clone().unwrap_or_default();
        let asker = Asked::of(&client)?;
        let body = match &question {
            Question::Connect(asked) => Asked {
                user: None,
                data: document(&asked.data)?,
                name: Some(&asked.name),
                version: Some(&asked.version),
                headers: Some(&asked.headers),
                remote: Some(&asked.remote),
                ..asker
            },
            Question::Refresh(_) => asker,
            Question::Subscribe(asked) => {
                Asked { channel: Some(&asked.channel), data: document(&asked.data)?, ..asker }
            }
            Question::SubRefresh(asked) => Asked { channel: Some(&asked.channel), ..asker },
            Question::Publish(asked) => {
                Asked { channel: Some(&asked.channel), data: document(&asked.data)?, ..asker }
            }
        };
        self.post::<Said>(url.clone(), &body, within).await.and_then(Told::try_from)
    }

    async fn post<T: DeserializeOwned>(
        &self,
        url: Uri,
        body: &Asked<'_>,
        within: Duration,
    ) -> Result<T, NoAnswer> {
        let body = serde_json::to_vec(body).expect("texts and checked JSON can be written");
        let request = self.server.request(Method::POST, url, body.into());
        let answer = self.server.exchange(request, within).await.map_err(NoAnswer::Http)?;
        if !answer.status.is_success() {
            return Err(NoAnswer::Http(HttpError::Status(answer.status)));
        }
        // An array is no object, though fields could be read from one by position.
        if !answer.body.trim_ascii_start().starts_with(b"{") {
            return Err(NoAnswer::Broken("a body that is no JSON object"));
        }
        serde_json::from_slice(&answer.body)
            .map_err(|_| NoAnswer::Broken("a body that is not the JSON expected"))
    }
}

impl HookUrls {
    fn try_new(base: &str) -> Result<Self, http::uri::InvalidUri> {
        let base = base.trim_end_matches('/');
        let of = |hook: &str| format!("{base}/{hook}").parse();
        Ok(Self {
            connect: of("connect")?,
            refresh: of("refresh")?,
            subscribe: of("subscribe")?,
            sub_refresh: of("sub_refresh")?,
            publish: of("publish")?,
        })
    }
}

impl<'a> Asked<'a> {
    fn of(client: &'a BackendClient) -> Result<Self, NoAnswer> {
        Ok(Self {
            client: &client.client,
            user: Some(&client.user),
            meta: document(&client.meta)?,
            ..Self::default()
        })
    }
}

impl TryFrom<Said> for Told {
    type Error = NoAnswer;

    fn try_from(said: Said) -> Result<Self, NoAnswer> {
        let shown = |document: Option<Box<RawValue>>| {
            document.map(|document| line(document.get().as_bytes())).transpose()
        };
        Ok(Self {
            user: said.user,
            info: shown(said.info)?,
            meta: shown(said.meta)?,
            data: shown(said.data)?,
            channels: said.channels,
            expire_at: said.expire_at,
            expired: said.expired,
            overrides: said.overrides,
            filter: shown(said.filter)?,
            filters: said
                .filters
                .into_iter()
                .map(|(channel, filter)| Ok((channel, line(filter.get().as_bytes())?)))
                .collect::<Result<_, NoAnswer>>()?,
            error: said.error.map(BackendError::from),
        })
    }
}

impl From<SaidError> for BackendError {
    fn from(error: SaidError) -> Self {
        Self { code: error.code, message: error.message, temporary: error.temporary }
    }
}

/// Reads a document that is checked already; none where there is none.
fn document(bytes: &Bytes) -> Result<Option<Box<RawValue>>, NoAnswer> {
    if bytes.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(bytes).map(Some).map_err(|_| NoAnswer::Broken("a question that is not JSON"))
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
