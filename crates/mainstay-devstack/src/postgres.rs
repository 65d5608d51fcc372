//! PostgreSQL: a primary, two streaming replicas, and a PgBouncer in front of each.

pub(crate) mod setup;
pub(crate) mod sql;

use std::{net::SocketAddr, ops::Deref, time::Duration};

use tokio_postgres::Config;

use crate::{Error, error::chain, node::Node, wait::wait_until};

/// The database of the services.
pub const DATABASE: &str = "mainstay";
/// The role of the services.
pub const SERVICE_ROLE: &str = "mainstay";
/// The role that may read all statistics (`pg_monitor`) and, in PgBouncer, `SHOW`.
pub const MONITOR_ROLE: &str = "mainstay_monitor";
pub const REPLICATOR_ROLE: &str = "replicator";
pub const SUPERUSER: &str = "postgres";
pub(crate) const N_REPLICAS: usize = 2;

const ASK_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(10);
const CHANGED_WITHIN: Duration = Duration::from_mins(2);

/// Controls the PostgreSQL part of the stack.
#[derive(Debug)]
pub struct Postgres {
    /// `[0]` began as the primary; roles may have changed since.
    nodes: Vec<PostgresNode>,
}

/// Is one PostgreSQL server: a [`Node`] that can also be asked, promoted and held back.
#[derive(Debug, Clone)]
pub struct PostgresNode {
    node: Node,
    public: SocketAddr,
    bouncer: Option<Bouncer>,
    superuser: Config,
}

/// Is the PgBouncer in front of one server.
#[derive(Debug, Clone)]
pub struct Bouncer {
    node: Node,
    public: SocketAddr,
}

impl Postgres {
    /// Returns the node that began as the primary.
    pub fn first_primary(&self) -> &PostgresNode {
        &self.nodes[0]
    }

    /// Returns the nodes that began as replicas.
    pub fn first_replicas(&self) -> &[PostgresNode] {
        &self.nodes[1..]
    }

    pub fn nodes(&self) -> &[PostgresNode] {
        &self.nodes
    }

    /// Finds a node by its name: `primary`, `replica1`, `replica2`.
    pub fn node(&self, name: &str) -> Option<&PostgresNode> {
        self.nodes.iter().find(|node| node.short_name() == name)
    }

    /// Waits until every node that is a replica has replayed what `from` has written up to now.
    pub async fn wait_caught_up(&self, from: &PostgresNode) -> Result<(), Error> {
        let lsn = from.query_text("select pg_current_wal_lsn()::text").await?.unwrap_or_default();
        for replica in self.nodes.iter().filter(|node| node.is_running() && node.name() != from.name()) {
            replica.wait_replayed(&lsn).await?;
        }
        Ok(())
    }

    pub(crate) fn all_nodes(&self) -> Vec<Node> {
        let bouncers =
            self.nodes.iter().filter_map(|node| node.bouncer.as_ref()).map(|bouncer| bouncer.node.clone());
        // Replicas before the primary, so that no walreceiver waits for it.
        let servers = self.nodes.iter().rev().map(|node| node.node.clone());
        bouncers.chain(servers).collect()
    }
}

impl PostgresNode {
    /// Returns `primary`, `replica1` or `replica2`: the name by which the services know it.
    pub fn short_name(&self) -> &str {
        self.node.name().strip_prefix("postgres-").unwrap_or_else(|| self.node.name())
    }

    /// Returns where clients reach the server: a proxy where asked for.
    pub fn public_address(&self) -> SocketAddr {
        self.public
    }

    pub fn bouncer(&self) -> Option<&Bouncer> {
        self.bouncer.as_ref()
    }

    /// Runs SQL as superuser on the server itself, past proxy and PgBouncer; returns the first column of the first
    /// row.
    pub async fn query_text(&self, sql: &str) -> Result<Option<String>, Error> {
        sql::query_text(&self.superuser, sql, ASK_WITHIN).await
    }

    /// Runs a script of SQL as superuser on the server itself.
    pub async fn batch(&self, sql: &str, within: Duration) -> Result<(), Error> {
        sql::batch(&self.superuser, &format!("run SQL on {}", self.name()), sql, within).await
    }

    pub async fn is_replica(&self) -> Result<bool, Error> {
        Ok(self.query_text("select pg_is_in_recovery()").await?.as_deref() == Some("t"))
    }

    /// Makes a replica a primary and waits until it takes writes. The old primary is left as it is.
    pub async fn promote(&self) -> Result<(), Error> {
        self.query_text("select pg_promote(false)").await?;
        self.wait_for(
            "to take writes",
            "select pg_is_in_recovery()::text || ' ' || current_setting('transaction_read_only')",
            "false off",
        )
        .await
    }

    /// Holds back the replay of WAL: the replica goes on receiving, and what it serves stays as it is now.
    pub async fn hold_replay(&self) -> Result<(), Error> {
        self.query_text("select pg_wal_replay_pause()").await?;
        self.wait_for("to hold replay", "select pg_get_wal_replay_pause_state()", "paused").await
    }

    /// Lets replay go on.
    pub async fn release_replay(&self) -> Result<(), Error> {
        self.query_text("select pg_wal_replay_resume()").await?;
        self.wait_for("to release replay", "select pg_get_wal_replay_pause_state()", "not paused").await
    }

    /// Waits until the replica has replayed up to `lsn`.
    pub async fn wait_replayed(&self, lsn: &str) -> Result<(), Error> {
        let sql = format!(
            "select case when pg_last_wal_replay_lsn() >= '{lsn}'::pg_lsn then 'reached' \
             else coalesce(pg_last_wal_replay_lsn()::text, 'not a replica') end"
        );
        self.wait_for(&format!("to replay up to {lsn}"), &sql, "reached").await
    }

    async fn wait_for(&self, what: &str, sql: &str, wanted: &str) -> Result<(), Error> {
        wait_until(format!("{} {what}", self.name()), LOOK_EVERY, CHANGED_WITHIN, || async {
            let seen = self.query_text(sql).await.map_err(|error| chain(&error))?.unwrap_or_default();
            if seen == wanted { Ok(()) } else { Err(seen) }
        })
        .await?;
        Ok(())
    }
}

impl Deref for PostgresNode {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

impl Bouncer {
    /// Returns where clients reach it: a proxy where asked for.
    pub fn public_address(&self) -> SocketAddr {
        self.public
    }
}

impl Deref for Bouncer {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}
