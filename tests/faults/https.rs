//! The public door over TLS, from a certificate that is replaced while it runs.

use std::path::Path;
use std::sync::Arc;

use mainstay_tests::{Devstack, House, Service, eventually};
use rcgen::{CertifiedKey, KeyPair};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

const CERT: &str = "tls.crt";
const KEY: &str = "tls.key";

fn write(folder: &Path) -> CertifiedKey<KeyPair> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    std::fs::write(folder.join(KEY), made.signing_key.serialize_pem()).expect("the folder is ours");
    std::fs::write(folder.join(CERT), made.cert.pem()).expect("the folder is ours");
    made
}

/// Connects as somebody who trusts this certificate alone, and can speak these protocols.
async fn connect(
    house: &House,
    trusted: &CertifiedKey<KeyPair>,
    protocols: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.cert.der().clone()).expect("a certificate");
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(house.edge()).await?;
    let name = ServerName::try_from("localhost").expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

#[tokio::test]
async fn the_public_door_speaks_tls_and_takes_a_replaced_certificate_while_it_runs() {
    let folder = tempfile::tempdir().unwrap();
    let old = write(folder.path());
    let edge = Service::EdgeGateway;
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let builder = Devstack::builder()
        .services([edge])
        .env(edge, "MAINSTAY__HTTP__TLS__CERT", path(CERT))
        .env(edge, "MAINSTAY__HTTP__TLS__KEY", path(KEY));
    let house = House::start(builder).await;

    let stream = connect(&house, &old, &["h2", "http/1.1"]).await.expect("the certificate is good");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let mut stream = connect(&house, &old, &["http/1.1"]).await.expect("the certificate is good");
    let request = b"GET /health/liveness HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("strict-transport-security: max-age="), "{answer}");
    let stranger = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    assert!(connect(&house, &stranger, &[]).await.is_err(), "it is not just any certificate");

    let new = write(folder.path());
    eventually("the new certificate to be served", || async {
        connect(&house, &new, &[]).await.map(drop).map_err(|error| error.to_string())
    })
    .await;
    assert!(connect(&house, &old, &[]).await.is_err(), "the old one is served no more");
}
