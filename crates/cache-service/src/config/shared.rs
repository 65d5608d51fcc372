use std::time::Duration;

use bytesize::ByteSize;
use mainstay_runtime::Problems;
use serde::{Deserialize, Serialize};

/// Configures rate limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RateLimitConfig {
    /// Keys that this process counts at most; the least used is forgotten. 100 to 10,000,000.
    pub max_keys: u32,
    /// Time for Redis to answer before this process counts alone; 1 ms to 10 s.
    #[serde(with = "humantime_serde")]
    pub redis_within: Duration,
}

/// Configures sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SessionConfig {
    /// Time after which an unseen session ends, unless its creator says; 1 s to 365 days.
    #[serde(with = "humantime_serde")]
    pub ttl: Duration,
    /// Time after which a session ends however often it is seen, unless its creator says; 1 s to 365 days.
    #[serde(with = "humantime_serde")]
    pub max_age: Duration,
    /// How long the old id leads to a rotated session; 0 to 10 minutes.
    #[serde(with = "humantime_serde")]
    pub rotation_grace: Duration,
    /// Touches of this time are written together; 10 ms to 1 s.
    #[serde(with = "humantime_serde")]
    pub touch_every: Duration,
    /// Sessions of one user; 1 to 200.
    pub max_per_user: u32,
    /// What happens to a session beyond them.
    pub when_full: WhenFull,
    /// Names and values of the fields of one session; 256 bytes to 16 KiB.
    pub max_size: ByteSize,
    /// Memory for sessions where Redis is not configured; 1 MiB to 1 TiB. Full, it refuses new ones.
    pub local_capacity: ByteSize,
}

/// What happens when a user with as many sessions as allowed begins another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// The one that would end first is revoked.
    RevokeOldest,
    /// The new one is refused.
    Refuse,
}

/// Configures locks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LockConfig {
    /// Callers that wait for a lock at once; 0 to 100,000.
    pub max_waiting: u32,
    /// Locks held at once where Redis is not configured; 1 to 10,000,000.
    pub max_local: u32,
}

/// Configures counters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CounterConfig {
    /// Counters, and idempotency keys, held at once where Redis is not configured; 1 to 10,000,000.
    pub max_local: u32,
}

impl Default for RateLimitConfig {
    fn default() -> Self {
        Self { max_keys: 100_000, redis_within: Duration::from_millis(100) }
    }
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            ttl: Duration::from_mins(30),
            max_age: Duration::from_hours(30 * 24),
            rotation_grace: Duration::from_secs(30),
            touch_every: Duration::from_millis(100),
            max_per_user: 50,
            when_full: WhenFull::RevokeOldest,
            max_size: ByteSize::kib(8),
            local_capacity: ByteSize::mib(32),
        }
    }
}

impl Default for LockConfig {
    fn default() -> Self {
        Self { max_waiting: 1_000, max_local: 100_000 }
    }
}

impl Default for CounterConfig {
    fn default() -> Self {
        Self { max_local: 100_000 }
    }
}

impl RateLimitConfig {
    pub(super) fn check(&self, problems: &mut Problems) {
        problems.range("rate_limits.max_keys", self.max_keys, 100..=10_000_000);
        let (least, most) = (Duration::from_millis(1), Duration::from_secs(10));
        problems.duration("rate_limits.redis_within", self.redis_within, least..=most);
    }
}

impl SessionConfig {
    /// Longest ttl and age of a session.
    pub(crate) const LONGEST: Duration = Duration::from_hours(365 * 24);
    pub(crate) const SHORTEST: Duration = Duration::from_secs(1);
    pub(crate) const LONGEST_GRACE: Duration = Duration::from_mins(10);
    /// So many sessions of the largest size fit into one answer.
    pub(crate) const MOST_PER_USER: u32 = 200;

    pub(super) fn check(&self, problems: &mut Problems) {
        problems.duration("sessions.ttl", self.ttl, Self::SHORTEST..=Self::LONGEST);
        problems.duration("sessions.max_age", self.max_age, Self::SHORTEST..=Self::LONGEST);
        problems.duration(
            "sessions.rotation_grace",
            self.rotation_grace,
            Duration::ZERO..=Self::LONGEST_GRACE,
        );
        problems.duration(
            "sessions.touch_every",
            self.touch_every,
            Duration::from_millis(10)..=Duration::from_secs(1),
        );
        problems.range("sessions.max_per_user", self.max_per_user, 1..=Self::MOST_PER_USER);
        problems.range("sessions.max_size", self.max_size, ByteSize::b(256)..=ByteSize::kib(16));
        problems.range("sessions.local_capacity", self.local_capacity, ByteSize::mib(1)..=ByteSize::tib(1));
    }
}

impl LockConfig {
    pub(super) fn check(&self, problems: &mut Problems) {
        problems.range("locks.max_waiting", self.max_waiting, 0..=100_000);
        problems.range("locks.max_local", self.max_local, 1..=10_000_000);
    }
}

impl CounterConfig {
    pub(super) fn check(&self, problems: &mut Problems) {
        problems.range("counters.max_local", self.max_local, 1..=10_000_000);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::CacheConfig;

    #[test]
    fn each_impossible_value_is_told_with_its_key() {
        use mainstay_runtime::ServiceConfig as _;
        type Case = (fn(&mut CacheConfig), &'static str);
        let cases: [Case; 13] = [
            (|c| c.rate_limits.max_keys = 1, "rate_limits.max_keys: "),
            (|c| c.rate_limits.redis_within = Duration::ZERO, "rate_limits.redis_within: "),
            (|c| c.sessions.ttl = Duration::ZERO, "sessions.ttl: "),
            (|c| c.sessions.max_age = Duration::from_hours(24 * 366), "sessions.max_age: "),
            (|c| c.sessions.rotation_grace = Duration::from_hours(1), "sessions.rotation_grace: "),
            (|c| c.sessions.touch_every = Duration::ZERO, "sessions.touch_every: "),
            (|c| c.sessions.max_per_user = 201, "sessions.max_per_user: "),
            (|c| c.sessions.max_size = ByteSize::kib(17), "sessions.max_size: "),
            (|c| c.locks.max_local = 0, "locks.max_local: "),
            (|c| c.counters.max_local = 0, "counters.max_local: "),
            (|c| c.pubsub.max_topics = 0, "pubsub.max_topics: "),
            (|c| c.pubsub.max_message_size = ByteSize::b(0), "pubsub.max_message_size: "),
            (|c| c.pubsub.buffer = ByteSize::kib(1), "pubsub.buffer: "),
        ];
        for (change, expected) in cases {
            let mut config = CacheConfig::default();
            change(&mut config);
            let mut problems = Problems::default();
            config.check(&mut problems);
            let found = problems.lines();
            assert!(found.len() == 1 && found[0].starts_with(expected), "{expected:?} is not in {found:?}");
        }
    }
}
