//! Certificates from files to rustls configurations, always with ring.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::ring;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};

mod certificate;

pub(crate) use certificate::{Certificate, LOOK_EVERY};

/// Names the files with which a server proves itself and knows its clients.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerTls {
    /// Certificate chain of the server, PEM; TLS is off without it.
    pub cert: Option<PathBuf>,
    /// Private key of the server, PEM.
    pub key: Option<PathBuf>,
    /// Authorities whose clients are let in, PEM; any client without it.
    pub client_ca: Option<PathBuf>,
}

/// Names the files with which a client knows its server and proves itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientTls {
    /// Authorities whose servers are believed, PEM; needed for `https` endpoints.
    pub ca: Option<PathBuf>,
    /// Certificate chain of this client, PEM; only where the server asks for one.
    pub cert: Option<PathBuf>,
    /// Private key of this client, PEM.
    pub key: Option<PathBuf>,
    /// Name expected in the server's certificate; empty means the host of the endpoint.
    pub domain: String,
}

/// What a port needs to speak TLS. While it is served its certificate follows the files.
#[derive(Clone, Debug)]
pub struct PortTls {
    pub(crate) config: Arc<rustls::ServerConfig>,
    pub(crate) certificate: Arc<Certificate>,
}

/// Reads a server's certificates; none when TLS is not configured.
pub fn server_tls(tls: &ServerTls) -> Result<Option<PortTls>, InvalidTls> {
    let (Some(cert), Some(key)) = (&tls.cert, &tls.key) else {
        let nothing_set = tls.cert.is_none() && tls.key.is_none() && tls.client_ca.is_none();
        return if nothing_set { Ok(None) } else { Err(InvalidTls::Half) };
    };
    let provider = Arc::new(ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(InvalidTls::Rejected)?;
    let builder = match &tls.client_ca {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(ca)?), provider)
                .build()
                .map_err(|source| InvalidTls::ClientCa { path: ca.clone(), source })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let certificate = Arc::new(Certificate::read(cert.clone(), key.clone())?);
    let mut config = builder.with_cert_resolver(Arc::clone(&certificate) as _);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Some(PortTls { config: Arc::new(config), certificate }))
}

/// Reads a client's certificates; none when no authority is configured.
pub fn client_tls(tls: &ClientTls) -> Result<Option<Arc<ClientConfig>>, InvalidTls> {
    let Some(ca) = &tls.ca else {
        return if tls.cert.is_none() && tls.key.is_none() { Ok(None) } else { Err(InvalidTls::NoAuthority) };
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(InvalidTls::Rejected)?
        .with_root_certificates(roots(ca)?);
    let mut config = match (&tls.cert, &tls.key) {
        (None, None) => builder.with_no_client_auth(),
        (Some(cert), Some(key)) => builder
            .with_client_auth_cert(certificates(cert)?, private_key(key)?)
            .map_err(InvalidTls::Rejected)?,
        _ => return Err(InvalidTls::Half),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Some(Arc::new(config)))
}

/// Reads the certificates of a client that speaks HTTP/1.1 to a server that is not ours: without `ca`, whom the host trusts
/// is trusted.
pub fn http_client_tls(tls: &ClientTls) -> Result<Arc<ClientConfig>, InvalidTls> {
    let config = match client_tls(tls)? {
        Some(config) => config,
        None => {
            let roots = roots_of_host();
            let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(InvalidTls::Rejected)?;
            Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
        }
    };
    let mut config = Arc::unwrap_or_clone(config);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Returns what judges the certificate of a server, by the rules of [`http_client_tls`]: for a client that wants to see it,
/// whatever the verdict is.
pub fn server_verifier(tls: &ClientTls) -> Result<Arc<WebPkiServerVerifier>, InvalidTls> {
    let roots = match &tls.ca {
        Some(ca) => roots(ca)?,
        None => roots_of_host(),
    };
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::new(ring::default_provider()))
        .build()
        .map_err(InvalidTls::NoRoots)
}

/// Says why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidTls {
    /// One of certificate and key is missing.
    #[error("cert and key are needed together")]
    Half,
    /// A client certificate without knowing which server to show it to.
    #[error("cert and key are of no use without ca")]
    NoAuthority,
    /// A file is not there, not readable or not PEM.
    #[error("cannot read {what} from {}", path.display())]
    Read {
        /// What was looked for.
        what: What,
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// A file has no certificate in it.
    #[error("no certificate in {}", .0.display())]
    Empty(PathBuf),
    /// An authority's certificate is not usable as one.
    #[error("certificate in {} is not an authority", path.display())]
    Authority {
        /// Where it is.
        path: PathBuf,
        /// Why not.
        #[source]
        source: rustls::Error,
    },
    /// The authorities for clients are not usable.
    #[error("client authorities in {} are not usable", path.display())]
    ClientCa {
        /// Where they are.
        path: PathBuf,
        /// Why not.
        #[source]
        source: rustls::server::VerifierBuilderError,
    },
    /// There is nobody to believe.
    #[error("no authority is known: name one in ca")]
    NoRoots(#[source] rustls::client::VerifierBuilderError),
    /// The key does not belong to the certificate, or is of an unknown kind.
    #[error("certificate and key are not usable")]
    Rejected(#[source] rustls::Error),
}

/// Names the content of a PEM file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A chain of certificates.
    Certificates,
    /// A private key.
    Key,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Certificates => "certificates",
            Self::Key => "a private key",
        })
    }
}

fn roots_of_host() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    // A host without certificates, or with broken ones, reaches no https address; each attempt says so.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

fn roots(path: &Path) -> Result<RootCertStore, InvalidTls> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|source| InvalidTls::Authority { path: path.to_owned(), source })?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, InvalidTls> {
    let read = |source| InvalidTls::Read { what: What::Certificates, path: path.to_owned(), source };
    let certificates: Vec<_> =
        CertificateDer::pem_file_iter(path).map_err(read)?.collect::<Result<_, _>>().map_err(read)?;
    if certificates.is_empty() { Err(InvalidTls::Empty(path.to_owned())) } else { Ok(certificates) }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, InvalidTls> {
    PrivateKeyDer::from_pem_file(path).map_err(|source| InvalidTls::Read {
        what: What::Key,
        path: path.to_owned(),
        source,
    })
}
