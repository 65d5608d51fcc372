use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use cache_service::{CacheConfig, RedisConfig, RedisMode};
use mainstay_devstack::{Devstack, MinReplicas, wait_until};
use mainstay_proto::cache::v1::cache_service_client::CacheServiceClient;
use mainstay_proto::cache::v1::{
    DeleteRequest, GetRequest, GetResponse, SetRequest, SetResponse, StatsRequest, StatsResponse,
};
use mainstay_rpc::Status;
use mainstay_runtime::{Context, Secret};
use tonic::transport::{Channel, Endpoint};

/// Is one cache-service with a client.
pub(crate) struct CacheNode {
    pub(crate) cx: Context,
    pub(crate) client: CacheServiceClient<Channel>,
    pub(crate) channel: Channel,
}

pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Long enough for a machine with other work to do; nothing here comes near it.
pub(crate) const WITHIN: Duration = Duration::from_mins(2);
pub(crate) const MEMORY_TTL: Duration = Duration::from_millis(300);

/// Starts Redis with replica and Sentinels, which take writes without a replica too.
pub(crate) async fn redis() -> Devstack {
    Devstack::builder().redis(true).min_replicas(MinReplicas::Off).start().await.unwrap()
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

/// Does not take a machine that stands still for a moment for a Redis that does not answer.
pub(crate) fn patient(stack: &Devstack) -> RedisConfig {
    RedisConfig { command_within: Duration::from_secs(5), ..single(stack) }
}

pub(crate) fn sentinel(stack: &Devstack) -> RedisConfig {
    let redis = stack.redis().unwrap();
    RedisConfig {
        mode: RedisMode::Sentinel,
        sentinels: redis.sentinel_addresses().iter().map(SocketAddr::to_string).collect(),
        ..single(stack)
    }
}

impl CacheNode {
    pub(crate) async fn start(redis: RedisConfig) -> Self {
        let mut config = CacheConfig { redis, ..CacheConfig::default() };
        config.namespace_defaults.memory_ttl = MEMORY_TTL;
        Self::start_with(config).await
    }

    pub(crate) async fn start_with(config: CacheConfig) -> Self {
        let cx = Context::for_test("cache-service");
        cache_service::start(cx.clone(), config).await.unwrap();
        let address = cx.listening().first().unwrap().address;
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap().timeout(WITHIN);
        let channel = endpoint.connect_lazy();
        Self { cx, client: CacheServiceClient::new(channel.clone()), channel }
    }

    pub(crate) async fn wait_ready(&self, ready: bool) {
        let what = if ready { "the service to be ready" } else { "the service to be not ready" };
        wait_until(what, LOOK_EVERY, WITHIN, || async {
            if self.cx.is_ready() == ready {
                Ok(())
            } else {
                Err(format!("{:?}", self.cx.not_ready_because()))
            }
        })
        .await
        .unwrap();
    }

    pub(crate) async fn get(&self, key: &str) -> GetResponse {
        let request =
            GetRequest { namespace: "test".to_owned(), key: key.to_owned(), ..GetRequest::default() };
        self.client.clone().get(request).await.unwrap().into_inner()
    }

    /// Reads only the value.
    pub(crate) async fn value(&self, key: &str) -> Option<Bytes> {
        self.get(key).await.entry.map(|entry| entry.value)
    }

    pub(crate) async fn set(&self, key: &str, value: &'static str) -> SetResponse {
        let request = SetRequest {
            namespace: "test".to_owned(),
            key: key.to_owned(),
            value: Bytes::from_static(value.as_bytes()),
            ttl: None,
            content_type: "text/plain".to_owned(),
            ..SetRequest::default()
        };
        self.client.clone().set(request).await.unwrap().into_inner()
    }

    pub(crate) async fn delete(&self, key: &str) -> Result<bool, Status> {
        let request =
            DeleteRequest { namespace: "test".to_owned(), key: key.to_owned(), ..DeleteRequest::default() };
        self.client.clone().delete(request).await.map(|reply| reply.into_inner().existed)
    }

    pub(crate) async fn stats(&self) -> StatsResponse {
        self.client.clone().stats(StatsRequest {}).await.unwrap().into_inner()
    }

    /// Waits until a write is confirmed by Redis.
    pub(crate) async fn wait_for_confirmed_set(&self, key: &str, value: &'static str) -> SetResponse {
        wait_until("a confirmed set", LOOK_EVERY, WITHIN, || async {
            let reply = self.set(key, value).await;
            if reply.degraded { Err("degraded".to_owned()) } else { Ok(reply) }
        })
        .await
        .unwrap()
    }
}
