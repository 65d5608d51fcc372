//! Commands under the breaker of the partition that they are for.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mainstay_resilience::breaker::{Breaker, BreakerConfig, Outcome, Permit, State};
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::Instrument as _;

use super::{LayerError, Left, RedisLayer};
use crate::redis::{Partition, RedisError};

/// A caller with less time left than this gets no answer from Redis: its own deadline would come first.
pub(super) const ANSWER_TAKES: Duration = Duration::from_millis(5);

/// One partition of what lies in Redis; all of it, but in a cluster.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LayerPart<'a> {
    pub(super) layer: &'a RedisLayer,
    pub(super) partition: Partition,
}

/// The breaker of a partition: that the primary of one fails says nothing of the others.
#[derive(Debug)]
pub(super) struct Lane {
    breaker: Mutex<Breaker>,
    /// Connections there had been when the breaker last looked.
    connections_seen: AtomicU32,
}

impl Lane {
    pub(super) fn new(command_within: Duration) -> Self {
        let breaker = BreakerConfig {
            slow_after: command_within / 2,
            open_for: Duration::from_millis(250),
            open_for_max: Duration::from_secs(2),
            ..BreakerConfig::default()
        };
        Self { breaker: Mutex::new(Breaker::new(breaker)), connections_seen: AtomicU32::new(0) }
    }

    pub(super) fn state(&self) -> State {
        self.breaker.lock().state(Instant::now().into_std())
    }
}

impl<'a> LayerPart<'a> {
    /// Sends a command in a span of that name, under the breaker. It is timed under the name, too.
    pub(super) async fn ask<T, F>(
        self,
        name: &'static str,
        operation: &'static str,
        left: impl Into<Left>,
        command: impl FnOnce(Duration) -> F,
    ) -> Result<T, LayerError>
    where
        F: Future<Output = Result<T, RedisError>>,
    {
        let span = self.span(name, operation);
        self.guarded(name, left.into(), command).instrument(span).await
    }

    async fn guarded<T, F>(
        self,
        name: &'static str,
        left: Left,
        command: impl FnOnce(Duration) -> F,
    ) -> Result<T, LayerError>
    where
        F: Future<Output = Result<T, RedisError>>,
    {
        let answered_within = left.time.saturating_sub(ANSWER_TAKES);
        let within =
            if left.patient { answered_within } else { answered_within.min(self.layer.command_within) };
        if within.is_zero() {
            self.layer.metrics.l2_error("timeout");
            return Err(LayerError::NoTime);
        }
        let admission = self.admit().inspect_err(|_| self.layer.metrics.l2_error("breaker_open"))?;
        let (result, is_late_here) = if left.patient {
            self.unless_silent(command(within)).await
        } else {
            (command(within).await, false)
        };
        if !matches!(result, Err(RedisError::NotConnected | RedisError::Overloaded)) {
            self.layer.metrics.l2_took(name, admission.started.elapsed());
        }
        match &result {
            Ok(_) if left.waits_for_replica => admission.end_in(Duration::ZERO, Outcome::Success),
            // The caller's hurry proves nothing about Redis.
            Err(RedisError::Timeout) if within < self.layer.command_within => drop(admission),
            Err(RedisError::Overloaded) => drop(admission),
            Ok(_) | Err(RedisError::Timeout) if is_late_here => drop(admission),
            Ok(_) => admission.end(Outcome::Success),
            Err(error) if error.is_outage() => admission.end(Outcome::Failure),
            Err(_) => admission.end(Outcome::Success),
        }
        result.map_err(|error| {
            self.layer.metrics.l2_error(error.kind());
            let span = tracing::Span::current();
            span.record("error.type", error.kind());
            span.record("otel.status_code", "ERROR");
            tracing::debug!(error = error.in_full(), "redis command failed");
            LayerError::Redis(error)
        })
    }

    /// Ends a command at `command_within`, unless Redis answers others meanwhile: then it is this process that is late, and
    /// the answer is waited for. Tells whether that was so.
    async fn unless_silent<T>(
        self,
        command: impl Future<Output = Result<T, RedisError>>,
    ) -> (Result<T, RedisError>, bool) {
        let (half, mut is_late_here) = (self.layer.command_within / 2, false);
        let expected = Instant::now() + self.layer.command_within;
        let silent = async {
            tokio::time::sleep(half).await;
            while self.layer.redis.part(self.partition).pulse().await.is_some_and(|took| took < half) {
                is_late_here = true;
                tokio::time::sleep(half).await;
            }
            is_late_here = false;
            tokio::time::sleep_until(expected).await;
        };
        let result = tokio::select! {
            biased;
            answer = command => answer,
            () = silent => Err(RedisError::Timeout),
        };
        (result, is_late_here)
    }

    fn admit(self) -> Result<Admission<'a>, LayerError> {
        let started = Instant::now();
        let n_connections = self.layer.redis.part(self.partition).n_connections();
        let lane = &self.layer.lanes[self.partition.index()];
        let mut breaker = lane.breaker.lock();
        // What failed before a new connection speaks of another server, or of another time.
        if lane.connections_seen.swap(n_connections, Ordering::Relaxed) != n_connections {
            breaker.reset(started.into_std());
        }
        match breaker.admit(started.into_std()) {
            Ok(permit) => Ok(Admission { breaker: &lane.breaker, permit: Some(permit), started }),
            Err(rejected) => Err(LayerError::BreakerOpen { retry_after: rejected.retry_after }),
        }
    }

    pub(super) fn span(self, name: &'static str, operation: &'static str) -> tracing::Span {
        let span = tracing::info_span!(
            "redis",
            otel.name = name,
            otel.kind = "client",
            otel.status_code = tracing::field::Empty,
            db.system.name = "redis",
            db.operation.name = operation,
            server.address = tracing::field::Empty,
            server.port = tracing::field::Empty,
            error.type = tracing::field::Empty,
        );
        if !span.is_disabled()
            && let Some(address) = self.layer.redis.part(self.partition).primary()
        {
            span.record("server.address", address.host.as_str());
            span.record("server.port", address.port);
        }
        span
    }
}

/// Holds a breaker's permit for one command; gives it back unjudged when the caller goes away.
struct Admission<'a> {
    breaker: &'a Mutex<Breaker>,
    permit: Option<Permit>,
    started: Instant,
}

impl Admission<'_> {
    fn end(self, outcome: Outcome) {
        let took = self.started.elapsed();
        self.end_in(took, outcome);
    }

    fn end_in(mut self, took: Duration, outcome: Outcome) {
        let Some(permit) = self.permit.take() else { return };
        let change = self.breaker.lock().record(permit, outcome, took, Instant::now().into_std());
        if let Some(change) = change {
            let (from, to) = (change.from.as_str(), change.to.as_str());
            if change.to == State::Open {
                tracing::warn!(from, to, "breaker of redis changed");
            } else {
                tracing::info!(from, to, "breaker of redis changed");
            }
        }
    }
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            self.breaker.lock().cancel(permit, Instant::now().into_std());
        }
    }
}
