//! Connections to what is watched, with TLS or without.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use ::http::Uri;
use mainstay_rpc::{ClientTls, InvalidTls, http_client_tls, server_verifier};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use x509_cert::der::{Decode as _, SliceReader};

/// Connects to one address, again and again.
#[derive(Debug)]
pub(super) struct Dialer {
    host: String,
    port: u16,
    tls: Option<Tls>,
}

/// A connection, with TLS or without.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Says why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    /// The name is not known.
    #[error("the name cannot be resolved")]
    Resolve(#[source] io::Error),
    /// Nobody accepts.
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    /// The files for TLS are not usable.
    #[error("the certificates configured are not usable")]
    Files(#[source] InvalidTls),
    /// The other side is not who it should be, or speaks no TLS.
    #[error("no TLS")]
    Tls(#[source] io::Error),
}

impl DialError {
    /// Tells whether the other side was there at all.
    pub(super) fn is_reached(&self) -> bool {
        matches!(self, Self::Tls(_))
    }
}

/// Says why an address cannot be dialled.
#[derive(Debug, thiserror::Error)]
pub(super) enum InvalidAddress {
    /// It has no host, or no scheme that is known.
    #[error("{0:?} is no url of a known scheme with a host")]
    Url(String),
    /// The name in the certificate cannot be one.
    #[error("{0:?} cannot be the name in a certificate")]
    Name(String),
    /// The files for TLS are not usable.
    #[error("tls")]
    Tls(#[source] InvalidTls),
}

#[derive(Debug)]
struct Tls {
    files: ClientTls,
    /// Made once where nothing is read from files that may be replaced.
    fixed: Option<Arc<ClientConfig>>,
    name: ServerName<'static>,
    /// Says HTTP/1.1 in the handshake; others name no protocol.
    is_http: bool,
    ends: Arc<Ends>,
}

/// When the certificates that were shown last end, in seconds since 1970; [`UNSEEN`] when none was.
#[derive(Debug)]
struct Ends(AtomicI64);

const UNSEEN: i64 = i64::MAX;

impl Dialer {
    /// Reads the address and the files for TLS; connects nowhere.
    pub(super) fn try_new(url: &str, files: &ClientTls) -> Result<Self, InvalidAddress> {
        let invalid = || InvalidAddress::Url(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| invalid())?;
        let (secure, usual_port) = match uri.scheme_str() {
            Some("http" | "ws") => (false, Some(80)),
            Some("https" | "wss") => (true, Some(443)),
            Some("tcp") => (false, None),
            Some("tls") => (true, None),
            _ => return Err(invalid()),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(invalid)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().or(usual_port).ok_or_else(invalid)?;
        let tls = if secure { Some(Tls::try_new(&host, files, usual_port.is_some())?) } else { None };
        Ok(Self { host, port, tls })
    }

    /// Connects, and shakes hands where TLS is spoken.
    pub(super) async fn dial(&self) -> Result<Box<dyn Stream>, DialError> {
        let addresses = tokio::net::lookup_host((self.host.as_str(), self.port)).await;
        let addresses: Vec<_> = addresses.map_err(DialError::Resolve)?.collect();
        let stream = TcpStream::connect(&*addresses).await.map_err(DialError::Connect)?;
        stream.set_nodelay(true).map_err(DialError::Connect)?;
        let Some(tls) = &self.tls else { return Ok(Box::new(stream)) };
        tls.ends.0.store(UNSEEN, Ordering::Relaxed);
        let connector = TlsConnector::from(tls.config().map_err(DialError::Files)?);
        let stream = connector.connect(tls.name.clone(), stream).await.map_err(DialError::Tls)?;
        Ok(Box::new(stream))
    }

    /// Tells when the first of the certificates that were shown last ends, in seconds since 1970.
    pub(super) fn certificate_ends_at_s(&self) -> Option<i64> {
        let ends = self.tls.as_ref()?.ends.0.load(Ordering::Relaxed);
        (ends != UNSEEN).then_some(ends)
    }
}

impl Tls {
    fn try_new(host: &str, files: &ClientTls, is_http: bool) -> Result<Self, InvalidAddress> {
        let name = if files.domain.is_empty() { host } else { &files.domain };
        let name =
            ServerName::try_from(name.to_owned()).map_err(|_| InvalidAddress::Name(name.to_owned()))?;
        let ends = Arc::new(Ends(AtomicI64::new(UNSEEN)));
        let mut tls = Self { files: files.clone(), fixed: None, name, is_http, ends };
        let config = tls.config().map_err(InvalidAddress::Tls)?;
        tls.fixed = files.ca.is_none().then_some(config);
        Ok(tls)
    }

    fn config(&self) -> Result<Arc<ClientConfig>, InvalidTls> {
        if let Some(fixed) = &self.fixed {
            return Ok(Arc::clone(fixed));
        }
        let verifier = Witness { judge: server_verifier(&self.files)?, ends: Arc::clone(&self.ends) };
        let mut config = Arc::unwrap_or_clone(http_client_tls(&self.files)?);
        config.dangerous().set_certificate_verifier(Arc::new(verifier));
        if !self.is_http {
            config.alpn_protocols.clear();
        }
        Ok(Arc::new(config))
    }
}

/// Notes when certificates end, and leaves the verdict on them to the judge.
#[derive(Debug)]
struct Witness {
    judge: Arc<WebPkiServerVerifier>,
    ends: Arc<Ends>,
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        for certificate in std::iter::once(end_entity).chain(intermediates) {
            if let Some(ends_at_s) = ends_at_s(certificate) {
                self.ends.0.fetch_min(ends_at_s, Ordering::Relaxed);
            }
        }
        self.judge.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.judge.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.judge.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.judge.supported_verify_schemes()
    }
}

/// Reads when a certificate ends; none when it cannot be read.
fn ends_at_s(certificate: &CertificateDer<'_>) -> Option<i64> {
    let mut reader = SliceReader::new(certificate).ok()?;
    let certificate = x509_cert::Certificate::decode(&mut reader).ok()?;
    let ends = certificate.tbs_certificate.validity.not_after.to_unix_duration();
    i64::try_from(ends.as_secs()).ok()
}
