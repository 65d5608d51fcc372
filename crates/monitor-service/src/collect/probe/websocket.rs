//! The handshake of a WebSocket, and one message back.

use futures_util::{SinkExt as _, StreamExt as _};
use tokio_tungstenite::client_async_with_config;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::header::AUTHORIZATION;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};

use super::super::dial::{Dialer, InvalidAddress};
use super::super::http::authorization;
use super::super::one_line;
use super::Failure;
use crate::config::ProbeConfig;

/// Asks for a WebSocket, and for a message over it where one is expected.
pub(super) struct WebsocketProbe {
    dialer: Dialer,
    url: String,
    config: ProbeConfig,
}

/// Longest message that is taken.
const MAX_BYTES: usize = 1024 * 1024;

impl WebsocketProbe {
    pub(super) fn try_new(url: &str, config: ProbeConfig) -> Result<Self, InvalidAddress> {
        Ok(Self { dialer: Dialer::try_new(url, &config.tls)?, url: url.to_owned(), config })
    }

    pub(super) fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    pub(super) async fn look(&self) -> Result<(), Failure> {
        let stream = self.dialer.dial().await?;
        let mut request = self.url.as_str().into_client_request().map_err(|error| wrong(&error))?;
        let ProbeConfig { token, user, password, send, expect, .. } = &self.config;
        if let Some(value) = authorization(token, user, password) {
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        let limits =
            WebSocketConfig::default().max_message_size(Some(MAX_BYTES)).max_frame_size(Some(MAX_BYTES));
        let opened = client_async_with_config(request, stream, Some(limits)).await;
        let (mut socket, _) = opened.map_err(|error| wrong(&error))?;
        if !send.is_empty() {
            socket.send(Message::text(send.clone())).await.map_err(|error| wrong(&error))?;
        }
        while !expect.is_empty() {
            match socket.next().await {
                Some(Ok(message)) if message.is_text() || message.is_binary() => {
                    let found = message.into_data();
                    if found.windows(expect.len()).any(|window| window == expect.as_bytes()) {
                        break;
                    }
                }
                Some(Ok(message)) if message.is_close() => return Err(closed(expect)),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(wrong(&error)),
                None => return Err(closed(expect)),
            }
        }
        // What was to be seen has been seen; a server that does not take leave is none the worse for it.
        let _ = socket.close(None).await;
        Ok(())
    }
}

fn wrong(error: &tungstenite::Error) -> Failure {
    Failure::Wrong(one_line(error))
}

fn closed(expect: &str) -> Failure {
    Failure::Wrong(format!("closed before a message with {expect:?} came"))
}
