//! A client of the Centrifuge protocol in JSON, written from the protocol's description.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

const ANSWER_WITHIN: Duration = Duration::from_mins(2);

/// One WebSocket connection.
pub struct Centrifuge {
    socket: WebSocketStream<TcpStream>,
    next_id: u32,
    /// Messages of a frame that were not looked at yet.
    unread: VecDeque<Value>,
    /// Pushes that arrived while a reply was awaited.
    pushes: Vec<Value>,
}

/// Why a connection ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Closed {
    pub code: u16,
    pub reason: String,
}

impl Centrifuge {
    /// Opens a WebSocket and sends `connect`.
    ///
    /// # Errors
    /// Gives the close code when the server refuses.
    pub async fn connect(address: SocketAddr, token: Option<&str>) -> Result<Self, Closed> {
        let stream = TcpStream::connect(address).await.expect("the gateway listens");
        let url = format!("ws://{address}/connection/websocket");
        let (socket, _) = tokio_tungstenite::client_async(url, stream).await.expect("the handshake succeeds");
        let mut client = Self { socket, next_id: 0, unread: VecDeque::new(), pushes: Vec::new() };
        let connect = token.map_or_else(|| json!({}), |token| json!({ "token": token }));
        let reply = client.call("connect", connect).await?;
        assert!(reply.get("error").is_none(), "{reply}");
        Ok(client)
    }

    /// Sends one command and gives its reply.
    ///
    /// # Errors
    /// Gives the close code when the server closes instead.
    pub async fn call(&mut self, method: &str, body: Value) -> Result<Value, Closed> {
        self.next_id += 1;
        let id = self.next_id;
        let command = json!({ "id": id, method: body }).to_string();
        // A refused connection may be closed already; the close frame is then read below.
        let _ = self.socket.send(Message::text(command)).await;
        loop {
            let message = self.next_message().await?;
            if message["id"] == id {
                return Ok(message);
            }
            self.pushes.push(message);
        }
    }

    /// Subscribes to a channel; panics when refused.
    pub async fn subscribe(&mut self, channel: &str) {
        let reply =
            self.call("subscribe", json!({ "channel": channel })).await.expect("the connection stays");
        assert!(reply.get("subscribe").is_some(), "{reply}");
    }

    /// Gives the data of the next publication on `channel`.
    pub async fn next_publication(&mut self, channel: &str) -> Value {
        loop {
            let found = self.pushes.iter().position(|message| message["push"]["channel"] == channel);
            if let Some(index) = found {
                let push = self.pushes.remove(index);
                if let Some(publication) = push["push"].get("pub") {
                    return publication["data"].clone();
                }
                continue;
            }
            let message = self.next_message().await.expect("the connection stays");
            self.pushes.push(message);
        }
    }

    /// Waits for the server to close.
    pub async fn closed(&mut self) -> Closed {
        loop {
            if let Err(closed) = self.next_message().await {
                return closed;
            }
        }
    }

    /// Reads the next message that is not a ping; pings are answered.
    async fn next_message(&mut self) -> Result<Value, Closed> {
        loop {
            if let Some(message) = self.unread.pop_front() {
                return Ok(message);
            }
            let frame = tokio::time::timeout(ANSWER_WITHIN, self.socket.next())
                .await
                .expect("the gateway says something within 10 s");
            match frame {
                Some(Ok(Message::Text(text))) => self.take_frame(&text).await,
                Some(Ok(Message::Close(frame))) => return Err(Closed::from(frame)),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(Closed { code: 1006, reason: error.to_string() }),
                None => return Err(Closed { code: 1006, reason: "the stream ended".to_owned() }),
            }
        }
    }

    /// Splits a frame into its messages; `{}` is a ping.
    async fn take_frame(&mut self, text: &str) {
        for line in text.lines().filter(|line| !line.is_empty()) {
            if line == "{}" {
                let _ = self.socket.send(Message::text("{}")).await;
                continue;
            }
            let message: Value = serde_json::from_str(line).expect("the gateway sends JSON");
            self.unread.push_back(message);
        }
    }
}

impl From<Option<CloseFrame>> for Closed {
    fn from(frame: Option<CloseFrame>) -> Self {
        frame.map_or(Self { code: 1005, reason: String::new() }, |frame| Self {
            code: frame.code.into(),
            reason: frame.reason.to_string(),
        })
    }
}
