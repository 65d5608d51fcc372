use std::{pin::pin, time::Duration};

use futures_util::{FutureExt as _, TryStreamExt as _};
use tokio::time::{Instant, timeout};
use tokio_postgres::{Error, SimpleQueryStream, Statement as Prepared, types::Type};

use super::{Statement, may_leave_statements};
use crate::pool::{Key, Lease};
use crate::sql::param::Param;

/// A connection whose read has been answered, while the end of its transaction is on its way.
///
/// The caller has his rows and need not wait for that; the next user must. Dropped, the connection is closed.
pub(super) struct Settling {
    lease: Lease,
    /// `None` when there is more on its way than the end.
    ended: Option<SimpleQueryStream>,
    /// The read may have left something behind.
    closes: bool,
    described: Option<Prepared>,
    learns: Vec<Learned>,
}

/// What is prepared for the next time.
struct Learned {
    sql: String,
    params: Vec<Param>,
    types: Vec<Type>,
}

/// A table may be locked, and nobody waits for what is prepared in advance.
const PREPARED_WITHIN: Duration = Duration::from_secs(1);

impl Settling {
    pub(super) fn new(
        lease: Lease,
        ended: SimpleQueryStream,
        sql: &str,
        described: Option<Prepared>,
    ) -> Self {
        Self { described, ..Self::ending(lease, ended, may_leave_statements(sql)) }
    }

    /// `closes` where the connection is not to be used again.
    pub(super) fn ending(lease: Lease, ended: SimpleQueryStream, closes: bool) -> Self {
        Self { lease, ended: Some(ended), closes, described: None, learns: Vec::new() }
    }

    /// The rest of a read that its caller has no use for.
    pub(super) fn cut(lease: Lease) -> Self {
        Self { lease, ended: None, closes: true, described: None, learns: Vec::new() }
    }

    /// Lets the connection keep the statement for the next time.
    pub(super) fn learning(mut self, learns: bool, statement: &Statement) -> Self {
        if learns {
            // Only their types count.
            let params = statement.params.iter().map(|param| Param::null(param.ty.clone())).collect();
            self.learns.push(Learned { sql: statement.sql.clone(), params, types: statement.types() });
        }
        self
    }

    /// Waits for the end, to run another statement on the same connection.
    pub(super) async fn wait(self) -> Result<Lease, Error> {
        if let Some(ended) = self.ended {
            all(ended).await?;
        }
        Ok(self.lease)
    }

    /// Gives the connection back when the end has arrived; closes it when that is an error.
    pub(super) fn detach(self) {
        let cx = self.lease.context().clone();
        let mut settled = Box::pin(self.settle());
        if settled.as_mut().now_or_never().is_none() {
            cx.spawn_work(settled);
        }
    }

    async fn settle(self) {
        let Self { mut lease, ended, closes, mut described, learns } = self;
        let Some(ended) = ended else { return };
        if let Err(error) = all(ended).await {
            tracing::debug!(%error, "connection closed: a read has not ended in order");
            return;
        }
        if closes {
            return lease.close();
        }
        for learned in learns {
            if learn(&mut lease, learned, described.take()).await.is_err() {
                return;
            }
        }
        lease.keep();
    }
}

/// Fails when the connection must not be used again.
async fn learn(lease: &mut Lease, learned: Learned, described: Option<Prepared>) -> Result<(), ()> {
    let Learned { sql, params, types } = learned;
    let prepared = match described {
        Some(prepared) => prepared,
        None => match timeout(PREPARED_WITHIN, lease.client().prepare_typed(&sql, &types)).await {
            Ok(Ok(prepared)) => prepared,
            // It will be refused when it is asked again, and say why.
            Ok(Err(error)) if error.as_db_error().is_some() => return Ok(()),
            Ok(Err(_)) | Err(_) => return Err(()),
        },
    };
    if prepared.params().len() != types.len() {
        // The database says it better than the driver.
        return Ok(());
    }
    let metrics = lease.kept_metrics().clone();
    metrics.prepared.inc();
    if lease.kept().keep(Key::of(&sql, &params), prepared, Instant::now()) {
        metrics.evicted.inc();
    }
    Ok(())
}

/// Reads all that a simple query answers.
pub(super) async fn all(messages: SimpleQueryStream) -> Result<(), Error> {
    let mut messages = pin!(messages);
    while messages.try_next().await?.is_some() {}
    Ok(())
}
