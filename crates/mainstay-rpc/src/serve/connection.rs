use std::convert::Infallible;
use std::future::{poll_fn, ready};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use futures_util::future::Either;
use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::SetOnce;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::Service as _;

use super::ServeOptions;
use super::front::Answered;
use super::inline::Inline;
use super::watched::{Received, Watched};
use crate::server::ServedBody;

/// A connection that was accepted but has not been heard gets this long to send its request when the port stops.
const FIRST_REQUEST_WITHIN: Duration = Duration::from_millis(250);
/// `GET / HTTP/1.0` and an empty line: no request is shorter.
const SHORTEST_REQUEST_BYTES: u64 = 18;
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
const MAX_HEADER_BYTES: u32 = 32 << 10;
const KEEPALIVE_EVERY: Duration = Duration::from_secs(20);
const KEEPALIVE_WITHIN: Duration = Duration::from_secs(10);

/// Serves one connection.
pub(super) struct Connection {
    pub(super) app: Router,
    pub(super) options: Arc<ServeOptions>,
    pub(super) stopping: CancellationToken,
    pub(super) peer: SocketAddr,
}

impl Connection {
    pub(super) async fn run(self, stream: TcpStream) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(listener = self.options.name, peer = %self.peer, %error, "connection is gone already");
            return;
        }
        let Some(tls) = self.options.tls.clone() else { return self.speak_http(stream).await };
        match timeout(self.options.header_within, TlsAcceptor::from(tls.config).accept(stream)).await {
            Ok(Ok(stream)) => self.speak_http(stream).await,
            Ok(Err(error)) => {
                tracing::debug!(listener = self.options.name, peer = %self.peer, %error, "TLS handshake failed");
            }
            Err(_) => {
                tracing::debug!(listener = self.options.name, peer = %self.peer, "TLS handshake took too long");
            }
        }
    }

    async fn speak_http<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self, stream: S) {
        let (stream, received) = Watched::new(stream);
        let heard = Arc::new(SetOnce::new());
        let service = {
            let (app, options, heard) = (self.app.clone(), Arc::clone(&self.options), Arc::clone(&heard));
            let peer = self.peer;
            service_fn(move |mut request: Request<Incoming>| {
                if !heard.initialized() {
                    // Set already means the same.
                    let _ = heard.set(());
                }
                let version = request.version();
                let answered = options.front.as_ref().and_then(|front| front.answer(&mut request, peer));
                if let Some(answered) = answered {
                    return Either::Left(fronted(Arc::clone(&options), version, answered));
                }
                let answered = match &options.quick {
                    Some(quick) => quick.answer(request),
                    None => Err(request.map(Body::new)),
                };
                Either::Right(match answered {
                    Ok(answer) => Either::Left(ready(Ok(answer))),
                    Err(request) => Either::Right(answer(app.clone(), Arc::clone(&options), peer, request)),
                })
            })
        };
        let inline = Inline::default();
        let builder = builder(&self.options, inline.clone());
        let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
        let mut silent = pin!(silence(self.options.header_within, received));
        let mut stop = pin!(stop(self.stopping.clone(), heard));
        let (mut watching, mut stopping) = (true, false);
        loop {
            tokio::select! {
                ended = poll_fn(|cx| inline.drive(connection.as_mut(), cx)) => {
                    if let Err(error) = ended {
                        let (listener, peer) = (self.options.name, self.peer);
                        tracing::debug!(listener, %peer, error, "connection ended early");
                    }
                    return;
                }
                is_silent = silent.as_mut(), if watching => {
                    watching = false;
                    if is_silent {
                        tracing::debug!(listener = self.options.name, peer = %self.peer, "peer sent no request");
                        return;
                    }
                }
                () = stop.as_mut(), if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

/// Tells, after `within`, whether the peer has sent less than a request.
///
/// The limit for request heads starts only once the protocol is known, and a silent peer never makes it known.
async fn silence(within: Duration, received: Received) -> bool {
    sleep(within).await;
    received.bytes() < SHORTEST_REQUEST_BYTES
}

/// Returns when the connection should wind down: at once if it has been heard, else after a moment to be heard.
async fn stop(stopping: CancellationToken, heard: Arc<SetOnce<()>>) {
    stopping.cancelled().await;
    let _ = timeout(FIRST_REQUEST_WITHIN, heard.wait()).await;
}

async fn answer(
    mut app: Router,
    options: Arc<ServeOptions>,
    peer: SocketAddr,
    mut request: Request<Body>,
) -> Result<Response<ServedBody>, Infallible> {
    request.extensions_mut().insert(ConnectInfo(peer));
    let version = request.version();
    let response = app.call(request).await?;
    Ok(sent(&options, version, response))
}

async fn fronted(
    options: Arc<ServeOptions>,
    version: Version,
    answered: Answered,
) -> Result<Response<ServedBody>, Infallible> {
    Ok(sent(&options, version, answered.await))
}

fn sent(options: &ServeOptions, version: Version, mut response: Response<Body>) -> Response<ServedBody> {
    let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if version <= Version::HTTP_11 && !upgraded && options.draining.is_cancelled() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response.map(ServedBody::Routed)
}

fn builder(options: &ServeOptions, executor: Inline) -> auto::Builder<Inline> {
    let mut builder = auto::Builder::new(executor);
    builder.http1().timer(TokioTimer::new()).header_read_timeout(options.header_within);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(options.max_streams)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(MAX_HEADER_BYTES)
        .keep_alive_interval(KEEPALIVE_EVERY)
        .keep_alive_timeout(KEEPALIVE_WITHIN);
    builder
}
