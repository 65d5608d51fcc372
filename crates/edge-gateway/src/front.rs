//! Reads of the cache, past the router: the one path that is asked for thousands of times a second.
//!
//! Everything that a request passes through is the same code as behind the router ([`enveloped`], [`admit_read`],
//! [`cache::read`]); what is left out are the router and its layers. A request that needs more of them than this file
//! gives goes there.

use std::borrow::Cow;
use std::collections::HashSet;
use std::convert::Infallible;
use std::fmt;
use std::future::ready;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use futures_util::FutureExt as _;
use http::header::{ACCEPT_ENCODING, EXPECT, IF_NONE_MATCH, ORIGIN, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request};
use http_body::Body as _;
use hyper::body::Incoming;
use mainstay_auth::Role;
use mainstay_rpc::{Answered, Front};
use tower::{Layer as _, ServiceExt as _, service_fn};
use tower_http::compression::CompressionLayer;

use crate::body::caller;
use crate::config::HttpConfig;
use crate::middleware::authorize::{Gate, admit_read};
use crate::middleware::envelope::{Outside, admitted, enveloped};
use crate::middleware::web::{self, Compressed};
use crate::routes::cache;
use crate::state::App;

const ROUTE: &str = "/cache/{namespace}/{key}";

/// Answers `GET /cache/{namespace}/{key}`.
pub(crate) struct CacheFront(Arc<Inner>);

struct Inner {
    gate: Gate,
    /// Words that another path has in place of a namespace or a key.
    taken: [HashSet<&'static str>; 2],
    /// What answers have for browsers of other origins, also when none asks.
    cors: HeaderMap,
    compression: CompressionLayer<Compressed>,
}

/// A read that this file can answer.
struct Read {
    namespace: String,
    key: String,
    outside: Outside,
    peer: SocketAddr,
    headers: HeaderMap,
}

impl CacheFront {
    /// `paths` are all that the router knows.
    pub(crate) fn new(app: Arc<App>, paths: &HashSet<&'static str>, http: &HttpConfig) -> Self {
        let mut taken: [HashSet<&'static str>; 2] = Default::default();
        for path in paths.iter().filter(|path| **path != ROUTE) {
            let words = path.strip_prefix("/cache/").into_iter().flat_map(|rest| rest.split('/'));
            for (taken, word) in taken.iter_mut().zip(words) {
                if !word.starts_with('{') {
                    taken.insert(word);
                }
            }
        }
        Self(Arc::new(Inner {
            gate: Gate { app, role: Role::Viewer },
            taken,
            cors: beside_cors(http),
            compression: web::compression(http),
        }))
    }
}

impl fmt::Debug for CacheFront {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheFront").finish_non_exhaustive()
    }
}

impl Front for CacheFront {
    fn answer(&self, request: &mut Request<Incoming>, peer: SocketAddr) -> Option<Answered> {
        let (namespace, key) = self.0.names(request).filter(|_| is_plain(request))?;
        let (namespace, key) = (namespace.to_owned(), key.to_owned());
        let outside = Outside::of(&self.0.gate.app, request, Cow::Borrowed(ROUTE), Some(peer));
        let headers = std::mem::take(request.headers_mut());
        let read = Read { namespace, key, outside, peer, headers };
        let inner = Arc::clone(&self.0);
        Some(Box::pin(async move { inner.run(read).await }))
    }
}

impl Inner {
    /// Gives namespace and key, if the path has nothing else and nothing to decode.
    fn names<'a, B>(&self, request: &'a Request<B>) -> Option<(&'a str, &'a str)> {
        let (namespace, key) = request.uri().path().strip_prefix("/cache/")?.split_once('/')?;
        let is_plain = |text: &str| !text.is_empty() && !text.contains(['/', '%']);
        let is_ours = is_plain(namespace)
            && is_plain(key)
            && !self.taken[0].contains(namespace)
            && !self.taken[1].contains(key);
        is_ours.then_some((namespace, key))
    }

    async fn run(&self, read: Read) -> Response {
        let Read { namespace, key, outside, peer, headers } = read;
        let app = &self.gate.app;
        let answer = async {
            let parameter = |name: &str| match name {
                "namespace" => Some(namespace.clone()),
                "key" => Some(key.clone()),
                _ => None,
            };
            let read = |principal: &mainstay_auth::Principal| {
                let caller = caller(principal);
                let (names, known) = ((namespace.clone(), key.clone()), headers.get(IF_NONE_MATCH));
                async move {
                    let answer = cache::read(app, names, || caller, known).await;
                    answer.unwrap_or_else(|problem| problem.into_response())
                }
            };
            let mut response = admit_read(&self.gate, peer, &headers, (ROUTE, parameter), read).await;
            for (name, value) in &self.cors {
                response.headers_mut().append(name, value.clone());
            }
            response
        };
        let response = enveloped(app, outside, admitted(app, answer)).await;
        // A value is never compressed.
        let is_value = response.status().is_success();
        if is_value { response } else { self.compressed(&headers, response).await }
    }

    async fn compressed(&self, headers: &HeaderMap, response: Response) -> Response {
        let mut request = Request::new(());
        for accepted in headers.get_all(ACCEPT_ENCODING) {
            request.headers_mut().append(ACCEPT_ENCODING, accepted.clone());
        }
        let mut held = Some(response);
        let service = service_fn(move |_: Request<()>| {
            ready(Ok::<_, Infallible>(held.take().expect("it is asked once")))
        });
        let Ok(response) = self.compression.layer(service).oneshot(request).await;
        response.map(Body::new)
    }
}

/// Tells whether a request needs nothing of the router's layers.
fn is_plain(request: &Request<Incoming>) -> bool {
    let headers = request.headers();
    let weighs = |value: &HeaderValue| value.as_bytes().contains(&b'=');
    *request.method() == Method::GET
        && request.uri().query().is_none()
        && request.body().is_end_stream()
        && ![ORIGIN, UPGRADE, EXPECT].iter().any(|name| headers.contains_key(name))
        // Whoever weighs encodings may refuse all of them.
        && !headers.get_all(ACCEPT_ENCODING).iter().any(weighs)
}

/// Lists what [`web::cors`] puts on the answer to a request that names no origin.
fn beside_cors(http: &HttpConfig) -> HeaderMap {
    let service = service_fn(|_: Request<()>| ready(Ok::<_, Infallible>(Response::<Body>::default())));
    let answer = web::cors(http).layer(service).oneshot(Request::new(())).now_or_never();
    match answer {
        Some(Ok(answer)) => answer.into_parts().0.headers,
        None => HeaderMap::new(),
    }
}
