use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use mainstay_devstack::wait_until;
use tokio::task::JoinSet;
use tokio_postgres::Client;

use super::pair::{Rows, Switched};
use crate::rig::*;

/// Writers that never stop until they are told to; each remembers what its rows must be.
pub(super) struct Storm {
    writers: JoinSet<Rows>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    n_writes: AtomicU64,
}

const N_WRITERS: i64 = 4;

impl Storm {
    pub(super) async fn start(switched: &Switched) -> Self {
        let shared = Arc::new(Shared::default());
        let mut writers = JoinSet::new();
        for writer in 0..N_WRITERS {
            let (shared, table) = (Arc::clone(&shared), switched.name.clone());
            let client = switched.connect().await;
            writers.spawn(async move { Writer::new(client, table, writer).run(&shared).await });
        }
        Self { writers, shared }
    }

    /// Waits until so many writes more are done: they go on.
    pub(super) async fn wait_for_writes(&self, n: u64) {
        let from = self.shared.n_writes.load(Ordering::Relaxed);
        wait_until("writes to go on", EVERY, SOON, || async {
            let done = self.shared.n_writes.load(Ordering::Relaxed) - from;
            if done >= n { Ok(()) } else { Err(format!("{done} of {n}")) }
        })
        .await
        .unwrap();
    }

    /// Returns what must be in the table.
    pub(super) async fn stop(mut self) -> Rows {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut rows = Rows::new();
        while let Some(of_writer) = self.writers.join_next().await {
            rows.extend(of_writer.unwrap());
        }
        rows
    }
}

/// Writes the rows whose keys are its own, by their remainder.
struct Writer {
    client: Client,
    table: String,
    number: i64,
    rows: Rows,
    next: i64,
}

impl Writer {
    fn new(client: Client, table: String, number: i64) -> Self {
        Self { client, table, number, rows: Rows::new(), next: 1_000_000 + number }
    }

    async fn run(mut self, shared: &Shared) -> Rows {
        let mine = format!(
            "SELECT id, (EXTRACT(EPOCH FROM at) * 1000000)::int8, note FROM {} WHERE id % {N_WRITERS} = {}",
            self.table, self.number
        );
        for row in self.client.query(&mine, &[]).await.unwrap() {
            self.rows.insert(row.get(0), (row.get(1), row.get(2)));
        }
        while !shared.stop.load(Ordering::Relaxed) {
            match rand::random_range(0..10) {
                0..=3 => self.insert().await,
                4..=6 => self.change("note = note || '.'").await,
                // To another partition and back.
                7 => self.change("at = at - interval '33 days', note = 'moved'").await,
                8 => self.change("at = now(), note = 'now'").await,
                _ => self.delete().await,
            }
            shared.n_writes.fetch_add(1, Ordering::Relaxed);
            // Others share the machine.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.rows
    }

    async fn insert(&mut self) {
        let id = self.next;
        self.next += N_WRITERS;
        let sql = format!(
            "INSERT INTO {} (id, at, note) VALUES ({id}, now() - interval '{} days', 'new') \
             RETURNING (EXTRACT(EPOCH FROM at) * 1000000)::int8, note",
            self.table,
            id % 50
        );
        let row = self.client.query_one(&sql, &[]).await.unwrap();
        assert_eq!(self.rows.insert(id, (row.get(0), row.get(1))), None);
    }

    async fn change(&mut self, what: &str) {
        let Some(id) = self.any() else { return };
        let sql = format!(
            "UPDATE {} SET {what} WHERE id = {id} AND at > now() - interval '65 days' \
             RETURNING (EXTRACT(EPOCH FROM at) * 1000000)::int8, note",
            self.table
        );
        for row in self.client.query(&sql, &[]).await.unwrap() {
            self.rows.insert(id, (row.get(0), row.get(1)));
        }
    }

    async fn delete(&mut self) {
        let Some(id) = self.any() else { return };
        let sql = format!("DELETE FROM {} WHERE id = {id}", self.table);
        assert_eq!(self.client.execute(&sql, &[]).await.unwrap(), 1, "row {id} is lost, or there twice");
        self.rows.remove(&id);
    }

    fn any(&self) -> Option<i64> {
        let from = rand::random_range(0..=self.next);
        let from = if rand::random() { from } else { from % 4_000 };
        self.rows.range(from..).next().or_else(|| self.rows.first_key_value()).map(|(id, _)| *id)
    }
}
