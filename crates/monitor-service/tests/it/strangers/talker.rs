//! A server that says whatever it is told to say.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::Spawned;

/// Says over HTTP whatever it is told to say, also what no server should.
pub(super) struct Talker {
    address: SocketAddr,
    says: Arc<Mutex<Says>>,
    pub(super) heads: Arc<Mutex<String>>,
    _server: Spawned,
}

#[derive(Clone)]
pub(super) enum Says {
    /// An answer of HTTP, whole.
    Text { status: u16, kind: &'static str, body: String },
    /// The beginning of an answer, then nothing.
    Nothing,
    /// A megabyte at a time, so many times; counts what it got rid of.
    Megabytes(usize, Arc<AtomicUsize>),
    /// Something that is not HTTP.
    Nonsense,
}

impl Talker {
    pub(super) async fn start(says: Says) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port is there");
        let address = listener.local_addr().expect("it is bound");
        let (says, heads) = (Arc::new(Mutex::new(says)), Arc::new(Mutex::new(String::new())));
        let (told, heard) = (Arc::clone(&says), Arc::clone(&heads));
        let _server = Spawned::new(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (says, heard) = (told.lock().clone(), Arc::clone(&heard));
                connections.spawn(async move {
                    // A client that goes away in the middle is its own affair.
                    let _ = talk(stream, says, &heard).await;
                });
            }
        });
        Self { address, says, heads, _server }
    }

    pub(super) async fn showing(body: &str) -> Self {
        Self::start(metrics(body)).await
    }

    pub(super) fn say(&self, says: Says) {
        *self.says.lock() = says;
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

pub(super) fn metrics(body: &str) -> Says {
    Says::Text { status: 200, kind: "text/plain; version=0.0.4", body: body.to_owned() }
}

async fn talk(mut stream: TcpStream, says: Says, heard: &Mutex<String>) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut part = [0; 4096];
        let n_read = stream.read(&mut part).await?;
        if n_read == 0 {
            return Ok(());
        }
        head.extend_from_slice(&part[..n_read]);
    }
    *heard.lock() = String::from_utf8_lossy(&head).into_owned();
    match says {
        Says::Text { status, kind, body } => {
            let head = format!(
                "HTTP/1.1 {status} x\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(body.as_bytes()).await
        }
        Says::Nothing => {
            stream.write_all(b"HTTP/1.1 200 x\r\ncontent-length: 10\r\n\r\na").await?;
            std::future::pending().await
        }
        Says::Megabytes(n, written) => {
            stream.write_all(b"HTTP/1.1 200 x\r\n\r\n").await?;
            let megabyte = Bytes::from("# another line of no use\n".repeat(1024 * 1024 / 25));
            for _ in 0..n {
                stream.write_all(&megabyte).await?;
                written.fetch_add(1, Ordering::Relaxed);
            }
            stream.shutdown().await
        }
        Says::Nonsense => stream.write_all(b"220 mail.example.org ESMTP\r\n").await,
    }
}
