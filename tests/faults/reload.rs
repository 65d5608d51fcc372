//! A process of replica-service that is told to read its configuration again, as an operator does it.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;

use mainstay_devstack::{DATABASE, SERVICE_ROLE};
use mainstay_tests::{Devstack, Rest, binary, eventually};
use tokio::process::{Child, Command};

fn start(stack: &Devstack, file: &Path) -> (Child, SocketAddr) {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let address = free.expect("a free port");
    let mut command = Command::new(binary("replica-service"));
    command.env_clear().arg("--config").arg(file);
    for (key, value) in [
        ("SERVER__LISTEN", address.to_string()),
        ("POSTGRES__DATABASE", DATABASE.to_owned()),
        ("POSTGRES__USER", SERVICE_ROLE.to_owned()),
        ("POSTGRES__PASSWORD", stack.credentials().postgres_password.clone()),
    ] {
        command.env(format!("MAINSTAY__{key}"), value);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    (command.spawn().expect("a built program starts"), address)
}

fn hang_up(process: &Child) {
    let pid = process.id().expect("it runs").to_string();
    let sent = std::process::Command::new("kill").args(["-HUP", &pid]).status().expect("kill is a program");
    assert!(sent.success(), "{sent}");
}

/// Waits until the metrics have all of these lines.
async fn told(rest: &Rest, wanted: &[&str]) -> String {
    eventually(format!("{wanted:?} in the metrics"), || async {
        let text = rest.get("/metrics").await.text();
        let missing = wanted.iter().find(|wanted| !text.lines().any(|line| line == **wanted));
        missing.map_or_else(|| Ok(text.clone()), |missing| Err(format!("no {missing} in {text}")))
    })
    .await
}

#[tokio::test]
async fn sighup_has_nodes_followed_and_a_bad_file_changes_nothing() {
    let stack = Devstack::builder().postgres(true).start().await.expect("a stack starts");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("replica-service.toml");
    let write = |names: &[&str], more: &str| {
        let postgres = stack.postgres().expect("the stack has a database");
        let node = |name: &&str| {
            let address = postgres.node(name).expect("a node of the stack").public_address();
            format!("[nodes.{name}]\naddress = \"{address}\"\n")
        };
        let text: String = names.iter().map(node).chain([more.to_owned()]).collect();
        std::fs::write(&file, text).expect("a file can be written");
    };
    write(&["primary"], "");
    let (mut process, address) = start(&stack, &file);
    let rest = Rest::new(address);
    eventually("the service to be ready", || async {
        match rest.send(http::Method::GET, "/readyz", "".into()).await {
            Ok(answer) if answer.status.is_success() => Ok(()),
            Ok(answer) => Err(answer.text()),
            Err(error) => Err(error),
        }
    })
    .await;

    write(&["primary", "replica1"], "");
    hang_up(&process);
    told(&rest, &["mainstay_replica_config_generation 2", "mainstay_replica_node_up{node=\"replica1\"} 1"])
        .await;

    write(&["primary"], "[pool]\nmax_size = 0\n");
    hang_up(&process);
    let refused = "mainstay_replica_config_reloads_total{outcome=\"refused\"} 1";
    let generation = "mainstay_replica_config_generation 2";
    told(&rest, &[refused, generation, "mainstay_replica_node_up{node=\"replica1\"} 1"]).await;

    write(&["primary"], "[pool]\nmax_size = 5\n");
    hang_up(&process);
    let text = told(&rest, &["mainstay_replica_config_generation 3"]).await;
    assert!(!text.contains("node_up{node=\"replica1\"}"), "{text}");
    assert!(process.try_wait().expect("it can be asked").is_none(), "it lives");
}
