//! Those who write publications to sockets.
//!
//! Waking the task of every subscriber costs more than anything else this process does for a delivery but the system call.
//! So a room leaves its subscribers with the couriers, of which there is one per core, and they go from one to the next, in
//! the order in which something was queued for them, whatever the channel. A connection's task is woken only for what its
//! client does not read at once.

use std::collections::VecDeque;
use std::num::NonZero;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::{coop, yield_now};
use tokio_util::sync::CancellationToken;

use crate::hub::{Connection, Hub};

/// Connections served before other tasks of the thread have their turn: a quarter of a millisecond.
const CONNECTIONS_PER_TURN: usize = 32;

/// Connections to which something is to be written. None is in it twice: an outbox calls once until it is empty.
#[derive(Debug)]
pub(crate) struct Couriers {
    due: Mutex<Due>,
    bell: Notify,
}

#[derive(Debug, Default)]
struct Due {
    connections: VecDeque<Arc<Connection>>,
    /// Couriers at work; without any, tasks write themselves.
    n_couriers: usize,
}

impl Couriers {
    pub(crate) fn new() -> Self {
        Self { due: Mutex::default(), bell: Notify::new() }
    }

    /// Returns how many are of use.
    pub(crate) fn useful() -> usize {
        std::thread::available_parallelism().map_or(1, NonZero::get)
    }

    /// Has something written to each of these connections. Never waits.
    pub(crate) fn call(&self, connections: Vec<Arc<Connection>>) {
        if connections.is_empty() {
            return;
        }
        let mut due = self.due.lock();
        if due.n_couriers == 0 {
            drop(due);
            connections.iter().for_each(|connection| connection.outbox.wake());
            return;
        }
        due.connections.extend(connections);
        drop(due);
        self.bell.notify_one();
    }

    /// Serves until told to stop. Then tasks write themselves again.
    pub(crate) async fn serve(&self, hub: &Hub, stopping: CancellationToken) {
        self.due.lock().n_couriers += 1;
        // Writing never waits for anything, and every turn ends soon.
        coop::unconstrained(async {
            tokio::select! {
                () = stopping.cancelled() => {}
                () = self.serve_forever(hub) => {}
            }
        })
        .await;
        let mut due = self.due.lock();
        due.n_couriers -= 1;
        let left = if due.n_couriers == 0 { std::mem::take(&mut due.connections) } else { VecDeque::new() };
        drop(due);
        left.iter().for_each(|connection| connection.outbox.wake());
    }

    async fn serve_forever(&self, hub: &Hub) {
        let mut turn = Vec::with_capacity(CONNECTIONS_PER_TURN);
        loop {
            let more = self.next_turn(&mut turn);
            if turn.is_empty() {
                self.bell.notified().await;
                continue;
            }
            if more {
                // Another one helps, if there is one who has nothing to do.
                self.bell.notify_one();
            }
            for connection in turn.drain(..) {
                match connection.wire() {
                    Some(wire) => wire.write_now(&connection, hub.metrics()),
                    None => connection.outbox.wake(),
                }
            }
            yield_now().await;
        }
    }

    /// Takes the next connections; true when others are left.
    fn next_turn(&self, turn: &mut Vec<Arc<Connection>>) -> bool {
        let mut due = self.due.lock();
        let n_next = due.connections.len().min(CONNECTIONS_PER_TURN);
        turn.extend(due.connections.drain(..n_next));
        !due.connections.is_empty()
    }
}
