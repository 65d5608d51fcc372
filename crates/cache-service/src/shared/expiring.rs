use std::collections::HashMap;
use std::time::Duration;

use crate::time::Moment;

/// Keeps values by name until their time is over; never more than so many.
#[derive(Debug)]
pub(crate) struct Expiring<V> {
    by_name: HashMap<Box<str>, Kept<V>>,
    max: usize,
}

#[derive(Debug)]
struct Kept<V> {
    value: V,
    /// None: it stays.
    until: Option<Moment>,
}

/// Says that there is no room, and nothing in it whose time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("full")]
pub(crate) struct Full;

impl<V> Expiring<V> {
    pub(crate) fn new(max: usize) -> Self {
        Self { by_name: HashMap::new(), max }
    }

    /// Returns the value and the time left to it; none for one that stays.
    pub(crate) fn get(&self, name: &str, now: Moment) -> Option<(&V, Option<Duration>)> {
        let kept = self.by_name.get(name).filter(|kept| kept.is_alive(now))?;
        Some((&kept.value, kept.until.map(|until| until.left(now))))
    }

    /// Puts a value in the place of the one before.
    pub(crate) fn put(
        &mut self,
        name: &str,
        value: V,
        ttl: Option<Duration>,
        now: Moment,
    ) -> Result<(), Full> {
        let kept = Kept { value, until: ttl.map(|ttl| now + ttl) };
        if let Some(place) = self.by_name.get_mut(name) {
            *place = kept;
            return Ok(());
        }
        if self.by_name.len() >= self.max {
            self.sweep(now);
            if self.by_name.len() >= self.max {
                return Err(Full);
            }
        }
        self.by_name.insert(name.into(), kept);
        Ok(())
    }

    /// Gives a value that is there a new time.
    pub(crate) fn extend(&mut self, name: &str, ttl: Duration, now: Moment) {
        if let Some(kept) = self.by_name.get_mut(name) {
            kept.until = Some(now + ttl);
        }
    }

    pub(crate) fn remove(&mut self, name: &str, now: Moment) -> Option<V> {
        self.by_name.remove(name).filter(|kept| kept.is_alive(now)).map(|kept| kept.value)
    }

    /// Drops what is over.
    pub(crate) fn sweep(&mut self, now: Moment) {
        self.by_name.retain(|_, kept| kept.is_alive(now));
    }
}

impl<V> Kept<V> {
    fn is_alive(&self, now: Moment) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use mainstay_runtime::Clock;

    use super::*;
    use crate::time::Time;

    #[test]
    fn what_is_over_makes_room_and_what_lives_does_not() {
        let (clock, handle) = Clock::fixed(UNIX_EPOCH);
        let time = Time::by_clock_alone(clock);
        let mut kept = Expiring::new(2);
        kept.put("a", 1, Some(Duration::from_secs(1)), time.now()).unwrap();
        kept.put("b", 2, None, time.now()).unwrap();
        assert_eq!(kept.put("c", 3, None, time.now()), Err(Full));
        handle.set(UNIX_EPOCH + Duration::from_secs(1));
        assert_eq!(kept.get("a", time.now()), None);
        kept.put("c", 3, None, time.now()).unwrap();
        assert_eq!(kept.by_name.len(), 2);
        assert_eq!(kept.get("b", time.now()), Some((&2, None)));
        assert_eq!(kept.remove("b", time.now()), Some(2));
    }
}
