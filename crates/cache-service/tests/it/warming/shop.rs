//! An origin that lists its keys.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::origin_keys_server::{OriginKeys, OriginKeysServer};
use mainstay_proto::cache::v1::origin_server::{Origin, OriginServer};
use mainstay_rpc::{Reply, Request, Response, Routes, Status};
use mainstay_runtime::Context;
use tokio::sync::Semaphore;

const VALUE_BYTES: usize = 1_000;

/// Has the keys `k0` to `k(n-1)`, and lists them in pages of 100; a load of one of the last 100 takes a permit of the gate.
#[derive(Clone)]
pub(super) struct Shop {
    n_keys: u64,
    n_loads: Arc<AtomicU64>,
    pub(super) fails: Arc<AtomicBool>,
    pub(super) gate: Arc<Semaphore>,
}

impl Shop {
    pub(super) fn new(n_keys: u64) -> Self {
        Self {
            n_keys,
            n_loads: Arc::default(),
            fails: Arc::default(),
            gate: Arc::new(Semaphore::new(1_000_000)),
        }
    }

    pub(super) async fn serve(&self) -> (Context, String) {
        let cx = Context::for_test("origin");
        let routes =
            Routes::new(OriginServer::new(self.clone())).add_service(OriginKeysServer::new(self.clone()));
        cx.serve(routes).await.unwrap();
        let address = cx.listening().first().unwrap().address;
        (cx, format!("http://{address}"))
    }

    pub(super) fn n_loads(&self) -> u64 {
        self.n_loads.load(Ordering::Relaxed)
    }
}

#[tonic::async_trait]
impl Origin for Shop {
    async fn load(&self, request: Request<pb::LoadRequest>) -> Reply<pb::LoadResponse> {
        if self.fails.load(Ordering::Relaxed) {
            return Err(Status::unavailable("told to fail"));
        }
        self.n_loads.fetch_add(1, Ordering::Relaxed);
        let number: Option<u64> = request.into_inner().key.strip_prefix('k').and_then(|n| n.parse().ok());
        if number.is_some_and(|number| number + 100 >= self.n_keys) {
            self.gate.acquire().await.unwrap().forget();
        }
        let value = number.filter(|number| *number < self.n_keys);
        let value =
            value.map(|_| pb::Loaded { value: vec![b'v'; VALUE_BYTES].into(), ..pb::Loaded::default() });
        Ok(Response::new(pb::LoadResponse { value }))
    }

    async fn load_many(&self, _: Request<pb::LoadManyRequest>) -> Reply<pb::LoadManyResponse> {
        Err(Status::unimplemented("one by one"))
    }

    async fn store(&self, _: Request<pb::StoreRequest>) -> Reply<pb::StoreResponse> {
        Ok(Response::new(pb::StoreResponse {}))
    }
}

#[tonic::async_trait]
impl OriginKeys for Shop {
    async fn list_keys(&self, request: Request<pb::ListKeysRequest>) -> Reply<pb::ListKeysResponse> {
        let first: u64 = request.into_inner().page.parse().unwrap_or(0);
        let behind = self.n_keys.min(first + 100);
        let keys = (first..behind).map(|number| format!("k{number}")).collect();
        let next_page = if behind < self.n_keys { behind.to_string() } else { String::new() };
        Ok(Response::new(pb::ListKeysResponse { keys, next_page }))
    }
}
