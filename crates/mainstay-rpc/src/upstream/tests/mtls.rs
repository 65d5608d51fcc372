use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

use super::*;
use crate::tls::{ClientTls, ServerTls, server_tls};

fn authority(dir: &Path, name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(dir.join(name), issuer.pem()).unwrap();
    issuer
}

fn leaf(
    dir: &Path,
    name: &str,
    host: &str,
    usage: ExtendedKeyUsagePurpose,
    issuer: &CertifiedIssuer<'static, KeyPair>,
) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new([host.to_owned()]).unwrap();
    params.extended_key_usages = vec![usage];
    let certificate = params.signed_by(&key, issuer).unwrap();
    std::fs::write(dir.join(format!("{name}.pem")), certificate.pem()).unwrap();
    std::fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
}

/// Writes two authorities, a server and a client of the first, and a client of the second.
fn certificates() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let ours = authority(dir.path(), "ca.pem");
    let strangers = authority(dir.path(), "other-ca.pem");
    leaf(dir.path(), "server", "127.0.0.1", ExtendedKeyUsagePurpose::ServerAuth, &ours);
    leaf(dir.path(), "client", "edge-gateway", ExtendedKeyUsagePurpose::ClientAuth, &ours);
    leaf(dir.path(), "stranger", "edge-gateway", ExtendedKeyUsagePurpose::ClientAuth, &strangers);
    dir
}

async fn house(dir: &Path, client_ca: bool) -> House {
    let tls = ServerTls {
        cert: Some(dir.join("server.pem")),
        key: Some(dir.join("server.key")),
        client_ca: client_ca.then(|| dir.join("ca.pem")),
    };
    let tls = server_tls(&tls).unwrap();
    House::open_with(Answers::nothing(), |_, options| options.tls = tls).await
}

fn client(house: &House, dir: &Path, ca: &str, identity: Option<&str>) -> Upstream {
    let mut config = UpstreamConfig::of([house.uri().replace("http://", "https://")]);
    config.tls = ClientTls {
        ca: Some(dir.join(ca)),
        cert: identity.map(|name| dir.join(format!("{name}.pem"))),
        key: identity.map(|name| dir.join(format!("{name}.key"))),
        domain: String::new(),
    };
    Upstream::try_new("cache", &config).unwrap()
}

#[tokio::test]
async fn over_tls_only_the_right_server_is_believed() {
    let dir = certificates();
    let house = house(dir.path(), false).await;
    get(&client(&house, dir.path(), "ca.pem", None), read(), "k").await.unwrap();
    let failure = get(&client(&house, dir.path(), "other-ca.pem", None), read(), "k").await.unwrap_err();
    assert_eq!(failure.message(), "cache cannot be reached");
    assert!(failure.cause_chain().unwrap().contains("certificate"), "{:?}", failure.cause_chain());
}

#[tokio::test]
async fn with_mutual_tls_only_our_clients_are_let_in() {
    let dir = certificates();
    let house = house(dir.path(), true).await;
    get(&client(&house, dir.path(), "ca.pem", Some("client")), read(), "k").await.unwrap();
    for identity in [None, Some("stranger")] {
        let failure = get(&client(&house, dir.path(), "ca.pem", identity), read(), "k").await.unwrap_err();
        assert_eq!(failure.code(), ErrorCode::Unavailable, "{identity:?}");
    }
    assert!(!house.metrics().contains(r#"code="OK"} 2"#));
}

#[tokio::test]
async fn a_certificate_for_another_name_needs_the_name() {
    let dir = certificates();
    let ours = authority(dir.path(), "ca.pem");
    leaf(dir.path(), "server", "cache.internal", ExtendedKeyUsagePurpose::ServerAuth, &ours);
    let house = house(dir.path(), false).await;
    let by_address = client(&house, dir.path(), "ca.pem", None);
    assert_eq!(get(&by_address, read(), "k").await.unwrap_err().code(), ErrorCode::Unavailable);

    let mut config = UpstreamConfig::of([house.uri().replace("http://", "https://")]);
    config.tls.ca = Some(dir.path().join("ca.pem"));
    config.tls.domain = "cache.internal".to_owned();
    get(&Upstream::try_new("cache", &config).unwrap(), read(), "k").await.unwrap();
}

#[test]
fn unusable_files_are_named() {
    let dir = certificates();
    std::fs::write(dir.path().join("empty.pem"), "").unwrap();
    let tls = |cert: &str, key: &str| ServerTls {
        cert: Some(dir.path().join(cert)),
        key: Some(dir.path().join(key)),
        client_ca: None,
    };
    let cases = [
        (tls("missing.pem", "server.key"), "missing.pem"),
        (tls("empty.pem", "server.key"), "no certificate in"),
        (tls("server.pem", "server.pem"), "a private key"),
        (tls("server.pem", "client.key"), "not usable"),
        (ServerTls { key: None, ..tls("server.pem", "x") }, "together"),
    ];
    for (tls, expected) in cases {
        let error = server_tls(&tls).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert!(server_tls(&ServerTls::default()).unwrap().is_none());
}
