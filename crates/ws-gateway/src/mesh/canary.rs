//! Notices that messages no longer arrive, although everything answers.
//!
//! Every node sends numbered beats by way of Redis and listens to its own and to those of the others. A connection that
//! answers pings and brings no messages (it leads to a server that is no longer the one written to, say) shows only by
//! this. So do messages that were lost on the way: a number is missing.

use std::collections::HashMap;

use tokio::time::Instant;

/// Nodes whose numbers are remembered.
const MOST_PEERS: usize = 1_024;
/// Beats remembered that have not come back; with more it is silent anyway.
const MOST_UNHEARD: usize = 64;

/// Whether beats come back: numbers in, judgement out.
#[derive(Debug, Default)]
pub(super) struct Canary {
    last: u64,
    heard: u64,
    /// Beats that Redis has taken and that have not come back, in order, and when it took them.
    unheard: Vec<(u64, Instant)>,
    peers: HashMap<Box<str>, u64>,
}

/// What a beat says about those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    InOrder,
    /// Beats are missing before this one, and with them maybe other messages.
    Gap,
}

impl Canary {
    /// Gives the number of the next beat.
    pub(super) fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Notes that Redis has taken a beat: it should come back.
    pub(super) fn sent(&mut self, number: u64, now: Instant) {
        if self.heard < number && self.unheard.len() < MOST_UNHEARD {
            self.unheard.push((number, now));
        }
    }

    /// Notes a beat of this node (`own`), or of another.
    pub(super) fn hear(&mut self, own: &str, node: &str, number: u64) -> Heard {
        if node != own {
            return self.hear_peer(node, number);
        }
        self.heard = self.heard.max(number);
        // One that Redis refused never comes back, so only those it has taken are missed.
        let is_gap = self.unheard.iter().any(|&(unheard, _)| unheard < number);
        self.unheard.retain(|&(unheard, _)| unheard > number);
        if is_gap { Heard::Gap } else { Heard::InOrder }
    }

    fn hear_peer(&mut self, node: &str, number: u64) -> Heard {
        if let Some(last) = self.peers.get_mut(node) {
            let last = std::mem::replace(last, number);
            return if number > last + 1 { Heard::Gap } else { Heard::InOrder };
        }
        // Nodes come and go; those that live are soon known again.
        if self.peers.len() >= MOST_PEERS {
            self.peers.clear();
        }
        self.peers.insert(node.into(), number);
        Heard::InOrder
    }

    pub(super) fn heard(&self, number: u64) -> bool {
        self.heard >= number
    }

    pub(super) fn silent_since(&self) -> Option<Instant> {
        self.unheard.first().map(|&(_, at)| at)
    }

    /// Waits for none of those sent before.
    pub(super) fn begin_anew(&mut self) {
        self.heard = self.last;
        self.unheard.clear();
        self.peers.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn silence_begins_with_the_first_beat_that_does_not_come_back() {
        let (mut canary, start) = (Canary::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let first = canary.next();
        canary.sent(first, at(0));
        assert_eq!(canary.silent_since(), Some(at(0)));
        assert_eq!(canary.hear("me", "me", first), Heard::InOrder);
        assert_eq!(canary.silent_since(), None);
        for ms in [10, 20, 30] {
            let number = canary.next();
            canary.sent(number, at(ms));
        }
        assert_eq!(canary.silent_since(), Some(at(10)));
        assert!(!canary.heard(2));
        canary.begin_anew();
        assert_eq!(canary.silent_since(), None);
    }

    #[test]
    fn a_beat_that_comes_back_before_redis_has_answered_is_heard() {
        let mut canary = Canary::default();
        let number = canary.next();
        assert_eq!(canary.hear("me", "me", number), Heard::InOrder);
        canary.sent(number, Instant::now());
        assert_eq!(canary.silent_since(), None);
    }

    #[test]
    fn missing_numbers_are_a_gap_unless_they_were_never_taken() {
        // Whether Redis' own answer comes before the beat or after it makes no difference.
        for answered_first in [true, false] {
            let (mut canary, now) = (Canary::default(), Instant::now());
            // The first is refused by Redis, the third is lost.
            let [_, second, third, fourth] = [(); 4].map(|()| canary.next());
            canary.sent(second, now);
            assert_eq!(canary.hear("me", "me", second), Heard::InOrder);
            canary.sent(third, now);
            if answered_first {
                canary.sent(fourth, now);
            }
            assert_eq!(canary.hear("me", "me", fourth), Heard::Gap);
            assert_eq!(canary.silent_since(), None);
        }
        let mut canary = Canary::default();
        for (number, expected) in
            [(5, Heard::InOrder), (6, Heard::InOrder), (8, Heard::Gap), (1, Heard::InOrder)]
        {
            assert_eq!(canary.hear("me", "other", number), expected, "{number}");
        }
    }
}
