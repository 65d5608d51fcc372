//! Which addresses the names of a service have, and since when one has gone; pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

/// One address of one of the endpoints that are names; the first is the endpoint's number.
pub(super) type Member = (usize, SocketAddr);

/// Remembers the addresses, also for a while those that are not in DNS any more.
#[derive(Debug, Default)]
pub(super) struct Membership {
    /// With when it left DNS, if it has.
    members: BTreeMap<Member, Option<Instant>>,
}

/// Says what became of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// It is new.
    Joined(Member),
    /// It is not in DNS any more.
    Left(Member),
    /// It is in DNS again.
    Back(Member),
    /// It has not been in DNS for long enough.
    Forgotten(Member),
}

/// Addresses of one service at most.
pub(super) const MEMBERS_MAX: usize = 200;

impl Membership {
    /// Takes what was found for each endpoint; of one that is not there nothing is known, and all stays as it was.
    pub(super) fn update(
        &mut self,
        found: &BTreeMap<usize, BTreeSet<SocketAddr>>,
        forget_after: Duration,
        now: Instant,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        for (member, left_at) in &mut self.members {
            let Some(addresses) = found.get(&member.0) else { continue };
            match (addresses.contains(&member.1), *left_at) {
                (true, Some(_)) => {
                    *left_at = None;
                    changes.push(Change::Back(*member));
                }
                (false, None) => {
                    *left_at = Some(now);
                    changes.push(Change::Left(*member));
                }
                (true, None) | (false, Some(_)) => {}
            }
        }
        let is_over =
            |left_at: &Option<Instant>| left_at.is_some_and(|left_at| left_at + forget_after <= now);
        let over: Vec<Member> =
            self.members.iter().filter(|(_, left_at)| is_over(left_at)).map(|(member, _)| *member).collect();
        for member in over {
            self.members.remove(&member);
            changes.push(Change::Forgotten(member));
        }
        let all =
            found.iter().flat_map(|(name, addresses)| addresses.iter().map(|address| (*name, *address)));
        for member in all {
            if self.members.len() < MEMBERS_MAX && !self.members.contains_key(&member) {
                self.members.insert(member, None);
                changes.push(Change::Joined(member));
            }
        }
        changes
    }

    /// Counts those in DNS.
    pub(super) fn n_in_dns(&self) -> usize {
        self.members.values().filter(|left_at| left_at.is_none()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: [Change; 0] = [];

    fn ip(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 4010))
    }

    #[test]
    fn addresses_come_leave_return_and_are_forgotten() {
        let start = Instant::now();
        let mut membership = Membership::default();
        let mut look = |second: u64, found: Option<&[u8]>| {
            let found = found.map(|found| (0, found.iter().map(|last| ip(*last)).collect()));
            membership.update(
                &found.into_iter().collect(),
                Duration::from_secs(60),
                start + Duration::from_secs(second),
            )
        };
        let (a, b) = ((0, ip(1)), (0, ip(2)));
        assert_eq!(look(0, Some(&[1, 2])), [Change::Joined(a), Change::Joined(b)]);
        assert_eq!(look(10, Some(&[1, 2])), NOTHING);
        assert_eq!(look(20, None), NOTHING, "nobody knows: all stays as it was");
        assert_eq!(look(30, Some(&[1])), [Change::Left(b)]);
        assert_eq!(look(80, Some(&[1, 2])), [Change::Back(b)]);
        assert_eq!(look(90, Some(&[1])), [Change::Left(b)]);
        assert_eq!(look(149, Some(&[1])), NOTHING);
        assert_eq!(look(150, Some(&[1])), [Change::Forgotten(b)]);
        assert_eq!(look(151, Some(&[1, 2])), [Change::Joined(b)]);
        assert_eq!(membership.n_in_dns(), 2);
    }

    #[test]
    fn memory_has_a_bound() {
        let mut membership = Membership::default();
        let found = (0..=u8::MAX).map(ip).collect();
        membership.update(&[(0, found)].into(), Duration::ZERO, Instant::now());
        assert_eq!(membership.n_in_dns(), MEMBERS_MAX);
    }
}
