use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use mainstay_auth::jwt::{Claims, sign_hs256};
use mainstay_devstack::http_get;
use mainstay_proto::realtime::v1::BroadcastRequest;
use mainstay_proto::realtime::v1::realtime_service_client::RealtimeServiceClient;
use tokio::process::{Child, Command};
use tonic::transport::{Channel, Endpoint};

/// The way to publish.
pub(crate) type Api = RealtimeServiceClient<Channel>;

/// The channel everybody listens to, where there is only one.
pub(crate) const CHANNEL: &str = "bench";

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const LISTENS_WITHIN: Duration = Duration::from_secs(10);

/// A gateway process, ended with this value.
pub(crate) struct Gateway {
    pub(crate) websocket: SocketAddr,
    internal: SocketAddr,
    pid: u32,
    _child: Child,
}

impl Gateway {
    /// Starts a gateway with these settings beside the usual ones.
    pub(crate) async fn start(program: &Path, settings: &[(&str, String)]) -> anyhow::Result<Self> {
        let (internal, websocket) = (free()?, free()?);
        let mut child = Command::new(program)
            .env("MAINSTAY__SERVER__LISTEN", internal.to_string())
            .env("MAINSTAY__WEBSOCKET__LISTEN", websocket.to_string())
            .env("MAINSTAY__AUTH__JWT_SECRET", SECRET)
            .env("MAINSTAY__TELEMETRY__LOG", "warn")
            .envs(settings.iter().map(|(key, value)| (key, value)))
            .current_dir(std::env::temp_dir())
            .stdout(Stdio::null())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        let began_at = Instant::now();
        while !matches!(http_get(internal, "/livez", Duration::from_secs(1)).await, Ok((200, _))) {
            ensure!(child.try_wait()?.is_none(), "the gateway ended");
            ensure!(began_at.elapsed() < LISTENS_WITHIN, "the gateway does not listen");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let pid = child.id().context("the gateway ended")?;
        Ok(Self { websocket, internal, pid, _child: child })
    }

    pub(crate) async fn api(&self) -> anyhow::Result<Api> {
        api(self.internal).await
    }

    /// Returns where servers publish.
    pub(crate) const fn internal(&self) -> SocketAddr {
        self.internal
    }

    pub(crate) fn resident_bytes(&self) -> anyhow::Result<u64> {
        mainstay_tests::resident_bytes(self.pid)
    }

    /// Gives the processor time used so far, in user and kernel mode.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        mainstay_tests::cpu_time(self.pid)
    }
}

/// Connects to where servers publish.
pub(crate) async fn api(internal: SocketAddr) -> anyhow::Result<Api> {
    let endpoint = Endpoint::from_shared(format!("http://{internal}"))?;
    Ok(RealtimeServiceClient::new(endpoint.connect().await?))
}

/// Signs the token of one user.
pub(crate) fn token(index: usize) -> String {
    let claims = Claims { sub: format!("user-{index}"), exp: Some(4_000_000_000), ..Claims::default() };
    sign_hs256(&claims, SECRET.as_bytes()).expect("a secret of 32 bytes signs")
}

/// Returns the channel of a connection, or of a number below that of the channels.
pub(crate) fn channel(index: usize, n_channels: usize) -> String {
    if n_channels == 1 { CHANNEL.to_owned() } else { format!("{CHANNEL}-{}", index % n_channels) }
}

/// Makes a call that publishes `n` times.
pub(crate) fn burst(n: usize, now_us: u64, data_bytes: usize) -> BroadcastRequest {
    publication(vec![CHANNEL.to_owned(); n], now_us, data_bytes)
}

/// Makes a call that publishes `data_bytes` with the time in front.
pub(crate) fn publication(channels: Vec<String>, now_us: u64, data_bytes: usize) -> BroadcastRequest {
    let data = data(now_us, data_bytes).into();
    BroadcastRequest { channels, data, ..BroadcastRequest::default() }
}

/// Makes a document of `data_bytes` with the time in front.
pub(crate) fn data(now_us: u64, data_bytes: usize) -> String {
    let mut data = format!("{{\"t\":{now_us},\"x\":\"");
    while data.len() < data_bytes - 2 {
        data.push('x');
    }
    data.push_str("\"}");
    data
}

/// Gives an address on which nothing listens now.
pub(crate) fn free() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
