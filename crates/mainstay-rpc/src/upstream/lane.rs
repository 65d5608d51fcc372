use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{AUTHORIZATION, USER_AGENT};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Uri};
use hyper::body::Incoming;
use hyper_util::client::legacy::{self, Client};
use tokio::time::Instant;
use tonic::body::Body;
use tower::Service;

use super::connector::Connector;
use crate::identity::{Caller, Secret};
use crate::{timeout, trace};

pub(super) type HttpClient = Client<Connector, Body>;

/// The peer's timer runs ahead of ours by this much at most, because its answer says more than our timeout.
const HEAD_START: Duration = Duration::from_millis(10);

/// Carries one attempt to one endpoint: the transport under a generated client.
///
/// `CacheServiceClient::new(lane)`. It adds what every request carries: the time left, the trace, the service token
/// and the caller.
#[derive(Clone, Debug)]
pub struct Lane {
    client: Arc<HttpClient>,
    scheme: Scheme,
    authority: Authority,
    head: Head,
}

impl Lane {
    pub(super) fn new(client: Arc<HttpClient>, scheme: Scheme, authority: Authority, head: Head) -> Self {
        Self { client, scheme, authority, head }
    }
}

impl Service<http::Request<Body>> for Lane {
    type Response = http::Response<Incoming>;
    type Error = legacy::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(self.scheme.clone());
        uri.authority = Some(self.authority.clone());
        uri.path_and_query =
            request.uri().path_and_query().cloned().or_else(|| Some(PathAndQuery::from_static("/")));
        *request.uri_mut() = Uri::from_parts(uri).expect("scheme, authority and path make a whole uri");
        self.head.write(request.headers_mut());
        Box::pin(self.client.request(request))
    }
}

/// Holds the headers that every request of one attempt gets.
#[derive(Clone, Debug)]
pub(super) struct Head {
    headers: HeaderMap,
    until: Instant,
}

impl Head {
    /// Also takes up the trace context of the current span.
    pub(super) fn new(token: &Secret, caller: Option<&Caller>, until: Instant) -> Self {
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("mainstay/", env!("CARGO_PKG_VERSION"))));
        if !token.is_empty() {
            let mut bearer = HeaderValue::try_from(format!("Bearer {}", token.expose()))
                .expect("the token was checked to be visible ASCII");
            bearer.set_sensitive(true);
            headers.insert(AUTHORIZATION, bearer);
        }
        if let Some(caller) = caller {
            caller.write(&mut headers);
        }
        trace::inject(&mut headers);
        Self { headers, until }
    }

    fn write(&self, headers: &mut HeaderMap) {
        headers.extend(self.headers.clone());
        let left = self.until.saturating_duration_since(Instant::now());
        let head_start = (left / 10).min(HEAD_START);
        timeout::write(headers, left - head_start);
    }
}
