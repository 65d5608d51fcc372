use std::time::Duration;

use super::*;
use crate::test_time::origin;

const SECOND: Duration = Duration::from_secs(1);

/// Drives a cluster second by second.
struct World {
    cluster: Cluster,
    now: Instant,
}

impl World {
    fn new(n_nodes: u32) -> Self {
        let limits = limits();
        let mut cluster = Cluster::new(limits.clone());
        let nodes: Vec<_> = (0..n_nodes).map(|number| (NodeId(number), false)).collect();
        assert_eq!(cluster.watch(limits, &nodes), None);
        Self { cluster, now: origin() }
    }

    fn moment(&self) -> Moment {
        Moment { asked_at: self.now, wall: SystemTime::UNIX_EPOCH, took: Duration::ZERO }
    }

    fn primary(&mut self, node: u32, timeline: u32, lsn: u64) -> Vec<Change> {
        let seen = Observation { in_recovery: false, ..answer(timeline, lsn) };
        self.cluster.observe(NodeId(node), self.moment(), Ok(seen))
    }

    fn replica(&mut self, node: u32, timeline: u32, lsn: u64) -> Vec<Change> {
        self.cluster.observe(NodeId(node), self.moment(), Ok(answer(timeline, lsn)))
    }

    fn silent(&mut self, node: u32) -> Vec<Change> {
        self.cluster.observe(NodeId(node), self.moment(), Err("connection refused".to_owned()))
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    fn staleness(&self, node: u32) -> Option<Duration> {
        self.cluster.lag(NodeId(node), self.now).and_then(|lag| lag.staleness)
    }

    fn detail(&self, node: u32) -> String {
        self.cluster.verdict(NodeId(node), self.now).detail
    }
}

fn limits() -> Limits {
    Limits {
        down_after: 2,
        up_after: 2,
        max_staleness: SECOND * 5,
        max_lag_bytes: 1_000,
        evidence_for: SECOND * 4,
    }
}

fn answer(timeline: u32, lsn: u64) -> Observation {
    Observation {
        in_recovery: true,
        system_identifier: 7,
        timeline: Some(timeline),
        lsn: Lsn(lsn),
        flushed: None,
        received: Some(Lsn(lsn)),
        receiver: "streaming".to_owned(),
        replay_paused: false,
        naive: None,
        last_message: None,
        slot: None,
        application: None,
        senders: Vec::new(),
        server_version: "15.20".to_owned(),
        shape: WalShape::default(),
        fresh: false,
    }
}

#[test]
fn the_first_answer_is_believed_and_later_ones_need_repetition() {
    let mut world = World::new(1);
    assert_eq!(world.cluster.barred(NodeId(0)), Some(Refusal::NotSeen));
    let elected = Change::Primary { from: Primary::None, to: Primary::Node { node: NodeId(0), timeline: 1 } };
    assert_eq!(world.primary(0, 1, 100), [Change::Up(NodeId(0)), elected]);
    assert_eq!(world.silent(0), []);
    assert_eq!(world.cluster.barred(NodeId(0)), None);
    let lost = Change::Primary { from: Primary::Node { node: NodeId(0), timeline: 1 }, to: Primary::None };
    assert_eq!(world.silent(0), [Change::Down(NodeId(0)), lost]);
    assert_eq!(world.primary(0, 1, 100), []);
    assert_eq!(world.primary(0, 1, 100).len(), 2);
}

#[test]
fn a_node_that_never_answered_comes_up_with_its_first_answer() {
    let mut world = World::new(1);
    for _ in 0..5 {
        world.silent(0);
    }
    assert_eq!(world.cluster.barred(NodeId(0)), Some(Refusal::Down));
    assert_eq!(world.detail(0), "does not answer: connection refused");
    world.primary(0, 1, 100);
    assert_eq!(world.cluster.barred(NodeId(0)), None);
}

#[test]
fn a_promoted_replica_takes_over_and_the_old_primary_is_fenced() {
    let mut world = World::new(2);
    world.primary(0, 1, 100);
    world.replica(1, 1, 100);
    let changes = world.primary(1, 2, 120);
    assert_eq!(
        changes,
        [Change::Primary {
            from: Primary::Node { node: NodeId(0), timeline: 1 },
            to: Primary::Node { node: NodeId(1), timeline: 2 }
        }]
    );
    assert_eq!(world.cluster.barred(NodeId(0)), Some(Refusal::Fenced));
    assert_eq!(world.detail(0), "fenced: out of recovery on timeline 1, but the cluster has been on 2");
}

#[test]
fn an_old_primary_stays_fenced_when_the_new_one_is_gone() {
    let mut world = World::new(2);
    world.primary(0, 1, 100);
    world.primary(1, 2, 120);
    world.silent(1);
    world.silent(1);
    world.primary(0, 1, 130);
    assert_eq!(world.cluster.primary(), &Primary::None);
    assert_eq!(world.cluster.barred(NodeId(0)), Some(Refusal::Fenced));
}

#[test]
fn two_primaries_on_one_timeline_are_a_split_brain_until_one_is_gone() {
    let mut world = World::new(2);
    world.primary(0, 2, 100);
    world.primary(1, 2, 100);
    assert_eq!(world.cluster.primary(), &Primary::SplitBrain(vec![NodeId(0), NodeId(1)]));
    assert_eq!(world.cluster.barred(NodeId(0)), Some(Refusal::Fenced));
    assert_eq!(world.detail(1), "split brain: 2 nodes are out of recovery on timeline 2");
    world.silent(0);
    world.silent(0);
    assert_eq!(world.cluster.primary(), &Primary::Node { node: NodeId(1), timeline: 2 });
}

#[test]
fn a_node_of_another_cluster_is_left_out_even_as_a_primary() {
    let mut world = World::new(2);
    world.primary(0, 1, 100);
    let stranger = Observation { system_identifier: 8, in_recovery: false, ..answer(9, 900) };
    world.cluster.observe(NodeId(1), world.moment(), Ok(stranger));
    assert_eq!(world.cluster.primary(), &Primary::Node { node: NodeId(0), timeline: 1 });
    assert_eq!(world.cluster.barred(NodeId(1)), Some(Refusal::ForeignCluster));
}

#[test]
fn lag_is_right_while_idle_paused_and_without_a_primary() {
    let mut world = World::new(2);
    world.primary(0, 1, 100);
    world.replica(1, 1, 100);
    assert_eq!(world.staleness(1), Some(Duration::ZERO));
    for _ in 0..60 {
        world.pass(SECOND);
        world.primary(0, 1, 100);
        world.replica(1, 1, 100);
    }
    assert_eq!(world.staleness(1), Some(Duration::ZERO));
    for second in 1..=7 {
        world.pass(SECOND);
        world.primary(0, 1, 100 + second);
        world.replica(1, 1, 100);
    }
    assert_eq!(world.staleness(1), Some(SECOND * 7));
    assert_eq!(world.detail(1), "up to 7.0 s stale, above 5.0 s");
    world.replica(1, 1, 107);
    world.silent(0);
    world.silent(0);
    world.pass(SECOND * 3);
    assert_eq!(world.staleness(1), Some(SECOND * 3));
}

#[test]
fn a_replica_on_another_timeline_proves_nothing() {
    let mut world = World::new(3);
    world.primary(0, 1, 100);
    world.replica(2, 1, 150);
    world.primary(1, 2, 120);
    assert_eq!(world.staleness(2), None);
    let Place::Replica { replayed: None, .. } = world.cluster.place(NodeId(2)) else { panic!("comparable") };
    world.replica(2, 2, 150);
    assert!(world.staleness(2).is_some());
}

#[test]
fn a_disconnected_receiver_keeps_the_timeline_it_told_until_a_restart() {
    let mut world = World::new(2);
    world.primary(0, 2, 100);
    world.replica(1, 2, 100);
    let mute = Observation { timeline: Some(1), receiver: String::new(), ..answer(1, 100) };
    world.cluster.observe(NodeId(1), world.moment(), Ok(mute.clone()));
    assert_eq!(world.staleness(1), Some(Duration::ZERO));
    world.cluster.observe(NodeId(1), world.moment(), Ok(Observation { fresh: true, ..mute }));
    assert_eq!(world.staleness(1), None);
}

#[test]
fn a_node_whose_pgbouncer_is_down_gets_nothing() {
    let limits = Limits { max_staleness: SECOND, max_lag_bytes: 1, ..limits() };
    let mut world = World { cluster: Cluster::new(limits.clone()), now: origin() };
    world.cluster.watch(limits, &[(NodeId(0), true)]);
    world.primary(0, 1, 100);
    assert_eq!(world.cluster.barred(NodeId(0)), Some(Refusal::PgBouncerDown));
    world.cluster.observe_pgbouncer(NodeId(0), Ok(()));
    assert_eq!(world.cluster.barred(NodeId(0)), None);
    for _ in 0..2 {
        world.cluster.observe_pgbouncer(NodeId(0), Err("connection refused".to_owned()));
    }
    assert_eq!(world.detail(0), "its pgbouncer is down: connection refused");
}

#[test]
fn what_is_known_of_a_node_stays_when_others_come_and_go() {
    let mut world = World::new(2);
    world.primary(0, 1, 100);
    world.replica(1, 1, 100);
    let limits = Limits { down_after: 1, ..world.cluster.limits.clone() };
    assert_eq!(world.cluster.watch(limits.clone(), &[0, 1, 2].map(|number| (NodeId(number), false))), None);
    assert_eq!(world.staleness(1), Some(Duration::ZERO));
    assert_eq!(world.cluster.barred(NodeId(2)), Some(Refusal::NotSeen));
    world.replica(2, 1, 90);
    assert!(world.cluster.is_up(NodeId(2)));
    // The new limit counts for those that were there before.
    assert_eq!(world.silent(1), [Change::Down(NodeId(1))]);
    let gone = world.cluster.watch(limits, &[(NodeId(1), false)]);
    let primary = Primary::Node { node: NodeId(0), timeline: 1 };
    assert_eq!(gone, Some(Change::Primary { from: primary, to: Primary::None }));
    // A probe that comes late changes nothing.
    assert_eq!(world.primary(0, 1, 120), []);
    assert_eq!(world.cluster.barred(NodeId(0)), Some(Refusal::NotSeen));
}

#[test]
fn a_primary_that_is_watched_no_more_still_fences_an_older_one() {
    let mut world = World::new(2);
    world.primary(0, 1, 100);
    world.primary(1, 2, 120);
    let limits = world.cluster.limits.clone();
    world.cluster.watch(limits, &[(NodeId(0), false)]);
    world.primary(0, 1, 130);
    assert_eq!(world.cluster.primary(), &Primary::None);
    assert_eq!(world.cluster.barred(NodeId(0)), Some(Refusal::Fenced));
}

#[test]
fn the_primary_is_believed_while_every_node_that_is_up_has_answered_of_late() {
    let mut world = World::new(3);
    assert_eq!(world.cluster.believed_until(), None);
    world.primary(0, 1, 100);
    world.replica(1, 1, 100);
    world.replica(2, 1, 100);
    let believed_for = |world: &World| world.cluster.believed_until().unwrap() - world.now;
    assert_eq!(believed_for(&world), SECOND * 4);
    // One node alone says nothing of what became of the others.
    world.pass(SECOND * 3);
    world.primary(0, 1, 110);
    world.replica(1, 1, 110);
    assert_eq!(believed_for(&world), SECOND);
    world.silent(2);
    assert_eq!(believed_for(&world), SECOND);
    // Who is down cannot be asked.
    world.silent(2);
    assert_eq!(believed_for(&world), SECOND * 4);
    // All stood still; the old primary answers first, and is not believed before the others have answered, too.
    world.pass(SECOND * 60);
    world.primary(0, 1, 110);
    assert!(world.cluster.believed_until().unwrap() < world.now);
    world.primary(1, 2, 120);
    assert_eq!(believed_for(&world), SECOND * 4);
    assert_eq!(world.cluster.primary(), &Primary::Node { node: NodeId(1), timeline: 2 });
}
