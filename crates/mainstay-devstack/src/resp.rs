//! As much of the Redis protocol as it takes to ask a server one question.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};

/// Is one answer of a Redis server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisReply {
    Text(String),
    Error(String),
    Integer(i64),
    Nil,
    List(Vec<RedisReply>),
}

impl RedisReply {
    /// Returns the text of a simple or bulk string.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// Opens a connection, authenticates, sends one command and returns its answer; the error says what was seen.
pub async fn redis_command(
    address: SocketAddr,
    password: Option<&str>,
    args: &[&str],
    within: Duration,
) -> Result<RedisReply, String> {
    let ask = async {
        let mut stream = BufReader::new(TcpStream::connect(address).await?);
        if let Some(password) = password {
            stream.write_all(&encode(&["AUTH", password])).await?;
            if let RedisReply::Error(error) = read_reply(&mut stream).await? {
                return Ok(RedisReply::Error(error));
            }
        }
        stream.write_all(&encode(args)).await?;
        read_reply(&mut stream).await
    };
    match timeout(within, ask).await {
        Ok(Ok(RedisReply::Error(error))) => Err(error),
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(error)) => Err(format!("{address}: {error}")),
        Err(_) => Err(format!("{address}: no answer within {within:?}")),
    }
}

fn encode(args: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        bytes.extend_from_slice(format!("${}\r\n{arg}\r\n", arg.len()).as_bytes());
    }
    bytes
}

async fn read_reply(stream: &mut BufReader<TcpStream>) -> io::Result<RedisReply> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let line = line.trim_end();
    let broken = || io::Error::other(format!("not an answer of Redis: {line:?}"));
    let (kind, rest) = line.split_at_checked(1).ok_or_else(broken)?;
    let number = || rest.parse::<i64>().map_err(|_| broken());
    match kind {
        "+" => Ok(RedisReply::Text(rest.to_owned())),
        "-" => Ok(RedisReply::Error(rest.to_owned())),
        ":" => Ok(RedisReply::Integer(number()?)),
        "$" => match usize::try_from(number()?) {
            Err(_) => Ok(RedisReply::Nil),
            Ok(n_bytes) => {
                let mut bytes = vec![0; n_bytes + 2];
                stream.read_exact(&mut bytes).await?;
                bytes.truncate(n_bytes);
                Ok(RedisReply::Text(String::from_utf8_lossy(&bytes).into_owned()))
            }
        },
        "*" => {
            let mut items = Vec::new();
            for _ in 0..number()?.max(0) {
                items.push(Box::pin(read_reply(stream)).await?);
            }
            Ok(RedisReply::List(items))
        }
        _ => Err(broken()),
    }
}
