//! One listening port: HTTP/1.1 with upgrades and HTTP/2, plain or TLS, from the first connection to the last.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use mainstay_resilience::backoff::Backoff;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

mod connection;
mod front;
mod inline;
mod watched;

#[cfg(test)]
mod tests;

use crate::server::{ListenerLabels, QuickCalls, ServerConfig, ServerMetrics};
use crate::tls::{LOOK_EVERY, PortTls};
use connection::Connection;
pub use front::{Answered, Front};

/// The kernel holds no more than this for a listener made by tokio.
const MAX_BACKLOG: usize = 1024;

/// Tells how a port is served.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Purpose of the port in logs and metrics, e.g. `internal`.
    pub name: &'static str,
    /// Certificates, read again as their files change; none means plain text.
    pub tls: Option<PortTls>,
    /// Connections held at once; more are closed as soon as they are accepted. Upgraded connections no longer count.
    pub max_connections: u32,
    /// Streams at once on one HTTP/2 connection.
    pub max_streams: u32,
    /// Time for the head of a request, for the first bytes of a connection, and for a TLS handshake; an HTTP/1.1
    /// connection that stays idle for this long is closed.
    pub header_within: Duration,
    /// Counts connections.
    pub metrics: ServerMetrics,
    /// Methods that are answered past `app`.
    pub quick: Option<QuickCalls>,
    /// Answers some requests past `app`.
    pub front: Option<Arc<dyn Front>>,
    /// Once cancelled, HTTP/1.1 answers ask clients to close the connection, while new ones are still served.
    pub draining: CancellationToken,
}

impl ServeOptions {
    /// Starts from the defaults: plain text, 4096 connections, 5 s for a head.
    pub fn new(name: &'static str) -> Self {
        let defaults = ServerConfig::default();
        Self {
            name,
            tls: None,
            max_connections: defaults.max_connections,
            max_streams: defaults.max_in_flight,
            header_within: defaults.header_within,
            metrics: ServerMetrics::default(),
            quick: None,
            front: None,
            draining: CancellationToken::new(),
        }
    }
}

/// Serves `app` on `listener` until told to stop, and returns when the last connection is done.
///
/// On `stopping` it accepts what already waits in the backlog and nothing after, tells HTTP/2 clients to go away and
/// finishes every request that was accepted. On `aborting` it drops what is left. It fails only when the listener
/// cannot be used at all; errors of single connections are logged at debug level.
///
/// Upgraded connections belong to the handler that took them over; the function does not wait for them.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    options: ServeOptions,
    stopping: CancellationToken,
    aborting: CancellationToken,
) -> io::Result<()> {
    let port = Port {
        slots: Arc::new(Semaphore::new(options.max_connections as usize)),
        connections: TaskTracker::new(),
        app: app.with_state(()),
        options: Arc::new(options),
        stopping: stopping.clone(),
        aborting: aborting.clone(),
    };
    let swept = tokio::select! {
        biased;
        () = aborting.cancelled() => Ok(()),
        () = stopping.cancelled() => port.take_backlog(listener),
        () = port.accept_forever(&listener) => Ok(()),
        () = port.follow_certificate() => Ok(()),
    };
    port.connections.close();
    port.connections.wait().await;
    swept
}

/// Takes connections in.
struct Port {
    slots: Arc<Semaphore>,
    connections: TaskTracker,
    app: Router,
    options: Arc<ServeOptions>,
    stopping: CancellationToken,
    aborting: CancellationToken,
}

impl Port {
    async fn accept_forever(&self, listener: &TcpListener) {
        let mut backoff = Backoff::try_new(Duration::from_millis(50), Duration::from_secs(1))
            .expect("the base is above zero and below the cap");
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    backoff.reset();
                    self.take(stream, peer);
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    // Out of file descriptors or memory: trying again at once would only burn the processor.
                    tracing::warn!(listener = self.options.name, %error, "cannot accept connections");
                    sleep(backoff.ceiling()).await;
                    backoff.next(1.0);
                }
            }
        }
    }

    /// Reads the certificate again as its files change; never returns.
    async fn follow_certificate(&self) {
        let Some(tls) = self.options.tls.clone() else { return std::future::pending().await };
        let listener = self.options.name;
        loop {
            sleep(LOOK_EVERY).await;
            let certificate = Arc::clone(&tls.certificate);
            let read = tokio::task::spawn_blocking(move || certificate.reread()).await;
            let outcome = match read {
                Ok(Ok(false)) => continue,
                Ok(Ok(true)) => {
                    tracing::info!(listener, "certificate replaced");
                    "replaced"
                }
                Ok(Err(error)) => {
                    tracing::warn!(listener, %error, "certificate cannot be read again, the old one stays");
                    "failed"
                }
                // Only a panic or the end of the runtime gets here; the old certificate stays.
                Err(_) => "failed",
            };
            self.options.metrics.certificate_read(listener, outcome);
        }
    }

    /// Takes in the connections that the kernel accepted for us before the end.
    fn take_backlog(&self, listener: TcpListener) -> io::Result<()> {
        let listener = listener.into_std()?;
        for _ in 0..MAX_BACKLOG {
            match listener.accept() {
                Ok((stream, peer)) => {
                    stream.set_nonblocking(true)?;
                    self.take(TcpStream::from_std(stream)?, peer);
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(_) => break,
            }
        }
        Ok(())
    }

    fn take(&self, stream: TcpStream, peer: SocketAddr) {
        let labels = ListenerLabels { listener: self.options.name };
        let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
            self.options.metrics.connections_refused.get_or_create(&labels).inc();
            return;
        };
        let open = self.options.metrics.connections.get_or_create_owned(&labels);
        let connection = Connection {
            app: self.app.clone(),
            options: Arc::clone(&self.options),
            stopping: self.stopping.clone(),
            peer,
        };
        let aborting = self.aborting.clone();
        self.connections.spawn(async move {
            let _slot = slot;
            open.inc();
            tokio::select! {
                () = aborting.cancelled() => {}
                () = connection.run(stream) => {}
            }
            open.dec();
        });
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}
