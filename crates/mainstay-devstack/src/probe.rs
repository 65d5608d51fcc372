//! What it means for each kind of part to be ready.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{Error, error::chain, postgres::sql, redis::MASTER_NAME, resp::redis_command};

#[derive(Debug, Clone)]
pub(crate) enum Probe {
    Redis {
        address: SocketAddr,
        password: String,
    },
    /// A quorum of Sentinels sees the primary.
    Sentinel {
        address: SocketAddr,
    },
    /// Takes queries; behind PgBouncer too.
    Postgres(Box<tokio_postgres::Config>),
    /// `GET /readyz` answers 200.
    Readyz {
        address: SocketAddr,
    },
}

const LOOK_WITHIN: Duration = Duration::from_secs(2);
/// A readiness answer is a line or a small JSON body; more is cut off.
const ANSWER_BYTES: u64 = 16 * 1024;

impl Probe {
    /// Looks once; the error is the state seen.
    pub(crate) async fn check(&self) -> Result<(), String> {
        match self {
            Self::Redis { address, password } => {
                redis_command(*address, Some(password), &["PING"], LOOK_WITHIN).await.map(|_| ())
            }
            Self::Sentinel { address } => {
                let args = ["SENTINEL", "CKQUORUM", MASTER_NAME];
                redis_command(*address, None, &args, LOOK_WITHIN).await.map(|_| ())
            }
            Self::Postgres(config) => sql::query_text(config, "select 1", LOOK_WITHIN)
                .await
                .map(|_| ())
                .map_err(|error: Error| chain(&error)),
            Self::Readyz { address } => match http_get(*address, "/readyz", LOOK_WITHIN).await? {
                (200, _) => Ok(()),
                (status, body) => Err(format!("/readyz answered {status}: {body}")),
            },
        }
    }
}

/// Sends one HTTP/1.1 GET and returns the status and the body, or what was seen instead.
pub async fn http_get(address: SocketAddr, path: &str, within: Duration) -> Result<(u16, String), String> {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES).read_to_end(&mut answer).await?;
        std::io::Result::Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = match timeout(within, ask).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(format!("{address}: {error}")),
        Err(_) => return Err(format!("{address}: no answer within {within:?}")),
    };
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    status
        .map(|status| (status, body.trim().to_owned()))
        .ok_or_else(|| format!("{address}: not an answer of HTTP: {:?}", head.lines().next().unwrap_or("")))
}
