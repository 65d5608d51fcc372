//! One key's right to go on: tokens leased from the shared count, or the local count while that is away.

use std::time::Duration;

use mainstay_proto::cache::v1::RateLimitCheckResponse;
use tokio::time::Instant;

use super::gcra::{Gcra, Rate, Verdict};

/// The share of a burst that is leased at once: one call to the shared count pays for so many requests.
const LEASES_PER_BURST: u32 = 50;
/// Leased tokens that nobody spent within this are forgotten.
const LEASE_HOLDS: Duration = Duration::from_secs(1);

/// State of one key in this process.
#[derive(Debug, Default)]
pub(crate) struct Wallet {
    /// Tokens paid for at the shared count and not spent yet.
    leased: u32,
    /// What the shared count said last, and when.
    said: Option<(Instant, Verdict)>,
    /// True after the shared count had less than a whole lease: then each request is asked for by itself.
    scarce: bool,
    local: Gcra,
}

impl Wallet {
    /// Answers from what the shared count said, where that is still good.
    pub(crate) fn spend(&mut self, now: Instant) -> Option<Verdict> {
        let (at, said) = self.said?;
        let gone = now.saturating_duration_since(at);
        if !said.allowed {
            let retry_after = said.retry_after.checked_sub(gone).filter(|wait| !wait.is_zero())?;
            return Some(Verdict { retry_after, reset_after: said.reset_after.saturating_sub(gone), ..said });
        }
        if gone > LEASE_HOLDS || self.leased == 0 {
            return None;
        }
        self.leased -= 1;
        Some(Verdict {
            remaining: said.remaining.saturating_add(self.leased),
            reset_after: said.reset_after.saturating_sub(gone),
            ..said
        })
    }

    /// Says how many tokens to ask the shared count for.
    pub(crate) fn lease(&self, rate: Rate) -> u32 {
        if self.scarce { 1 } else { (rate.burst / LEASES_PER_BURST).max(1) }
    }

    /// Takes the answer of the shared count to having been asked for `cost` tokens, and spends one of them.
    pub(crate) fn settle(
        &mut self,
        rate: Rate,
        cost: u32,
        answer: &RateLimitCheckResponse,
        now: Instant,
    ) -> Verdict {
        let wait = |duration: Option<prost_types::Duration>| {
            duration.and_then(|duration| Duration::try_from(duration).ok()).unwrap_or_default()
        };
        // Less than a lease but something was left: this one goes through, the next are asked for one by one.
        let allowed = answer.allowed || (cost > 1 && answer.remaining > 0);
        self.scarce = answer.remaining < 2 * (rate.burst / LEASES_PER_BURST).max(1);
        self.leased = if answer.allowed { cost - 1 } else { 0 };
        let verdict = Verdict {
            allowed,
            remaining: answer.remaining,
            retry_after: if allowed { Duration::ZERO } else { wait(answer.retry_after) },
            reset_after: wait(answer.reset_after),
        };
        self.said = Some((now, verdict));
        Verdict { remaining: answer.remaining.saturating_add(self.leased), ..verdict }
    }

    /// Counts one request here alone.
    pub(crate) fn count_locally(&mut self, rate: Rate, now: Instant) -> Verdict {
        self.said = None;
        self.local.take(rate, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { quota: 100, window: Duration::from_secs(1), burst: 100 };

    fn answer(allowed: bool, remaining: u32, retry_ms: i32) -> RateLimitCheckResponse {
        let wait = |ms: i32| Some(prost_types::Duration { seconds: 0, nanos: ms * 1_000_000 });
        RateLimitCheckResponse {
            allowed,
            remaining,
            retry_after: wait(retry_ms),
            reset_after: wait(500),
            ..RateLimitCheckResponse::default()
        }
    }

    #[test]
    fn one_answer_of_the_shared_count_pays_for_a_lease_of_requests() {
        let (mut wallet, now) = (Wallet::default(), Instant::now());
        assert_eq!((wallet.spend(now), wallet.lease(RATE)), (None, 2));
        assert_eq!(wallet.settle(RATE, 2, &answer(true, 98, 0), now).remaining, 99);
        assert_eq!(wallet.spend(now).map(|verdict| (verdict.allowed, verdict.remaining)), Some((true, 98)));
        assert_eq!(wallet.spend(now), None, "the lease is spent");
    }

    #[test]
    fn lease_is_forgotten_after_a_second() {
        let (mut wallet, now) = (Wallet::default(), Instant::now());
        wallet.settle(RATE, 2, &answer(true, 98, 0), now);
        assert_eq!(wallet.spend(now + Duration::from_millis(1001)), None);
    }

    #[test]
    fn refusal_holds_without_asking_again_until_its_time_is_over() {
        let (mut wallet, now) = (Wallet::default(), Instant::now());
        assert!(!wallet.settle(RATE, 1, &answer(false, 0, 200), now).allowed);
        let later = wallet.spend(now + Duration::from_millis(150)).expect("still refused");
        assert_eq!((later.allowed, later.retry_after), (false, Duration::from_millis(50)));
        assert_eq!(wallet.spend(now + Duration::from_millis(200)), None);
    }

    #[test]
    fn scarce_tokens_are_asked_for_one_by_one() {
        let (mut wallet, now) = (Wallet::default(), Instant::now());
        assert!(wallet.settle(RATE, 2, &answer(false, 1, 10), now).allowed, "one is left");
        assert_eq!((wallet.spend(now), wallet.lease(RATE)), (None, 1));
        wallet.settle(RATE, 1, &answer(true, 50, 0), now);
        assert_eq!(wallet.lease(RATE), 2, "plenty again");
    }
}
