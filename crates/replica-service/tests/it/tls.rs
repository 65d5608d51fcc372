//! Real TLS: the primary gets a certificate, and refuses the service's roles without TLS and without a client certificate.

use std::{fs, path::PathBuf};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use mainstay_devstack::{Devstack, MONITOR_ROLE, SERVICE_ROLE, wait_until};
use mainstay_proto::{common::v1::Health, replica::v1::value::Kind};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use replica_service::{PostgresTls, ReplicaConfig, TlsMode};
use tempfile::TempDir;

use crate::rig::*;

/// An authority and what it has signed, in files.
struct Papers {
    directory: TempDir,
    ca: CertifiedIssuer<'static, KeyPair>,
}

impl Papers {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        // OpenSSL takes a certificate for its own issuer if both have the same name.
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let papers = Self { directory: tempfile::tempdir().unwrap(), ca };
        fs::write(papers.file("ca.pem"), papers.ca.pem()).unwrap();
        papers
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Returns certificate and key.
    fn sign(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        (params.signed_by(&key, &self.ca).unwrap().pem(), key.serialize_pem())
    }

    /// What the service needs to be let in.
    fn of_client(&self) -> PostgresTls {
        let (cert, key) = self.sign("the-service");
        fs::write(self.file("client.pem"), cert).unwrap();
        fs::write(self.file("client.key"), key).unwrap();
        PostgresTls {
            mode: TlsMode::VerifyFull,
            ca: Some(self.file("ca.pem")),
            cert: Some(self.file("client.pem")),
            key: Some(self.file("client.key")),
            ..PostgresTls::default()
        }
    }
}

/// Gives the primary a certificate for its address, and lets roles in with TLS and a certificate of their own only.
async fn demand_tls(stack: &Devstack, papers: &Papers) {
    let (cert, key) = papers.sign("127.0.0.1");
    let server = primary(stack);
    for (name, text) in [("server.crt", &cert), ("server.key", &key), ("clients.crt", &papers.ca.pem())] {
        // In the directory of the data, as the user of the server, for its eyes only.
        let text = STANDARD.encode(text);
        let program = format!("umask 077; base64 -d > {name}");
        sql(server, &format!("COPY (SELECT '{text}') TO PROGRAM '{program}'")).await;
    }
    let rules: String = [SERVICE_ROLE, MONITOR_ROLE]
        .map(|role| {
            format!(
                "hostssl all {role} 127.0.0.1/32 scram-sha-256 clientcert=verify-ca\nhostnossl all {role} 127.0.0.1/32 reject\n"
            )
        })
        .concat();
    prepend_hba(server, &rules).await;
    for set in [
        "ssl_cert_file = 'server.crt'",
        "ssl_key_file = 'server.key'",
        "ssl_ca_file = 'clients.crt'",
        "ssl = on",
    ] {
        sql(server, &format!("ALTER SYSTEM SET {set}")).await;
    }
    sql(server, "SELECT pg_reload_conf()").await;
    wait_until("the server to speak tls", EVERY, SOON, || async {
        let on = server.query_text("SELECT current_setting('ssl')").await.unwrap().unwrap_or_default();
        if on == "on" { Ok(()) } else { Err(on) }
    })
    .await
    .unwrap();
}

/// Has the PgBouncer before the primary let in with TLS and a certificate only, and go on to the server with its own.
async fn demand_tls_of_pgbouncer(stack: &Devstack, papers: &Papers) {
    let bouncer = primary(stack).bouncer().unwrap();
    let home = stack.dir().join("postgres").join(bouncer.name());
    let (cert, key) = papers.sign("127.0.0.1");
    let mut settings = fs::read_to_string(home.join("pgbouncer.ini")).unwrap();
    settings.push_str("client_tls_sslmode = verify-ca\nserver_tls_sslmode = verify-full\n");
    for (name, text) in [("cert", &cert), ("key", &key), ("ca", &papers.ca.pem())] {
        let file = home.join(format!("tls-{name}.pem"));
        fs::write(&file, text).unwrap();
        for side in ["client", "server"] {
            settings.push_str(&format!("{side}_tls_{name}_file = {}\n", file.display()));
        }
    }
    fs::write(home.join("pgbouncer.ini"), settings).unwrap();
    bouncer.stop().await.unwrap();
    // It is ready for whom speaks TLS: the service finds out.
    bouncer.launch().unwrap();
}

fn only_the_primary(config: &mut ReplicaConfig, tls: PostgresTls) {
    config.nodes.retain(|name, _| name == "primary");
    config.postgres.tls = tls;
}

/// A cancel request finds its way to the primary as well, that of a read and that of a write.
async fn cancels_reach_the_server(rig: &Rig, stack: &Devstack) {
    let sleep = "SELECT pg_sleep(250)";
    let asleep = |wanted: &'static str| async move {
        let count =
            format!("SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '{sleep}%'");
        let seen = primary(stack).query_text(&count).await.unwrap().unwrap();
        if seen == wanted { Ok(()) } else { Err(seen) }
    };
    tokio::select! {
        ended = rig.query_primary(sleep) => panic!("it ended: {ended:?}"),
        running = wait_until("the sleeping read", EVERY, SOON, || asleep("1")) => running.unwrap(),
    }
    wait_until("the sleeping read to be cancelled", EVERY, SOON, || asleep("0")).await.unwrap();
    tokio::select! {
        ended = rig.execute(sleep) => panic!("it ended: {ended:?}"),
        running = wait_until("the sleeping write", EVERY, SOON, || asleep("1")) => running.unwrap(),
    }
    wait_until("the sleeping write to be cancelled", EVERY, SOON, || asleep("0")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_demands_tls_is_reached_by_who_proves_himself_and_no_other_is_believed() {
    let (stack, papers, others) =
        (start_stack(false).await, Papers::new("authority"), Papers::new("somebody else"));
    demand_tls(&stack, &papers).await;
    let right = papers.of_client();
    let rig = Rig::start(&stack, Way::Direct, |config| only_the_primary(config, right.clone())).await;
    let how = "SELECT ssl AND client_dn IS NOT NULL FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    assert_eq!(first(&rig.query_primary(how).await.unwrap()), Kind::Bool(true));

    // More than any buffer between us and the server holds.
    let text = "x".repeat(4 << 20);
    let large = rig.query_with("SELECT $1::text", vec![value(Kind::Text(text.clone()))]).await.unwrap();
    assert!(first(&large) == Kind::Text(text), "another text came back");

    cancels_reach_the_server(&rig, &stack).await;

    for (tls, why) in [
        (PostgresTls::default(), "28000"),
        (PostgresTls { ca: Some(others.file("ca.pem")), ..right.clone() }, "UnknownIssuer"),
        (PostgresTls { domain: "other.example".to_owned(), ..right.clone() }, "not valid for name"),
        (PostgresTls { cert: None, key: None, ..right.clone() }, "28000"),
    ] {
        let mut config = config(&stack, Way::Direct);
        only_the_primary(&mut config, tls);
        let rig = Rig::launch(config).await;
        rig.wait(why, |topology| {
            let node = &topology.nodes[0];
            node.health() == Health::Unhealthy && node.detail.contains(why)
        })
        .await;
        assert_eq!(rig.query_with("SELECT 1", vec![]).await.unwrap_err().reason(), "NO_FIT_NODE");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pgbouncer_that_demands_tls_is_spoken_to_in_tls_and_its_server_too() {
    let (stack, papers) = (start_stack(true).await, Papers::new("authority"));
    demand_tls(&stack, &papers).await;
    demand_tls_of_pgbouncer(&stack, &papers).await;
    let right = papers.of_client();
    let rig = Rig::start(&stack, Way::PgBouncer, |config| only_the_primary(config, right.clone())).await;
    assert!(rig.node("primary").await.pgbouncer);
    let text = "x".repeat(4 << 20);
    for n in 0..3 {
        let large = rig.query_with("SELECT $1::text", vec![value(Kind::Text(text.clone()))]).await.unwrap();
        assert!(first(&large) == Kind::Text(text.clone()), "another text came back, {n}");
        let written =
            rig.execute_with("SELECT length($1::text)", vec![value(Kind::Text(text.clone()))]).await;
        assert_eq!(written.unwrap().rows[0].values[0].kind, Some(Kind::Int(4 << 20)));
    }
    cancels_reach_the_server(&rig, &stack).await;

    // In plain text nobody gets past it.
    let mut config = config(&stack, Way::PgBouncer);
    only_the_primary(&mut config, PostgresTls { pgbouncer: false, ..right });
    let rig = Rig::launch(config).await;
    rig.wait("the pgbouncer to refuse plain text", |topology| {
        let node = &topology.nodes[0];
        node.health() == Health::Unhealthy
            && node.detail.contains("its pgbouncer is down")
            && node.detail.contains("SSL")
    })
    .await;
    assert_eq!(rig.query_with("SELECT 1", vec![]).await.unwrap_err().reason(), "NO_FIT_NODE");
}
