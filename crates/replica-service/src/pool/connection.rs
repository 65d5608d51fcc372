//! What a pool holds: a connection and what it keeps in the server.

use deadpool::managed::{self, Metrics, RecycleResult};
use deadpool_postgres::{ClientWrapper, Manager};
use tokio_postgres::{Client, Error, Statement};

use super::kept::Kept;

/// One connection.
pub(crate) struct Connection {
    client: ClientWrapper,
    pub kept: Kept<Statement>,
}

/// Opens connections, and looks whether one that was used is still there.
pub(super) struct Opener {
    pub manager: Manager,
    pub kept_statements: usize,
}

impl Connection {
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }
}

impl managed::Manager for Opener {
    type Type = Connection;
    type Error = Error;

    async fn create(&self) -> Result<Connection, Error> {
        let client = self.manager.create().await?;
        Ok(Connection { client, kept: Kept::new(self.kept_statements) })
    }

    async fn recycle(&self, connection: &mut Connection, metrics: &Metrics) -> RecycleResult<Error> {
        self.manager.recycle(&mut connection.client, metrics).await
    }

    fn detach(&self, connection: &mut Connection) {
        self.manager.detach(&mut connection.client);
    }
}
