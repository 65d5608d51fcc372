use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fred::clients::{Client, WithOptions};
use fred::error::{Error, ErrorKind};
use fred::interfaces::{ClientLike as _, EventInterface as _};
use fred::types::Builder;
use fred::types::config::{Config, Options, ReconnectError, Server, ServerConfig, TlsConfig, TlsConnector};
use fred::types::{ConnectHandle, InfoKind, Message, RespVersion};
use mainstay_runtime::Context;
use tokio::sync::broadcast::Receiver;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFuture};

use crate::config::{Address, RedisConfig, RedisMode};
use crate::error::RedisError;
use crate::pulse::Pulse;
use crate::tls;

/// fred keeps a few commands of its own in the same buffer.
const BUFFER_EXTRA: usize = 64;
/// fred marks a command that timed out so that it is not sent late; this gives it the time to.
const FRED_EXTRA: Duration = Duration::from_millis(50);
const QUIT_WITHIN: Duration = Duration::from_millis(200);

/// One connection to one server, from its making to its loss. It never reconnects: a lost link is replaced by a new
/// one, made after a new look at where the primary is. Dropping it closes the connection.
#[derive(Debug)]
pub struct Link {
    address: Address,
    client: Client,
    server_id: Box<str>,
    command_within: Duration,
    pulse: Pulse,
    is_doubted: AtomicBool,
    closed: CancellationToken,
    _close_on_drop: DropGuard,
}

impl Link {
    /// Connects, and signs in, within a few times `redis.connect_within`.
    ///
    /// # Errors
    /// Fails when the server cannot be reached, does not answer, or refuses.
    pub async fn open(address: Address, config: &RedisConfig, cx: &Context) -> Result<Self, RedisError> {
        let client = build(&address, config, None).map_err(RedisError::Connection)?;
        Self::connect(address, client, config, cx).await
    }

    /// Connects in order to be sent messages: returns also where they arrive. When more than `most_waiting` are not
    /// taken, the oldest are lost and the receiver says so.
    ///
    /// # Errors
    /// As [`Link::open`].
    pub async fn open_to_listen(
        address: Address,
        config: &RedisConfig,
        most_waiting: usize,
        cx: &Context,
    ) -> Result<(Self, Receiver<Message>), RedisError> {
        let client = build(&address, config, Some(most_waiting)).map_err(RedisError::Connection)?;
        // Before anything is asked for, so that nothing is missed.
        let messages = client.message_rx();
        Ok((Self::connect(address, client, config, cx).await?, messages))
    }

    async fn connect(
        address: Address,
        client: Client,
        config: &RedisConfig,
        cx: &Context,
    ) -> Result<Self, RedisError> {
        // fred bounds each of the two steps; this is the belt to its braces.
        let connecting = timeout(config.connect_within * 2 + QUIT_WITHIN, client.init()).await;
        let handle = match connecting {
            Ok(Ok(handle)) => handle,
            Ok(Err(error)) => return Err(RedisError::from_fred(error)),
            Err(_) => {
                let _ = timeout(QUIT_WITHIN, client.quit()).await;
                return Err(RedisError::Timeout);
            }
        };
        let (closed, asked_to_close) = (CancellationToken::new(), CancellationToken::new());
        cx.spawn_work(look_after(client.clone(), handle, closed.clone(), asked_to_close.clone()));
        let close_on_drop = asked_to_close.drop_guard();
        let command_within = config.command_within;
        let mut link = Self {
            pulse: Pulse::new(address.clone(), config, cx),
            is_doubted: AtomicBool::new(false),
            address,
            client,
            server_id: "".into(),
            command_within,
            closed,
            _close_on_drop: close_on_drop,
        };
        // Asked also because a frozen server is connected to all the same: the kernel accepts for it.
        let client = link.commands(config.connect_within);
        let info = async move { client.info(Some(InfoKind::Server)).await };
        let info: String = link.run(config.connect_within, info).await?;
        link.server_id = server_id(&info).into();
        Ok(link)
    }

    /// Tells whether the server takes itself for a primary.
    pub(crate) async fn is_primary(&self) -> Result<bool, RedisError> {
        let client = self.commands(self.command_within);
        let info = async move { client.info::<String>(Some(InfoKind::Replication)).await };
        Ok(self.run(self.command_within, info).await?.contains("role:master"))
    }

    /// Returns the server it leads to.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Returns the id of the server process: another one after every start.
    pub fn server_id(&self) -> &str {
        &self.server_id
    }

    pub(crate) fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// Closes the connection unless the server answers beside it.
    pub(crate) fn doubt(self: &Arc<Self>) {
        if self.is_doubted.swap(true, Ordering::AcqRel) {
            return;
        }
        let link = Arc::downgrade(self);
        self.pulse.cx.spawn_work(async move {
            let Some(link) = link.upgrade() else { return };
            if link.pulse.ask().await.is_none() {
                tracing::warn!(address = %link.address, "redis does not answer, replacing the connection");
                link.close();
            }
            link.is_doubted.store(false, Ordering::Release);
        });
    }

    /// Ends it for all who use it.
    pub(crate) fn close(&self) {
        self.closed.cancel();
    }

    pub(crate) fn command_within(&self) -> Duration {
        self.command_within
    }

    /// Returns a client whose commands end after `within` and are sent once.
    pub fn commands(&self, within: Duration) -> WithOptions<Client> {
        // Zero would mean no limit at all.
        let within = within.max(Duration::from_millis(1));
        let options =
            Options { timeout: Some(within), max_attempts: Some(1), fail_fast: true, ..Options::default() };
        self.client.with_options(&options)
    }

    /// Waits for a command given to [`Link::commands`], for little more than `within`.
    ///
    /// # Errors
    /// Fails when the connection is lost, when the server refuses, and at the deadline.
    pub fn run<'a, T: 'a>(
        &'a self,
        within: Duration,
        command: impl Future<Output = Result<T, Error>> + Send + 'a,
    ) -> impl Future<Output = Result<T, RedisError>> + Send + 'a {
        // Futures of fred take 10 KiB, and every async function between it and its caller would hold one.
        let command = Box::pin(command);
        async move {
            tokio::select! {
                biased;
                answer = timeout(within + FRED_EXTRA, command) => match answer {
                    Ok(answer) => answer.map_err(RedisError::from_fred),
                    Err(_) => Err(RedisError::Timeout),
                },
                () = self.closed() => Err(RedisError::Lost),
            }
        }
    }

    /// Tells whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }

    /// Waits for the end of the connection.
    pub fn closed(&self) -> WaitForCancellationFuture<'_> {
        self.closed.cancelled()
    }
}

/// Notices the loss of the connection, and closes it when the link is dropped.
async fn look_after(
    client: Client,
    mut handle: ConnectHandle,
    closed: CancellationToken,
    asked_to_close: CancellationToken,
) {
    let _closed = closed.drop_guard();
    tokio::select! {
        ended = &mut handle => {
            let reason = match ended {
                Ok(Ok(())) => "closed".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            };
            tracing::debug!(reason, "connection to redis ended");
        }
        () = asked_to_close.cancelled() => {
            // A server that does not answer does not answer QUIT either.
            if !matches!(timeout(QUIT_WITHIN, client.quit()).await, Ok(Ok(()))) {
                handle.abort();
            }
        }
    }
}

/// Picks the id of the process out of the text of INFO.
fn server_id(info: &str) -> &str {
    info.lines().find_map(|line| line.trim_end().strip_prefix("run_id:")).unwrap_or_default()
}

fn in_full(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

/// `most_waiting` says that the connection is for messages. These come in between answers only in RESP3.
fn build(address: &Address, config: &RedisConfig, most_waiting: Option<usize>) -> Result<Client, Error> {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let tls = tls::connector(&config.tls).map_err(|error| Error::new(ErrorKind::Tls, in_full(&error)))?;
    let name = text(&config.tls.domain).filter(|_| tls.is_some());
    let server = Server::new_with_tls(address.host.clone(), address.port, name);
    let server_config = Config {
        server: ServerConfig::Centralized { server },
        username: text(&config.username),
        password: text(config.password.expose()),
        database: (config.database != 0).then_some(config.database),
        fail_fast: true,
        version: if most_waiting.is_some() { RespVersion::RESP3 } else { RespVersion::RESP2 },
        tls: tls.map(|connector| TlsConfig::from(TlsConnector::from(connector))),
        ..Config::default()
    };
    let is_cluster = config.mode == RedisMode::Cluster;
    let (connect_within, max_in_flight) = (config.connect_within, config.max_in_flight as usize);
    let mut builder = Builder::from_config(server_config);
    builder.with_connection_config(|connection| {
        connection.connection_timeout = connect_within;
        connection.internal_command_timeout = connect_within;
        connection.max_command_attempts = 1;
        connection.max_command_buffer_len = max_in_flight + BUFFER_EXTRA;
        connection.disable_cluster_health_check = true;
        connection.tcp.nodelay = Some(true);
        // Replies that end the link. READONLY and NOREPLICAS are not among them: such a server still reads, and the watch
        // moves us as soon as there is a better one.
        connection.reconnect_errors = vec![ReconnectError::Loading, ReconnectError::MasterDown];
        // A node of a cluster says so of slots that nobody has, and goes on serving its own.
        if !is_cluster {
            connection.reconnect_errors.push(ReconnectError::ClusterDown);
        }
    });
    let command_within = config.command_within;
    builder.with_performance_config(|performance| {
        performance.default_command_timeout = command_within;
        if let Some(most_waiting) = most_waiting {
            performance.broadcast_channel_capacity = most_waiting;
        }
    });
    builder.build()
}
