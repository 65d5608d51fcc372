//! A TCP proxy that misbehaves on demand.

mod pump;

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    runtime,
    sync::watch,
    task::JoinSet,
    time::timeout,
};

use self::pump::pump;
use crate::{Error, ports::local, wait::wait_until};

/// Stands in front of an address and cuts, delays, stalls, throttles or truncates what passes.
///
/// It runs on a thread of its own with its own runtime, so it outlives the runtime of the test that made it. Rules
/// apply to open and to new connections alike. Dropping it closes everything and joins the thread.
#[derive(Debug)]
pub struct ChaosProxy {
    address: SocketAddr,
    target: SocketAddr,
    rules: watch::Sender<Rules>,
    listening: watch::Receiver<bool>,
    counters: Arc<Counters>,
    thread: Option<thread::JoinHandle<()>>,
}

/// Chooses which bytes a rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the target.
    Upstream,
    /// From the target to the client.
    Downstream,
    Both,
}

/// Counts since the proxy was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProxyCounts {
    pub accepted: u64,
    /// Connections open now.
    pub open: u64,
    /// Connections that the proxy itself broke off.
    pub broken: u64,
    pub bytes_upstream: u64,
    pub bytes_downstream: u64,
}

#[derive(Debug, Default)]
struct Counters {
    accepted: AtomicU64,
    open: AtomicU64,
    broken: AtomicU64,
    bytes_upstream: AtomicU64,
    bytes_downstream: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Rules {
    cut: bool,
    closing: bool,
    /// Where new connections lead instead.
    redirected: Option<SocketAddr>,
    upstream: Flow,
    downstream: Flow,
}

/// What happens to the bytes of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Flow {
    delay: Duration,
    stalled: bool,
    bytes_per_second: Option<u64>,
    /// Number of the order and how many bytes may still pass on each connection.
    drop_after: Option<(u64, u64)>,
}

const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const APPLIED_WITHIN: Duration = Duration::from_mins(1);
const REBIND_EVERY: Duration = Duration::from_millis(20);
const BACKLOG: u32 = 1024;

impl ChaosProxy {
    /// Starts a proxy for `target` on a free port of 127.0.0.1.
    pub fn start(target: SocketAddr) -> Result<Self, Error> {
        Self::start_on(local(0), target)
    }

    pub(crate) fn start_on(listen: SocketAddr, target: SocketAddr) -> Result<Self, Error> {
        let step = || format!("start the proxy for {target}");
        let listener = StdListener::bind(listen).map_err(Error::io(step()))?;
        listener.set_nonblocking(true).map_err(Error::io(step()))?;
        let address = listener.local_addr().map_err(Error::io(step()))?;
        let runtime = runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(Error::io(step()))?;
        let (rules, rules_seen) = watch::channel(Rules::default());
        let (listening_tx, listening) = watch::channel(true);
        let counters = Arc::new(Counters::default());
        let server = Server { address, target, rules: rules_seen, counters: Arc::clone(&counters) };
        let thread = thread::Builder::new()
            .name("chaos-proxy".to_owned())
            .spawn(move || runtime.block_on(server.run(listener, &listening_tx)))
            .map_err(Error::io(step()))?;
        Ok(Self { address, target, rules, listening, counters, thread: Some(thread) })
    }

    /// Returns the address that clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn target(&self) -> SocketAddr {
        self.target
    }

    /// Resets all connections and refuses new ones; on return both are done.
    pub async fn cut(&self) -> Result<(), Error> {
        self.rules.send_modify(|rules| rules.cut = true);
        self.wait_listening(false).await
    }

    /// Takes back every rule; on return new connections are accepted.
    pub async fn restore(&self) -> Result<(), Error> {
        self.rules.send_modify(|rules| *rules = Rules::default());
        self.wait_listening(true).await
    }

    /// Leads new connections to another address; those that are open stay where they are.
    pub fn redirect(&self, target: SocketAddr) {
        self.rules.send_modify(|rules| rules.redirected = Some(target));
    }

    /// Makes each byte arrive later by `delay`, without making the connection slower.
    pub fn delay(&self, direction: Direction, delay: Duration) {
        self.change(direction, |flow| flow.delay = delay);
    }

    /// Accepts connections and bytes but passes nothing on, until `restore` or `unstall`.
    pub fn stall(&self, direction: Direction) {
        self.change(direction, |flow| flow.stalled = true);
    }

    pub fn unstall(&self, direction: Direction) {
        self.change(direction, |flow| flow.stalled = false);
    }

    /// Passes at most so many bytes in a second on each connection.
    pub fn throttle(&self, direction: Direction, bytes_per_second: u64) {
        self.change(direction, |flow| flow.bytes_per_second = Some(bytes_per_second.max(1)));
    }

    /// Lets each connection pass `n_bytes` more in this direction and then resets it.
    pub fn drop_after(&self, direction: Direction, n_bytes: u64) {
        self.change(direction, |flow| {
            let order = flow.drop_after.map_or(1, |(order, _)| order + 1);
            flow.drop_after = Some((order, n_bytes));
        });
    }

    pub fn counts(&self) -> ProxyCounts {
        let counters = &self.counters;
        ProxyCounts {
            accepted: counters.accepted.load(Ordering::Relaxed),
            open: counters.open.load(Ordering::Relaxed),
            broken: counters.broken.load(Ordering::Relaxed),
            bytes_upstream: counters.bytes_upstream.load(Ordering::Relaxed),
            bytes_downstream: counters.bytes_downstream.load(Ordering::Relaxed),
        }
    }

    fn change(&self, direction: Direction, change: impl Fn(&mut Flow)) {
        self.rules.send_modify(|rules| {
            if direction != Direction::Downstream {
                change(&mut rules.upstream);
            }
            if direction != Direction::Upstream {
                change(&mut rules.downstream);
            }
        });
    }

    async fn wait_listening(&self, wanted: bool) -> Result<(), Error> {
        let what = format!("the proxy {} to {}", self.address, if wanted { "accept" } else { "refuse" });
        let mut listening = self.listening.clone();
        timeout(APPLIED_WITHIN, listening.wait_for(|now| *now == wanted))
            .await
            .ok()
            .and_then(Result::ok)
            .map(|_| ())
            .ok_or_else(|| {
                let last = format!("listening: {}", !wanted);
                Error::TimedOut(crate::TimedOut { what, within: APPLIED_WITHIN, last })
            })
    }
}

impl Drop for ChaosProxy {
    fn drop(&mut self) {
        self.rules.send_modify(|rules| rules.closing = true);
        if let Some(thread) = self.thread.take() {
            // The thread only ends early by a panic, which its own message has told.
            let _ = thread.join();
        }
    }
}

struct Server {
    address: SocketAddr,
    target: SocketAddr,
    rules: watch::Receiver<Rules>,
    counters: Arc<Counters>,
}

impl Server {
    async fn run(mut self, listener: StdListener, listening: &watch::Sender<bool>) {
        let mut listener = TcpListener::from_std(listener).ok();
        let mut connections = JoinSet::new();
        loop {
            let rules = *self.rules.borrow_and_update();
            if rules.closing {
                break;
            }
            if rules.cut && listener.is_some() {
                listener = None;
                connections.shutdown().await;
                listening.send_replace(false);
            }
            if !rules.cut && listener.is_none() {
                listener = self.rebind().await.ok();
                listening.send_replace(listener.is_some());
            }
            tokio::select! {
                changed = self.rules.changed() => if changed.is_err() { break },
                accepted = accept(listener.as_ref()) => if let Ok(client) = accepted {
                    self.counters.accepted.fetch_add(1, Ordering::Relaxed);
                    let target = self.rules.borrow().redirected.unwrap_or(self.target);
                    connections.spawn(serve(client, target, self.rules.clone(), Arc::clone(&self.counters)));
                },
                Some(_) = connections.join_next() => {}
            }
        }
        connections.shutdown().await;
    }

    async fn rebind(&self) -> Result<TcpListener, Error> {
        let bind = || -> io::Result<TcpListener> {
            let socket = TcpSocket::new_v4()?;
            socket.set_reuseaddr(true)?;
            socket.bind(self.address)?;
            socket.listen(BACKLOG)
        };
        let what = format!("port {} to be free again", self.address.port());
        let bound = wait_until(what, REBIND_EVERY, APPLIED_WITHIN, || async {
            bind().map_err(|error| error.to_string())
        });
        Ok(bound.await?)
    }
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => listener.accept().await.map(|(stream, _)| stream),
        None => std::future::pending().await,
    }
}

/// Is one open connection; reset, not closed in an orderly way, when it is dropped before its natural end.
struct Connection {
    client: TcpStream,
    server: Option<TcpStream>,
    counters: Arc<Counters>,
    ended: bool,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.counters.open.fetch_sub(1, Ordering::Relaxed);
        if !self.ended {
            self.counters.broken.fetch_add(1, Ordering::Relaxed);
            // Zero linger makes the close a reset, as when a machine goes away.
            let _ = self.client.set_zero_linger();
            let _ = self.server.as_ref().map(TcpStream::set_zero_linger);
        }
    }
}

async fn serve(
    client: TcpStream,
    target: SocketAddr,
    rules: watch::Receiver<Rules>,
    counters: Arc<Counters>,
) {
    counters.open.fetch_add(1, Ordering::Relaxed);
    let mut connection = Connection { client, server: None, counters, ended: false };
    let Ok(Ok(server)) = timeout(CONNECT_WITHIN, TcpStream::connect(target)).await else { return };
    let _ = (connection.client.set_nodelay(true), server.set_nodelay(true));
    let Connection { client, server: slot, counters, ended } = &mut connection;
    let (client_read, client_write) = client.split();
    let (server_read, server_write) = slot.insert(server).split();
    let up = pump(client_read, server_write, rules.clone(), |rules| rules.upstream, &counters.bytes_upstream);
    let down = pump(server_read, client_write, rules, |rules| rules.downstream, &counters.bytes_downstream);
    // One direction may end first (half-close) and the other go on; an error or a broken rule ends both.
    *ended = tokio::try_join!(up, down).is_ok();
}

#[cfg(test)]
mod tests;
