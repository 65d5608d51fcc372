//! The stream of a watcher.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::unfold;
use mainstay_proto::monitor::v1 as pb;
use mainstay_rpc::Status;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::rules;
use crate::alert::Record;
use crate::journal::Subscription;
use crate::monitor::Monitor;

/// Holds what a watcher waits for.
struct Watcher {
    monitor: Arc<Monitor>,
    live: Subscription,
    ready: VecDeque<pb::WatchResponse>,
    last_id: u64,
    metrics: Vec<String>,
    tick: Interval,
    stopping: CancellationToken,
}

/// Streams what was missed, then what happens, until the monitor stops.
pub(super) fn watch(
    monitor: Arc<Monitor>,
    request: pb::WatchRequest,
    every: Duration,
    stopping: CancellationToken,
) -> impl Stream<Item = Result<pb::WatchResponse, Status>> + Send {
    let mut live = monitor.subscribe(request.after_event);
    let mut tick = interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let missed = std::mem::take(&mut live.missed);
    let lost = live.lost;
    let mut watcher = Watcher {
        monitor,
        live,
        ready: VecDeque::new(),
        last_id: request.after_event,
        metrics: request.metrics,
        tick,
        stopping,
    };
    watcher.catch_up(&missed, lost);
    unfold(watcher, |mut watcher| async move {
        let next = watcher.next().await?;
        Some((Ok(next), watcher))
    })
}

impl Watcher {
    async fn next(&mut self) -> Option<pb::WatchResponse> {
        loop {
            if let Some(ready) = self.ready.pop_front() {
                return Some(ready);
            }
            tokio::select! {
                () = self.stopping.cancelled() => return None,
                event = self.live.live_rx.recv() => match event {
                    Ok(record) => self.add(&record),
                    Err(RecvError::Lagged(_)) => {
                        // What a slow watcher missed is in the journal, or lost.
                        let mut again = self.monitor.subscribe(self.last_id);
                        let (missed, lost) = (std::mem::take(&mut again.missed), again.lost);
                        self.live = again;
                        self.catch_up(&missed, lost);
                    }
                    Err(RecvError::Closed) => return None,
                },
                _ = self.tick.tick(), if !self.metrics.is_empty() => {
                    let figures = self.monitor.figures(&self.metrics);
                    let figures = Some(rules::figures(figures, self.monitor.clock().now()));
                    self.ready.push_back(pb::WatchResponse { figures, ..Default::default() });
                }
            }
        }
    }

    fn catch_up(&mut self, missed: &[Arc<Record>], lost: bool) {
        if lost {
            let lost = Some(pb::EventsLost {});
            self.ready.push_back(pb::WatchResponse { lost, ..Default::default() });
        }
        missed.iter().for_each(|record| self.add(record));
    }

    fn add(&mut self, record: &Record) {
        if record.id <= self.last_id {
            return;
        }
        self.last_id = record.id;
        let silenced = self.monitor.silenced(std::slice::from_ref(&record.alert), self.monitor.clock().now());
        let event = Some(rules::event(record.clone(), silenced.contains(&true)));
        self.ready.push_back(pb::WatchResponse { event, ..Default::default() });
    }
}
