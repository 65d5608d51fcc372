use std::time::Duration;

use mainstay_tests::{FailoverEvent, FailoverPlan};

/// The published table is printed by `bench-failover`; this is its short form, with room for a busy machine.
const SHORT: FailoverPlan = FailoverPlan {
    writes_per_second: 100,
    down_after: Duration::from_secs(1),
    quiet_for: Duration::from_millis(1_500),
    away_for: Duration::from_millis(4_500),
    settle_for: Duration::from_secs(2),
};
const GAP_MOST: Duration = Duration::from_secs(6);

async fn holds(event: FailoverEvent) {
    let outcome = SHORT.run(event).await.expect("the stack runs");
    assert_eq!((outcome.lost, outcome.doubled), (0, 0), "{event}: {outcome}");
    assert!(outcome.gap < GAP_MOST, "{event}: {outcome}");
    assert!(outcome.acknowledged > outcome.sent / 4, "{event}: {outcome}");
}

#[tokio::test]
async fn no_acknowledged_write_is_lost_or_doubled_when_the_primary_freezes() {
    holds(FailoverEvent::Frozen).await;
}

#[tokio::test]
async fn no_acknowledged_write_is_lost_or_doubled_when_the_primary_is_moved_on_purpose() {
    holds(FailoverEvent::Planned).await;
}

#[tokio::test]
async fn no_acknowledged_write_is_lost_or_doubled_when_the_primary_is_killed() {
    holds(FailoverEvent::Killed).await;
}
