//! Several nodes with one Redis, which a proxy stands before.

use std::net::SocketAddr;
use std::time::Duration;

use mainstay_devstack::{ChaosProxy, Devstack, MinReplicas};
use mainstay_proto::realtime::v1::{PublishRequest, PublishResponse};
use mainstay_rpc::Failure;
use mainstay_runtime::Secret;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use ws_gateway::{
    BrokerConfig, ChannelsConfig, GatewayConfig, NamespaceConfig, Recovery, RedisConfig, RedisMode,
};

use crate::client::Client;
use crate::node::{Node, PATIENCE, config};

/// Starts Redis with a replica and Sentinels, which takes writes without the replica too.
pub(crate) async fn redis() -> Devstack {
    Devstack::builder().redis(true).min_replicas(MinReplicas::Off).start().await.unwrap()
}

pub(crate) fn sentinel(stack: &Devstack) -> RedisConfig {
    let redis = stack.redis().unwrap();
    RedisConfig {
        mode: RedisMode::Sentinel,
        sentinels: redis.sentinel_addresses().iter().map(SocketAddr::to_string).collect(),
        ..single(stack)
    }
}

pub(crate) fn single(stack: &Devstack) -> RedisConfig {
    let redis = stack.redis().unwrap();
    RedisConfig {
        mode: RedisMode::Single,
        address: redis.first_primary().public_address().to_string(),
        password: Secret::from(redis.password()),
        ..RedisConfig::default()
    }
}

/// Leads to the first primary through a proxy.
pub(crate) fn proxied(stack: &Devstack) -> (ChaosProxy, RedisConfig) {
    let config = single(stack);
    let proxy = ChaosProxy::start(config.address.parse().unwrap()).unwrap();
    let address = proxy.address().to_string();
    (proxy, RedisConfig { address, ..config })
}

/// A node whose namespaces `m` and `c` keep a history; `m` for recovery, `c` for the latest publication.
pub(crate) fn with_redis(redis: RedisConfig) -> GatewayConfig {
    let m = NamespaceConfig {
        history_size: 200,
        recovery: Recovery::Stream,
        presence: true,
        join_leave: true,
        ..NamespaceConfig::default()
    };
    let c = NamespaceConfig { recovery: Recovery::Cache, ..m.clone() };
    let namespaces = [("m".to_owned(), m), ("c".to_owned(), c)].into();
    let channels = ChannelsConfig { namespaces, ..ChannelsConfig::default() };
    let broker =
        BrokerConfig { check_positions_every: Duration::from_millis(500), ..BrokerConfig::default() };
    GatewayConfig { redis, channels, broker, ..config() }
}

impl Node {
    /// Starts a node and waits until it hears from Redis.
    pub(crate) async fn joined(config: GatewayConfig) -> Self {
        let node = Self::start(config).await;
        node.wait_until_heard(true).await;
        node
    }

    pub(crate) async fn wait_until_heard(&self, is_heard: bool) {
        self.wait_for_metric(&format!("mainstay_ws_broker_connected {}", u8::from(is_heard))).await;
    }

    pub(crate) async fn wait_for_metric(&self, line: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.metrics().lines().any(|found| found == line) {
            assert!(Instant::now() < deadline, "{line} never came:\n{}", self.metrics());
            sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn publish_with_key(
        &self,
        channel: &str,
        data: &str,
        key: &str,
    ) -> Result<PublishResponse, Failure> {
        let request = PublishRequest {
            channel: channel.to_owned(),
            data: data.to_owned().into(),
            idempotency_key: key.to_owned(),
            ..PublishRequest::default()
        };
        self.grpc("Publish", request, async |mut api, request| api.publish(request).await).await
    }
}

/// Subscribes, and asks again while the answer is that it is not possible now.
pub(crate) async fn subscribe(client: &mut Client, wanted: Value) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = client.call("subscribe", wanted.clone()).await;
        if answer["error"]["temporary"] != json!(true) {
            assert!(answer["subscribe"].is_object(), "{answer}");
            return answer["subscribe"].clone();
        }
        assert_eq!(answer["error"]["code"], json!(100));
        assert!(Instant::now() < deadline, "{answer}");
        sleep(Duration::from_millis(20)).await;
    }
}
