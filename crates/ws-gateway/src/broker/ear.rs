use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::interest::Interest;

/// Histories of one partition read at the same time.
const READS_AT_ONCE: usize = 16;

/// What this node listens to in one partition, and since when nothing arrives from there.
///
/// Partitions have nothing to do with each other, so that one that is away holds up nobody else.
pub(super) struct Ear {
    pub(super) interest: Interest,
    pub(super) reads: Semaphore,
    /// None while everything is well.
    silence: Mutex<Option<Silence>>,
}

struct Silence {
    since: Instant,
    told: bool,
}

/// What has to be done about silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deaf {
    /// Nothing yet.
    NotForLong,
    /// Those who count positions have to be told, now.
    Tell,
    Told,
}

impl Ear {
    pub(super) fn new() -> Self {
        Self {
            interest: Interest::default(),
            reads: Semaphore::new(READS_AT_ONCE),
            silence: Mutex::new(Some(Silence { since: Instant::now(), told: false })),
        }
    }

    /// Notes that publications arrive.
    pub(super) fn hears(&self) {
        *self.silence.lock() = None;
    }

    /// Notes that nothing can be heard since then.
    pub(super) fn hears_nothing(&self, since: Instant, bearable_for: Duration) -> Deaf {
        let mut silence = self.silence.lock();
        let silence = silence.get_or_insert(Silence { since, told: false });
        if silence.told {
            return Deaf::Told;
        }
        silence.told = silence.since.elapsed() >= bearable_for;
        if silence.told { Deaf::Tell } else { Deaf::NotForLong }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_is_told_of_once_and_only_when_it_lasts() {
        let (ear, bearable_for) = (Ear::new(), Duration::from_secs(10));
        assert_eq!(ear.hears_nothing(Instant::now(), bearable_for), Deaf::NotForLong);
        tokio::time::advance(bearable_for).await;
        assert_eq!(ear.hears_nothing(Instant::now(), bearable_for), Deaf::Tell);
        assert_eq!(ear.hears_nothing(Instant::now(), bearable_for), Deaf::Told);
        ear.hears();
        assert_eq!(ear.hears_nothing(Instant::now(), bearable_for), Deaf::NotForLong);
    }
}
