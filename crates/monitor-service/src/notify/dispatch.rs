//! The tasks that empty the queues, one per channel.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mainstay_resilience::backoff::Backoff;
use mainstay_runtime::{Clock, Component};
use tokio_util::sync::CancellationToken;

use super::{Channel, Delivery, DeliveryError, Outbox, Queue};
use crate::config::NotifyConfig;
use crate::store::Store;

/// Attempts at a message that the receiver refuses; then the next one has its turn.
const REFUSALS_MAX: u32 = 5;

/// What a channel's task needs.
pub(crate) struct Dispatch {
    /// The channel.
    pub channel: Arc<Channel>,
    /// Where its messages wait.
    pub outbox: Outbox,
    /// Where it is noted that one has arrived.
    pub store: Store,
    /// Tells how it goes.
    pub component: Component,
    /// Tells the time.
    pub clock: Clock,
    /// How patient it is.
    pub config: NotifyConfig,
    /// Ends it.
    pub stopping: CancellationToken,
}

/// Sends what waits, in order, each until it has arrived or is given up.
pub(crate) async fn run(dispatch: Dispatch) -> anyhow::Result<()> {
    let queues = Arc::clone(&dispatch.outbox.queues);
    let Some(queue) = queues.get(dispatch.channel.name()) else { return Ok(()) };
    dispatch.component.healthy("nothing sent yet");
    let mut backoff = Backoff::try_new(dispatch.config.retry_after, dispatch.config.retry_after_max)?;
    loop {
        let Some(delivery) = queue.front() else {
            tokio::select! {
                () = dispatch.stopping.cancelled() => return Ok(()),
                () = queue.arrived.notified() => continue,
            }
        };
        let now = dispatch.clock.now();
        let sent = tokio::select! {
            // What was under way is sent again after the restart.
            () = dispatch.stopping.cancelled() => return Ok(()),
            sent = dispatch.channel.send(&delivery.record, now) => sent,
        };
        let wait = dispatch.settle(queue, &delivery, sent, &mut backoff);
        tokio::select! {
            () = dispatch.stopping.cancelled() => return Ok(()),
            () = tokio::time::sleep(wait) => {}
        }
    }
}

impl Dispatch {
    /// Notes how an attempt went, and returns how long to wait before the next.
    fn settle(
        &self,
        queue: &Queue,
        delivery: &Delivery,
        sent: Result<(), DeliveryError>,
        backoff: &mut Backoff,
    ) -> Duration {
        let now = self.clock.now();
        match sent {
            Ok(()) => {
                self.done(queue, delivery);
                backoff.reset();
                self.outbox.metrics.notified(&delivery.channel, "delivered");
                self.component.healthy("delivers");
                let mut figures = queue.figures.lock();
                figures.delivered += 1;
                figures.failing_since = None;
                figures.last_delivered_at = Some(now);
                Duration::ZERO
            }
            Err(error) => {
                self.failed(queue, &error, now);
                let age = now.duration_since(delivery.record.at).unwrap_or_default();
                let refused = error.is_refusal() && backoff.attempts() + 1 >= REFUSALS_MAX;
                if refused || age >= self.config.give_up_after {
                    tracing::error!(
                        channel = delivery.channel,
                        error = &error as &dyn std::error::Error,
                        event = delivery.record.id,
                        "notification given up"
                    );
                    self.done(queue, delivery);
                    backoff.reset();
                    queue.figures.lock().dropped += 1;
                    self.outbox.metrics.notified(&delivery.channel, "dropped");
                }
                backoff.next(rand::random())
            }
        }
    }

    fn done(&self, queue: &Queue, delivery: &Delivery) {
        queue.remove(delivery);
        self.store.delivered(delivery.record.id, &delivery.channel);
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
