//! PgBouncer as it is deployed: its own configuration and start script, with certificates.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mainstay_devstack::{Devstack, PostgresNode};
use mainstay_tests::eventually;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

const WITHIN: Duration = Duration::from_secs(30);
/// User and group that may nothing.
const NOBODY: u32 = 65_534;
const PASSWORD: &str = "0123456789abcdef";

#[tokio::test]
async fn deployed_pgbouncer_speaks_tls_on_both_sides_where_certificates_lie() {
    let stack = Devstack::builder().postgres(true).start().await.unwrap();
    let primary = stack.postgres().unwrap().first_primary();
    let folder = tempfile::tempdir().unwrap();
    let ca = authority();
    let secrets = folder.path().join("secrets");
    fs::create_dir(&secrets).unwrap();
    for password in ["pgbouncer-lookup-password", "postgres-monitor-password"] {
        fs::write(secrets.join(password), PASSWORD).unwrap();
    }
    let (cert, key) = signed(&ca);
    fs::write(secrets.join("tls.crt"), &cert).unwrap();
    fs::write(secrets.join("tls.key"), &key).unwrap();
    fs::write(secrets.join("ca.crt"), ca.pem()).unwrap();
    speak_tls(primary, &cert, &key).await;
    prepare(primary).await;

    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let _bouncer = start(folder.path(), port, primary.public_address().port());
    let ca = secrets.join("ca.crt");
    let encrypted = format!("sslmode=verify-full sslrootcert={}", ca.display());
    let behind = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
    eventually("an encrypted way through to the server", || async {
        let output = psql(port, &encrypted, behind).await;
        let told = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if told == "t" { Ok(()) } else { Err(format!("{output:?}")) }
    })
    .await;

    let plain = psql(port, "sslmode=disable", "select 1").await;
    assert!(
        !plain.status.success() && String::from_utf8_lossy(&plain.stderr).contains("SSL required"),
        "{plain:?}"
    );
    stack.stop().await.unwrap();
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new([]).expect("a certificate of nobody");
    params.distinguished_name.push(DnType::CommonName, "authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().expect("a key");
    CertifiedIssuer::self_signed(params, key).expect("it signs itself")
}

/// Returns certificate and key of 127.0.0.1.
fn signed(ca: &CertifiedIssuer<'_, KeyPair>) -> (String, String) {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("an address");
    (params.signed_by(&key, ca).expect("it signs").pem(), key.serialize_pem())
}

/// Lays certificate and key into the directory of the data, as the user of the server, and turns TLS on.
async fn speak_tls(server: &PostgresNode, cert: &str, key: &str) {
    let mut statements = Vec::new();
    for (name, text) in [("server.crt", cert), ("server.key", key)] {
        let program = format!("umask 077; base64 -d > {name}");
        statements.push(format!("COPY (SELECT '{}') TO PROGRAM '{program}'", STANDARD.encode(text)));
    }
    for set in ["ssl_cert_file = 'server.crt'", "ssl_key_file = 'server.key'", "ssl = on"] {
        statements.push(format!("ALTER SYSTEM SET {set}"));
    }
    statements.push("SELECT pg_reload_conf()".to_owned());
    for statement in statements {
        server.batch(&statement, WITHIN).await.expect("a superuser may");
    }
}

/// Makes what deploy/postgres/primary-init.sh makes for PgBouncer, in the words of that file, and a role that comes through it.
async fn prepare(server: &PostgresNode) {
    let init = fs::read_to_string(deploy("postgres/primary-init.sh")).expect("it is shipped");
    let (_, lookup) = init.split_once("create schema pgbouncer").expect("it makes the schema");
    let lookup =
        format!("create schema pgbouncer{}", lookup.trim_end().strip_suffix("SQL").expect("it ends there"));
    for statement in [
        &format!("create role pgbouncer login password '{PASSWORD}'"),
        &format!("create role visitor login password '{PASSWORD}'"),
        &lookup,
    ] {
        server.batch(statement, WITHIN).await.expect("a superuser may");
    }
}

/// Starts the deployed script with the deployed file, but with folders and ports of this test, and not as root.
fn start(folder: &Path, port: u16, server_port: u16) -> Child {
    let own = |text: &str| {
        text.replace("/run/secrets", &folder.join("secrets").display().to_string())
            .replace("/run/pgbouncer", &folder.join("run").display().to_string())
            .replace("/etc/mainstay", &folder.display().to_string())
            .replace("port=5432", &format!("port={server_port}"))
            .replace("listen_port = 6432", &format!("listen_port = {port}"))
    };
    fs::create_dir(folder.join("run")).expect("a folder of ours");
    for file in ["pgbouncer.ini", "start-pgbouncer.sh"] {
        let text = fs::read_to_string(deploy("pgbouncer").join(file)).expect("it is shipped");
        fs::write(folder.join(file), own(&text)).expect("a folder of ours");
    }
    let script = folder.join("start-pgbouncer.sh");
    let mut command = Command::new("sh");
    command.arg(&script);
    // PgBouncer refuses to be root.
    if fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0) {
        for path in [folder.to_owned(), folder.join("run"), folder.join("secrets")] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o777)).expect("a folder of ours");
        }
        command.uid(NOBODY).gid(NOBODY);
    }
    command.env("SERVER", "127.0.0.1").stdin(Stdio::null()).kill_on_drop(true);
    command.spawn().expect("there is a shell")
}

async fn psql(port: u16, tls: &str, sql: &str) -> Output {
    let address = format!("host=127.0.0.1 port={port} dbname=mainstay user=visitor connect_timeout=10 {tls}");
    let mut psql = Command::new("psql");
    psql.args([&address, "-X", "-A", "-t", "-c", sql]).env("PGPASSWORD", PASSWORD).kill_on_drop(true);
    tokio::time::timeout(WITHIN, psql.output()).await.expect("psql ends").expect("psql is installed")
}

fn deploy(path: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "deploy", path].iter().collect()
}
