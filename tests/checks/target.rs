//! The stack under check, as a client of its edge sees it.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderMap, Method, Request, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::environment::Environment;

const ANSWER_WITHIN: Duration = Duration::from_secs(10);

pub(crate) struct Target {
    pub(crate) environment: Environment,
    token: Option<String>,
    tls: Option<TlsConnector>,
    /// Answers that checks of single fields share.
    seen: Mutex<HashMap<&'static str, Result<Value, String>>>,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) took: Duration,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Target {
    pub(crate) fn new(environment: Environment, token: Option<String>) -> anyhow::Result<Self> {
        let edge: Uri = environment.edge.parse().with_context(|| format!("edge = {:?}", environment.edge))?;
        let tls = (edge.scheme_str() == Some("https")).then(|| connector(&environment)).transpose()?;
        let token = token.filter(|token| !token.is_empty());
        Ok(Self { environment, token, tls, seen: Mutex::default() })
    }

    pub(crate) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// GETs `path` with the credentials of AUTH_TOKEN, once in a run; gives the JSON of a 200.
    pub(crate) async fn json_once(&self, path: &'static str) -> Result<Value, String> {
        if let Some(seen) = self.seen.lock().get(path) {
            return seen.clone();
        }
        let json = self.json(path).await;
        self.seen.lock().insert(path, json.clone());
        json
    }

    /// GETs `path` with the credentials of AUTH_TOKEN; gives the JSON of a 200.
    pub(crate) async fn json(&self, path: &str) -> Result<Value, String> {
        let answer = self.get(path).await?;
        if answer.status != 200 {
            return Err(format!("GET {path} answers {}", answer.status));
        }
        answer.json()
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Answer, String> {
        self.send(Method::GET, path, &[], Bytes::new()).await
    }

    /// GETs `path` without credentials.
    pub(crate) async fn get_as_nobody(&self, path: &str) -> Result<Answer, String> {
        self.exchange(Method::GET, path, &[], Bytes::new(), false).await
    }

    pub(crate) async fn send_json(&self, method: Method, path: &str, body: &Value) -> Result<Answer, String> {
        self.send(method, path, &[(CONTENT_TYPE.as_str(), "application/json")], body.to_string().into()).await
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Answer, String> {
        self.exchange(method, path, headers, body, true).await
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
        authorised: bool,
    ) -> Result<Answer, String> {
        let what = format!("{method} {path}");
        let exchange = self.try_exchange(method, path, headers, body, authorised);
        match tokio::time::timeout(ANSWER_WITHIN, exchange).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(format!("{what}: {error:#}")),
            Err(_) => Err(format!("{what}: no answer within {} s", ANSWER_WITHIN.as_secs())),
        }
    }

    async fn try_exchange(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
        authorised: bool,
    ) -> anyhow::Result<Answer> {
        let edge: Uri = self.environment.edge.parse()?;
        let host = edge.host().context("the address of the edge has no host")?;
        let mut request = Request::builder().method(method).uri(path).header(HOST, host);
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
        let stream = self.connect(&edge, host).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let exchange = async {
            let begun = Instant::now();
            let (parts, body) = sender.send_request(request.body(Full::new(body))?).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body, took: begun.elapsed() })
        };
        tokio::pin!(exchange, connection);
        tokio::select! {
            biased;
            answer = &mut exchange => answer,
            ended = &mut connection => {
                ended?;
                // What the connection read before its end may be the whole answer.
                exchange.await
            }
        }
    }

    async fn connect(&self, edge: &Uri, host: &str) -> anyhow::Result<Box<dyn Stream>> {
        let port = edge.port_u16().unwrap_or_else(|| if self.tls.is_some() { 443 } else { 80 });
        let tcp = TcpStream::connect((host.trim_matches(['[', ']']), port)).await;
        let tcp = tcp.with_context(|| format!("cannot connect to {host}:{port}"))?;
        tcp.set_nodelay(true)?;
        let Some(tls) = &self.tls else { return Ok(Box::new(tcp)) };
        let name = ServerName::try_from(host.to_owned())?;
        Ok(Box::new(tls.connect(name, tcp).await.context("the TLS handshake failed")?))
    }
}

impl Answer {
    pub(crate) fn json(&self) -> Result<Value, String> {
        serde_json::from_slice(&self.body).map_err(|error| format!("not JSON: {error}"))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
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
