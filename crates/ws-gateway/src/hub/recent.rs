use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Published;
use crate::channel::Channel;

/// What came of the latest publications that had an idempotency key. Beyond the bound the oldest are forgotten early.
#[derive(Debug, Default)]
pub(super) struct Recent {
    outcomes: HashMap<Key, Published>,
    order: VecDeque<(Instant, Key)>,
}

type Key = Arc<(Channel, Box<str>)>;

const MAX_KEYS: usize = 4_096;

impl Recent {
    pub(super) fn find(&mut self, channel: &Channel, key: &str, now: Instant) -> Option<Published> {
        while self.order.front().is_some_and(|(until, _)| *until <= now) {
            self.forget_oldest();
        }
        self.outcomes.get(&(channel.clone(), key.into())).cloned()
    }

    pub(super) fn note(
        &mut self,
        channel: &Channel,
        key: &str,
        outcome: &Published,
        now: Instant,
        ttl: Duration,
    ) {
        if self.order.len() >= MAX_KEYS {
            self.forget_oldest();
        }
        let key = Arc::new((channel.clone(), key.into()));
        self.outcomes.insert(Arc::clone(&key), outcome.clone());
        self.order.push_back((now + ttl, key));
    }

    fn forget_oldest(&mut self) {
        if let Some((_, key)) = self.order.pop_front() {
            self.outcomes.remove(&*key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_remembered_for_a_while_and_not_without_bound() {
        let (mut recent, now, ttl) = (Recent::default(), Instant::now(), Duration::from_secs(60));
        let (a, b) = (Channel::parse("a", 9).unwrap(), Channel::parse("b", 9).unwrap());
        let outcome = Published { receivers: 7, ..Published::default() };
        recent.note(&a, "k", &outcome, now, ttl);
        assert_eq!(recent.find(&a, "k", now + ttl / 2), Some(outcome.clone()));
        assert_eq!(recent.find(&b, "k", now), None);
        assert_eq!(recent.find(&a, "l", now), None);
        assert_eq!(recent.find(&a, "k", now + ttl), None);
        assert!(recent.outcomes.is_empty() && recent.order.is_empty());
        for n in 0..MAX_KEYS + 1 {
            recent.note(&a, &n.to_string(), &outcome, now, ttl);
        }
        assert_eq!((recent.find(&a, "0", now), recent.outcomes.len()), (None, MAX_KEYS));
    }
}
