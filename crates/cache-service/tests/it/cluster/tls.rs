//! A cluster that speaks TLS only, also among its nodes, and asks for a client's certificate.

use std::fs;
use std::net::SocketAddr;

use cache_service::{CacheConfig, RedisConfig, RedisMode};
use mainstay_devstack::wait_until;
use mainstay_rpc::ClientTls;
use mainstay_runtime::Secret;
use tempfile::TempDir;
use tokio::process::Child;

use super::{namespaces, started};
use crate::node::{CacheNode, LOOK_EVERY, WITHIN};
use crate::tls::{authority, free, leaf, spawn};

const N_NODES: usize = 3;
const N_SLOTS: usize = 16_384;
const PASSWORD: &str = "of-the-cache";

struct SecuredCluster {
    dir: TempDir,
    nodes: Vec<SocketAddr>,
    _processes: Vec<Child>,
}

impl SecuredCluster {
    /// Starts three primaries that already know each other.
    fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let ours = authority(dir.path(), "ca.pem");
        leaf(dir.path(), "server", "redis.example", &ours);
        leaf(dir.path(), "client", "cache-service", &ours);
        let places: Vec<(SocketAddr, SocketAddr)> = (0..N_NODES).map(|_| (free(), free())).collect();
        let processes = (0..N_NODES).map(|index| {
            let (listen, bus) = places[index];
            let folder = dir.path().join(format!("node{index}"));
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("nodes.conf"), known(index, &places)).unwrap();
            let config = format!(
                "bind 127.0.0.1\nport 0\ntls-port {}\ntls-cluster yes\ntls-auth-clients yes\n\
                 tls-cert-file ../server.pem\ntls-key-file ../server.key\ntls-ca-cert-file ../ca.pem\n\
                 cluster-enabled yes\ncluster-port {}\ncluster-config-file nodes.conf\n\
                 user default off\nuser cache on ~mainstay:* &* +@all >{PASSWORD}\n\
                 save \"\"\ndaemonize no\n",
                listen.port(),
                bus.port(),
            );
            spawn(&folder, "redis-server", &config)
        });
        let processes = processes.collect();
        Self { nodes: places.into_iter().map(|(listen, _)| listen).collect(), dir, _processes: processes }
    }

    fn config(&self) -> RedisConfig {
        let file = |name: &str| Some(self.dir.path().join(name));
        RedisConfig {
            mode: RedisMode::Cluster,
            // The others are learned from it.
            nodes: vec![self.nodes[0].to_string()],
            partitions: 6,
            username: "cache".to_owned(),
            password: Secret::from(PASSWORD),
            tls: ClientTls {
                ca: file("ca.pem"),
                cert: file("client.pem"),
                key: file("client.key"),
                domain: "redis.example".to_owned(),
            },
            ..RedisConfig::default()
        }
    }
}

/// Writes what a node would know after it had met the others.
fn known(index: usize, places: &[(SocketAddr, SocketAddr)]) -> String {
    let line = |(of, (listen, bus)): (usize, &(SocketAddr, SocketAddr))| {
        let myself = if of == index { "myself," } else { "" };
        let (first, last) = (of * N_SLOTS / N_NODES, (of + 1) * N_SLOTS / N_NODES - 1);
        let (id, epoch) = (format!("{of:040x}"), of + 1);
        format!("{id} {listen}@{} {myself}master - 0 0 {epoch} connected {first}-{last}\n", bus.port())
    };
    let lines: String = places.iter().enumerate().map(line).collect();
    format!("{lines}vars currentEpoch {N_NODES} lastVoteEpoch 0\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_of_a_cluster_is_reached_over_tls_and_by_nothing_else() {
    let cluster = SecuredCluster::start();
    let config = || CacheConfig { redis: cluster.config(), ..CacheConfig::default() };
    let (a, b) = (started(config()).await, started(config()).await);
    for namespace in namespaces() {
        a.store(&namespace, "k", "over tls", "").await;
        b.wait_value(&namespace, "k", Some("over tls")).await;
    }
    let seen = a.cluster().await;
    assert_eq!((seen.shards.len(), seen.partitions_served), (N_NODES, 6), "{seen:?}");
    for shard in &seen.shards {
        assert!(shard.answers && shard.partitions == 2, "{shard:?}");
        assert_ne!(shard.info.get("used_memory"), None, "{shard:?}");
    }
    for (what, tls) in [
        ("no certificate of ours", ClientTls { cert: None, key: None, ..cluster.config().tls }),
        ("no TLS at all", ClientTls::default()),
        ("another name", ClientTls { domain: "other.example".to_owned(), ..cluster.config().tls }),
    ] {
        let refused = CacheNode::start(RedisConfig { tls, ..cluster.config() }).await;
        wait_until("the reason to be told", LOOK_EVERY, WITHIN, || async {
            let told = refused.cx.not_ready_because().join("; ");
            if told.contains("redis") && told.contains(&cluster.nodes[0].to_string()) {
                Ok(())
            } else {
                Err(told)
            }
        })
        .await
        .unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(refused.set("k", "never sent").await.degraded, "{what}");
        refused.cx.shut_down().await;
    }
    a.cx.shut_down().await;
    b.cx.shut_down().await;
}
