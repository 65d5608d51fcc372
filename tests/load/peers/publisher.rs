use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::ensure;
use hmac::{Hmac, KeyInit as _, Mac as _};
use mainstay_proto::realtime::v1::BroadcastRequest;
use mainstay_proto::realtime::v1::realtime_service_client::RealtimeServiceClient;
use md5::{Digest as _, Md5};
use serde_json::json;
use sha2::Sha256;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};

use super::crowd::MARK;
use super::server::{Peer, SECRET, Server};

const DATA_BYTES: usize = 128;

/// Who publishes to a server, in the way of the server.
pub(crate) enum Publisher {
    Gateway(Box<RealtimeServiceClient<Channel>>),
    /// One request for all publications of a burst.
    Node(Http),
    /// One request for each, all sent before the first answer is read.
    Nchan(Http),
    Nats(TcpStream),
    /// One signed request for a burst, on a connection of its own: the server closes it after each.
    Sockudo(SocketAddr),
}

/// One connection that is kept.
pub(crate) struct Http {
    stream: TcpStream,
    address: SocketAddr,
    read: Vec<u8>,
}

impl Publisher {
    pub(crate) async fn connect(server: &Server) -> anyhow::Result<Self> {
        let inlet = server.inlet;
        Ok(match server.peer {
            Peer::Gateway => {
                let endpoint = Endpoint::from_shared(format!("http://{inlet}"))?;
                Self::Gateway(Box::new(RealtimeServiceClient::new(endpoint.connect().await?)))
            }
            Peer::Ws | Peer::SocketIo => Self::Node(Http::connect(inlet).await?),
            Peer::Nchan => Self::Nchan(Http::connect(inlet).await?),
            Peer::Sockudo => Self::Sockudo(inlet),
            Peer::Nats => {
                let mut stream = TcpStream::connect(inlet).await?;
                stream.set_nodelay(true)?;
                stream.write_all(b"CONNECT {\"verbose\":false}\r\n").await?;
                pong(&mut stream).await?;
                Self::Nats(stream)
            }
        })
    }

    /// Publishes so many messages; done when the server has taken them.
    pub(crate) async fn publish(&mut self, times: usize) -> anyhow::Result<()> {
        let data = data();
        match self {
            Self::Gateway(api) => {
                let channels = vec!["bench".to_owned(); times];
                let request = BroadcastRequest { channels, data: data.into(), ..BroadcastRequest::default() };
                api.broadcast(request).await?;
            }
            Self::Node(http) => {
                http.send(&format!("/publish?times={times}"), &data).await?;
                http.answered().await?;
            }
            Self::Nchan(http) => {
                for _ in 0..times {
                    http.send("/pub", &data).await?;
                }
                for _ in 0..times {
                    http.answered().await?;
                }
            }
            Self::Nats(stream) => {
                let one = format!("PUB bench {}\r\n{data}\r\n", data.len());
                stream.write_all(one.repeat(times).as_bytes()).await?;
                pong(stream).await?;
            }
            Self::Sockudo(inlet) => {
                let event = json!({ "name": "bench", "channel": "bench", "data": data });
                let body = json!({ "batch": vec![event; times] }).to_string();
                let mut http = Http::connect(*inlet).await?;
                http.send(&signed("/apps/app/batch_events", &body)?, &body).await?;
                http.answered().await?;
            }
        }
        Ok(())
    }
}

impl Http {
    async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, address, read: Vec::new() })
    }

    async fn send(&mut self, path: &str, body: &str) -> anyhow::Result<()> {
        let (address, n_bytes) = (self.address, body.len());
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {n_bytes}\r\n\r\n{body}"
        );
        Ok(self.stream.write_all(request.as_bytes()).await?)
    }

    /// Reads one answer, of which the length is told.
    async fn answered(&mut self) -> anyhow::Result<()> {
        loop {
            if let Some(head_bytes) =
                self.read.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
            {
                let head = String::from_utf8_lossy(&self.read[..head_bytes]).to_ascii_lowercase();
                ensure!(head.starts_with("http/1.1 2"), "{head}");
                let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
                let body_bytes: usize = length.map_or(Ok(0), |length| length.trim().parse())?;
                if self.read.len() >= head_bytes + body_bytes {
                    self.read.drain(..head_bytes + body_bytes);
                    return Ok(());
                }
            }
            ensure!(self.stream.read_buf(&mut self.read).await? > 0, "the publishing connection was closed");
        }
    }
}

/// Waits until a NATS server has read all that was said.
async fn pong(stream: &mut TcpStream) -> anyhow::Result<()> {
    stream.write_all(b"PING\r\n").await?;
    let mut read = Vec::new();
    while !read.ends_with(b"PONG\r\n") {
        ensure!(stream.read_buf(&mut read).await? > 0, "the publishing connection was closed");
    }
    Ok(())
}

/// Returns a path that a server of the Pusher protocol takes a body at.
fn signed(path: &str, body: &str) -> anyhow::Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let digest = hex::encode(Md5::digest(body));
    let query = format!("auth_key=key&auth_timestamp={now}&auth_version=1.0&body_md5={digest}");
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes())?;
    mac.update(format!("POST\n{path}\n{query}").as_bytes());
    let signature = hex::encode(mac.finalize().into_bytes());
    Ok(format!("{path}?{query}&auth_signature={signature}"))
}

/// Makes a JSON document with one mark in it.
fn data() -> String {
    let mut data = format!("{{\"x\":\"{}", char::from(MARK));
    while data.len() < DATA_BYTES - 2 {
        data.push('x');
    }
    data.push_str("\"}");
    data
}
