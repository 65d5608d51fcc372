//! The transport of connections: of statements, of probes and of cancel requests.

use std::sync::Arc;

use mainstay_rpc::{ClientTls, InvalidTls, http_client_tls};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::{PostgresTls, TlsMode};

/// Opens TLS where the log-in asks for it, and knows the server by its certificate.
#[derive(Clone)]
pub(crate) struct Tls {
    inner: MakeRustlsConnect,
    /// Name expected in the certificate; `None` for the host of the address.
    domain: Option<Arc<str>>,
}

impl Tls {
    /// Reads the files; they are not looked at again.
    pub(crate) fn new(config: &PostgresTls) -> Result<Self, InvalidTls> {
        let client = match config.mode {
            // No log-in asks for it then, and nobody would be believed.
            TlsMode::Off => ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(InvalidTls::Rejected)?
                .with_root_certificates(RootCertStore::empty())
                .with_no_client_auth(),
            TlsMode::VerifyFull => {
                let files = ClientTls {
                    ca: config.ca.clone(),
                    cert: config.cert.clone(),
                    key: config.key.clone(),
                    domain: String::new(),
                };
                let mut client = Arc::unwrap_or_clone(http_client_tls(&files)?);
                client.alpn_protocols.clear();
                client
            }
        };
        let domain = Some(config.domain.as_str()).filter(|domain| !domain.is_empty()).map(Into::into);
        Ok(Self { inner: MakeRustlsConnect::new(client), domain })
    }
}

impl<S> MakeTlsConnect<S> for Tls
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = <MakeRustlsConnect as MakeTlsConnect<S>>::Stream;
    type TlsConnect = <MakeRustlsConnect as MakeTlsConnect<S>>::TlsConnect;
    type Error = <MakeRustlsConnect as MakeTlsConnect<S>>::Error;

    fn make_tls_connect(&mut self, host: &str) -> Result<Self::TlsConnect, Self::Error> {
        let name = self.domain.as_deref().unwrap_or(host);
        MakeTlsConnect::<S>::make_tls_connect(&mut self.inner, name)
    }
}
