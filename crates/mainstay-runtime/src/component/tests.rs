use std::time::UNIX_EPOCH;

use super::*;
use crate::context::Context;

fn of(cx: &Context, name: &str) -> ComponentSnapshot {
    let all = cx.inner.components.snapshot();
    all.into_iter().find(|component| component.name == name).expect("the component was added")
}

#[test]
fn since_moves_with_health_and_checked_at_with_every_look() {
    let (clock, hand) = Clock::fixed(UNIX_EPOCH);
    let cx = Context::for_test_at("test-service", clock);
    let redis = cx.component("redis", ComponentKind::Datastore, true);
    let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
    let fresh = of(&cx, "redis");
    assert_eq!((fresh.health, fresh.checked_at, fresh.since), (Health::Unknown, None, at(0)));

    hand.advance(Duration::from_secs(1));
    redis.healthy("");
    hand.advance(Duration::from_secs(1));
    redis.latency(Duration::from_micros(300));
    redis.attribute("role", "primary");
    redis.healthy("up");
    let seen = of(&cx, "redis");
    assert_eq!((seen.since, seen.checked_at), (at(1), Some(at(2))));
    assert_eq!((seen.detail.as_str(), seen.latency), ("up", Some(Duration::from_micros(300))));
    assert_eq!(seen.attributes["role"], "primary");

    hand.advance(Duration::from_secs(1));
    redis.unhealthy("connection refused");
    assert_eq!(of(&cx, "redis").since, at(3));
}

#[test]
fn worse_is_told_from_better() {
    use Health::{Degraded, Healthy, Unhealthy, Unknown};
    for (before, after, worse) in [
        (Healthy, Degraded, true),
        (Healthy, Unhealthy, true),
        (Degraded, Unhealthy, true),
        (Unknown, Degraded, true),
        (Unknown, Healthy, false),
        (Unhealthy, Degraded, false),
        (Degraded, Healthy, false),
    ] {
        assert_eq!(after.is_worse_than(before), worse, "{before:?} to {after:?}");
    }
}

#[test]
fn gauge_follows_health_and_goes_with_the_component() {
    let cx = Context::for_test("test-service");
    let line = |health| format!("mainstay_component_health{{component=\"disk\"}} {health}\n");
    let disk = cx.component("disk", ComponentKind::System, false);
    assert!(cx.inner.metrics.render().contains(&line(0)));
    disk.degraded("90 % full");
    assert!(cx.inner.metrics.render().contains(&line(2)));
    disk.remove();
    assert!(!cx.inner.metrics.render().contains("component=\"disk\""));
}

#[test]
fn removing_an_older_namesake_keeps_the_newer() {
    let cx = Context::for_test("test-service");
    let old = cx.component("node", ComponentKind::Upstream, true);
    let new = cx.component("node", ComponentKind::Upstream, true);
    new.healthy("");
    old.remove();
    assert_eq!(of(&cx, "node").health, Health::Healthy);
    assert!(cx.is_ready());
}
