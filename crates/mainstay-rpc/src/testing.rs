//! A real server and real clients in one process, for this crate's tests.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use mainstay_proto::cache::v1::cache_service_client::CacheServiceClient;
use mainstay_proto::cache::v1::cache_service_server::{CacheService, CacheServiceServer};
use mainstay_proto::cache::v1::{
    BatchRequest, BatchResponse, DeleteRequest, DeleteResponse, GetRequest, GetResponse, SetRequest,
    SetResponse, StatsRequest, StatsResponse, StreamRequest, StreamResponse,
};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::{
    Call, Failure, QuickMethod, Reply, Request, Response, Routes, ServeOptions, ServerConfig, ServerMetrics,
    Stack, Status, Upstream, serve,
};

pub(crate) const GET: &str = "mainstay.cache.v1.CacheService/Get";

/// Waits for what must happen soon, and fails the test when it does not.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(Duration::from_secs(10), future).await {
        Ok(value) => value,
        Err(_) => panic!("still waiting for: {what}"),
    }
}

/// Tries until it succeeds, and fails the test with the last failure seen.
pub(crate) async fn eventually<T, E, F>(what: &str, mut attempt: impl FnMut() -> F) -> T
where
    E: std::fmt::Debug,
    F: Future<Output = Result<T, E>>,
{
    let mut last = None;
    for _ in 0..1_000 {
        match attempt().await {
            Ok(value) => return value,
            Err(error) => last = Some(error),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} did not happen; last seen: {last:?}");
}

/// Answers `Get` with what a closure says.
#[derive(Clone)]
pub(crate) struct Answers(
    Arc<dyn Fn(Request<GetRequest>) -> BoxFuture<'static, Reply<GetResponse>> + Send + Sync>,
);

impl Answers {
    pub(crate) fn with<F>(answer: impl Fn(Request<GetRequest>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Reply<GetResponse>> + Send + 'static,
    {
        Self(Arc::new(move |request| Box::pin(answer(request))))
    }

    /// Answers at once that there is no entry.
    pub(crate) fn nothing() -> Self {
        Self::with(|_| async { found_nothing() })
    }

    pub(crate) fn routes(self) -> Routes {
        Routes::new(CacheServiceServer::new(self))
    }
}

pub(crate) fn found_nothing() -> Reply<GetResponse> {
    Ok(Response::new(GetResponse::default()))
}

#[tonic::async_trait]
impl CacheService for Answers {
    type StreamStream = BoxStream<'static, Result<StreamResponse, Status>>;

    async fn get(&self, request: Request<GetRequest>) -> Reply<GetResponse> {
        (self.0)(request).await
    }

    async fn set(&self, _: Request<SetRequest>) -> Reply<SetResponse> {
        Err(Status::unimplemented("not part of these tests"))
    }

    async fn delete(&self, _: Request<DeleteRequest>) -> Reply<DeleteResponse> {
        Err(Status::unimplemented("not part of these tests"))
    }

    async fn batch(&self, _: Request<BatchRequest>) -> Reply<BatchResponse> {
        Err(Status::unimplemented("not part of these tests"))
    }

    async fn stream(&self, _: Request<tonic::Streaming<StreamRequest>>) -> Reply<Self::StreamStream> {
        Err(Status::unimplemented("not part of these tests"))
    }

    async fn stats(&self, _: Request<StatsRequest>) -> Reply<StatsResponse> {
        Err(Status::unimplemented("not part of these tests"))
    }
}

/// Is a running server.
pub(crate) struct House {
    pub(crate) address: SocketAddr,
    pub(crate) stopping: CancellationToken,
    pub(crate) aborting: CancellationToken,
    pub(crate) draining: CancellationToken,
    pub(crate) registry: Registry,
    task: JoinSet<std::io::Result<()>>,
}

impl House {
    pub(crate) async fn open(answers: Answers) -> Self {
        Self::open_with(answers, |_, _| {}).await
    }

    pub(crate) async fn open_with(
        answers: Answers,
        adjust: impl FnOnce(&mut ServerConfig, &mut ServeOptions),
    ) -> Self {
        Self::open_at(SocketAddr::from(([127, 0, 0, 1], 0)), answers, adjust).await
    }

    /// Opens one that answers some methods at once.
    pub(crate) async fn open_quick(
        answers: Answers,
        quick: Vec<QuickMethod>,
        adjust: impl FnOnce(&mut ServerConfig, &mut ServeOptions),
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::open_all(listener, answers, quick, adjust)
    }

    pub(crate) async fn open_at(
        address: SocketAddr,
        answers: Answers,
        adjust: impl FnOnce(&mut ServerConfig, &mut ServeOptions),
    ) -> Self {
        Self::open_on(TcpListener::bind(address).await.unwrap(), answers, adjust)
    }

    pub(crate) fn open_on(
        listener: TcpListener,
        answers: Answers,
        adjust: impl FnOnce(&mut ServerConfig, &mut ServeOptions),
    ) -> Self {
        Self::open_all(listener, answers, Vec::new(), adjust)
    }

    fn open_all(
        listener: TcpListener,
        answers: Answers,
        quick: Vec<QuickMethod>,
        adjust: impl FnOnce(&mut ServerConfig, &mut ServeOptions),
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let mut registry = Registry::default();
        let metrics = ServerMetrics::register(&mut registry);
        let (mut config, mut options) = (ServerConfig::default(), ServeOptions::new("test"));
        options.metrics = metrics.clone();
        adjust(&mut config, &mut options);
        let draining = options.draining.clone();
        let stack = Stack::new(&config, metrics, true);
        options.quick = Some(stack.quick(quick));
        let app = stack.around(answers.routes()).route("/livez", axum::routing::get(|| async { "alive" }));
        let (stopping, aborting) = (CancellationToken::new(), CancellationToken::new());
        let mut task = JoinSet::new();
        task.spawn(serve(listener, app, options, stopping.clone(), aborting.clone()));
        Self { address, stopping, aborting, draining, registry, task }
    }

    pub(crate) fn uri(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text
    }

    /// Waits for the server's own end.
    pub(crate) async fn ended(&mut self) {
        soon("the server to end", self.task.join_next()).await.expect("joined once").unwrap().unwrap();
    }

    /// Ends it the hard way.
    pub(crate) async fn kill(mut self) {
        self.aborting.cancel();
        self.ended().await;
    }
}

/// Returns an address where nobody listens.
pub(crate) async fn dead_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// Calls `Get` for `key`.
pub(crate) async fn get(upstream: &Upstream, call: Call, key: &str) -> Result<GetResponse, Failure> {
    let request = GetRequest { namespace: "test".to_owned(), key: key.to_owned(), ..GetRequest::default() };
    upstream
        .call(call, |lane| {
            let request = request.clone();
            async move { CacheServiceClient::new(lane).get(request).await }
        })
        .await
}
