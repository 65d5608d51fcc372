//! Which source of a feed is used next, and when.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use http::Uri;
use mainstay_resilience::backoff::Backoff;
use mainstay_resilience::breaker::{Breaker, Outcome, Permit};
use mainstay_rpc::{Connector, http_client_tls};

use crate::config::FeedConfig;

/// One source, and the way to it.
#[derive(Clone)]
pub(super) struct Endpoint {
    /// In the form of HTTP.
    pub(super) url: Uri,
    pub(super) is_websocket: bool,
    pub(super) connector: Connector,
}

/// The sources of a feed: what happened goes in, what to do next comes out.
#[derive(Debug)]
pub(super) struct Pool {
    breakers: Vec<Breaker>,
    /// The one to try first.
    at: usize,
    /// Connections that have failed since one lasted.
    n_failed: usize,
    backoff: Backoff,
    /// A connection that lived so long lasted.
    lasts_after: Duration,
}

impl Endpoint {
    pub(super) fn try_new(text: &str, config: &FeedConfig) -> anyhow::Result<Self> {
        let (url, is_websocket) = FeedConfig::endpoint(text).context("endpoints")?;
        let is_https = url.scheme_str() == Some("https");
        let tls = is_https.then(|| http_client_tls(&config.tls)).transpose().context("tls")?;
        let connector = Connector::dial(&url, tls, &config.tls.domain, config.connect_within)?;
        Ok(Self { url, is_websocket, connector })
    }

    /// Shows no more than scheme, host and port: a path or a query may tell what is not for everybody.
    pub(super) fn shown(&self) -> String {
        let scheme = match (self.is_websocket, self.url.scheme_str()) {
            (true, Some("https")) => "wss",
            (true, _) => "ws",
            (false, scheme) => scheme.unwrap_or_default(),
        };
        format!("{scheme}://{}", self.url.authority().map(|authority| authority.as_str()).unwrap_or_default())
    }
}

impl Pool {
    pub(super) fn new(config: &FeedConfig) -> Self {
        let breakers = config.endpoints.iter().map(|_| Breaker::new(config.breaker.clone().into()));
        let backoff = Backoff::try_new(config.reconnect_after, config.reconnect_after_max);
        let backoff = backoff.expect("the configuration was checked");
        let lasts_after = config.reconnect_after_max;
        Self { breakers: breakers.collect(), at: 0, n_failed: 0, backoff, lasts_after }
    }

    /// Returns the next source that may be tried; none while all are left alone.
    pub(super) fn choose(&mut self, now: Instant) -> Option<(usize, Permit)> {
        let n_sources = self.breakers.len();
        let mut order = (0..n_sources).map(|step| (self.at + step) % n_sources);
        order.find_map(|index| Some((index, self.breakers[index].admit(now).ok()?)))
    }

    /// Notes that a source speaks.
    pub(super) fn worked(&mut self, index: usize, permit: Permit, took: Duration, now: Instant) {
        self.breakers[index].record(permit, Outcome::Success, took, now);
        self.at = index;
    }

    /// Notes that a source could not be had, and says how long to wait: not at all while there are others to try.
    pub(super) fn failed(
        &mut self,
        index: usize,
        permit: Permit,
        took: Duration,
        now: Instant,
        unit: f64,
    ) -> Duration {
        self.breakers[index].record(permit, Outcome::Failure, took, now);
        self.next_after(index, unit)
    }

    /// Notes that a source which worked, for so long, does no more; says how long to wait. One that breaks off again and
    /// again is not asked any faster than one that cannot be had.
    pub(super) fn broke(&mut self, index: usize, lived: Duration, unit: f64) -> Duration {
        if lived >= self.lasts_after {
            self.n_failed = 0;
            self.backoff.reset();
        }
        self.next_after(index, unit)
    }

    fn next_after(&mut self, index: usize, unit: f64) -> Duration {
        self.at = (index + 1) % self.breakers.len();
        self.n_failed += 1;
        if self.n_failed.is_multiple_of(self.breakers.len()) {
            self.backoff.next(unit)
        } else {
            Duration::ZERO
        }
    }

    /// Returns the states of the breakers, in the order of the endpoints.
    pub(super) fn states(&self, now: Instant) -> Vec<&'static str> {
        self.breakers.iter().map(|breaker| breaker.state(now).as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use mainstay_rpc::BreakerSection;

    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the breaker takes an instant of the standard library")]
    fn sources_take_turns_and_waits_grow_round_by_round() {
        let config = FeedConfig {
            endpoints: vec!["ws://a".to_owned(), "ws://b".to_owned()],
            reconnect_after: Duration::from_secs(1),
            reconnect_after_max: Duration::from_secs(3),
            breaker: BreakerSection { consecutive_failures: 3, ..BreakerSection::default() },
            ..FeedConfig::default()
        };
        let (mut pool, now) = (Pool::new(&config), Instant::now());
        let fail = |pool: &mut Pool| {
            let (index, permit) = pool.choose(now)?;
            Some((index, pool.failed(index, permit, Duration::ZERO, now, 1.0).as_secs()))
        };
        let tried: Vec<_> = (0..4).map(|_| fail(&mut pool)).collect();
        assert_eq!(tried, [Some((0, 0)), Some((1, 1)), Some((0, 0)), Some((1, 2))]);
        // One that works for a moment only is no better than one that does not.
        let (index, permit) = pool.choose(now).unwrap();
        pool.worked(index, permit, Duration::ZERO, now);
        let waits = [pool.broke(0, Duration::from_secs(1), 1.0), pool.broke(1, Duration::from_secs(1), 1.0)];
        assert_eq!((index, waits.map(|wait| wait.as_secs())), (0, [0, 3]));
        // After one that lasted the other is tried at once, and waits are short again.
        let waits = [pool.broke(1, Duration::from_secs(3), 1.0), pool.broke(0, Duration::ZERO, 1.0)];
        assert_eq!(waits.map(|wait| wait.as_secs()), [0, 1]);
        pool.broke(1, Duration::ZERO, 1.0);
        let tried: Vec<_> = (0..5).map(|_| fail(&mut pool).map(|(index, _)| index)).collect();
        assert_eq!(tried, [Some(0), Some(1), Some(0), Some(0), None]);
        assert_eq!(pool.states(now), ["open", "open"]);
    }
}
