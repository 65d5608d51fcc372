//! The configuration files that a deployment mounts.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use mainstay_tests::run_to_end;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::time::timeout;

const SERVICES: [&str; 5] =
    ["cache-service", "ws-gateway", "replica-service", "monitor-service", "edge-gateway"];
const SECRETS: [&str; 7] = [
    "service-token",
    "redis-password",
    "redis-sentinel-password",
    "redis-monitor-password",
    "postgres-password",
    "postgres-monitor-password",
    "jwt-secret",
];

#[tokio::test]
async fn files_of_every_environment_are_legal_and_find_their_secrets() {
    let folder = tempfile::tempdir().unwrap();
    for secret in SECRETS {
        fs::write(folder.path().join(secret), "0123456789abcdef0123456789abcdef\n").unwrap();
    }
    for role in ["admin", "operator", "viewer"] {
        fs::write(folder.path().join(format!("api-key-{role}-sha256")), "ab".repeat(32)).unwrap();
    }
    let config: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", "deploy", "config"].iter().collect();
    let environments = ["development", "staging", "production"];
    let shipped = environments.into_iter().flat_map(|folder| SERVICES.map(|service| (folder, service)));
    for (environment, service) in shipped.chain([("cluster", "cache-service")]) {
        let shipped = config.join(environment).join(format!("{service}.toml"));
        let text = fs::read_to_string(&shipped).unwrap();
        let local = folder.path().join("service.toml");
        fs::write(&local, text.replace("/run/secrets", folder.path().to_str().unwrap())).unwrap();
        let arguments = ["--config", local.to_str().unwrap(), "--check-config"];
        let finished = run_to_end(service, &arguments, &[]).await;
        assert_eq!(finished.code, Some(0), "{}: {}", shipped.display(), finished.stderr);
    }
}

/// Calls the purge hook of `scripts/deploy.sh`; gives its exit code, and what the other side received.
async fn purge(answer: &'static str) -> (Option<i32>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/purge", listener.local_addr().expect("it listens"));
    let library: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", "scripts", "lib.sh"].iter().collect();
    let script = format!(". {} && purge_pages 1.2.3", library.display());
    let hook = Command::new("bash")
        .args(["-c", &script, "scripts/deploy.sh"])
        .env("MAINSTAY_PURGE_URL", url)
        .env("MAINSTAY_PURGE_HEADER", "x-purge-key: s3cret")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .status();
    let receive = async {
        let (mut stream, _) = listener.accept().await.expect("curl comes");
        let mut received = Vec::new();
        while !received.ends_with(b"]}") {
            let n = stream.read_buf(&mut received).await.expect("curl writes");
            assert!(n > 0, "{}", String::from_utf8_lossy(&received));
        }
        stream.write_all(answer.as_bytes()).await.expect("curl reads");
        String::from_utf8(received).expect("curl sends text")
    };
    let (status, received) =
        timeout(Duration::from_secs(30), async { tokio::join!(hook, receive) }).await.expect("curl ends");
    (status.expect("bash runs").code(), received)
}

#[tokio::test]
async fn purge_hook_names_the_pages_and_tells_whether_it_was_heard() {
    let (code, received) = purge("HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await;
    assert_eq!(code, Some(0));
    assert!(received.starts_with("POST /purge HTTP/1.1\r\n"), "{received}");
    assert!(received.contains("x-purge-key: s3cret\r\n"), "{received}");
    let body = r#"{"version":"1.2.3","paths":["/dashboard","/docs","/openapi.json"]}"#;
    assert!(received.ends_with(body), "{received}");
    let refused = "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    assert_ne!(purge(refused).await.0, Some(0), "who deploys is told");
}
