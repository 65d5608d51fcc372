//! The invariants of the house that a compiler does not check. Reads `cargo metadata` and the sources.

mod configuration;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const SERVICES: [&str; 5] =
    ["cache-service", "ws-gateway", "replica-service", "monitor-service", "edge-gateway"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the workspace").to_owned()
}

/// Direct dependencies of every workspace member, development ones left out.
fn dependencies() -> BTreeMap<String, Vec<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let packages = metadata["packages"].as_array().expect("there are packages");
    packages.iter().map(|package| (text(&package["name"]), normal_dependencies(package))).collect()
}

fn normal_dependencies(package: &Value) -> Vec<String> {
    let all = package["dependencies"].as_array().expect("dependencies are a list");
    all.iter()
        .filter(|dependency| dependency["kind"] != "dev")
        .map(|dependency| text(&dependency["name"]))
        .collect()
}

fn text(value: &Value) -> String {
    value.as_str().expect("names are strings").to_owned()
}

/// Every Rust source below a folder of the workspace, but for what a build has made there.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("source folders can be read") {
            let path = entry.expect("entries can be read").path();
            if path.is_dir() {
                if !path.ends_with("target") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let source = std::fs::read_to_string(&path).expect("sources are text");
                found.push((path, source));
            }
        }
    }
    assert!(!found.is_empty(), "{folder} has no sources: the check looks in the wrong place");
    found
}

/// Files below `crates/`, the given crates left out, that contain one of the words outside of comments.
fn files_that_say(words: &[&str], except: &[&str]) -> Vec<String> {
    let root = root();
    sources("crates")
        .into_iter()
        .filter(|(path, _)| !except.iter().any(|place| path.starts_with(root.join("crates").join(place))))
        .filter(|(_, source)| {
            source
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                .any(|line| words.iter().any(|word| line.contains(word)))
        })
        .map(|(path, _)| path.strip_prefix(&root).unwrap_or(&path).display().to_string())
        .collect()
}

#[test]
fn no_service_depends_on_another_service() {
    let dependencies = dependencies();
    for service in SERVICES {
        let of_service = &dependencies[service];
        let wrong: Vec<_> = of_service.iter().filter(|name| SERVICES.contains(&name.as_str())).collect();
        assert!(wrong.is_empty(), "{service} depends on {wrong:?}");
    }
}

#[test]
fn no_library_depends_on_a_service() {
    for (package, dependencies) in dependencies() {
        if package.starts_with("mainstay-") && package != "mainstay-tests" {
            let wrong: Vec<_> =
                dependencies.iter().filter(|name| SERVICES.contains(&name.as_str())).collect();
            assert!(wrong.is_empty(), "{package} depends on {wrong:?}");
        }
    }
}

#[test]
fn pure_crates_have_no_runtime_and_no_io() {
    let forbidden =
        ["tokio", "tokio-util", "hyper", "tonic", "axum", "fred", "tokio-postgres", "mainstay-runtime"];
    let dependencies = dependencies();
    for pure in ["mainstay-resilience", "mainstay-auth", "mainstay-openmetrics"] {
        let wrong: Vec<_> =
            dependencies[pure].iter().filter(|name| forbidden.contains(&name.as_str())).collect();
        assert!(wrong.is_empty(), "{pure} depends on {wrong:?}");
        for (path, source) in sources(&format!("crates/{pure}/src")) {
            for io in ["std::fs", "std::net", "Instant::now", "SystemTime::now"] {
                let used =
                    source.lines().any(|line| !line.trim_start().starts_with("//") && line.contains(io));
                let only_tests = path.ends_with("tests.rs")
                    || source
                        .find("#[cfg(test)]")
                        .is_some_and(|tests| source.find(io).is_some_and(|use_at| use_at > tests));
                assert!(!used || only_tests, "{} uses {io}", path.display());
            }
        }
    }
}

#[test]
fn only_mainstay_rpc_knows_the_grpc_status() {
    let found = files_that_say(&["tonic::Status", "Status::new(", "tonic::Code"], &["mainstay-rpc"]);
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn only_the_edge_error_file_knows_problem_json() {
    let found = files_that_say(&["application/problem+json"], &["edge-gateway/src/error.rs"]);
    assert!(found.is_empty(), "{found:?}");
}

/// In the OpenAPI document one of two schemas of a name would silently stand for both.
#[test]
fn schemas_of_the_edge_have_names_of_their_own() {
    let mut seen = BTreeMap::<String, PathBuf>::new();
    for (path, source) in sources("crates/edge-gateway/src") {
        let mut derived = false;
        for line in source.lines() {
            derived |= line.starts_with("#[derive(") && line.contains("ToSchema");
            let mut words =
                line.split([' ', '(', ')', '<']).skip_while(|word| !["struct", "enum"].contains(word));
            let (Some(_), Some(name)) = (words.next(), words.next()) else { continue };
            if std::mem::take(&mut derived) {
                let other = seen.insert(name.to_owned(), path.clone()).unwrap_or_default();
                assert_eq!(other, PathBuf::new(), "{name} is there and in {}", path.display());
            }
        }
    }
    assert!(seen.len() > 50, "{seen:?}");
}

#[test]
fn versions_are_named_in_the_workspace_manifest_only() {
    let crates = std::fs::read_dir(root().join("crates")).expect("crates/ can be read");
    let manifests = crates.map(|entry| entry.expect("entries can be read").path().join("Cargo.toml"));
    for manifest in manifests.chain([root().join("tests/Cargo.toml")]) {
        let text = std::fs::read_to_string(&manifest).expect("manifests are text");
        for line in text.lines() {
            let own_version = line.contains("version = \"") || line.ends_with("= \"*\"");
            assert!(!own_version, "{}: {line}", manifest.display());
        }
    }
}

#[test]
fn one_version_of_each_cornerstone_is_in_the_tree() {
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).expect("the lock file is there");
    for name in ["tonic", "prost", "hyper", "rustls", "axum", "tokio", "fred", "opentelemetry"] {
        let line = format!("name = \"{name}\"");
        assert_eq!(lock.lines().filter(|have| *have == line).count(), 1, "{name}");
    }
    assert!(!lock.contains("name = \"openssl\""), "TLS is rustls only");
}
