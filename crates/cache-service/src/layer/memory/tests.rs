use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use mainstay_runtime::{Clock, ClockHandle};
use proptest::prelude::*;

use super::*;
use crate::key::ContentType;
use crate::time::Time;

fn time() -> (Time, ClockHandle) {
    let (clock, handle) = Clock::fixed(UNIX_EPOCH + Duration::from_secs(1_000));
    (Time::by_clock_alone(clock), handle)
}

fn key(name: &str) -> Key {
    Key::try_new("test", name).unwrap()
}

fn entry(version: u64, value: &[u8], now: Moment) -> Entry {
    Entry {
        value: Some(Bytes::copy_from_slice(value)),
        content_type: ContentType::default(),
        tags: crate::key::Tags::default(),
        version,
        set_at_unix_ms: 0,
        fresh_until: now + Duration::from_secs(5),
        lives_until: now + Duration::from_mins(1),
        kept_until: now + Duration::from_hours(1),
        confirmed: true,
        epoch: 0,
    }
}

fn version_held(memory: &Memory, key: &Key) -> Option<u64> {
    memory.get(key).map(|entry| entry.version)
}

#[test]
fn the_bound_holds_within_5_percent_under_a_ten_times_larger_working_set() {
    let capacity: u64 = 8 << 20;
    let memory = Memory::new(capacity, 64 << 10);
    let now = time().0.now();
    let mut state: u64 = 1;
    let (mut written, mut number) = (0, 0);
    while written < 10 * capacity {
        // Knuth's MMIX generator: sizes from 0 to 16 KiB, the same in every run.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let value = vec![0; (state >> 50) as usize];
        let (key, entry) = (key(&format!("key-{number}")), entry(1, &value, now));
        written += Weigher.weight(&key, &Arc::new(entry.clone()));
        number += 1;
        memory.put(&key, entry);
        let bytes = memory.figures().bytes;
        assert!(bytes <= capacity + capacity / 20, "{bytes} held of {capacity} after {number} entries");
    }
    let figures = memory.figures();
    assert!(figures.bytes >= capacity - capacity / 20, "only {} held of {capacity}", figures.bytes);
    assert_eq!(figures.entries + figures.evictions, number);
}

#[test]
fn the_largest_value_fits_into_the_smallest_memory() {
    let memory = Memory::new(1 << 20, 256 << 10);
    let now = time().0.now();
    memory.put(&key("large"), entry(1, &vec![7; 256 << 10], now));
    assert_eq!(version_held(&memory, &key("large")), Some(1));
}

#[test]
fn an_entry_leaves_when_it_is_of_no_use_any_more() {
    let (time, clock) = time();
    let memory = Memory::new(1 << 20, 1024);
    memory.put(&key("a"), entry(1, b"a", time.now()));
    memory.put(&key("b"), entry(1, b"b", time.now()));
    let held = memory.get(&key("a")).unwrap();
    let state =
        |time: &Time| (held.is_fresh(time.now()), held.is_alive(time.now()), held.is_kept(time.now()));
    assert_eq!(state(&time), (true, true, true));
    clock.advance(Duration::from_secs(5));
    assert_eq!(state(&time), (false, true, true));
    clock.advance(Duration::from_secs(55));
    assert_eq!(state(&time), (false, false, true));
    memory.expire(&key("a"), time.now());
    memory.sweep(time.now());
    assert_eq!(memory.figures().entries, 2);
    clock.advance(Duration::from_mins(59));
    memory.expire(&key("a"), time.now());
    assert_eq!((memory.figures().entries, memory.figures().expirations), (1, 1));
    memory.sweep(time.now());
    assert_eq!((memory.figures().entries, memory.figures().expirations), (0, 2));
}

#[test]
fn of_two_writes_the_higher_version_stays() {
    let memory = Memory::new(1 << 20, 1024);
    let now = time().0.now();
    memory.put(&key("a"), entry(6, b"second", now));
    memory.put(&key("a"), entry(5, b"first", now));
    assert_eq!(version_held(&memory, &key("a")), Some(6));
}

#[test]
fn a_change_during_a_load_wins_over_the_load() {
    let memory = Memory::new(1 << 20, 1024);
    let now = time().0.now();
    let a = key("a");

    let mark = memory.mark(&a);
    memory.remove(&a);
    memory.fill(&a, entry(1, b"loaded", now), mark);
    assert_eq!(version_held(&memory, &a), None, "a deleted entry came back");

    let mark = memory.mark(&a);
    memory.put(&a, entry(9, b"set", now));
    memory.fill(&a, entry(3, b"loaded", now), mark);
    memory.forget(&a, mark);
    assert_eq!(version_held(&memory, &a), Some(9), "an older load covered a set");

    let mark = memory.mark(&a);
    memory.fill(&a, entry(3, b"what the layer below has", now), mark);
    assert_eq!(version_held(&memory, &a), Some(3));
    memory.forget(&a, mark);
    assert_eq!(version_held(&memory, &a), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn what_was_put_last_is_held_while_there_is_room(
        steps in prop::collection::vec((0_u8..20, 0_usize..200, any::<bool>()), 1..100),
    ) {
        let memory = Memory::new(1 << 20, 1024);
        let now = time().0.now();
        let mut model = std::collections::HashMap::new();
        for (version, (name, length, removes)) in (1_u64..).zip(steps) {
            let key = key(&format!("{name}"));
            if removes {
                let removed = memory.remove(&key).map(|entry| entry.version);
                prop_assert_eq!(removed, model.remove(&name));
            } else {
                memory.put(&key, entry(version, &vec![1; length], now));
                model.insert(name, version);
            }
        }
        for name in 0..20 {
            prop_assert_eq!(version_held(&memory, &key(&format!("{name}"))), model.get(&name).copied());
        }
    }
}
