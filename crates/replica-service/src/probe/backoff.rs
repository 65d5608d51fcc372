use std::time::{Duration, Instant};

/// Has a node that stays down asked less and less often: each pause is twice as long as the one before; reads no clock.
#[derive(Debug)]
pub(crate) struct Backoff {
    every: Duration,
    longest: Duration,
    /// The last one; zero while the node answers.
    pause: Duration,
    until: Option<Instant>,
}

impl Backoff {
    /// Begins with `every`, the period of whoever asks; no pause becomes longer than `longest`, or than that period.
    pub(crate) fn new(every: Duration, longest: Duration) -> Self {
        Self { every, longest: longest.max(every), pause: Duration::ZERO, until: None }
    }

    /// Tells whether the pause is over.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| now >= until)
    }

    /// Begins the next pause. The period has jitter, so half of one is left to it.
    pub(crate) fn failed(&mut self, now: Instant) {
        self.pause = (self.pause * 2).clamp(self.every, self.longest);
        self.until = Some(now + self.pause - self.every / 2);
    }

    /// Begins anew: the node has answered.
    pub(crate) fn answered(&mut self) {
        *self = Self::new(self.every, self.longest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_time::origin;

    const SECOND: Duration = Duration::from_secs(1);

    /// Asks once a second for so long, and returns at which seconds a question was sent.
    fn asked(backoff: &mut Backoff, seconds: u32) -> Vec<u32> {
        let start = origin();
        let mut asked = Vec::new();
        for second in 0..seconds {
            let now = start + SECOND * second;
            if backoff.is_over(now) {
                asked.push(second);
                backoff.failed(now);
            }
        }
        asked
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_anew_after_an_answer() {
        let mut backoff = Backoff::new(SECOND, SECOND * 5);
        assert_eq!(asked(&mut backoff, 24), [0, 1, 3, 7, 12, 17, 22]);
        backoff.answered();
        assert_eq!(asked(&mut backoff, 8), [0, 1, 3, 7]);
    }

    #[test]
    fn one_that_is_not_longer_than_the_period_changes_nothing() {
        let mut backoff = Backoff::new(SECOND, SECOND / 2);
        assert_eq!(asked(&mut backoff, 5), [0, 1, 2, 3, 4]);
    }
}
