use std::path::Path;
use std::process::Stdio;

use anyhow::ensure;
use tokio::process::Command;

use crate::many::STREAMED_KEYS;
use crate::server::Server;
use crate::{KEYS, VALUE_BYTES};

/// Starts redis-server with the keys in it.
pub(crate) async fn start() -> anyhow::Result<Server> {
    let address = Server::free()?;
    let port = address.port().to_string();
    let arguments = ["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
    let server = Server::spawn(Path::new("redis-server"), &arguments, Vec::new(), address).await?;
    benchmark(&server, "set", 200_000).await?;
    Ok(server)
}

/// CPU of the server per key, with pipeline 64 on 16 connections.
pub(crate) async fn get_us(server: &Server) -> anyhow::Result<f64> {
    let before = server.cpu_us()?;
    benchmark(server, "get", STREAMED_KEYS).await?;
    Ok((server.cpu_us()? - before) / STREAMED_KEYS as f64)
}

async fn benchmark(server: &Server, operation: &str, n: usize) -> anyhow::Result<()> {
    let (port, n) = (server.address.port().to_string(), n.to_string());
    let (bytes, keys) = (VALUE_BYTES.to_string(), KEYS.to_string());
    let status = Command::new("redis-benchmark")
        .args([
            "-p", &port, "-t", operation, "-n", &n, "-P", "64", "-c", "16", "-d", &bytes, "-r", &keys, "-q",
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .await?;
    ensure!(status.success(), "redis-benchmark failed");
    Ok(())
}
