use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;
use tower::{Service, ServiceExt as _};

use super::{InvalidUpstream, UpstreamConfig};

/// Opens connections to one endpoint: name, TCP and TLS, all within one deadline.
#[derive(Clone)]
pub struct Connector {
    tcp: HttpConnector,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    within: Duration,
}

impl Connector {
    pub(super) fn try_new(
        uri: &Uri,
        config: &UpstreamConfig,
        tls: Option<&Arc<rustls::ClientConfig>>,
    ) -> Result<Self, InvalidUpstream> {
        let mut connector = Self::dial(uri, tls.cloned(), &config.tls.domain, config.connect_within)?;
        connector.tcp.set_keepalive(Some(config.keepalive_every));
        Ok(connector)
    }

    /// Prepares connections to the host of `uri`; `domain` is the name expected in its certificate, if not empty.
    pub fn dial(
        uri: &Uri,
        tls: Option<Arc<rustls::ClientConfig>>,
        domain: &str,
        within: Duration,
    ) -> Result<Self, InvalidUpstream> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        let tls = match (uri.scheme_str(), tls) {
            (Some("https"), None) => return Err(InvalidUpstream::NoAuthority(uri.to_string())),
            (Some("https"), Some(tls)) => {
                let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
                let name = if domain.is_empty() { host } else { domain };
                let name = ServerName::try_from(name.to_owned())
                    .map_err(|_| InvalidUpstream::ServerName(name.to_owned()))?;
                Some((TlsConnector::from(tls), name))
            }
            _ => None,
        };
        Ok(Self { tcp, tls, within })
    }

    /// Opens one connection to the host of `uri`.
    ///
    /// # Errors
    /// Fails when there is none within the time for it.
    pub async fn connect(&self, uri: Uri) -> io::Result<Wire> {
        let within = self.within;
        timeout(within, self.clone().open(uri)).await.unwrap_or_else(|_| {
            let text = format!("no connection within {within:?}");
            Err(io::Error::new(io::ErrorKind::TimedOut, text))
        })
    }

    async fn open(self, uri: Uri) -> io::Result<Wire> {
        let tcp = self.tcp.oneshot(uri).await.map_err(io::Error::other)?.into_inner();
        let Some((tls, name)) = self.tls else { return Ok(Wire(Either::Left(tcp))) };
        let stream = tls.connect(name, tcp).await?;
        Ok(Wire(Either::Right(Box::new(stream))))
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Wire>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Wire>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.connect(uri).await.map(TokioIo::new) })
    }
}

/// Is an open connection, encrypted or not.
pub struct Wire(Either<TcpStream, Box<TlsStream<TcpStream>>>);

impl Connection for Wire {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}
