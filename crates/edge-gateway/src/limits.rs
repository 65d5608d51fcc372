//! How often one caller may ask: counted together with the other edges by cache-service, alone while that is away.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use mainstay_auth::{Principal, Role};
use mainstay_proto::cache::v1::rate_limit_service_client::RateLimitServiceClient;
use mainstay_proto::cache::v1::{RateLimit, RateLimitCheckRequest, RateLimitCheckResponse};
use mainstay_rpc::{Call, Failure, Lane};
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use tokio::time::Instant;

use crate::config::LimitsConfig;
use crate::error::Problem;
use crate::figures::Figures;
use crate::upstream::Upstreams;

mod gcra;
mod wallet;

pub(crate) use gcra::Rate;
use gcra::{Gcra, Verdict};
use wallet::Wallet;

const CHECK: &str = "mainstay.cache.v1.RateLimitService/Check";
/// How long the shared count is left alone after it failed.
const ALONE_FOR: Duration = Duration::from_secs(1);

/// What kinds of requests are counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Read,
    Write,
}

/// All counts of this process, bounded in number: the key that was not seen for longest makes room.
pub(crate) struct Limiter {
    read: Option<Rate>,
    write: Option<Rate>,
    refused: Option<Rate>,
    shared: bool,
    shared_within: Duration,
    wallets: Cache<String, Arc<Mutex<Wallet>>>,
    guesses: Cache<IpAddr, Arc<Mutex<Gcra>>>,
    /// Counting alone until then.
    alone_until: Mutex<Option<Instant>>,
    figures: Figures,
}

/// How a request stands against its limit.
pub(crate) struct Standing {
    class: Class,
    rate: Rate,
    verdict: Verdict,
}

impl Class {
    /// Gives the class of the paths behind a role: viewers read, the others change something.
    pub(crate) fn of(role: Role) -> Self {
        if role == Role::Viewer { Self::Read } else { Self::Write }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

impl Limiter {
    pub(crate) fn new(config: &LimitsConfig, figures: Figures) -> Self {
        Self {
            read: config.read.rate(),
            write: config.write.rate(),
            refused: config.refused.rate(),
            shared: config.shared,
            shared_within: config.shared_within,
            wallets: Cache::new(config.max_keys as usize),
            guesses: Cache::new(config.max_keys as usize),
            alone_until: Mutex::new(None),
            figures,
        }
    }

    /// Counts one request of this caller; nothing where the class has no limit.
    pub(crate) async fn count(
        &self,
        upstreams: &Upstreams,
        class: Class,
        principal: &Principal,
    ) -> Option<Standing> {
        let rate = match class {
            Class::Read => self.read,
            Class::Write => self.write,
        }?;
        let key = format!("edge:{}:{:?}:{}", class.as_str(), principal.method, principal.subject);
        let verdict = self.verdict(upstreams, rate, key).await;
        if !verdict.allowed {
            self.figures.limited(class.as_str());
        }
        Some(Standing { class, rate, verdict })
    }

    async fn verdict(&self, upstreams: &Upstreams, rate: Rate, key: String) -> Verdict {
        let wallet = self.wallet(&key);
        let now = Instant::now();
        let alone = !self.shared || self.alone_until.lock().is_some_and(|until| now < until);
        if alone {
            return wallet.lock().count_locally(rate, now);
        }
        if let Some(verdict) = wallet.lock().spend(now) {
            return verdict;
        }
        let cost = wallet.lock().lease(rate);
        // Rare, and its state is large: it shall not make that of every request so.
        match Box::pin(self.ask(upstreams, rate, cost, key)).await {
            Ok(answer) => {
                self.figures.limit_asked("shared");
                wallet.lock().settle(rate, cost, &answer, Instant::now())
            }
            Err(_) => {
                // Not told to anybody: the request is answered, and the upstream's own breaker tells of the outage.
                self.figures.limit_asked("alone");
                *self.alone_until.lock() = Some(Instant::now() + ALONE_FOR);
                wallet.lock().count_locally(rate, now)
            }
        }
    }

    async fn ask(
        &self,
        upstreams: &Upstreams,
        rate: Rate,
        cost: u32,
        key: String,
    ) -> Result<RateLimitCheckResponse, Failure> {
        let window = prost_types::Duration::try_from(rate.window).unwrap_or_default();
        let limit = RateLimit { quota: rate.quota, window: Some(window), burst: rate.burst };
        let request = RateLimitCheckRequest { key, limit: Some(limit), cost: Some(cost) };
        let send = async |mut client: RateLimitServiceClient<Lane>, request| client.check(request).await;
        // A write: asked twice it would count twice.
        let call = Call::write(CHECK).within(self.shared_within);
        let asked = upstreams.rate_limits(call, request, send);
        tokio::time::timeout(self.shared_within, asked)
            .await
            .unwrap_or_else(|_| Err(Failure::internal(DeadlinePassed)))
    }

    fn wallet(&self, key: &str) -> Arc<Mutex<Wallet>> {
        if let Some(wallet) = self.wallets.get(key) {
            return wallet;
        }
        let wallet = Arc::new(Mutex::new(Wallet::default()));
        self.wallets.insert(key.to_owned(), Arc::clone(&wallet));
        wallet
    }

    /// Says how long an address that showed too many bad credentials must wait before the next one is looked at.
    pub(crate) fn guesses_wait(&self, address: IpAddr) -> Option<Duration> {
        let rate = self.refused?;
        let seen = self.guesses.get(&network(address))?;
        let verdict = seen.lock().peek(rate, Instant::now());
        (!verdict.allowed).then_some(verdict.retry_after)
    }

    /// Counts a bad credential against the address that showed it.
    pub(crate) fn guessed(&self, address: IpAddr) {
        let (Some(rate), network) = (self.refused, network(address)) else { return };
        let seen = self.guesses.get(&network).unwrap_or_else(|| {
            let fresh = Arc::default();
            self.guesses.insert(network, Arc::clone(&fresh));
            fresh
        });
        seen.lock().take(rate, Instant::now());
    }
}

/// The shared count gave no answer in time.
#[derive(Debug, thiserror::Error)]
#[error("the shared count gave no answer in time")]
struct DeadlinePassed;

/// One IPv6 customer has a whole /64: single addresses would be free keys.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6([a, b, c, d, 0, 0, 0, 0].into())
        }
    }
}

impl Standing {
    /// Gives the problem of a request that is over its limit.
    pub(crate) fn refusal(&self) -> Option<Problem> {
        if self.verdict.allowed {
            return None;
        }
        let window = humantime::format_duration(self.rate.window);
        let (class, quota) = (self.class.as_str(), self.rate.quota);
        let detail = format!("more than {quota} {class} requests per {window} with these credentials");
        let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "QUOTA_EXCEEDED", detail);
        Some(problem.retry_after(self.verdict.retry_after))
    }

    /// Tells the caller how it stands (draft-ietf-httpapi-ratelimit-headers).
    pub(crate) fn stamp(&self, headers: &mut HeaderMap) {
        let class = self.class.as_str();
        let window = whole_seconds(self.rate.window).max(1);
        let policy = format!("\"{class}\";q={};w={window}", self.rate.quota);
        let wait = whole_seconds(if self.verdict.allowed {
            self.verdict.reset_after
        } else {
            self.verdict.retry_after
        });
        let standing = format!("\"{class}\";r={};t={wait}", self.verdict.remaining);
        for (name, text) in [("ratelimit-policy", policy), ("ratelimit", standing)] {
            let value = HeaderValue::try_from(text).expect("words and digits are a header value");
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs_f64().ceil() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standing_is_told_in_structured_fields() {
        let rate = Rate { quota: 100, window: Duration::from_millis(500), burst: 100 };
        let verdict = Verdict {
            allowed: false,
            remaining: 0,
            retry_after: Duration::from_millis(1200),
            reset_after: Duration::from_secs(9),
        };
        let standing = Standing { class: Class::Write, rate, verdict };
        let mut headers = HeaderMap::new();
        standing.stamp(&mut headers);
        assert_eq!(headers["ratelimit-policy"], "\"write\";q=100;w=1");
        assert_eq!(headers["ratelimit"], "\"write\";r=0;t=2");
        assert_eq!(
            standing.refusal().map(|problem| problem.code().to_owned()).as_deref(),
            Some("QUOTA_EXCEEDED")
        );
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
    }
}
