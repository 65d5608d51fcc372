//! The configuration files that a deployment mounts.

use std::fs;
use std::path::PathBuf;

use mainstay_tests::run_to_end;

const SERVICES: [&str; 5] =
    ["cache-service", "ws-gateway", "replica-service", "monitor-service", "edge-gateway"];
const SECRETS: [&str; 5] =
    ["service-token", "redis-password", "redis-sentinel-password", "postgres-password", "jwt-secret"];

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
    for environment in ["development", "staging", "production"] {
        for service in SERVICES {
            let shipped = config.join(environment).join(format!("{service}.toml"));
            let text = fs::read_to_string(&shipped).unwrap();
            let local = folder.path().join("service.toml");
            fs::write(&local, text.replace("/run/secrets", folder.path().to_str().unwrap())).unwrap();
            let arguments = ["--config", local.to_str().unwrap(), "--check-config"];
            let finished = run_to_end(service, &arguments, &[]).await;
            assert_eq!(finished.code, Some(0), "{}: {}", shipped.display(), finished.stderr);
        }
    }
}
