//! L3: through `kill -9` of a real process, and while Redis is away.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use bytesize::ByteSize;
use cache_service::{CacheConfig, DiskConfig};
use mainstay_devstack::{http_get, wait_until};
use mainstay_proto::cache::v1::cache_service_client::CacheServiceClient;
use mainstay_proto::cache::v1::{DeleteRequest, GetRequest, GetResponse, Layer, SetRequest};
use mainstay_proto::introspect::v1::introspection_client::IntrospectionClient;
use mainstay_proto::introspect::v1::{Component, ComponentsRequest};
use tokio::process::{Child, Command};
use tonic::transport::{Channel, Endpoint};

use crate::node::{CacheNode, LOOK_EVERY, MEMORY_TTL, WITHIN, redis, single};

/// A cache-service of its own process, without Redis.
struct Process {
    child: Child,
    address: SocketAddr,
    client: CacheServiceClient<Channel>,
}

impl Process {
    async fn start(directory: &Path) -> Self {
        Self::launch(Command::new(env!("CARGO_BIN_EXE_cache-service")), directory).await
    }

    /// The kernel lets it write no file of more than 512 blocks (of 512 or 1,024 bytes, as the shell has it), and tells it
    /// so by an error.
    async fn start_with_little_room(directory: &Path) -> Self {
        let mut shell = Command::new("sh");
        let script = "trap '' XFSZ; ulimit -f 512; exec \"$0\"";
        shell.args(["-c", script, env!("CARGO_BIN_EXE_cache-service")]);
        Self::launch(shell, directory).await
    }

    async fn launch(mut command: Command, directory: &Path) -> Self {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let child = command
            .env_clear()
            .env("MAINSTAY__SERVER__LISTEN", address.to_string())
            .env("MAINSTAY__DISK__PATH", directory)
            .env("MAINSTAY__DISK__CAPACITY", "64MiB")
            .current_dir(directory.parent().unwrap())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        wait_until("the process to be ready", LOOK_EVERY, WITHIN, || async {
            match http_get(address, "/readyz", Duration::from_secs(1)).await {
                Ok((200, _)) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await
        .unwrap();
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap().timeout(WITHIN);
        Self { child, address, client: CacheServiceClient::new(endpoint.connect_lazy()) }
    }

    async fn get(&self, key: &str) -> GetResponse {
        let request =
            GetRequest { namespace: "test".to_owned(), key: key.to_owned(), ..GetRequest::default() };
        self.client.clone().get(request).await.unwrap().into_inner()
    }

    async fn set(&self, key: &str, value: impl Into<Bytes>) -> u64 {
        let request = SetRequest {
            namespace: "test".to_owned(),
            key: key.to_owned(),
            value: value.into(),
            ..SetRequest::default()
        };
        self.client.clone().set(request).await.unwrap().into_inner().version
    }

    async fn wait_for_disk(&self, what: &str, is_so: impl Fn(&Component) -> bool) {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).unwrap().timeout(WITHIN);
        let introspection = IntrospectionClient::new(endpoint.connect_lazy());
        wait_until(what, LOOK_EVERY, WITHIN, || async {
            let answer = introspection.clone().components(ComponentsRequest {}).await.unwrap().into_inner();
            let disk = answer.components.into_iter().find(|component| component.name == "disk").unwrap();
            if is_so(&disk) { Ok(()) } else { Err(format!("{disk:?}")) }
        })
        .await
        .unwrap();
    }

    async fn wait_for_entries_on_disk(&self, n_entries: u64) {
        let expected = n_entries.to_string();
        let has_them = |disk: &Component| disk.attributes.get("entries") == Some(&expected);
        self.wait_for_disk("the entries to be on disk", has_them).await;
    }

    async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_serves_its_entries_again() {
    let directory = tempfile::TempDir::new().unwrap();
    let directory = directory.path().join("l3");
    let process = Process::start(&directory).await;
    let mut versions = Vec::new();
    for number in 0..100 {
        // Above the threshold of compression.
        versions.push(process.set(&format!("k{number}"), vec![b'v'; 10_000 + number]).await);
    }
    let delete =
        DeleteRequest { namespace: "test".to_owned(), key: "k7".to_owned(), ..DeleteRequest::default() };
    assert!(process.client.clone().delete(delete).await.unwrap().into_inner().existed);
    process.wait_for_entries_on_disk(99).await;
    process.kill().await;

    let process = Process::start(&directory).await;
    for (number, version) in versions.into_iter().enumerate() {
        let found = process.get(&format!("k{number}")).await;
        if number == 7 {
            assert!(found.entry.is_none(), "a deleted entry came back");
            continue;
        }
        assert_eq!((found.layer(), found.stale, found.degraded), (Layer::L3, false, false));
        let entry = found.entry.unwrap();
        assert_eq!((entry.version, entry.value), (version, Bytes::from(vec![b'v'; 10_000 + number])));
    }
    assert_eq!(process.get("k1").await.layer(), Layer::L1);
    assert!(process.set("k1", "new").await > 0);
    process.kill().await;

    // Every file damaged: nothing of them is served, and all goes on.
    for file in std::fs::read_dir(&directory).unwrap() {
        let path = file.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        if let Some(byte) = bytes.get_mut(middle) {
            *byte ^= 0x55;
        }
        std::fs::write(&path, bytes).unwrap();
    }
    let process = Process::start(&directory).await;
    for number in 0..50 {
        assert!(process.get(&format!("k{number}")).await.entry.is_none(), "{number}");
    }
    process.set("k1", "after").await;
    assert_eq!(process.get("k1").await.entry.unwrap().value, "after");
    process.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_has_no_room_costs_no_write_and_is_used_again() {
    let parent = tempfile::TempDir::new().unwrap();
    let directory = parent.path().join("l3");
    let process = Process::start_with_little_room(&directory).await;
    let n_off = std::cell::Cell::new(0);
    let mut number = 0;
    while n_off.get() == 0 {
        assert!(number < 20_000, "the file never grew beyond its limit");
        // Below the threshold of compression.
        for _ in 0..100 {
            assert!(process.set(&format!("k{number}"), vec![b'v'; 3_000]).await > 0);
            number += 1;
        }
        process
            .wait_for_disk("the disk to say how it is", |disk| {
                n_off.set(n_off.get() + u32::from(disk.detail.starts_with("off: ")));
                true
            })
            .await;
    }
    // All of it is in memory.
    assert_eq!(process.get("k0").await.entry.unwrap().value, vec![b'v'; 3_000]);
    assert_eq!(process.get(&format!("k{}", number - 1)).await.layer(), Layer::L1);
    process.wait_for_disk("the disk to be tried again", |disk| !disk.detail.starts_with("off: ")).await;
    process.set("after", "value").await;
    process
        .wait_for_disk("an entry on disk", |disk| disk.attributes.get("entries").is_some_and(|n| n != "0"))
        .await;
    process.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_disk_answers_while_redis_is_away() {
    let stack = redis().await;
    let directory = tempfile::TempDir::new().unwrap();
    let disk = DiskConfig { path: directory.path().to_owned(), capacity: ByteSize::mib(16) };
    let mut config = CacheConfig { redis: single(&stack), disk, ..CacheConfig::default() };
    config.namespace_defaults.memory = false;
    config.namespace_defaults.memory_ttl = MEMORY_TTL;
    config.namespace_defaults.grace = Duration::from_mins(1);
    let node = CacheNode::start_with(config).await;
    node.wait_ready(true).await;
    node.set("k", "value").await;
    node.set("gone", "value").await;
    assert_eq!(node.get("k").await.layer(), Layer::L2);
    assert!(node.delete("gone").await.unwrap());

    stack.redis().unwrap().first_primary().kill().await.unwrap();
    let found = wait_until("an answer from disk", LOOK_EVERY, WITHIN, || async {
        let found = node.get("k").await;
        if found.layer() == Layer::L3 { Ok(found) } else { Err(format!("{found:?}")) }
    })
    .await
    .unwrap();
    assert_eq!((found.stale, found.degraded), (false, true));
    assert_eq!(found.entry.unwrap().value, "value");
    assert!(node.get("gone").await.entry.is_none(), "a deleted entry came from disk");
    node.cx.shut_down().await;
    stack.stop().await.unwrap();
}
