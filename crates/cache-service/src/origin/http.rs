//! Sources that speak plain HTTP.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::Full;
pub(crate) use mainstay_rpc::HttpError;
use mainstay_rpc::{HttpUpstream, HttpUpstreamOptions};

use super::{Change, EndpointFigures, Loaded, OriginError};
use crate::config::HttpOriginConfig;
use crate::key::{ContentType, Key, Tags};

mod keys_url;
mod template;

pub(crate) use keys_url::KeysUrl;
pub(crate) use template::Template;

/// Tells an origin the version of a change, so that it can drop what it has newer.
const VERSION: HeaderName = HeaderName::from_static("x-mainstay-version");
/// Changes of one call that are under way at once.
const CONCURRENT: usize = 8;

/// Asks one HTTP server, under a breaker of its own.
#[derive(Debug)]
pub(super) struct HttpOrigin {
    template: Template,
    keys_url: Option<KeysUrl>,
    server: HttpUpstream,
}

impl HttpOrigin {
    pub(super) fn try_new(name: &str, config: &HttpOriginConfig) -> anyhow::Result<Self> {
        let template = Template::try_new(&config.url)?;
        let options = HttpUpstreamOptions {
            headers: headers(config)?,
            connect_within: config.connect_within,
            tls: &config.tls,
            max_in_flight: config.max_in_flight,
            max_answer_bytes: usize::try_from(config.max_answer.as_u64()).unwrap_or(usize::MAX),
            breaker: config.breaker.clone(),
        };
        Ok(Self {
            keys_url: KeysUrl::try_new(&config.keys_url, &template)?,
            server: HttpUpstream::try_new(name, template.example(), options)?,
            template,
        })
    }

    pub(super) fn endpoint(&self) -> EndpointFigures {
        let url = self.template.example();
        // No more of it: a path or a query may tell what is not for everybody.
        let (scheme, authority) = (url.scheme_str().unwrap_or_default(), url.authority());
        let host = authority.map(|authority| authority.as_str().rsplit('@').next().unwrap_or_default());
        EndpointFigures {
            endpoint: format!("{scheme}://{}", host.unwrap_or_default()),
            breaker: self.server.breaker().as_str(),
            in_flight: self.server.in_flight(),
        }
    }

    /// Asks for a key; none when the server says 404 or 410.
    pub(super) async fn load(&self, key: &Key, within: Duration) -> Result<Option<Loaded>, OriginError> {
        let request = self.request(Method::GET, key, Bytes::new())?;
        let answer = self.server.exchange(request, within).await.map_err(OriginError::Http)?;
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
        let request = self.server.request(Method::GET, url.of(namespace), Bytes::new());
        let answer = self.server.exchange(request, within).await.map_err(OriginError::Http)?;
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
        let answer = self.server.exchange(request, within).await.map_err(OriginError::Http)?;
        let is_gone =
            change.value.is_none() && matches!(answer.status, StatusCode::NOT_FOUND | StatusCode::GONE);
        if answer.status.is_success() || is_gone {
            return Ok(());
        }
        Err(OriginError::Http(HttpError::Status(answer.status)))
    }

    fn request(&self, method: Method, key: &Key, body: Bytes) -> Result<Request<Full<Bytes>>, OriginError> {
        let url = self.template.url(key).map_err(|wrong| OriginError::Illegal(wrong.to_string()))?;
        Ok(self.server.request(method, url, body))
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
