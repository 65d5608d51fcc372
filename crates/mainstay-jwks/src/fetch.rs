//! One look at a source.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, HOST};
use http::{Request, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use mainstay_rpc::{ClientTls, InvalidTls, client_tls};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::config::{JwksConfig, Source};

/// Key sets of large issuers have a few kilobytes.
const LARGEST_BYTES: usize = 256 << 10;

/// Reads one source, again and again.
pub(crate) struct Fetch {
    source: Source,
    tls: Arc<rustls::ClientConfig>,
}

/// Says which step failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("cannot read the file")]
    File(#[source] std::io::Error),
    #[error("the url has no host")]
    Url,
    #[error("cannot connect")]
    Connect(#[source] std::io::Error),
    #[error("no TLS")]
    Tls(#[source] std::io::Error),
    #[error("no answer")]
    Http(#[source] hyper::Error),
    #[error("answered {0}")]
    Status(u16),
    #[error("the answer broke off or is larger than 256 KiB")]
    Body,
    #[error("the file is larger than 256 KiB")]
    TooLarge,
}

impl Fetch {
    pub(crate) fn try_new(config: &JwksConfig, source: Source) -> Result<Self, InvalidTls> {
        let given = ClientTls { ca: config.ca.clone(), ..ClientTls::default() };
        let mut tls = match client_tls(&given)? {
            Some(tls) => (*tls).clone(),
            None => trusted_by_the_machine()?,
        };
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { source, tls: Arc::new(tls) })
    }

    /// Gives the document as it stands now. Redirects are not followed: they could lead anywhere.
    pub(crate) async fn read(&self) -> Result<Bytes, FetchError> {
        match &self.source {
            Source::File(path) => read_file(path).await,
            Source::Url(uri) => self.get(uri).await,
        }
    }

    async fn get(&self, uri: &Uri) -> Result<Bytes, FetchError> {
        let secure = uri.scheme_str() == Some("https");
        let host = uri.host().ok_or(FetchError::Url)?.trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let stream = TcpStream::connect((host.as_str(), port)).await.map_err(FetchError::Connect)?;
        if secure {
            let name = ServerName::try_from(host).map_err(|_| FetchError::Url)?;
            let connector = TlsConnector::from(Arc::clone(&self.tls));
            exchange(connector.connect(name, stream).await.map_err(FetchError::Tls)?, uri).await
        } else {
            exchange(stream, uri).await
        }
    }
}

async fn read_file(path: &Path) -> Result<Bytes, FetchError> {
    let file = tokio::fs::File::open(path).await.map_err(FetchError::File)?;
    let mut bytes = Vec::new();
    file.take(LARGEST_BYTES as u64 + 1).read_to_end(&mut bytes).await.map_err(FetchError::File)?;
    if bytes.len() > LARGEST_BYTES { Err(FetchError::TooLarge) } else { Ok(bytes.into()) }
}

async fn exchange<S>(stream: S, uri: &Uri) -> Result<Bytes, FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = uri.authority().ok_or(FetchError::Url)?.as_str();
    let request = Request::get(path)
        .header(HOST, authority.rsplit('@').next().unwrap_or_default())
        .header(ACCEPT, "application/jwk-set+json, application/json")
        .body(Empty::<Bytes>::new())
        .map_err(|_| FetchError::Url)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(FetchError::Http)?;
    let ask = async {
        let answer = sender.send_request(request).await.map_err(FetchError::Http)?;
        let status = answer.status();
        if !status.is_success() {
            return Err(FetchError::Status(status.as_u16()));
        }
        let body = Limited::new(answer.into_body(), LARGEST_BYTES).collect().await;
        body.map(|whole| whole.to_bytes()).map_err(|_| FetchError::Body)
    };
    tokio::pin!(ask, connection);
    tokio::select! {
        biased;
        answer = &mut ask => answer,
        // The connection ends first when the answer is complete, or broke.
        _ = &mut connection => ask.await,
    }
}

fn trusted_by_the_machine() -> Result<rustls::ClientConfig, InvalidTls> {
    let mut roots = rustls::RootCertStore::empty();
    // A machine without certificates, or with broken ones, reaches no https address; each attempt says so.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(InvalidTls::Rejected)?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
