//! The way into the edge: its address, TLS, and the credentials that requests carry.

use std::fmt::Write as _;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST};
use http::{Method, Request, Uri};
use http_body_util::Full;
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::environment::Environment;

pub(crate) struct Door {
    host: String,
    port: u16,
    token: Option<String>,
    tls: Option<TlsConnector>,
}

pub(crate) type Sender = SendRequest<Full<Bytes>>;
/// Has to be polled for as long as its sender is in use.
pub(crate) type Driver = Connection<TokioIo<Box<dyn Stream>>, Full<Bytes>>;

pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Door {
    pub(crate) fn new(environment: &Environment, token: Option<String>) -> anyhow::Result<Self> {
        let edge: Uri = environment.edge.parse().with_context(|| format!("edge = {:?}", environment.edge))?;
        let tls = (edge.scheme_str() == Some("https")).then(|| connector(environment)).transpose()?;
        let host = edge.host().context("the address of the edge has no host")?.to_owned();
        let port = edge.port_u16().unwrap_or_else(|| if tls.is_some() { 443 } else { 80 });
        Ok(Self { host, port, token: token.filter(|token| !token.is_empty()), tls })
    }

    pub(crate) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    pub(crate) fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
        authorised: bool,
    ) -> http::Result<Request<Full<Bytes>>> {
        let mut request = Request::builder().method(method).uri(path).header(HOST, &self.host);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(token) = self.token.as_deref().filter(|_| authorised) {
            // A JWT has two dots, an API key has none.
            request = if token.matches('.').count() == 2 {
                request.header(AUTHORIZATION, format!("Bearer {token}"))
            } else {
                request.header("x-api-key", token)
            };
        }
        request.body(Full::new(body))
    }

    pub(crate) async fn open(&self) -> anyhow::Result<(Sender, Driver)> {
        Ok(http1::handshake(TokioIo::new(self.connect().await?)).await?)
    }

    async fn connect(&self) -> anyhow::Result<Box<dyn Stream>> {
        let Self { host, port, .. } = self;
        let tcp = TcpStream::connect((host.trim_matches(['[', ']']), *port)).await;
        let tcp = tcp.with_context(|| format!("cannot connect to {host}:{port}"))?;
        tcp.set_nodelay(true)?;
        let Some(tls) = &self.tls else { return Ok(Box::new(tcp)) };
        let name = ServerName::try_from(host.clone())?;
        Ok(Box::new(tls.connect(name, tcp).await.context("the TLS handshake failed")?))
    }
}

fn connector(environment: &Environment) -> anyhow::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if let Some(ca) = &environment.ca {
        for certificate in
            CertificateDer::pem_file_iter(ca).with_context(|| format!("ca = {}", ca.display()))?
        {
            roots.add(certificate?)?;
        }
    }
    if roots.is_empty() {
        let why = found.errors.iter().fold(String::new(), |mut all, error| {
            let _ = write!(all, " {error};");
            all
        });
        return Err(anyhow!("no certificate authority is known on this machine:{why}"));
    }
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
