//! Redis and a Sentinel that speak TLS only, ask for a client's certificate, and know users.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;

use bytes::Bytes;
use cache_service::{RedisConfig, RedisMode};
use mainstay_devstack::wait_until;
use mainstay_rpc::ClientTls;
use mainstay_runtime::Secret;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::node::{CacheNode, LOOK_EVERY, WITHIN};

pub(crate) fn authority(dir: &Path, name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new([]).unwrap();
    // OpenSSL takes a certificate for its own issuer if both have the same name.
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(dir.join(name), issuer.pem()).unwrap();
    issuer
}

pub(crate) fn leaf(dir: &Path, name: &str, host: &str, issuer: &CertifiedIssuer<'static, KeyPair>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new([host.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, host);
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, issuer).unwrap();
    std::fs::write(dir.join(format!("{name}.pem")), certificate.pem()).unwrap();
    std::fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
}

/// A Redis server and a Sentinel with TLS.
struct Secured {
    dir: TempDir,
    server: SocketAddr,
    sentinel: SocketAddr,
    _processes: [Child; 2],
}

const PASSWORD: &str = "of-the-cache";

pub(crate) fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

pub(crate) fn spawn(dir: &Path, program: &str, config: &str) -> Child {
    let path = dir.join(format!("{program}.conf"));
    std::fs::write(&path, config).unwrap();
    Command::new(program)
        .arg(&path)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

impl Secured {
    async fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let (ours, _strangers) = (authority(dir.path(), "ca.pem"), authority(dir.path(), "other-ca.pem"));
        leaf(dir.path(), "server", "redis.example", &ours);
        leaf(dir.path(), "client", "cache-service", &ours);
        let (server, sentinel) = (free(), free());
        let tls = |port: u16| {
            format!(
                "bind 127.0.0.1\nport 0\ntls-port {port}\ntls-cert-file server.pem\ntls-key-file server.key\n\
                 tls-ca-cert-file ca.pem\ntls-auth-clients yes\ntls-replication yes\ndaemonize no\n"
            )
        };
        let config = format!(
            "{}save \"\"\nuser default off\nuser cache on ~mainstay:* &* +@all >{PASSWORD}\n\
             user watcher on ~* &* +@all >watching\n",
            tls(server.port())
        );
        let watched = format!(
            "{}sentinel monitor mainstay 127.0.0.1 {} 1\nsentinel auth-user mainstay watcher\n\
             sentinel auth-pass mainstay watching\n",
            tls(sentinel.port()),
            server.port()
        );
        let processes =
            [spawn(dir.path(), "redis-server", &config), spawn(dir.path(), "redis-sentinel", &watched)];
        for address in [server, sentinel] {
            wait_until("the server to listen", LOOK_EVERY, WITHIN, || async {
                let connected = tokio::net::TcpStream::connect(address).await;
                connected.map(drop).map_err(|error| error.to_string())
            })
            .await
            .unwrap();
        }
        Self { dir, server, sentinel, _processes: processes }
    }

    fn tls(&self) -> ClientTls {
        let file = |name: &str| Some(self.dir.path().join(name));
        ClientTls {
            ca: file("ca.pem"),
            cert: file("client.pem"),
            key: file("client.key"),
            domain: "redis.example".to_owned(),
        }
    }

    fn config(&self) -> RedisConfig {
        RedisConfig {
            mode: RedisMode::Single,
            address: self.server.to_string(),
            sentinels: vec![self.sentinel.to_string()],
            username: "cache".to_owned(),
            password: Secret::from(PASSWORD),
            tls: self.tls(),
            sentinel_tls: self.tls(),
            ..RedisConfig::default()
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cache_reaches_servers_and_sentinels_over_tls_as_the_user_it_is() {
    let secured = Secured::start().await;
    for mode in [RedisMode::Single, RedisMode::Sentinel] {
        let node = CacheNode::start(RedisConfig { mode, ..secured.config() }).await;
        node.wait_ready(true).await;
        assert!(!node.set("k", "over tls").await.degraded, "{mode:?}");
        let other = CacheNode::start(RedisConfig { mode, ..secured.config() }).await;
        other.wait_ready(true).await;
        assert_eq!(other.value("k").await, Some(Bytes::from_static(b"over tls")));
        node.cx.shut_down().await;
        other.cx.shut_down().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_or_client_that_is_not_proven_is_not_talked_to() {
    let secured = Secured::start().await;
    let tls = |change: fn(&mut ClientTls, &Path)| {
        let mut tls = secured.tls();
        change(&mut tls, secured.dir.path());
        RedisConfig { tls, ..secured.config() }
    };
    let cases = [
        ("a stranger's authority", tls(|tls, dir| tls.ca = Some(dir.join("other-ca.pem"))), "UnknownIssuer"),
        ("another server's name", tls(|tls, _| tls.domain = "other.example".to_owned()), "NotValidForName"),
        ("no certificate of ours", tls(|tls, _| (tls.cert, tls.key) = (None, None)), ""),
        ("no TLS at all", tls(|tls, _| *tls = ClientTls::default()), ""),
        (
            "a wrong password",
            RedisConfig { password: Secret::from("guessed"), ..secured.config() },
            "WRONGPASS",
        ),
    ];
    for (what, config, reason) in cases {
        let node = CacheNode::start(config).await;
        let told = wait_until("the reason to be told", LOOK_EVERY, WITHIN, || async {
            let told = node.cx.not_ready_because().join("; ");
            // Before the first attempt it says "not looked at yet", before its end "not connected yet".
            if told.contains(" yet") || !told.contains("redis") { Err(told) } else { Ok(told) }
        })
        .await
        .unwrap();
        assert!(told.contains(reason), "{what}: {told}");
        assert!(node.set("k", "never sent").await.degraded, "{what}");
        node.cx.shut_down().await;
    }
}
