//! The client side: one other service, all of its instances.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use mainstay_resilience::backoff::Backoff;
use mainstay_resilience::budget::RetryBudget;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Response, Status};
use tracing::Instrument as _;

mod call;
mod config;
mod connector;
mod endpoint;
mod lane;
#[cfg(test)]
mod tests;
mod verdict;

pub use call::Call;
pub use config::{BreakerSection, EndpointList, UpstreamConfig};
pub use connector::{Connector, Wire};
pub use lane::Lane;

use crate::code::ErrorCode;
use crate::failure::{DEADLINE_EXCEEDED, Failure, UPSTREAM_UNAVAILABLE};
use crate::identity::Secret;
use crate::tls::{InvalidTls, client_tls};
use endpoint::{Attempt, Endpoint};
use lane::Head;
use verdict::{Again, Verdict};

/// Retries allowed per second whatever the traffic, so that a quiet caller may retry too.
const RETRIES_PER_SECOND: f64 = 1.0;
const RETRY_WINDOW: Duration = Duration::from_secs(10);
const PAUSE_BASE: Duration = Duration::from_millis(20);
const PAUSE_CAP: Duration = Duration::from_millis(100);

/// Calls one service, whichever of its instances can answer.
///
/// Cheap to clone; all clones share connections, breakers and the retry budget. Connections are opened by the first
/// call and kept.
#[derive(Clone)]
pub struct Upstream {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    deadline: Duration,
    token: Secret,
    endpoints: Vec<Endpoint>,
    budget: Mutex<RetryBudget>,
}

impl Upstream {
    /// Prepares calls to the service `name`; opens no connection and needs no runtime.
    pub fn try_new(name: impl Into<String>, config: &UpstreamConfig) -> Result<Self, InvalidUpstream> {
        config.token.check().map_err(InvalidUpstream::Token)?;
        let tls = client_tls(&config.tls)?;
        let endpoints: Vec<_> = config
            .endpoints
            .iter()
            .map(|uri| Endpoint::try_new(uri, config, tls.as_ref()))
            .collect::<Result<_, _>>()?;
        if endpoints.is_empty() {
            return Err(InvalidUpstream::NoEndpoint);
        }
        let budget = RetryBudget::new(config.retry_ratio, RETRIES_PER_SECOND, RETRY_WINDOW);
        Ok(Self {
            inner: Arc::new(Inner {
                name: name.into(),
                deadline: config.deadline,
                token: config.token.clone(),
                endpoints,
                budget: Mutex::new(budget),
            }),
        })
    }

    /// Returns the name given at the start, as used in logs and messages.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Describes every endpoint, for status pages.
    pub fn snapshot(&self) -> UpstreamSnapshot {
        let now = Instant::now().into_std();
        UpstreamSnapshot {
            endpoints: self.inner.endpoints.iter().map(|endpoint| endpoint.snapshot(now)).collect(),
        }
    }

    /// Sends one call, and sends it again where that is safe, until the deadline.
    ///
    /// `send` makes one attempt over the lane it is given and may be run more than once. Reads are repeated once when
    /// the service did not answer or was unavailable; writes only when they provably never left this process. Dropping
    /// the future cancels the attempt under way and counts neither for nor against the endpoint.
    pub async fn call<T, F, Fut>(&self, call: Call, send: F) -> Result<T, Failure>
    where
        F: Fn(Lane) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let span = call.span(&self.inner.name);
        let result = self.inner.attempt_until_deadline(&call, send).instrument(span.clone()).await;
        if let Err(failure) = &result {
            span.record("otel.status_code", "ERROR");
            span.record("error.type", failure.reason());
            span.record("otel.status_description", failure.message());
        }
        result
    }
}

impl Inner {
    async fn attempt_until_deadline<T, F, Fut>(&self, call: &Call, send: F) -> Result<T, Failure>
    where
        F: Fn(Lane) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let now = Instant::now();
        let until = call.until(now, self.deadline);
        self.budget.lock().deposit(now.into_std());
        let mut tried = Vec::new();
        let mut repeated = false;
        let mut last = None;
        loop {
            let attempt = match self.admit(&tried) {
                Ok(attempt) => attempt,
                Err(retry_after) => return Err(last.unwrap_or_else(|| self.held_back(retry_after))),
            };
            tried.push(attempt.index());
            let lane = attempt.lane(Head::new(&self.token, call.caller(), until));
            let verdict = match timeout_at(until, send(lane)).await {
                Ok(Ok(response)) => {
                    attempt.succeeded(&self.name);
                    return Ok(response.into_inner());
                }
                Ok(Err(status)) => Verdict::of(&self.name, status),
                Err(_) => self.late(until - now),
            };
            if self.hurries(until - now) && verdict.failure.code() == ErrorCode::DeadlineExceeded {
                drop(attempt);
            } else {
                attempt.failed(&self.name, &verdict);
            }
            let again = call.allows(verdict.again);
            if !again || !self.prepare_retry(&verdict, &tried, &mut repeated, until).await {
                return Err(verdict.failure);
            }
            last = Some(verdict.failure);
        }
    }

    /// Tells whether a call had so little time that being late for it says nothing about the endpoint.
    ///
    /// Else a caller that gives 20 ms, because it has another way, would hold back those that give seconds.
    fn hurries(&self, given: Duration) -> bool {
        given < self.deadline / 2
    }

    /// Picks an endpoint: the less busy of two random ones, then whichever admits, those not yet tried first.
    ///
    /// Two random choices spread load almost as well as asking all and never send everybody to the same one; see
    /// Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001.
    fn admit(&self, tried: &[usize]) -> Result<Attempt<'_>, Duration> {
        let now = Instant::now().into_std();
        let mut order: Vec<usize> = (0..self.endpoints.len()).collect();
        if order.len() > 1 {
            let n = order.len();
            order.swap(0, rand::random_range(0..n));
            order.swap(1, rand::random_range(1..n));
            if self.endpoints[order[1]].in_flight() < self.endpoints[order[0]].in_flight() {
                order.swap(0, 1);
            }
            order.sort_by_key(|index| tried.contains(index));
        }
        let mut soonest = Duration::MAX;
        for index in order {
            match self.endpoints[index].admit(index, now) {
                Ok(attempt) => return Ok(attempt),
                Err(rejected) => soonest = soonest.min(rejected.retry_after),
            }
        }
        Err(soonest)
    }

    /// Waits before a retry if it must, and tells whether the retry may be made at all.
    async fn prepare_retry(
        &self,
        verdict: &Verdict,
        tried: &[usize],
        repeated: &mut bool,
        until: Instant,
    ) -> bool {
        let now = Instant::now();
        let mut untried = (0..self.endpoints.len()).filter(|index| !tried.contains(index));
        let elsewhere = untried.any(|index| self.endpoints[index].seems_open_for_calls(now.into_std()));
        // A request that never left adds no load where it goes next, so it costs no budget.
        let free = elsewhere && verdict.again == Again::Always && tried.len() < self.endpoints.len();
        if !free {
            if *repeated || !self.budget.lock().try_withdraw(now.into_std()) {
                return false;
            }
            *repeated = true;
        }
        if elsewhere {
            return now < until;
        }
        let mut backoff =
            Backoff::try_new(PAUSE_BASE, PAUSE_CAP).expect("the base is above zero and below the cap");
        let pause = backoff.next(rand::random()).max(verdict.failure.retry_delay().unwrap_or_default());
        if now + pause >= until {
            return false;
        }
        sleep(pause).await;
        true
    }

    fn held_back(&self, retry_after: Duration) -> Failure {
        let message = format!("{} is not answering; calls are held back", self.name);
        Failure::new(ErrorCode::Unavailable, UPSTREAM_UNAVAILABLE, message).retry_after(retry_after)
    }

    fn late(&self, within: Duration) -> Verdict {
        let message = format!("{} did not answer within {within:?}", self.name);
        Verdict {
            failure: Failure::new(ErrorCode::DeadlineExceeded, DEADLINE_EXCEEDED, message),
            against_endpoint: true,
            again: Again::Never,
        }
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("name", &self.inner.name).finish_non_exhaustive()
    }
}

/// Describes an upstream at one instant.
#[derive(Debug, Clone)]
pub struct UpstreamSnapshot {
    /// One per configured endpoint, in that order.
    pub endpoints: Vec<EndpointSnapshot>,
}

/// Describes one endpoint at one instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSnapshot {
    /// As configured.
    pub uri: String,
    /// `closed`, `open` or `half_open`.
    pub breaker: &'static str,
    /// Attempts under way.
    pub in_flight: u32,
    /// Attempts ended since the start.
    pub calls: u64,
    /// Those among them that speak against the endpoint: no answer, or none in time.
    pub failures: u64,
}

/// Says why an upstream cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum InvalidUpstream {
    /// There is nothing to call.
    #[error("no endpoint is configured")]
    NoEndpoint,
    /// Something that is not `scheme://host:port`.
    #[error(transparent)]
    Endpoint(#[from] config::InvalidEndpoint),
    /// An `https` endpoint whose certificate nobody could vouch for.
    #[error("{0} needs tls.ca")]
    NoAuthority(String),
    /// A name that cannot stand in a certificate.
    #[error("{0:?} is not a server name")]
    ServerName(String),
    /// A token that cannot be sent.
    #[error("token {0}")]
    Token(&'static str),
    /// Certificates that cannot be used.
    #[error(transparent)]
    Tls(#[from] InvalidTls),
}
