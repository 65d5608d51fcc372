use std::fmt;
use std::time::Duration;

use mainstay_runtime::Context;
use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::config::{Address, RedisConfig};
use crate::resp;
use crate::tls::{self, Stream};

/// Finds out, beside the connection that commands take, whether a server answers.
///
/// A command is handed from task to task several times on its way to the server and back. In a process with thousands of
/// tasks ready to run each of these waits for its turn, and an answer that was there in time is taken late. That is no
/// silence of the server, and only a thread that has none of these tasks can tell one from the other.
#[derive(Clone)]
pub(crate) struct Pulse {
    address: Address,
    config: RedisConfig,
    pub(crate) cx: Context,
    verdict: watch::Sender<Verdict>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Verdict {
    is_asking: bool,
    /// When it was last asked, and how long the answer took, if one came.
    last: Option<(Instant, Option<Duration>)>,
}

/// A verdict holds for so long.
const FRESH_FOR: Duration = Duration::from_millis(100);

impl fmt::Debug for Pulse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pulse").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Pulse {
    pub(crate) fn new(address: Address, config: &RedisConfig, cx: &Context) -> Self {
        let (verdict, _) = watch::channel(Verdict::default());
        Self { address, config: config.clone(), cx: cx.clone(), verdict }
    }

    /// Returns how long the server takes to answer; none when it does not within `redis.command_within`.
    pub(crate) async fn ask(&self) -> Option<Duration> {
        let mut verdict = self.verdict.subscribe();
        let asks = self.verdict.send_if_modified(|verdict| {
            let is_fresh = verdict.last.is_some_and(|(at, _)| at.elapsed() < FRESH_FOR);
            let asks = !verdict.is_asking && !is_fresh;
            verdict.is_asking |= asks;
            asks
        });
        if asks {
            let pulse = self.clone();
            self.cx.spawn_work(async move {
                let (address, config) = (pulse.address.clone(), pulse.config.clone());
                let asked = tokio::task::spawn_blocking(move || feel(&address, &config)).await;
                let last = Some((Instant::now(), asked.ok().flatten()));
                pulse.verdict.send_replace(Verdict { is_asking: false, last });
            });
        }
        let verdict = verdict.wait_for(|verdict| !verdict.is_asking).await.ok()?;
        verdict.last.and_then(|(_, took)| took)
    }
}

/// Connects and asks, on a thread that does nothing else meanwhile.
fn feel(address: &Address, config: &RedisConfig) -> Option<Duration> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    runtime.block_on(async {
        let mut stream = timeout(config.connect_within, connect(address, config)).await.ok()??;
        let asked_at = Instant::now();
        let ping = async {
            stream.write_all(&resp::encode(&["PING"])).await?;
            // Whatever it says: that it wants a password, too, is an answer.
            resp::read(&mut stream).await
        };
        timeout(config.command_within, ping).await.ok()?.ok()?;
        Some(asked_at.elapsed())
    })
}

async fn connect(address: &Address, config: &RedisConfig) -> Option<BufReader<Box<dyn Stream>>> {
    let stream = TcpStream::connect((address.host.as_str(), address.port)).await.ok()?;
    stream.set_nodelay(true).ok()?;
    Some(BufReader::new(tls::secure(&config.tls, address, stream).await.ok()?))
}
