//! The monitor that is measured, and the webhook that it tells.

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

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

use crate::figures::metric;
use crate::target::ALARM;

pub(crate) const N_RULES: usize = 1_000;
/// The rule whose breach is timed.
pub(crate) const RULE: &str = "bench_alarm";

const LISTENS_WITHIN: Duration = Duration::from_secs(10);

/// A monitor process, ended with this value.
pub(crate) struct Monitor {
    address: SocketAddr,
    pid: u32,
    _folder: tempfile::TempDir,
    _child: Child,
}

/// What the monitor says of itself.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Figures {
    pub(crate) series: f64,
    pub(crate) samples: f64,
    /// Pulls of the first of the large targets.
    pub(crate) pulls: f64,
    pub(crate) evaluation_seconds: f64,
}

/// Takes notifications and tells when each came.
pub(crate) struct Hook {
    pub(crate) address: SocketAddr,
    pub(crate) told: mpsc::Receiver<SystemTime>,
}

impl Hook {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (told_tx, told) = mpsc::channel(100);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let at = SystemTime::now();
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
    pub(crate) async fn start(sections: &str) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let file = folder.path().join("monitor.toml");
        std::fs::write(&file, format!("[server]\nlisten = \"{address}\"\n{sections}"))?;
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
        Ok(Self { address, pid, _folder: folder, _child: child })
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
            pulls: exposition
                .families
                .iter()
                .flat_map(|family| &family.samples)
                .filter(|sample| {
                    let is_first = |(name, value): &(String, String)| name == "service" && value == FIRST;
                    sample.name == "mainstay_monitor_pulls_total" && sample.labels.iter().any(is_first)
                })
                .map(|sample| sample.value)
                .sum(),
            evaluation_seconds: of("evaluation_seconds_sum"),
        })
    }

    pub(crate) fn resident_bytes(&self) -> anyhow::Result<u64> {
        mainstay_tests::resident_bytes(self.pid)
    }

    /// Gives the processor time used so far, in user and kernel mode.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        mainstay_tests::cpu_time(self.pid)
    }
}

/// Name of the first of the large targets.
pub(crate) const FIRST: &str = "bench-0";

/// Names the large targets.
pub(crate) fn large(index: usize) -> String {
    format!("bench-{index}")
}

/// Writes the configuration of a monitor that watches these and nothing else: a name, an endpoint, and how often it is
/// pulled, where not every second.
pub(crate) fn sections(targets: &[(String, String, Option<&str>)], store: &Path) -> String {
    let mut text = "[telemetry]\nlog = \"warn\"\n[host]\nenabled = false\n".to_owned();
    for service in ["cache-service", "edge-gateway", "replica-service", "ws-gateway"] {
        let _ = writeln!(text, "[targets.{service}]\nendpoints = []");
    }
    for (name, endpoint, every) in targets {
        let _ = writeln!(text, "[targets.{name}]\nendpoints = [\"{endpoint}\"]");
        if let Some(every) = every {
            let _ = writeln!(text, "every = \"{every}\"");
        }
    }
    let _ = writeln!(text, "[store]\npath = \"{}\"", store.display());
    text
}

/// Writes the rules: one whose breach is timed, and many that look at all series and never fire.
pub(crate) fn rules() -> String {
    let mut text = format!(
        "[rules.{RULE}]\nmetric = \"{ALARM}\"\nwarning = 0.5\nfires_after = \"0s\"\nclears_after = \"0s\"\n",
    );
    for rule in 1..N_RULES {
        let (metric, kind) = (metric(rule % 250), if rule % 2 == 0 { "rate" } else { "threshold" });
        let _ =
            writeln!(text, "[rules.bench_{rule}]\nkind = \"{kind}\"\nmetric = \"{metric}\"\nwarning = 1e18");
    }
    text
}

/// Writes the channel that tells a hook that an alert fires.
pub(crate) fn channel(hook: SocketAddr) -> String {
    format!(
        "[notify.channels.bench]\nkind = \"webhook\"\nurl = \"http://{hook}/\"\nallow_private = true\nresolved = false\n"
    )
}
