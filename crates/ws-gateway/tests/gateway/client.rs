//! A client that says exactly what a test wants it to say.

use std::collections::VecDeque;
use std::net::SocketAddr;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::node::{Node, PATIENCE};

pub(crate) struct Client {
    pub(crate) socket: WebSocketStream<TcpStream>,
    next_id: u32,
    /// Lines of frames that were read and not asked for yet.
    lines: VecDeque<Value>,
    /// Lines in each frame, in order.
    pub(crate) frames: Vec<usize>,
}

impl Client {
    /// Opens a socket without saying anything.
    pub(crate) async fn open(node: &Node) -> Self {
        Self::try_open(node, "", &[]).await.unwrap()
    }

    pub(crate) async fn try_open(
        node: &Node,
        query: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Self, Error> {
        Self::open_at(node.websocket, query, headers).await
    }

    /// Opens a socket to a gateway in whatever process.
    pub(crate) async fn open_at(
        websocket: SocketAddr,
        query: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Self, Error> {
        let mut request = format!("ws://{websocket}/connection/websocket{query}").into_client_request()?;
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let stream = TcpStream::connect(websocket).await?;
        let (socket, _) = timeout(PATIENCE, client_async(request, stream)).await.unwrap()?;
        Ok(Self { socket, next_id: 0, lines: VecDeque::new(), frames: Vec::new() })
    }

    /// Opens a socket and connects.
    pub(crate) async fn connected(node: &Node, token: &str) -> Self {
        Self::open(node).await.connect(token).await
    }

    /// Connects on an open socket.
    pub(crate) async fn connect(mut self, token: &str) -> Self {
        let answer = self.call("connect", json!({"token": token, "name": "test", "version": "1"})).await;
        assert!(answer["connect"]["client"].is_string(), "{answer}");
        self
    }

    pub(crate) async fn subscribed(node: &Node, token: &str, channel: &str) -> Self {
        let mut client = Self::connected(node, token).await;
        let answer = client.call("subscribe", json!({"channel": channel})).await;
        assert!(answer["subscribe"].is_object(), "{answer}");
        client
    }

    pub(crate) async fn text(&mut self, frame: &str) {
        self.socket.send(Message::text(frame)).await.unwrap();
    }

    /// Sends a command and returns its reply; what comes before it stays for later.
    pub(crate) async fn call(&mut self, method: &str, body: Value) -> Value {
        self.next_id += 1;
        let id = self.next_id;
        self.text(&json!({"id": id, method: body}).to_string()).await;
        let mut earlier = VecDeque::new();
        loop {
            let line = self.line().await;
            if line["id"] == json!(id) {
                earlier.append(&mut self.lines);
                self.lines = earlier;
                return line;
            }
            earlier.push_back(line);
        }
    }

    /// Returns the next line.
    pub(crate) async fn line(&mut self) -> Value {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return line;
            }
            match self.message().await {
                Some(Ok(Message::Text(text))) => {
                    let lines: Vec<Value> =
                        text.split('\n').map(|line| serde_json::from_str(line).unwrap()).collect();
                    self.frames.push(lines.len());
                    self.lines.extend(lines);
                }
                other => panic!("expected a text frame, got {other:?}"),
            }
        }
    }

    /// Returns the next line; none when the connection ends instead.
    pub(crate) async fn answer_or_end(&mut self) -> Option<Value> {
        match self.message().await {
            Some(Ok(Message::Text(text))) => {
                text.split('\n').next().map(|line| serde_json::from_str(line).unwrap())
            }
            _ => None,
        }
    }

    /// Returns the next line that was read already.
    pub(crate) fn waiting(&mut self) -> Option<Value> {
        self.lines.pop_front()
    }

    /// Returns the data of the next publication.
    pub(crate) async fn publication(&mut self) -> Value {
        let line = self.line().await;
        assert!(line["push"]["pub"].is_object(), "{line}");
        line["push"]["pub"]["data"].clone()
    }

    /// Reads to the end and returns the close code and reason.
    pub(crate) async fn end(&mut self) -> (u16, String) {
        let mut close = (0, "no close frame".to_owned());
        loop {
            match self.message().await {
                Some(Ok(Message::Close(Some(frame)))) => {
                    close = (frame.code.into(), frame.reason.to_string())
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return close,
            }
        }
    }

    async fn message(&mut self) -> Option<Result<Message, Error>> {
        timeout(PATIENCE, self.socket.next()).await.expect("the server said nothing")
    }
}

/// Returns status and body of a refused handshake.
pub(crate) fn refusal(outcome: Result<Client, Error>) -> (u16, String) {
    match outcome {
        Err(Error::Http(response)) => {
            let body = response.body().as_deref().unwrap_or_default();
            (response.status().as_u16(), String::from_utf8_lossy(body).trim().to_owned())
        }
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("the handshake went well"),
    }
}
