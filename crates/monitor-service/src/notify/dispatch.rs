//! The tasks that empty the queues, one per channel.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mainstay_resilience::backoff::Backoff;
use mainstay_runtime::{Clock, Component};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::group::{Groups, Next};
use super::shared::{Claimed, Shared};
use super::{Channel, DeliveryError, Outbox, Queue};
use crate::alert::Record;
use crate::config::NotifyConfig;
use crate::store::Store;

/// Attempts at a message that the receiver refuses; then the next one has its turn.
const REFUSALS_MAX: u32 = 5;
/// Time until it is looked whether another monitor has sent what it claimed.
const LOOKS_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// What a channel's task needs.
pub(crate) struct Dispatch {
    /// The channel.
    pub channel: Arc<Channel>,
    /// Where its messages wait.
    pub outbox: Outbox,
    /// Where it is noted that one has arrived.
    pub store: Store,
    /// Where it is agreed on who sends, when there are several monitors.
    pub shared: Option<Arc<Shared>>,
    /// Tells how it goes.
    pub component: Component,
    /// Tells the time.
    pub clock: Clock,
    /// How patient it is.
    pub config: NotifyConfig,
    /// Ends it.
    pub stopping: CancellationToken,
}

/// Sends what waits, of each group in order, until it has arrived or is given up.
pub(crate) async fn run(dispatch: Dispatch) -> anyhow::Result<()> {
    let queues = Arc::clone(&dispatch.outbox.queues);
    let Some(queue) = queues.get(dispatch.channel.name()) else { return Ok(()) };
    dispatch.component.healthy("nothing sent yet");
    let mut backoff = Backoff::try_new(dispatch.config.retry_after, dispatch.config.retry_after_max)?;
    let mut groups = Groups::new(&queue.config);
    if let Some(shared) = &dispatch.shared {
        shared.connected().await;
    }
    loop {
        let (group, records) = match queue.next(&groups, Instant::now()) {
            Next::Tell(group, records) => (group, records),
            Next::At(due) => tokio::select! {
                () = dispatch.stopping.cancelled() => return Ok(()),
                () = queue.arrived.notified() => continue,
                () = tokio::time::sleep_until(due) => continue,
            },
            Next::Nothing => tokio::select! {
                () = dispatch.stopping.cancelled() => return Ok(()),
                () = queue.arrived.notified() => continue,
            },
        };
        let round = dispatch.tell(queue, records, &mut backoff);
        let (is_done, wait) = tokio::select! {
            // What was under way is sent again after the restart.
            () = dispatch.stopping.cancelled() => return Ok(()),
            round = round => round,
        };
        if is_done {
            groups.told(group, Instant::now());
        }
        tokio::select! {
            () = dispatch.stopping.cancelled() => return Ok(()),
            () = tokio::time::sleep(wait) => {}
        }
    }
}

impl Dispatch {
    /// Tells what no other monitor tells; returns whether all of it is done with, and how long to wait before going on.
    async fn tell(&self, queue: &Queue, records: Vec<Record>, backoff: &mut Backoff) -> (bool, Duration) {
        let Claimed { ours, known, held } = self.claim(queue, records).await;
        if !known.is_empty() {
            self.done(queue, &known);
            self.outbox.metrics.notified(self.channel.name(), "elsewhere");
        }
        if ours.is_empty() {
            return if held.is_empty() { (true, Duration::ZERO) } else { (false, LOOKS_AGAIN_AFTER) };
        }
        let sent = self.channel.send(&ours, self.clock.now()).await;
        if let Some(shared) = &self.shared {
            shared.settle(self.channel.name(), &ours, sent.is_ok()).await;
        }
        let (is_done, wait) = self.settle(queue, &ours, sent, backoff);
        (is_done && held.is_empty(), wait)
    }

    async fn claim(&self, queue: &Queue, records: Vec<Record>) -> Claimed {
        let Some(shared) = &self.shared else { return Claimed { ours: records, ..Claimed::default() } };
        let is_over_here = |record: &Record| queue.knows_end(&record.alert);
        shared.claim(self.channel.name(), records, is_over_here, queue.config.repeat_interval).await
    }

    /// Notes how an attempt went; returns whether these are done with, and how long to wait before the next attempt.
    pub(super) fn settle(
        &self,
        queue: &Queue,
        records: &[Record],
        sent: Result<(), DeliveryError>,
        backoff: &mut Backoff,
    ) -> (bool, Duration) {
        let (now, channel) = (self.clock.now(), self.channel.name());
        match sent {
            Ok(()) => {
                self.done(queue, records);
                backoff.reset();
                self.outbox.metrics.notified(channel, "delivered");
                self.outbox.metrics.told_of(channel, records.len());
                self.component.healthy("delivers");
                let mut figures = queue.figures.lock();
                figures.delivered += 1;
                figures.events += records.len() as u64;
                figures.failing_since = None;
                figures.last_delivered_at = Some(now);
                (true, Duration::ZERO)
            }
            Err(error) => {
                self.failed(queue, &error, now);
                let refused = error.is_refusal() && backoff.attempts() + 1 >= REFUSALS_MAX;
                let is_old = |record: &Record| {
                    let age = now.duration_since(record.at).unwrap_or_default();
                    age >= self.config.give_up_after
                };
                // Of a group only what is too old goes; the rest is tried again.
                let hopeless = records.iter().filter(|record| refused || is_old(record)).cloned();
                let hopeless: Vec<Record> = hopeless.collect();
                if !hopeless.is_empty() {
                    self.give_up(queue, &hopeless, &error);
                    backoff.reset();
                }
                (hopeless.len() == records.len(), backoff.next(rand::random()))
            }
        }
    }

    fn give_up(&self, queue: &Queue, records: &[Record], error: &DeliveryError) {
        self.done(queue, records);
        for record in records {
            tracing::error!(
                channel = self.channel.name(),
                error = error as &dyn std::error::Error,
                event = record.id,
                "notification given up"
            );
            queue.figures.lock().dropped += 1;
            self.outbox.metrics.notified(self.channel.name(), "dropped");
        }
    }

    fn done(&self, queue: &Queue, records: &[Record]) {
        queue.remove(records);
        for record in records {
            self.store.delivered(record.id, self.channel.name());
        }
    }

    fn failed(&self, queue: &Queue, error: &DeliveryError, now: SystemTime) {
        self.outbox.metrics.notified(self.channel.name(), "failed");
        let reason = error.reason();
        self.component.unhealthy(reason.clone());
        let mut figures = queue.figures.lock();
        figures.failures += 1;
        figures.last_error = reason;
        figures.failing_since.get_or_insert(now);
    }
}
