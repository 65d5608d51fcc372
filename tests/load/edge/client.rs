use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// One connection that is kept, with one request at a time.
pub(crate) struct Client {
    sender: SendRequest<Empty<Bytes>>,
    path: &'static str,
    key: String,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr, path: &'static str, key: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { sender, path, key: key.to_owned() })
    }

    /// Asks once and reads the whole answer.
    pub(crate) async fn ask(&mut self) -> anyhow::Result<()> {
        self.sender.ready().await?;
        let request = Request::get(self.path).header(header::HOST, "bench").header("x-api-key", &self.key);
        let answer = self.sender.send_request(request.body(Empty::new())?).await.context("no answer")?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        ensure!(status == 200, "{status}: {}", String::from_utf8_lossy(&body));
        Ok(())
    }
}
