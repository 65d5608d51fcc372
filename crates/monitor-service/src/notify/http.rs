//! One POST to an address that was checked.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::address::is_private;

/// Says what went wrong on the way.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PostError {
    /// The URL has no host, or no scheme that is known.
    #[error("the url is not http or https with a host")]
    Url,
    /// The name is not known.
    #[error("the name cannot be resolved")]
    Resolve(#[source] io::Error),
    /// The name leads to where webhooks may not go.
    #[error("the address is private; set allow_private to let it through")]
    Private,
    /// Nobody accepts.
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    /// The server is not who it should be.
    #[error("no TLS")]
    Tls(#[source] io::Error),
    /// The exchange broke.
    #[error("no answer")]
    Http(#[source] hyper::Error),
    /// The answer is no 2xx.
    #[error("answered {0}")]
    Status(u16),
}

/// Most of an answer that is read; the rest does not matter.
const ANSWER_MAX: usize = 64 * 1024;

/// Trusts whom the host trusts.
pub(crate) fn client_tls() -> Result<Arc<rustls::ClientConfig>, rustls::Error> {
    let mut roots = rustls::RootCertStore::empty();
    // A host without certificates, or with broken ones, reaches no https address; each attempt says so.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

/// Sends once, follows nothing. The address is resolved here and connected to as checked: a name that leads elsewhere a
/// moment later does not help anybody.
pub(super) async fn post(
    request: Request<Full<Bytes>>,
    allow_private: bool,
    tls: &Arc<rustls::ClientConfig>,
) -> Result<(), PostError> {
    let (parts, body) = request.into_parts();
    let (host, port, secure) = place(&parts.uri).ok_or(PostError::Url)?;
    let stream = connect(&host, port, allow_private).await?;
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let mut request = Request::post(path).body(body).map_err(|_| PostError::Url)?;
    *request.headers_mut() = parts.headers;
    let authority =
        parts.uri.authority().map(|authority| authority.as_str().rsplit('@').next().unwrap_or_default());
    let header = authority.and_then(|authority| authority.parse().ok()).ok_or(PostError::Url)?;
    request.headers_mut().insert(http::header::HOST, header);
    if secure {
        let name = ServerName::try_from(host).map_err(|_| PostError::Url)?;
        let connector = TlsConnector::from(Arc::clone(tls));
        let stream = connector.connect(name, stream).await.map_err(PostError::Tls)?;
        exchange(stream, request).await
    } else {
        exchange(stream, request).await
    }
}

/// Returns host, port and whether TLS is spoken.
pub(super) fn place(uri: &Uri) -> Option<(String, u16, bool)> {
    let secure = match uri.scheme_str()? {
        "https" => true,
        "http" => false,
        _ => return None,
    };
    let host = uri.host().filter(|host| !host.is_empty())?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Some((host, uri.port_u16().unwrap_or(if secure { 443 } else { 80 }), secure))
}

async fn connect(host: &str, port: u16, allow_private: bool) -> Result<TcpStream, PostError> {
    let resolved = tokio::net::lookup_host((host, port)).await.map_err(PostError::Resolve)?;
    let allowed: Vec<SocketAddr> =
        resolved.filter(|address| allow_private || !is_private(address.ip())).collect();
    if allowed.is_empty() {
        return Err(PostError::Private);
    }
    TcpStream::connect(&*allowed).await.map_err(PostError::Connect)
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<(), PostError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(PostError::Http)?;
    let ask = async {
        let answer = sender.send_request(request).await.map_err(PostError::Http)?;
        let status = answer.status();
        // So that the server may end in peace; what it says does not matter.
        let _ = Limited::new(answer.into_body(), ANSWER_MAX).collect().await;
        if status.is_success() { Ok(()) } else { Err(PostError::Status(status.as_u16())) }
    };
    tokio::pin!(ask, connection);
    tokio::select! {
        biased;
        answer = &mut ask => answer,
        // The connection ends first when the answer is complete, or broke.
        _ = &mut connection => ask.await,
    }
}
