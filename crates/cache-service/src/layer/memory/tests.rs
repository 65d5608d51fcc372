use std::collections::HashSet;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use mainstay_runtime::{Clock, ClockHandle};
use proptest::prelude::*;

use super::record::Layout;
use super::*;
use crate::key::ContentType;
use crate::time::Time;

mod leaving;
mod storage;

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
    for eviction in Eviction::ALL {
        let capacity: u64 = 4 << 20;
        let memory = Memory::new(capacity, 64 << 10, eviction);
        let now = time().0.now();
        let mut state: u64 = 1;
        let (mut written, mut number) = (0, 0);
        while written < 10 * capacity {
            // Knuth's MMIX generator: sizes from 0 to 16 KiB, the same in every run.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let value = vec![0; (state >> 50) as usize];
            let lives_for = Duration::from_millis(1 + (state >> 40) % 100_000);
            let (key, entry) = (key(&format!("key-{number}")), entry(1, &value, now));
            written += key.as_str().len() as u64 + value.len() as u64 + ENTRY_OVERHEAD_BYTES;
            number += 1;
            memory.put(&key, &Entry { lives_until: now + lives_for, ..entry });
            memory.get(&self::key(&format!("key-{}", number / 2)));
            let bytes = memory.figures().bytes;
            assert!(bytes <= capacity + capacity / 20, "{eviction:?}: {bytes} held after {number} entries");
        }
        let figures = memory.figures();
        assert!(figures.bytes >= capacity - capacity / 20, "{eviction:?}: only {} held", figures.bytes);
        assert_eq!(figures.entries + figures.evictions, number, "{eviction:?}");
    }
}

#[test]
fn an_entry_costs_at_most_150_bytes_beside_key_and_value() {
    let memory = Memory::new(8 << 20, 1024, Eviction::Lfu);
    let now = time().0.now();
    let counted = || memory.figures_by_pool().iter().map(|pool| pool.bytes).sum::<u64>();
    let mut payload = 0;
    for n_bytes in 0..400 {
        let (key, before) = (key_named(n_bytes), counted());
        memory.put(&key, &entry(1, &vec![0; n_bytes.into()], now));
        let beside = counted() - before - key.as_str().len() as u64 - u64::from(n_bytes);
        let record = u64::from(n_bytes) + key.as_str().len() as u64 + Record::HEAD_BYTES as u64;
        assert!(beside <= 117 + 8 + record / 12, "{beside} bytes with a value of {n_bytes}");
        payload += key.as_str().len() as u64 + u64::from(n_bytes);
    }
    assert!(counted() <= payload + 400 * 150);
}

#[test]
fn an_entry_counts_for_its_texts_its_value_and_what_it_takes_beside() {
    let memory = Memory::new(1 << 20, 1024, Eviction::Lfu);
    let tags = crate::key::Tags::try_new(["a", "bc"]).unwrap();
    let content_type = ContentType::try_new("text/plain").unwrap();
    let entry = Entry { tags, content_type, ..entry(1, b"12345", time().0.now()) };
    memory.put(&key("a"), &entry);
    // Tags with one byte of length each.
    let item = arena::class_for(Record::HEAD_BYTES + "test:a".len() + 5 + 10 + 5);
    let counted = memory.figures_by_pool().iter().map(|pool| pool.bytes).sum::<u64>();
    assert_eq!(counted, arena::class_bytes(item) as u64 + ENTRY_OVERHEAD_BYTES);
    assert_eq!(memory.figures().bytes, PAGE_BYTES as u64 + ENTRY_OVERHEAD_BYTES);
}

#[test]
fn an_entry_comes_back_as_it_was_put() {
    let memory = Memory::new(1 << 20, 4096, Eviction::Lfu);
    let now = time().0.now();
    let sizes = [0, 10, 1_900, 2_048, 4_096, 65_536, 65_537, 100_000].map(|n_bytes| Some(patterned(n_bytes)));
    for value in std::iter::once(None).chain(sizes) {
        let tags = crate::key::Tags::try_new(["a", "größe"]).unwrap();
        let content_type = ContentType::try_new("text/plain").unwrap();
        let put = Entry { value, tags, content_type, epoch: 9, confirmed: false, ..entry(7, b"", now) };
        memory.put(&key("a"), &put);
        let held = memory.get(&key("a")).unwrap();
        assert_eq!(held.tags().collect::<Vec<_>>(), ["a", "größe"]);
        let (_, content_type, value) = held.clone().into_parts();
        assert_eq!((content_type, value), (put.content_type, put.value.clone()));
        let head = (held.version, held.epoch, held.confirmed, held.has_value);
        assert_eq!(head, (7, 9, false, put.value.is_some()));
        let times = (held.fresh_until, held.lives_until, held.kept_until, held.set_at_unix_ms);
        assert_eq!(times, (put.fresh_until, put.lives_until, put.kept_until, put.set_at_unix_ms));
    }
}

/// Bytes of which no two parts are alike.
fn patterned(n_bytes: usize) -> Bytes {
    (0..n_bytes as u32).map(|at| (at.wrapping_mul(0x9E37_79B9) >> 24) as u8).collect()
}

fn key_named(number: u16) -> Key {
    key(&number.to_string())
}

#[test]
fn the_largest_value_fits_into_the_smallest_memory() {
    let memory = Memory::new(1 << 20, 256 << 10, Eviction::Lfu);
    let now = time().0.now();
    memory.put(&key("large"), &entry(1, &vec![7; 256 << 10], now));
    assert_eq!(version_held(&memory, &key("large")), Some(1));
}

#[test]
fn an_entry_leaves_when_it_is_of_no_use_any_more() {
    let (time, clock) = time();
    let memory = Memory::new(1 << 20, 1024, Eviction::Lfu);
    memory.put(&key("a"), &entry(1, b"a", time.now()));
    memory.put(&key("b"), &entry(1, b"b", time.now()));
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
    let memory = Memory::new(1 << 20, 1024, Eviction::Lfu);
    let now = time().0.now();
    memory.put(&key("a"), &entry(6, b"second", now));
    memory.put(&key("a"), &entry(5, b"first", now));
    assert_eq!(version_held(&memory, &key("a")), Some(6));
}

#[test]
fn a_change_during_a_load_wins_over_the_load() {
    let memory = Memory::new(1 << 20, 1024, Eviction::Lfu);
    let now = time().0.now();
    let a = key("a");

    let mark = memory.mark(&a);
    memory.remove(&a);
    memory.fill(&a, &entry(1, b"loaded", now), mark);
    assert_eq!(version_held(&memory, &a), None, "a deleted entry came back");

    let mark = memory.mark(&a);
    memory.put(&a, &entry(9, b"set", now));
    memory.fill(&a, &entry(3, b"loaded", now), mark);
    memory.forget(&a, mark);
    assert_eq!(version_held(&memory, &a), Some(9), "an older load covered a set");

    let mark = memory.mark(&a);
    memory.fill(&a, &entry(3, b"what the layer below has", now), mark);
    assert_eq!(version_held(&memory, &a), Some(3));
    memory.forget(&a, mark);
    assert_eq!(version_held(&memory, &a), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn the_bytes_counted_are_those_of_what_is_held(
        steps in prop::collection::vec((0_u16..400, 0_usize..9_000, 0_u8..9), 1..600),
    ) {
        let memory = Memory::new(1 << 20, 1024, Eviction::Lfu);
        memory.pin_up_to(10);
        let now = time().0.now();
        for (version, (name, length, what)) in (1_u64..).zip(steps) {
            let key = key(&format!("{name}"));
            let lives_until = now + Duration::from_millis(length as u64);
            match what {
                0 => drop(memory.remove(&key)),
                1 => {
                    let eviction = Eviction::ALL[length % Eviction::ALL.len()];
                    prop_assert!(memory.set_eviction("test", eviction));
                }
                2 => memory.sweep(now + Duration::from_millis(length as u64)),
                3 => prop_assert_eq!(memory.pin(&key), memory.is_pinned(&key)),
                4 => memory.unpin(&key),
                _ => {
                    let entry = Entry { lives_until, kept_until: lives_until, ..entry(version, &vec![1; length], now) };
                    memory.put(&key, &entry);
                }
            }
            let (mut n_seen, mut n_bytes, mut classes) = (0, 0, HashSet::from([arena::CHUNK]));
            memory.visit(|key, bytes, _| {
                n_seen += 1;
                let layout = Layout::of(key.len(), usize::try_from(bytes).unwrap() - key.len());
                n_bytes += layout.n_bytes() as u64 + ENTRY_OVERHEAD_BYTES;
                classes.insert(layout.class);
            });
            let figures = memory.figures();
            prop_assert_eq!(figures.entries, n_seen);
            // Of each size one page may be partly empty, and the last item of a page leaves the odd bytes behind it.
            let unused = (classes.len() * PAGE_BYTES) as u64 + n_bytes / 20;
            prop_assert!((n_bytes..=n_bytes + unused).contains(&figures.bytes), "{} for {n_bytes}", figures.bytes);
            prop_assert!(figures.bytes <= 1 << 20);
            prop_assert!(figures.pinned_bytes <= (1 << 20) / 10);
            let pools = memory.figures_by_eviction();
            let sums = pools.iter().fold((0, 0), |sum, (_, pool)| (sum.0 + pool.entries, sum.1 + pool.bytes));
            prop_assert_eq!(sums, (n_seen, n_bytes));
        }
        let pinned = (0..400).map(key_named).filter(|key| memory.is_pinned(key)).count();
        prop_assert_eq!(memory.figures().pinned_entries, pinned as u64);
    }

    #[test]
    fn what_was_put_last_is_held_while_there_is_room(
        steps in prop::collection::vec((0_u8..20, 0_usize..200, any::<bool>()), 1..100),
    ) {
        let memory = Memory::new(1 << 20, 1024, Eviction::Lfu);
        let now = time().0.now();
        let mut model = HashMap::new();
        for (version, (name, length, removes)) in (1_u64..).zip(steps) {
            let key = key(&format!("{name}"));
            if removes {
                let removed = memory.remove(&key).map(|entry| entry.version);
                prop_assert_eq!(removed, model.remove(&name));
            } else {
                memory.put(&key, &entry(version, &vec![1; length], now));
                model.insert(name, version);
            }
        }
        for name in 0..20 {
            prop_assert_eq!(version_held(&memory, &key(&format!("{name}"))), model.get(&name).copied());
        }
    }
}

proptest! {
    /// Looking at many at once shows what looking at each shows, up to the first that needs more.
    #[test]
    fn many_are_seen_at_once_as_each_alone(
        held in prop::collection::vec((0_usize..40, 0_usize..3), 0..30),
        asked in prop::collection::vec(0_usize..40, 0..2 * LOOKED_AT_ONCE),
        most in 0_usize..40,
        eviction in prop::sample::select(Eviction::ALL.to_vec()),
    ) {
        let memory = Memory::new(32 << 20, 1 << 10, eviction);
        for (number, size) in &held {
            let value = vec![*number as u8; [0, 100, SEEN_TOGETHER_BYTES + 1][*size]];
            memory.put(&key(&number.to_string()), &entry(1, &value, time().0.now()));
        }
        let texts: Vec<String> = asked.iter().map(|number| format!("test:{number}")).collect();
        let keys: Vec<&str> = texts.iter().map(String::as_str).collect();
        let mut seen = Vec::new();
        memory.look_at_once(&keys, |record| {
            seen.push(record.value().to_bytes());
            seen.len() < most
        });
        prop_assert!(seen.len() <= LOOKED_AT_ONCE);
        for (key, value) in keys.iter().zip(&seen) {
            let alone = memory.look(key, |record| record.value().to_bytes());
            prop_assert_eq!(alone.as_ref(), Some(value));
        }
        // It ended for a reason.
        let (n_seen, next) = (seen.len(), keys.get(seen.len()));
        let is_large = |value: &Bytes| value.len() > SEEN_TOGETHER_BYTES;
        let moves = eviction == Eviction::Lru;
        prop_assert!(
            n_seen == LOOKED_AT_ONCE
                || n_seen >= most.max(1)
                || seen.last().is_some_and(is_large)
                || next.is_none_or(|next| moves || memory.look(next, |_| ()).is_none())
        );
    }
}

#[test]
fn readers_and_writers_of_many_keys_at_once_do_not_wait_for_ever() {
    let memory = Memory::new(64 << 20, 1 << 10, Eviction::Lfu);
    let now = time().0.now();
    let texts: Vec<String> = (0..200).map(|number| format!("test:{number}")).collect();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for from in [0, 1] {
            let (memory, texts, done) = (&memory, &texts, &done);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let keys: Vec<&str> =
                        texts[from..].iter().rev().step_by(from + 1).map(String::as_str).collect();
                    keys.chunks(LOOKED_AT_ONCE).for_each(|keys| memory.look_at_once(keys, |_| true));
                }
            });
        }
        for round in 0..50 {
            for number in 0..200 {
                memory.put(&key(&number.to_string()), &entry(round, b"value", now));
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(memory.figures().entries, 200);
}
