//! Which commands Redis is asked for: none that Valkey or Dragonfly lack.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use mainstay_devstack::wait_until;
use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::cache_admin_client::CacheAdminClient;
use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::node::{CacheNode, LOOK_EVERY, WITHIN, redis, single};

/// In Redis since 5.0 or earlier, so in Valkey; and registered by Dragonfly (WAIT since July 2026).
const ALLOWED: [&str; 66] = [
    "AUTH",
    "CLIENT",
    "DBSIZE",
    "DECR",
    "DEL",
    "EVALSHA",
    "EXISTS",
    "EXPIRE",
    "GET",
    "GETRANGE",
    "HDEL",
    "HELLO",
    "HEXISTS",
    "HGET",
    "HGETALL",
    "HLEN",
    "HMGET",
    "HSET",
    "HSETNX",
    "INCR",
    "INCRBY",
    "INFO",
    "LLEN",
    "LPOP",
    "LPUSH",
    "LRANGE",
    "LTRIM",
    "MGET",
    "PEXPIRE",
    "PEXPIREAT",
    "PING",
    "PSUBSCRIBE",
    "PTTL",
    "PUBLISH",
    "PUNSUBSCRIBE",
    "QUIT",
    "RENAME",
    "RPUSH",
    "SADD",
    "SCAN",
    "SCRIPT",
    "SELECT",
    "SET",
    "SETNX",
    "SMEMBERS",
    "SREM",
    "STRLEN",
    "SUBSCRIBE",
    "TIME",
    "UNLINK",
    "UNSUBSCRIBE",
    "WAIT",
    "XADD",
    "XDEL",
    "XLEN",
    "XRANGE",
    "XREAD",
    "XREVRANGE",
    "XTRIM",
    "ZADD",
    "ZCARD",
    "ZCOUNT",
    "ZRANGE",
    "ZREM",
    "ZREMRANGEBYSCORE",
    "ZSCORE",
];

fn is_allowed(command: &str) -> bool {
    ALLOWED.contains(&command.to_uppercase().as_str())
}

#[test]
fn scripts_call_no_command_that_valkey_or_dragonfly_lack() {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut n_calls = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let source = std::fs::read_to_string(&path).unwrap();
            for call in source.split("redis.call('").skip(1) {
                let command = call.split('\'').next().unwrap();
                assert!(is_allowed(command), "{command} in {}", path.display());
                n_calls += 1;
            }
        }
    }
    assert!(n_calls > 50, "the scripts are elsewhere by now: {n_calls} calls found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_send_no_command_that_valkey_or_dragonfly_lack() {
    let stack = redis().await;
    let servers = stack.redis().unwrap();
    let mut monitor =
        BufReader::new(TcpStream::connect(servers.first_primary().public_address()).await.unwrap());
    let sign_in = format!("AUTH {}\r\nMONITOR\r\n", servers.password());
    monitor.write_all(sign_in.as_bytes()).await.unwrap();
    let seen = Mutex::new(BTreeSet::new());
    let watch = async {
        let mut line = String::new();
        while monitor.read_line(&mut line).await.unwrap() > 0 {
            // `+<time> [<database> <client>] "<command>" ...`; replication and Sentinel are not ours.
            if let Some((_, command)) = line.split_once("] \"") {
                let command = command.split('"').next().unwrap().to_uppercase();
                seen.lock().insert(command);
            }
            line.clear();
        }
    };
    let work = async {
        let node = CacheNode::start(single(&stack)).await;
        node.wait_ready(true).await;
        let tagged = pb::SetRequest {
            namespace: "test".to_owned(),
            key: "k".to_owned(),
            tags: vec!["t".to_owned()],
            ..pb::SetRequest::default()
        };
        node.client.clone().set(tagged).await.unwrap();
        let late = CacheNode::start(single(&stack)).await;
        late.wait_ready(true).await;
        assert!(late.get("k").await.entry.is_some());
        let invalidate = pb::InvalidateRequest {
            namespace: "test".to_owned(),
            keys: vec!["k".to_owned()],
            tags: vec!["t".to_owned()],
            all: true,
        };
        CacheAdminClient::new(node.channel.clone()).invalidate(invalidate).await.unwrap();
        node.delete("k").await.unwrap();
        wait_until("the log to be read", LOOK_EVERY, WITHIN, || async {
            let wanted = ["MGET", "EVALSHA", "XREAD", "INFO", "HMGET"];
            let seen = seen.lock();
            if wanted.iter().all(|command| seen.contains(*command)) {
                Ok(())
            } else {
                Err(format!("{seen:?}"))
            }
        })
        .await
        .unwrap();
        node.cx.shut_down().await;
        late.cx.shut_down().await;
    };
    tokio::time::timeout(WITHIN + Duration::from_secs(15), async {
        tokio::select! { () = watch => panic!("MONITOR ended"), () = work => {} }
    })
    .await
    .unwrap();
    // The stack's own: what the replica and the Sentinels send.
    let theirs = ["REPLCONF", "PSYNC", "ROLE", "COMMAND", "CONFIG", "MONITOR"];
    let foreign: Vec<_> = seen.into_inner().into_iter().filter(|command| !is_allowed(command)).collect();
    assert!(foreign.iter().all(|command| theirs.contains(&command.as_str())), "{foreign:?}");
    stack.stop().await.unwrap();
}
