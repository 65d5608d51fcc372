//! Asks one node who it is, over a connection of its own.

use std::{sync::Arc, time::Duration};

use mainstay_runtime::{Activate, Context};
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::{Client, Config, SimpleQueryMessage, SimpleQueryRow};
use tokio_util::sync::CancellationToken;

use crate::{
    cluster::{Moment, NodeId, Observation},
    fleet::Fleet,
    lag::common::Sender,
    lsn::{Lsn, WalShape},
    pool::Tls,
    report::Reports,
};

mod backoff;
mod pgbouncer;

pub(crate) use backoff::Backoff;
pub(crate) use pgbouncer::{PgBouncerConsole, PgBouncerFigures};

/// Probes one server, past any `PgBouncer`, and keeps the connection between probes.
///
/// A busy pool can therefore neither hide a failover nor look like one. A failed probe of a node that is up is repeated
/// at once, so that a node that is really gone is known to be down within one round. One that stays down is asked less and
/// less often; not one that has never answered, since the whole stack may be starting, and none while there is no primary.
pub(crate) struct NodeProbe {
    pub fleet: Arc<Fleet>,
    pub node: NodeId,
    pub line: Line,
    pub reports: Arc<Reports>,
    pub cx: Context,
    /// The node is probed no more, or in another way.
    pub over: CancellationToken,
    /// Where the log on disk ended when the last probe found more of it that is not.
    pub held_back: Option<Lsn>,
    pub backoff: Backoff,
}

/// Probes the `PgBouncer` of one node, and the way through it to the server.
pub(crate) struct PgBouncerProbe {
    pub fleet: Arc<Fleet>,
    pub node: NodeId,
    pub line: Line,
    pub reports: Arc<Reports>,
    pub backoff: Backoff,
}

/// One connection that is opened when needed and given up after any failure.
pub(crate) struct Line {
    login: Config,
    tls: Tls,
    within: Duration,
    client: Option<Client>,
    cx: Context,
}

/// One row with everything, and from a primary one more for each who takes its log. Functions that are illegal in one of the two roles stand behind a CASE.
const QUESTION: &str = "\
    SELECT r::text AS in_recovery, \
      (SELECT system_identifier FROM pg_catalog.pg_control_system())::text AS system_identifier, \
      (CASE WHEN r THEN GREATEST((SELECT received_tli FROM pg_catalog.pg_stat_wal_receiver), \
          (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()), \
          (SELECT min_recovery_end_timeline FROM pg_catalog.pg_control_recovery())) \
        ELSE ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int END)::text AS timeline, \
      (CASE WHEN r THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END)::text AS lsn, \
      (CASE WHEN NOT r THEN pg_current_wal_flush_lsn() END)::text AS flushed, \
      (CASE WHEN r THEN pg_last_wal_receive_lsn() END)::text AS received, \
      (SELECT COALESCE(status, 'connected') FROM pg_catalog.pg_stat_wal_receiver WHERE pid IS NOT NULL) AS receiver, \
      (CASE WHEN r THEN pg_is_wal_replay_paused() ELSE false END)::text AS paused, \
      (CASE WHEN r THEN EXTRACT(EPOCH FROM clock_timestamp() - pg_last_xact_replay_timestamp()) END)::text AS naive_s, \
      (SELECT EXTRACT(EPOCH FROM clock_timestamp() - last_msg_receipt_time) \
        FROM pg_catalog.pg_stat_wal_receiver)::text AS last_message_s, \
      (SELECT slot_name FROM pg_catalog.pg_stat_wal_receiver) AS slot, \
      (SELECT COALESCE(substring(conninfo FROM '(?:^| )application_name=([^ ]+)'), \
        substring(conninfo FROM '(?:^| )fallback_application_name=([^ ]+)')) \
        FROM pg_catalog.pg_stat_wal_receiver) AS application, \
      current_setting('server_version') AS version, \
      current_setting('wal_block_size') AS page_bytes, \
      pg_size_bytes(current_setting('wal_segment_size'))::text AS segment_bytes \
    FROM (SELECT pg_catalog.pg_is_in_recovery() AS r) AS role; \
    SELECT slots.slot_name AS slot, senders.application_name AS application, \
      EXTRACT(EPOCH FROM write_lag)::text AS write_s, \
      EXTRACT(EPOCH FROM flush_lag)::text AS flush_s, \
      EXTRACT(EPOCH FROM replay_lag)::text AS replay_s, \
      GREATEST(0, pg_wal_lsn_diff(CASE WHEN r THEN NULL ELSE pg_current_wal_lsn() END, replay_lsn))::text AS replay_bytes \
    FROM (SELECT pg_catalog.pg_is_in_recovery() AS r) AS role \
      JOIN pg_catalog.pg_stat_replication AS senders ON NOT r \
      LEFT JOIN pg_catalog.pg_replication_slots AS slots ON slots.active_pid = senders.pid \
    LIMIT 256";

/// Ends as a transaction that changed nothing, and has the server write out its log to there.
const FLUSH: &str = "SELECT pg_catalog.pg_current_xact_id()";

/// Between two probes of a node that is suspected to be down.
pub(crate) const SUSPECT_EVERY: Duration = Duration::from_millis(100);

impl Activate for NodeProbe {
    async fn activate(&mut self) -> anyhow::Result<()> {
        if !self.backoff.is_over(Instant::now().into_std()) {
            return Ok(());
        }
        loop {
            let failed = self.probe().await;
            self.reports.publish(&self.fleet);
            if !failed {
                self.backoff.answered();
            } else if self.fleet.look(|_, cluster| cluster.is_lost(self.node) && cluster.has_primary()) {
                self.backoff.failed(Instant::now().into_std());
            }
            let stopping = self.over.is_cancelled();
            if !failed || stopping || !self.fleet.look(|_, cluster| cluster.is_up(self.node)) {
                // A node that is down is news of the component, not an error of the probe.
                return Ok(());
            }
            sleep(SUSPECT_EVERY).await;
        }
    }
}

impl NodeProbe {
    async fn probe(&mut self) -> bool {
        let (asked_at, wall) = (Instant::now(), self.cx.clock().now());
        let fresh = !self.line.is_open();
        let answer = self.line.ask_all(QUESTION).await;
        let result = answer.and_then(|rows| read(&rows).ok_or_else(|| "unreadable answer".to_owned()));
        let failed = result.is_err();
        let took = asked_at.elapsed();
        let moment = Moment { asked_at: asked_at.into_std(), wall, took };
        let held_back = result.as_ref().ok().and_then(Observation::held_back);
        self.fleet.observe(self.node, moment, result.map(|seen| Observation { fresh, ..seen }));
        self.reports.latency(self.node, took);
        self.flush(held_back).await;
        failed
    }

    /// Has a primary write out what it has held back since the last probe.
    ///
    /// An open transaction on a primary that does nothing else has its records sent to nobody for up to 15 s: no commit waits
    /// for them. The replicas have all that can be seen, and would look that stale.
    async fn flush(&mut self, held_back: Option<Lsn>) {
        if held_back.is_some()
            && held_back == self.held_back
            && let Err(error) = self.line.ask(FLUSH).await
        {
            tracing::debug!(%error, "a log that is held back was not asked for");
        }
        self.held_back = held_back;
    }
}

impl Activate for PgBouncerProbe {
    async fn activate(&mut self) -> anyhow::Result<()> {
        if !self.backoff.is_over(Instant::now().into_std()) {
            return Ok(());
        }
        let answer = self.line.ask("SELECT 1").await;
        let failed = answer.is_err();
        self.fleet.observe_pgbouncer(self.node, answer.map(|_| ()));
        if !failed {
            self.backoff.answered();
        } else if self.fleet.look(|_, cluster| cluster.is_pgbouncer_lost(self.node)) {
            self.backoff.failed(Instant::now().into_std());
        }
        self.reports.publish(&self.fleet);
        Ok(())
    }
}

impl Line {
    pub(crate) fn new(login: Config, tls: Tls, within: Duration, cx: Context) -> Self {
        Self { login, tls, within, client: None, cx }
    }

    fn is_open(&self) -> bool {
        self.client.as_ref().is_some_and(|client| !client.is_closed())
    }

    /// Asks one question and returns the first row; the error is one line for a person.
    pub(crate) async fn ask(&mut self, question: &str) -> Result<Option<SimpleQueryRow>, String> {
        Ok(self.ask_all(question).await?.into_iter().next())
    }

    /// Asks one question and returns all rows.
    async fn ask_all(&mut self, question: &str) -> Result<Vec<SimpleQueryRow>, String> {
        match timeout(self.within, self.try_ask(question)).await {
            Ok(Ok(rows)) => Ok(rows),
            Ok(Err(error)) => {
                self.client = None;
                Err(one_line(&error))
            }
            Err(_) => {
                self.client = None;
                Err(format!("no answer within {} ms", self.within.as_millis()))
            }
        }
    }

    async fn try_ask(&mut self, question: &str) -> Result<Vec<SimpleQueryRow>, tokio_postgres::Error> {
        let client = match self.client.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => {
                let (client, connection) = self.login.connect(self.tls.clone()).await?;
                self.cx.spawn_work(async move {
                    if let Err(error) = connection.await {
                        tracing::debug!(%error, "probe connection ended");
                    }
                });
                client
            }
        };
        let client = self.client.insert(client);
        let messages = client.simple_query(question).await?;
        let row = |message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        };
        Ok(messages.into_iter().filter_map(row).collect())
    }
}

fn read(rows: &[SimpleQueryRow]) -> Option<Observation> {
    let (row, senders) = rows.split_first()?;
    let text = |name: &str| row.try_get(name).ok().flatten();
    let flag = |name: &str| text(name).map(|value| value == "true");
    let in_recovery = flag("in_recovery")?;
    let shape = WalShape {
        page_bytes: text("page_bytes")?.parse().ok().filter(|bytes| *bytes > 0)?,
        segment_bytes: text("segment_bytes")?.parse().ok().filter(|bytes| *bytes > 0)?,
    };
    // A replica that has not replayed anything yet has no position.
    let lsn: Lsn = text("lsn").unwrap_or("0/0").parse().ok()?;
    Some(Observation {
        in_recovery,
        system_identifier: text("system_identifier")?.parse().ok()?,
        timeline: text("timeline").and_then(|timeline| timeline.parse().ok()),
        lsn: if in_recovery { lsn } else { lsn.end_of_record(shape) },
        flushed: text("flushed").and_then(|lsn| lsn.parse().ok()),
        received: text("received").and_then(|lsn| lsn.parse().ok()),
        receiver: text("receiver").unwrap_or_default().to_owned(),
        replay_paused: flag("paused")?,
        naive: seconds(row, "naive_s"),
        last_message: seconds(row, "last_message_s"),
        slot: text("slot").map(str::to_owned),
        application: text("application").map(str::to_owned),
        senders: senders.iter().map(sender).collect(),
        server_version: text("version")?.to_owned(),
        shape,
        fresh: false,
    })
}

fn sender(row: &SimpleQueryRow) -> Sender {
    let text = |name: &str| row.try_get(name).ok().flatten();
    Sender {
        slot: text("slot").map(str::to_owned),
        application: text("application").map(str::to_owned),
        write_lag: seconds(row, "write_s"),
        flush_lag: seconds(row, "flush_s"),
        replay_lag: seconds(row, "replay_s"),
        replay_bytes: text("replay_bytes").and_then(|bytes| bytes.parse().ok()),
    }
}

fn seconds(row: &SimpleQueryRow, name: &str) -> Option<Duration> {
    let seconds = row.try_get(name).ok().flatten()?.parse::<f64>().ok()?;
    Duration::try_from_secs_f64(seconds.max(0.0)).ok()
}

fn one_line(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => format!("{} ({})", db.message(), db.code().code()),
        None => {
            let cause =
                std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
            format!("{error}{cause}").replace('\n', " ")
        }
    }
}
