use std::net::SocketAddr;

use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::origin_server::{Origin, OriginServer};
use mainstay_rpc::{Reply, Request, Response, Routes, ServeOptions, ServerConfig, ServerMetrics, stack};
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

/// Answers every load with nothing: what is left is the price of a call.
struct Empty;

#[tonic::async_trait]
impl Origin for Empty {
    async fn load(&self, _: Request<pb::LoadRequest>) -> Reply<pb::LoadResponse> {
        Ok(Response::new(pb::LoadResponse::default()))
    }

    async fn load_many(&self, _: Request<pb::LoadManyRequest>) -> Reply<pb::LoadManyResponse> {
        Ok(Response::new(pb::LoadManyResponse::default()))
    }

    async fn store(&self, _: Request<pb::StoreRequest>) -> Reply<pb::StoreResponse> {
        Ok(Response::new(pb::StoreResponse::default()))
    }
}

/// Serves until the process is killed.
pub(crate) async fn serve(address: SocketAddr) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind(address).await?;
    let metrics = ServerMetrics::register(&mut Registry::default());
    let app = stack(Routes::new(OriginServer::new(Empty)), &ServerConfig::default(), metrics);
    let (stopping, aborting) = (CancellationToken::new(), CancellationToken::new());
    mainstay_rpc::serve(listener, app, ServeOptions::new("empty"), stopping, aborting).await?;
    Ok(())
}
