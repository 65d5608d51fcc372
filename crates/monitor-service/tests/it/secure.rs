//! Stores that speak TLS: papers, a Redis of its own, and a PostgreSQL that is taught it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mainstay_devstack::PostgresNode;
use mainstay_rpc::ClientTls;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use tempfile::TempDir;

use crate::harness::{free_address, wait_for};

const WITHIN: Duration = Duration::from_mins(2);

/// An authority and a certificate for 127.0.0.1 that it has signed, in files; and an authority that has signed nothing.
pub(crate) struct Papers {
    folder: TempDir,
    certificate: String,
    key: String,
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new([]).expect("no names");
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("random numbers"))
        .expect("a key that signs")
}

impl Papers {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (ours, other) = (authority("ours"), authority("somebody else's"));
        let key = KeyPair::generate().expect("random numbers");
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("an address");
        params.distinguished_name.push(DnType::CommonName, "store");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &ours).expect("a key that signs").pem();
        let papers = Self { folder, certificate, key: key.serialize_pem() };
        for (name, text) in [
            ("ca.pem", &ours.pem()),
            ("other-ca.pem", &other.pem()),
            ("store.pem", &papers.certificate),
            ("store.key", &papers.key),
        ] {
            std::fs::write(papers.file(name), text).expect("the folder is ours");
        }
        papers
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Believes this authority and no other.
    pub(crate) fn believing(&self, ca: &str) -> ClientTls {
        ClientTls { ca: Some(self.file(ca)), ..ClientTls::default() }
    }

    /// Has a server speak TLS to who wants it, and refuses a database to who does not.
    pub(crate) async fn teach(&self, server: &PostgresNode, database: &str) {
        for (name, text) in [("server.crt", &self.certificate), ("server.key", &self.key)] {
            // In the folder of the data, for the eyes of the server only.
            let program = format!("umask 077; base64 -d > {name}");
            let copy = format!("COPY (SELECT '{}') TO PROGRAM '{program}'", STANDARD.encode(text));
            server.batch(&copy, WITHIN).await.expect("a superuser may");
        }
        let rule = STANDARD.encode(format!("hostnossl {database} all 127.0.0.1/32 reject\n"));
        let program = "(base64 -d; cat pg_hba.conf) > pg_hba.new; mv pg_hba.new pg_hba.conf";
        for statement in [
            format!("COPY (SELECT '{rule}') TO PROGRAM '{program}'"),
            format!("CREATE DATABASE {database}"),
            "ALTER SYSTEM SET ssl_cert_file = 'server.crt'".to_owned(),
            "ALTER SYSTEM SET ssl_key_file = 'server.key'".to_owned(),
            "ALTER SYSTEM SET ssl = on".to_owned(),
            "SELECT pg_reload_conf()".to_owned(),
        ] {
            server.batch(&statement, WITHIN).await.expect("a superuser may");
        }
        wait_for(WITHIN, async || {
            let on = server.query_text("SELECT current_setting('ssl')").await;
            if matches!(&on, Ok(Some(on)) if on == "on") { Ok(()) } else { Err(format!("{on:?}")) }
        })
        .await;
    }
}

/// A Redis that speaks nothing but TLS.
pub(crate) struct SecureRedis {
    pub(crate) address: SocketAddr,
    process: Child,
}

impl SecureRedis {
    pub(crate) async fn start(papers: &Papers) -> Self {
        let address = free_address();
        let config = format!(
            "bind 127.0.0.1\nport 0\ntls-port {}\ntls-cert-file store.pem\ntls-key-file store.key\n\
             tls-ca-cert-file ca.pem\ntls-auth-clients no\nsave \"\"\ndaemonize no\n",
            address.port()
        );
        std::fs::write(papers.file("redis.conf"), config).expect("the folder is ours");
        let process = Command::new("redis-server")
            .arg("redis.conf")
            .current_dir(papers.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Redis is installed");
        wait_for(WITHIN, async || {
            let connected = tokio::net::TcpStream::connect(address).await;
            connected.map(drop).map_err(|error| error.to_string())
        })
        .await;
        Self { address, process }
    }
}

impl Drop for SecureRedis {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
