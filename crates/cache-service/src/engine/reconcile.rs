use crate::entry::{Envelope, Head};
use crate::time::Moment;

/// Which layer is right about a key that memory holds, past the time for which it answers alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Right {
    /// What Redis has, an entry or none.
    Redis,
    /// What memory holds: a write that Redis never confirmed, and that nothing newer has replaced.
    Memory,
}

/// Decides between what memory holds and what Redis answered.
///
/// Redis is right, with one exception. A write made while Redis was away is in memory only; it stays until its ttl,
/// unless Redis has the same or a newer version by now. (It also stays when another node deleted the key meanwhile:
/// an absent key has no version. The writer was told `degraded`.)
pub(crate) fn reconcile(held: Option<&Head>, found: Option<&Envelope>, now: Moment) -> Right {
    match held {
        Some(held) if !held.confirmed && held.is_alive(now) => match found {
            Some(found) if found.version >= held.version => Right::Redis,
            _ => Right::Memory,
        },
        _ => Right::Redis,
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use bytes::Bytes;
    use mainstay_runtime::Clock;

    use super::*;
    use crate::key::{ContentType, Tags};
    use crate::time::Time;

    #[test]
    fn redis_is_right_unless_memory_has_a_newer_write_that_redis_never_confirmed() {
        let (clock, _) = Clock::fixed(UNIX_EPOCH + Duration::from_secs(1_000));
        let now = Time::by_clock_alone(clock).now();
        let held = |version, confirmed, lives_for| Head {
            has_value: true,
            version,
            set_at_unix_ms: 0,
            fresh_until: now,
            lives_until: now + Duration::from_secs(lives_for),
            kept_until: now + Duration::from_hours(1),
            confirmed,
            epoch: 0,
        };
        let found = |version| Envelope {
            version,
            set_at_unix_ms: 0,
            expires_at_unix_ms: 0,
            content_type: ContentType::default(),
            tags: Tags::default(),
            value: Some(Bytes::new()),
        };
        for (held, found, expected) in [
            (None, None, Right::Redis),
            (None, Some(found(1)), Right::Redis),
            (Some(held(5, true, 60)), None, Right::Redis),
            (Some(held(5, true, 60)), Some(found(4)), Right::Redis),
            (Some(held(5, false, 60)), None, Right::Memory),
            (Some(held(5, false, 60)), Some(found(4)), Right::Memory),
            (Some(held(5, false, 60)), Some(found(5)), Right::Redis),
            (Some(held(5, false, 60)), Some(found(6)), Right::Redis),
            (Some(held(5, false, 0)), None, Right::Redis),
        ] {
            assert_eq!(reconcile(held.as_ref(), found.as_ref(), now), expected, "{held:?} {found:?}");
        }
    }
}
