//! A certificate that may be replaced on disk while connections come in.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use rustls::crypto::ring;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::{InvalidTls, certificates, private_key};

/// How often the files are looked at.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The certificate of a port as its files had it last; new handshakes use it, connections that stand keep theirs.
#[derive(Debug)]
pub(crate) struct Certificate {
    cert: PathBuf,
    key: PathBuf,
    current: RwLock<Arc<CertifiedKey>>,
}

impl Certificate {
    pub(crate) fn read(cert: PathBuf, key: PathBuf) -> Result<Self, InvalidTls> {
        let current = RwLock::new(Arc::new(certified(&cert, &key)?));
        Ok(Self { cert, key, current })
    }

    /// Reads the files again and tells whether they had something new. Files that do not fit together change nothing:
    /// whoever replaces them may be between the one and the other.
    pub(crate) fn reread(&self) -> Result<bool, InvalidTls> {
        let found = certified(&self.cert, &self.key)?;
        if found.cert == self.current.read().cert {
            return Ok(false);
        }
        *self.current.write() = Arc::new(found);
        Ok(true)
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read()))
    }
}

fn certified(cert: &std::path::Path, key: &std::path::Path) -> Result<CertifiedKey, InvalidTls> {
    let (chain, key) = (certificates(cert)?, private_key(key)?);
    CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(InvalidTls::Rejected)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rustls::RootCertStore;
    use rustls_pki_types::ServerName;
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::super::{ServerTls, server_tls};
    use super::*;

    fn write(folder: &Path) -> rcgen::CertifiedKey<rcgen::KeyPair> {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(folder.join("tls.crt"), made.cert.pem()).unwrap();
        std::fs::write(folder.join("tls.key"), made.signing_key.serialize_pem()).unwrap();
        made
    }

    /// Shakes hands with whoever has this certificate, and tells whether the server has it.
    async fn is_served(acceptor: &TlsAcceptor, made: &rcgen::CertifiedKey<rcgen::KeyPair>) -> bool {
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let (client, server) = tokio::io::duplex(64 << 10);
        let connector = TlsConnector::from(Arc::new(config));
        let name = ServerName::try_from("localhost").unwrap();
        let (accepted, connected) = tokio::join!(acceptor.accept(server), connector.connect(name, client));
        accepted.is_ok() && connected.is_ok()
    }

    #[tokio::test]
    async fn a_replaced_certificate_is_served_from_the_next_handshake_on() {
        let folder = tempfile::tempdir().unwrap();
        let old = write(folder.path());
        let [cert, key] = ["tls.crt", "tls.key"].map(|name| Some(folder.path().join(name)));
        let port = server_tls(&ServerTls { cert, key, client_ca: None }).unwrap().unwrap();
        let acceptor = TlsAcceptor::from(Arc::clone(&port.config));
        assert!(is_served(&acceptor, &old).await);
        assert!(!port.certificate.reread().unwrap(), "nothing is new");

        let new = write(folder.path());
        assert!(is_served(&acceptor, &old).await, "not read yet");
        assert!(port.certificate.reread().unwrap());
        assert!(is_served(&acceptor, &new).await && !is_served(&acceptor, &old).await);
        assert!(!port.certificate.reread().unwrap());

        std::fs::write(folder.path().join("tls.crt"), "half a certif").unwrap();
        assert!(port.certificate.reread().is_err());
        let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(folder.path().join("tls.crt"), other.cert.pem()).unwrap();
        assert!(port.certificate.reread().is_err(), "the key is of another certificate");
        assert!(is_served(&acceptor, &new).await, "what is broken changes nothing");
    }
}
