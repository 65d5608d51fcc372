use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use mainstay_devstack::http_get;
use mainstay_tests::{binary, cpu_time, resident_bytes};
use tokio::process::{Child, Command};
use tonic::transport::{Channel, Endpoint};

/// A server process that is measured.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Server {
    pub(crate) fn free() -> anyhow::Result<SocketAddr> {
        Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
    }

    /// Starts a cache without Redis, with more configuration if any.
    pub(crate) async fn cache(config: Option<&Path>) -> anyhow::Result<Self> {
        let address = Self::free()?;
        let environment = vec![
            ("MAINSTAY__SERVER__LISTEN", address.to_string()),
            ("MAINSTAY__MEMORY__CAPACITY", "512MiB".to_owned()),
        ];
        let config = config.map(|path| path.display().to_string());
        let arguments: Vec<&str> = config.iter().flat_map(|path| ["--config", path.as_str()]).collect();
        Self::spawn(&binary("cache-service"), &arguments, environment, address).await
    }

    pub(crate) async fn spawn(
        program: &Path,
        arguments: &[&str],
        environment: Vec<(&'static str, String)>,
        address: SocketAddr,
    ) -> anyhow::Result<Self> {
        let mut child = Command::new(program)
            .args(arguments)
            .envs(environment)
            .current_dir(std::env::temp_dir())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        let began_at = Instant::now();
        while tokio::net::TcpStream::connect(address).await.is_err() {
            ensure!(child.try_wait()?.is_none(), "{} ended", program.display());
            ensure!(began_at.elapsed() < Duration::from_secs(10), "{} does not listen", program.display());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let _ = http_get(address, "/livez", Duration::from_secs(1)).await;
        Ok(Self { child, address })
    }

    pub(crate) fn channel(&self) -> anyhow::Result<Channel> {
        Ok(Endpoint::from_shared(format!("http://{}", self.address))?.tcp_nodelay(true).connect_lazy())
    }

    fn pid(&self) -> anyhow::Result<u32> {
        self.child.id().context("the server has ended")
    }

    /// CPU time used so far; the kernel counts in hundredths of a second.
    pub(crate) fn cpu_us(&self) -> anyhow::Result<f64> {
        Ok(cpu_time(self.pid()?)?.as_secs_f64() * 1e6)
    }

    pub(crate) fn rss_bytes(&self) -> anyhow::Result<u64> {
        resident_bytes(self.pid()?)
    }
}
