//! The floor: the same messages between two processes, with nothing behind them.

use std::io::Write as _;
use std::process::Stdio;

use anyhow::Context as _;
use mainstay_proto::replica::v1 as pb;
use mainstay_proto::replica::v1::replica_service_server::{ReplicaService, ReplicaServiceServer};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

/// What the program is called with to be the other process.
pub(crate) const ARGUMENT: &str = "--echo";

/// Answers each query with one row of one text; bare tonic, without a layer.
struct Echo;

type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl ReplicaService for Echo {
    async fn query(&self, _: Request<pb::QueryRequest>) -> Reply<pb::QueryResponse> {
        let text = |text: &str| pb::Value {
            kind: Some(pb::value::Kind::Text(text.to_owned())),
            r#type: String::new(),
        };
        let served = pb::Served {
            node: "replica-1".to_owned(),
            role: pb::Role::Replica.into(),
            reason: "replica".to_owned(),
            attempts: 1,
            ..pb::Served::default()
        };
        Ok(Response::new(pb::QueryResponse {
            columns: vec![pb::Column { name: "note".to_owned(), r#type: "text".to_owned() }],
            rows: vec![pb::Row { values: vec![text("this is the note of row 123456")] }],
            served: Some(served),
            ..pb::QueryResponse::default()
        }))
    }

    async fn execute(&self, _: Request<pb::ExecuteRequest>) -> Reply<pb::ExecuteResponse> {
        Err(only_queries())
    }

    async fn topology(&self, _: Request<pb::TopologyRequest>) -> Reply<pb::TopologyResponse> {
        Err(only_queries())
    }

    async fn transaction(&self, _: Request<pb::TransactionRequest>) -> Reply<pb::TransactionResponse> {
        Err(only_queries())
    }

    type QueryStreamStream = futures_util::stream::Empty<Result<pb::QueryChunk, Status>>;

    async fn query_stream(&self, _: Request<pb::QueryStreamRequest>) -> Reply<Self::QueryStreamStream> {
        Err(only_queries())
    }

    async fn statements(&self, _: Request<pb::StatementsRequest>) -> Reply<pb::StatementsResponse> {
        Err(only_queries())
    }
}

fn only_queries() -> Status {
    Status::unimplemented("only queries are echoed")
}

/// Serves until it is killed, and writes first where.
pub(crate) async fn serve() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    writeln!(std::io::stdout(), "{}", listener.local_addr()?)?;
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    Ok(Server::builder().add_service(ReplicaServiceServer::new(Echo)).serve_with_incoming(incoming).await?)
}

/// Starts the other process; it ends with what is returned.
pub(crate) async fn start() -> anyhow::Result<(Child, Channel)> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg(ARGUMENT)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let stdout = child.stdout.take().context("no output")?;
    let address = BufReader::new(stdout).lines().next_line().await?.context("the echo does not start")?;
    let channel = Endpoint::from_shared(format!("http://{address}"))?.connect().await?;
    Ok((child, channel))
}
