//! OTLP in, traces by Jaeger's API out, the newest 10,000 in memory.

use anyhow::Context as _;
use otlp_embedded::{Config, State, TraceServiceImpl, TraceServiceServer, ui_app};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let state = State::new(Config { max_length: 10_000, max_memory_usage: 128 << 20 });
    let query = tokio::net::TcpListener::bind("0.0.0.0:16686").await.context("16686 cannot be had")?;
    let pages = axum::serve(query, ui_app(state.clone(), "/"));
    let spans = tonic::transport::Server::builder()
        .add_service(TraceServiceServer::new(TraceServiceImpl::new(state)))
        .serve("0.0.0.0:4317".parse()?);
    tokio::select! {
        ended = pages => ended.context("the pages ended"),
        ended = spans => ended.context("the spans ended"),
    }
}
