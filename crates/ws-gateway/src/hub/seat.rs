use std::sync::Arc;

use super::{Connection, Hub};

/// A connection's place in the hub, held by the task that owns the socket. Dropping it leaves no trace.
pub(crate) struct Seat {
    hub: Arc<Hub>,
    connection: Arc<Connection>,
    retired: bool,
}

impl Seat {
    pub(super) fn new(hub: Arc<Hub>, connection: Arc<Connection>) -> Self {
        Self { hub, connection, retired: false }
    }

    pub(crate) fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Takes the connection out of its channels and off the list, while its socket is still being closed.
    pub(crate) fn retire(&mut self) {
        if !std::mem::replace(&mut self.retired, true) {
            self.hub.retire(&self.connection);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.retire();
        self.connection.outbox.forget_reader();
        self.hub.vacate();
    }
}
