use prometheus_client::metrics::family::Family;

use super::*;
use crate::clock::Clock;
use crate::component::ComponentKind;

fn readiness() -> (Arc<Readiness>, Arc<Components>, Gauge) {
    let (components, gauge) = (Components::new(Family::default()), Gauge::default());
    (Readiness::new(Arc::clone(&components), gauge.clone()), components, gauge)
}

fn names(readiness: &Readiness) -> Vec<String> {
    readiness.obstacles().into_iter().map(|obstacle| obstacle.name).collect()
}

#[test]
fn ready_when_the_last_latch_is_gone() {
    let (readiness, _, gauge) = readiness();
    assert!(readiness.is_ready(), "nothing is in the way");
    let first = readiness.latch("first");
    let second = readiness.latch("second");
    assert_eq!(names(&readiness), ["first", "second"]);
    first.release();
    assert_eq!((readiness.is_ready(), gauge.get()), (false, 0));
    drop(second);
    assert_eq!((readiness.is_ready(), gauge.get()), (true, 1));
}

#[test]
fn critical_components_decide_and_others_do_not() {
    let (readiness, components, _) = readiness();
    let add = |name: &str, critical| {
        components.add(name.to_owned(), ComponentKind::Datastore, critical, &Clock::system(), &readiness)
    };
    let store = add("store", true);
    assert_eq!(names(&readiness), ["store"], "unknown is not good enough");
    let spare = add("spare", false);
    spare.unhealthy("gone");
    store.degraded("slow");
    assert!(readiness.is_ready());
    store.unhealthy("connection refused");
    let expected = Obstacle { name: "store".into(), reason: "connection refused".into() };
    assert_eq!(readiness.obstacles(), [expected]);
    store.remove();
    assert!(readiness.is_ready());
}

#[test]
fn draining_is_final_and_followers_see_it() {
    let (readiness, _, _) = readiness();
    let mut follower = readiness.watch();
    assert!(*follower.borrow_and_update());
    readiness.drain();
    assert!(follower.has_changed().expect("readiness is alive"));
    readiness.latch("late").release();
    assert!(!readiness.is_ready());
    assert_eq!(names(&readiness), ["process"]);
}
