use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, bail};
use mainstay_rpc::ServerConfig;

/// How long the service may take to answer.
const WITHIN: Duration = Duration::from_secs(2);
/// More than any answer of `/readyz`.
const MAX_ANSWER_BYTES: u64 = 64 * 1024;

/// Asks the service that runs with this configuration whether it is ready.
///
/// A service with TLS may want a client certificate, which the caller of this command does not have: then it is only
/// seen whether the port accepts connections.
pub(crate) fn ask(server: &ServerConfig) -> anyhow::Result<()> {
    let address = reachable(server.listen);
    let mut stream = TcpStream::connect_timeout(&address, WITHIN)
        .with_context(|| format!("no service answers at {address}"))?;
    if server.tls.cert.is_some() {
        return Ok(());
    }
    let answer = get_readyz(&mut stream, address).with_context(|| format!("no answer from {address}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    match head.split(' ').nth(1) {
        Some("200") => Ok(()),
        Some("503") => bail!("not ready: {}", body.trim_end()),
        _ => bail!("something else answers at {address}: {}", head.lines().next().unwrap_or_default()),
    }
}

fn get_readyz(stream: &mut TcpStream, address: SocketAddr) -> std::io::Result<String> {
    stream.set_read_timeout(Some(WITHIN))?;
    stream.set_write_timeout(Some(WITHIN))?;
    write!(stream, "GET /readyz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER_BYTES).read_to_string(&mut answer)?;
    Ok(answer)
}

/// Turns the address to listen on into one to connect to.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}
