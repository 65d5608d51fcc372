use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::get;
use http::StatusCode;
use mainstay_proto::cache::v1::LoadRequest;
use mainstay_proto::cache::v1::origin_client::OriginClient;
use tokio::net::TcpListener;
use tonic::transport::{Channel, Endpoint};

/// Serves what an edge would be with nothing to do: one route that makes one gRPC call.
pub(crate) async fn serve(address: SocketAddr, echo: &str) -> anyhow::Result<()> {
    let channel = Endpoint::from_shared(format!("http://{echo}"))?.tcp_nodelay(true).connect_lazy();
    let app = Router::new().route("/cache/{namespace}/{key}", get(load)).with_state(Arc::new(channel));
    let listener = TcpListener::bind(address).await?;
    axum::serve(listener, app).await?;
    Ok(())
}

async fn load(
    State(channel): State<Arc<Channel>>,
    Path((namespace, key)): Path<(String, String)>,
) -> Result<String, StatusCode> {
    let mut client = OriginClient::new(Channel::clone(&channel));
    let answer = client.load(LoadRequest { namespace, key }).await;
    answer.map(|_| "x".repeat(256)).map_err(|_| StatusCode::BAD_GATEWAY)
}
