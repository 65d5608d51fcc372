//! Sends every message back over the gateway's own WebSocket codec: what a conformance suite talks to.
//!
//! `cargo run --release -p ws-gateway --example codec_echo -- 127.0.0.1:9001`

use std::future::poll_fn;

use anyhow::Context as _;
use bytes::Bytes;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use ws_gateway::codec::{Ended, Kind, Lost, Message, Socket, accept_key};

/// The largest message of the suite.
const MAX_MESSAGE_BYTES: usize = 16 << 20;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".to_owned());
    let listener = TcpListener::bind(&address).await.with_context(|| format!("listening on {address}"))?;
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        connections.spawn(async move {
            if let Ok(stream) = shake_hands(stream).await {
                let _ = echo(Socket::new(stream, MAX_MESSAGE_BYTES)).await;
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Reads the head of a request and switches; whoever asks for anything else is left without an answer.
async fn shake_hands(stream: TcpStream) -> anyhow::Result<TcpStream> {
    let mut stream = BufReader::with_capacity(1, stream);
    let mut key = None;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("sec-websocket-key")
        {
            key = Some(value.trim().to_owned());
        }
    }
    let accept = accept_key(key.context("no key")?.as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-accept: {accept}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await?;
    Ok(stream.into_inner())
}

async fn echo(mut socket: Socket<TcpStream>) -> Result<(), Lost> {
    loop {
        let mut heard = Vec::new();
        let outcome = poll_fn(|cx| {
            socket.poll_read(cx, |message| {
                heard.extend(match message {
                    Message::Text(text) => Some((Kind::Text, Bytes::from(text.into_owned()))),
                    Message::Binary(data) => Some((Kind::Binary, data.into_owned().into())),
                    Message::Ping(_) | Message::Pong | Message::Close(_) => None,
                });
            })
        })
        .await;
        for (kind, payload) in heard {
            poll_fn(|cx| socket.poll_flush(cx)).await?;
            poll_fn(|cx| socket.start_send(cx, kind, std::slice::from_ref(&payload), b"").into()).await?;
        }
        match outcome {
            Ok(()) => {}
            Err(Ended::Leaving(code)) => socket.start_close(code, ""),
            Err(Ended::Broken(violation)) => {
                socket.start_close(Some(violation.close_code()), &violation.to_string());
            }
            Err(Ended::Gone) => return Ok(()),
        }
        poll_fn(|cx| socket.poll_flush(cx)).await?;
        if outcome.is_err() {
            poll_fn(|cx| socket.poll_shutdown(cx)).await?;
            poll_fn(|cx| socket.poll_drain(cx)).await;
            return Ok(());
        }
    }
}
