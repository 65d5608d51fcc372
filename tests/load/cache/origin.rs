use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::origin_server::{Origin, OriginServer};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

type Reply<T> = Result<Response<T>, Status>;

/// Answers every load with nothing: what is left is the price of a call of tonic.
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

/// Serves it as tonic does by itself, until the process is killed.
pub(crate) async fn serve_empty(address: SocketAddr) -> anyhow::Result<()> {
    Server::builder().tcp_nodelay(true).add_service(OriginServer::new(Empty)).serve(address).await?;
    Ok(())
}

/// Has every key, takes its time, and counts how often it is asked.
#[derive(Clone, Default)]
pub(crate) struct Slow {
    pub(crate) n_loads: Arc<AtomicUsize>,
}

const LOAD_TAKES: Duration = Duration::from_millis(50);

#[tonic::async_trait]
impl Origin for Slow {
    async fn load(&self, _: Request<pb::LoadRequest>) -> Reply<pb::LoadResponse> {
        self.n_loads.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(LOAD_TAKES).await;
        let value = pb::Loaded { value: Bytes::from_static(b"loaded"), ..pb::Loaded::default() };
        Ok(Response::new(pb::LoadResponse { value: Some(value) }))
    }

    async fn load_many(&self, _: Request<pb::LoadManyRequest>) -> Reply<pb::LoadManyResponse> {
        Err(Status::unimplemented("one by one"))
    }

    async fn store(&self, _: Request<pb::StoreRequest>) -> Reply<pb::StoreResponse> {
        Err(Status::unimplemented("is read only"))
    }
}

impl Slow {
    /// Serves until it is dropped.
    pub(crate) async fn serve(&self, listener: TcpListener) -> anyhow::Result<()> {
        let incoming = TcpListenerStream::new(listener);
        Server::builder().add_service(OriginServer::new(self.clone())).serve_with_incoming(incoming).await?;
        Ok(())
    }
}
