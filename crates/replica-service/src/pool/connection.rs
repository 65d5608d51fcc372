//! What pools hold: connections for reads, and for writes.

use std::future::Future;

use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};
use deadpool_postgres::{ClientWrapper, Manager, ManagerConfig};
use tokio_postgres::CancelToken;

use super::{Endpoint, base_login, kept::Kept};
use crate::{
    config::{PoolConfig, PostgresConfig},
    error::LinkError,
    session::timeout_ms,
    wire::{Login, Wire, WireError},
};

/// What a pool hands out.
pub(crate) trait Link: Send + 'static {
    fn cancel_token(&self) -> CancelToken;

    /// Waits until nothing runs on it any more.
    fn settle(&mut self) -> impl Future<Output = ()> + Send;
}

/// Opens connections to one node, and looks whether one that was used is still there.
pub(crate) trait Dial: managed::Manager<Type: Link, Error: Into<LinkError>> + 'static {
    fn to(endpoint: &Endpoint, postgres: &PostgresConfig, pool: &PoolConfig) -> Self;
}

/// Opens connections that speak the protocol as reads need it.
pub(crate) struct ForReads {
    login: Login,
    kept_statements: usize,
}

/// A connection for reads, and what it keeps in the server.
pub(crate) struct Reader {
    pub wire: Wire,
    pub kept: Kept,
}

/// Opens connections of the driver.
pub(crate) struct ForWrites(Manager);

impl Link for Reader {
    fn cancel_token(&self) -> CancelToken {
        self.wire.cancel_token()
    }

    async fn settle(&mut self) {
        self.wire.settle().await;
    }
}

impl Link for ClientWrapper {
    fn cancel_token(&self) -> CancelToken {
        tokio_postgres::Client::cancel_token(self)
    }

    async fn settle(&mut self) {
        // Answered, or refused, behind everything that was sent before.
        let _ = self.simple_query("").await;
    }
}

impl Dial for ForReads {
    fn to(endpoint: &Endpoint, postgres: &PostgresConfig, pool: &PoolConfig) -> Self {
        // Behind a `PgBouncer` the next statement may meet another server connection, where nothing is kept or set.
        let (kept_statements, within) = if endpoint.pgbouncer {
            (0, None)
        } else {
            (pool.kept_statements as usize, Some(postgres.statement_within))
        };
        let Endpoint { address, host, tls, .. } = endpoint.clone();
        Self {
            login: Login { address, host, config: login(endpoint, postgres), tls, within },
            kept_statements,
        }
    }
}

impl managed::Manager for ForReads {
    type Type = Reader;
    type Error = WireError;

    async fn create(&self) -> Result<Reader, WireError> {
        Ok(Reader { wire: self.login.open().await?, kept: Kept::new(self.kept_statements) })
    }

    async fn recycle(&self, reader: &mut Reader, _: &Metrics) -> RecycleResult<WireError> {
        if reader.wire.is_open().await { Ok(()) } else { Err(RecycleError::message("closed")) }
    }
}

impl Dial for ForWrites {
    fn to(endpoint: &Endpoint, postgres: &PostgresConfig, _: &PoolConfig) -> Self {
        let config = login(endpoint, postgres);
        Self(Manager::from_config(config, endpoint.tls.clone(), ManagerConfig::default()))
    }
}

impl managed::Manager for ForWrites {
    type Type = ClientWrapper;
    type Error = tokio_postgres::Error;

    async fn create(&self) -> Result<ClientWrapper, tokio_postgres::Error> {
        self.0.create().await
    }

    async fn recycle(
        &self,
        client: &mut ClientWrapper,
        metrics: &Metrics,
    ) -> RecycleResult<tokio_postgres::Error> {
        self.0.recycle(client, metrics).await
    }

    fn detach(&self, client: &mut ClientWrapper) {
        self.0.detach(client);
    }
}

fn login(endpoint: &Endpoint, postgres: &PostgresConfig) -> tokio_postgres::Config {
    let (user, password) = (&postgres.user, postgres.password.expose());
    let mut config = base_login(&endpoint.host, endpoint.port, postgres, user, password);
    config.ssl_mode(postgres.tls.ssl_mode(endpoint.pgbouncer));
    if !endpoint.pgbouncer {
        // Each transaction says whether it writes, and how long its statements may take if that is not what is usual. A
        // statement whose BEGIN was cancelled on its own must neither write nor last. PgBouncer refuses startup options.
        let within = timeout_ms(postgres.statement_within);
        config.options(format!("-c default_transaction_read_only=on -c statement_timeout={within}"));
    }
    config
}
