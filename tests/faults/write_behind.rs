//! Writes that the origin learns of later, through `kill -9` of the service and of the Redis primary.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::cache_service_client::CacheServiceClient;
use mainstay_proto::cache::v1::origin_server::{Origin, OriginServer};
use mainstay_tests::{Devstack, Service, eventually};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

const NAMESPACE: &str = "behind";
const WRITERS: u64 = 4;
const KEYS_OF_EACH: u64 = 5;

/// A table that remembers every change it was told of, in order.
#[derive(Clone, Default)]
struct Table {
    told: Arc<Mutex<Vec<pb::Change>>>,
    away: Arc<AtomicBool>,
}

#[tonic::async_trait]
impl Origin for Table {
    async fn load(&self, _: Request<pb::LoadRequest>) -> Result<Response<pb::LoadResponse>, Status> {
        Ok(Response::new(pb::LoadResponse::default()))
    }

    async fn load_many(
        &self,
        _: Request<pb::LoadManyRequest>,
    ) -> Result<Response<pb::LoadManyResponse>, Status> {
        Err(Status::unimplemented("one by one"))
    }

    async fn store(&self, request: Request<pb::StoreRequest>) -> Result<Response<pb::StoreResponse>, Status> {
        if self.away.load(Ordering::Relaxed) {
            return Err(Status::unavailable("away"));
        }
        self.told.lock().extend(request.into_inner().changes);
        Ok(Response::new(pb::StoreResponse {}))
    }
}

impl Table {
    #[expect(clippy::disallowed_methods, reason = "the test ends it")]
    async fn serve(&self) -> (String, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
        let address = listener.local_addr().expect("it is bound");
        let server = Server::builder().add_service(OriginServer::new(self.clone()));
        let serving = tokio::spawn(async move {
            let served = server.serve_with_incoming(TcpListenerStream::new(listener)).await;
            served.expect("a bound port is served");
        });
        (format!("http://{address}"), serving)
    }

    /// Returns the newest change of each key, and how many came after a newer one without having come before.
    fn newest(&self) -> (HashMap<String, pb::Change>, usize) {
        let mut by_key: HashMap<String, Vec<pb::Change>> = HashMap::new();
        let mut n_reordered = 0;
        for change in self.told.lock().iter() {
            let before = by_key.entry(change.key.clone()).or_default();
            let newest = before.iter().map(|before| before.version).max().unwrap_or(0);
            let again = before.iter().any(|before| before.version == change.version);
            n_reordered += usize::from(change.version < newest && !again);
            before.push(change.clone());
        }
        let newest = by_key.into_iter().map(|(key, changes)| {
            let newest = changes.into_iter().max_by_key(|change| change.version);
            (key, newest.expect("each key has a change"))
        });
        (newest.collect(), n_reordered)
    }
}

/// The last confirmed write of each key.
#[derive(Clone, Default)]
struct Ledger {
    confirmed: Arc<Mutex<HashMap<String, (u64, String)>>>,
}

impl Ledger {
    /// Writes keys of its own, one after the other, until it is stopped; returns how many writes were confirmed.
    async fn write(self, channel: Channel, writer: u64, stop: Arc<AtomicBool>) -> usize {
        let (mut number, mut n_confirmed) = (0_u64, 0);
        while !stop.load(Ordering::Relaxed) {
            number += 1;
            let key = format!("w{writer}-{}", number % KEYS_OF_EACH);
            let value = number.to_string();
            let request = pb::SetRequest {
                namespace: NAMESPACE.to_owned(),
                key: key.clone(),
                value: value.clone().into(),
                ..pb::SetRequest::default()
            };
            match CacheServiceClient::new(channel.clone()).set(request).await {
                Ok(stored) => {
                    n_confirmed += 1;
                    self.confirmed.lock().insert(key, (stored.into_inner().version, value));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        n_confirmed
    }

    /// Waits until the table has all of it, or something newer.
    async fn wait_for(&self, table: &Table) {
        eventually("the origin to have every confirmed write", || async {
            let (newest, n_reordered) = table.newest();
            assert_eq!(n_reordered, 0, "changes of a key came out of order");
            let lost: Vec<String> = self
                .confirmed
                .lock()
                .iter()
                .filter(|(key, (version, value))| match newest.get(*key) {
                    // Not confirmed, and made all the same.
                    Some(told) if told.version > *version => false,
                    Some(told) if told.version == *version => {
                        let there = told.value.as_ref().map(|loaded| loaded.value.as_ref());
                        assert_eq!(there, Some(value.as_bytes()), "{key}");
                        false
                    }
                    _ => true,
                })
                .map(|(key, (version, _))| format!("{key} at {version}"))
                .collect();
            if lost.is_empty() { Ok(()) } else { Err(format!("missing: {lost:?}")) }
        })
        .await;
    }
}

async fn start(origin: &str) -> (Devstack, Channel) {
    let mut builder = Devstack::builder().redis(true).services([Service::CacheService]);
    for (key, value) in [
        ("MAINSTAY__SERVER__TOKEN", ""),
        ("MAINSTAY__ORIGINS__TABLE__GRPC__ENDPOINTS", origin),
        ("MAINSTAY__NAMESPACES__BEHIND__STRATEGY", "write_behind"),
        ("MAINSTAY__NAMESPACES__BEHIND__ORIGIN", "table"),
        ("MAINSTAY__WRITE_BEHIND__LEASE", "1s"),
        ("MAINSTAY__WRITE_BEHIND__BATCH", "10"),
    ] {
        builder = builder.env(Service::CacheService, key, value);
    }
    let bin_dir = mainstay_tests::binary("cache-service").parent().expect("it is in a folder").to_owned();
    let stack = builder.bin_dir(bin_dir).start().await.expect("the stack starts");
    let address = stack.service(Service::CacheService).expect("it is in the stack").address();
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address is a URL");
    (stack, endpoint.timeout(Duration::from_secs(2)).connect_lazy())
}

/// Writes from all writers while `during` runs; returns how many writes were confirmed.
async fn write_during(ledger: &Ledger, channel: &Channel, during: impl Future<Output = ()>) -> usize {
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        writers.spawn(ledger.clone().write(channel.clone(), writer, Arc::clone(&stop)));
    }
    during.await;
    stop.store(true, Ordering::Relaxed);
    writers.join_all().await.into_iter().sum()
}

#[tokio::test]
async fn what_waits_for_an_origin_outlives_kill_9_of_the_service() {
    let table = Table::default();
    table.away.store(true, Ordering::Relaxed);
    let (origin, serving) = table.serve().await;
    let (stack, channel) = start(&origin).await;
    let service = stack.service(Service::CacheService).unwrap();
    let ledger = Ledger::default();
    let killed = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        service.kill().await.unwrap();
    };
    let n_confirmed = write_during(&ledger, &channel, killed).await;
    assert!(n_confirmed > 20, "{n_confirmed} writes confirmed");
    assert!(table.told.lock().is_empty());

    service.start().await.unwrap();
    table.away.store(false, Ordering::Relaxed);
    ledger.wait_for(&table).await;
    // Killed again while it empties the queue, under load.
    let killed = async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        service.kill().await.unwrap();
        service.start().await.unwrap();
        tokio::time::sleep(Duration::from_millis(700)).await;
    };
    assert!(write_during(&ledger, &channel, killed).await > 20);
    ledger.wait_for(&table).await;
    stack.stop().await.unwrap();
    serving.abort();
}

#[tokio::test]
async fn nothing_is_lost_or_reordered_when_the_redis_primary_is_killed_under_write_behind_load() {
    let table = Table::default();
    let (origin, serving) = table.serve().await;
    let (stack, channel) = start(&origin).await;
    let redis = stack.redis().unwrap();
    let ledger = Ledger::default();
    let failover = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        // What waits at that moment is told by way of the new primary.
        table.away.store(true, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(300)).await;
        redis.first_primary().kill().await.unwrap();
        eventually("another primary to be named", || async {
            let named = redis.primary().await.map_err(|error| error.to_string())?.public_address();
            let is_other = named == redis.first_replica().public_address();
            if is_other { Ok(()) } else { Err(named.to_string()) }
        })
        .await;
        redis.first_primary().start().await.unwrap();
        let before = ledger.confirmed.lock().clone();
        eventually("writes to be confirmed again", || async {
            let again = *ledger.confirmed.lock() != before;
            if again { Ok(()) } else { Err("none yet".to_owned()) }
        })
        .await;
        table.away.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    let n_confirmed = write_during(&ledger, &channel, failover).await;
    assert!(n_confirmed > 60, "{n_confirmed} writes confirmed");
    ledger.wait_for(&table).await;
    stack.stop().await.unwrap();
    serving.abort();
}
