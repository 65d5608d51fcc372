//! The monitor that is measured, and the webhook that it tells.

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use mainstay_devstack::http_get;
use mainstay_openmetrics::{Limits, parse};
use mainstay_proto::introspect::v1::MetricsRequest;
use mainstay_proto::introspect::v1::introspection_client::IntrospectionClient;
use mainstay_proto::monitor::v1::monitor_service_client::MonitorServiceClient;
use mainstay_tests::binary;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint};

use crate::target::{self, Target};

pub(crate) const N_RULES: usize = 1_000;
/// The rule whose breach is timed.
pub(crate) const RULE: &str = "bench_alarm";

/// The monitor measures every 30 s.
const MEASURED_WITHIN: Duration = Duration::from_secs(40);
const LISTENS_WITHIN: Duration = Duration::from_secs(10);

/// A monitor process, ended with this value.
pub(crate) struct Monitor {
    address: SocketAddr,
    pid: u32,
    folder: tempfile::TempDir,
    _child: Child,
}

/// What the monitor says of itself.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Figures {
    pub(crate) series: f64,
    pub(crate) samples: f64,
    /// As measured last, which is once in 30 s.
    pub(crate) history_bytes: f64,
    pub(crate) evaluations: f64,
    pub(crate) evaluation_seconds: f64,
}

/// Takes notifications and tells when each came.
pub(crate) struct Hook {
    address: SocketAddr,
    pub(crate) told: mpsc::Receiver<Instant>,
}

impl Hook {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (told_tx, told) = mpsc::channel(100);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let at = Instant::now();
                // One message fits into one read; a monitor that hangs up early is no news.
                let mut message = vec![0; 16 * 1024];
                let _ = stream.read(&mut message).await;
                let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await;
                if told_tx.send(at).await.is_err() {
                    return;
                }
            }
        });
        Ok(Self { address, told })
    }
}

impl Monitor {
    pub(crate) async fn start(targets: &[Target], hook: &Hook) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let file = folder.path().join("monitor.toml");
        std::fs::write(&file, config(address, targets, hook, &folder.path().join("monitor.db")))?;
        let mut child = Command::new(binary("monitor-service"))
            .arg("--config")
            .arg(&file)
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("starting the monitor")?;
        let began_at = Instant::now();
        while !matches!(http_get(address, "/livez", Duration::from_secs(1)).await, Ok((200, _))) {
            ensure!(child.try_wait()?.is_none(), "the monitor ended");
            ensure!(began_at.elapsed() < LISTENS_WITHIN, "the monitor does not listen");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let pid = child.id().context("the monitor ended")?;
        Ok(Self { address, pid, folder, _child: child })
    }

    async fn channel(&self) -> anyhow::Result<Channel> {
        Ok(Endpoint::from_shared(format!("http://{}", self.address))?.connect().await?)
    }

    pub(crate) async fn client(&self) -> anyhow::Result<MonitorServiceClient<Channel>> {
        Ok(MonitorServiceClient::new(self.channel().await?))
    }

    pub(crate) async fn figures(&self) -> anyhow::Result<Figures> {
        let mut client = IntrospectionClient::new(self.channel().await?);
        let text = client.metrics(MetricsRequest {}).await?.into_inner().openmetrics;
        let exposition = parse(std::str::from_utf8(&text)?, Limits::default())?;
        let of = |name: &str| {
            let samples = exposition.families.iter().flat_map(|family| &family.samples);
            samples
                .filter(|sample| sample.name == format!("mainstay_monitor_{name}"))
                .map(|sample| sample.value)
                .sum()
        };
        Ok(Figures {
            series: of("series"),
            samples: of("samples_total"),
            history_bytes: of("history_bytes"),
            evaluations: of("evaluation_seconds_count"),
            evaluation_seconds: of("evaluation_seconds_sum"),
        })
    }

    /// Waits until the memory of the history has been measured, and gives its bytes per sample stored so far.
    pub(crate) async fn bytes_per_sample(&self) -> anyhow::Result<f64> {
        let (before, began_at) = (self.figures().await?.history_bytes, Instant::now());
        loop {
            let now = self.figures().await?;
            if now.history_bytes != before {
                return Ok(now.history_bytes / now.samples);
            }
            ensure!(began_at.elapsed() < MEASURED_WITHIN, "the memory of the history is not measured");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) fn resident_bytes(&self) -> anyhow::Result<u64> {
        mainstay_tests::resident_bytes(self.pid)
    }

    /// Gives the processor time used so far, in user and kernel mode.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        mainstay_tests::cpu_time(self.pid)
    }

    /// Gives the size of the store, its journal included.
    pub(crate) fn stored_bytes(&self) -> anyhow::Result<u64> {
        let mut bytes = 0;
        for entry in std::fs::read_dir(self.folder.path())? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("monitor.db") {
                bytes += entry.metadata()?.len();
            }
        }
        Ok(bytes)
    }
}

fn config(address: SocketAddr, targets: &[Target], hook: &Hook, store: &Path) -> String {
    let mut text =
        format!("[server]\nlisten = \"{address}\"\n[telemetry]\nlog = \"warn\"\n[host]\nenabled = false\n");
    for service in ["cache-service", "edge-gateway", "replica-service", "ws-gateway"] {
        let _ = writeln!(text, "[targets.{service}]\nendpoints = []");
    }
    for target in targets {
        let _ = writeln!(text, "[targets.{}]\nendpoints = [\"http://{}\"]", target.service, target.address);
    }
    let _ = writeln!(text, "[store]\npath = \"{}\"", store.display());
    let _ = writeln!(
        text,
        "[notify.channels.bench]\nkind = \"webhook\"\nurl = \"http://{}/\"\nallow_private = true\nresolved = false",
        hook.address
    );
    let _ = writeln!(
        text,
        "[rules.{RULE}]\nmetric = \"{}\"\nwarning = 0.5\nfires_after = \"0s\"\nclears_after = \"0s\"",
        target::ALARM
    );
    for rule in 1..N_RULES {
        let (metric, kind) = (target::metric(rule % 250), if rule % 2 == 0 { "rate" } else { "threshold" });
        let _ =
            writeln!(text, "[rules.bench_{rule}]\nkind = \"{kind}\"\nmetric = \"{metric}\"\nwarning = 1e18");
    }
    text
}
