//! Who stays and who leaves when there is no room for all.

use super::*;

#[test]
fn pinned_entries_stay_through_a_scan_of_ten_times_the_room_up_to_their_share() {
    for eviction in Eviction::ALL {
        let memory = small_memory(eviction);
        memory.pin_up_to(10);
        let now = time().0.now();
        fill_up(&memory, 0..ROOM, now);
        let pinned = (0..ROOM).filter(|number| memory.pin(&key(&format!("{number:06}")))).count();
        assert_eq!(pinned, ROOM / 10, "{eviction:?}");
        fill_up(&memory, ROOM..11 * ROOM, now);
        assert_eq!(held(&memory, 0..pinned), pinned, "{eviction:?}");
        assert_eq!(memory.figures().pinned_entries, pinned as u64);
        // Written anew it stays so; too large for the share it does not.
        memory.put(&key("000000"), &entry(2, b"small", now));
        assert!(memory.is_pinned(&key("000000")), "{eviction:?}");
        memory.put(&key("000000"), &entry(3, &vec![0; 4096], now));
        assert!(!memory.is_pinned(&key("000000")), "{eviction:?}");
        (0..pinned).for_each(|number| memory.unpin(&key(&format!("{number:06}"))));
        fill_up(&memory, 11 * ROOM..21 * ROOM, now);
        assert_eq!(memory.figures().pinned_bytes, 0);
        // Against a scan lfu protects what was read.
        if eviction != Eviction::Lfu {
            assert_eq!(held(&memory, 1..pinned), 0, "{eviction:?}");
        }
    }
}

#[test]
fn an_entry_that_takes_all_room_pushes_pinned_ones_out_too() {
    let memory = small_memory(Eviction::Lfu);
    memory.pin_up_to(50);
    let now = time().0.now();
    fill_up(&memory, 0..ROOM, now);
    assert!(memory.pin(&key("000000")));
    memory.put(&key("huge"), &entry(1, &vec![0; 66 * PAGE_BYTES], now));
    assert_eq!((version_held(&memory, &key("huge")), memory.figures().entries), (Some(1), 1));
}

#[test]
fn a_pinned_entry_may_grow_until_others_have_no_room() {
    for eviction in Eviction::ALL {
        let memory = small_memory(eviction);
        memory.pin_up_to(95);
        let now = time().0.now();
        fill_up(&memory, 0..ROOM, now);
        assert!((0..ROOM).filter(|number| memory.pin(&key(&format!("{number:06}")))).count() > ROOM / 10 * 9);
        for (version, n_bytes) in
            [(2, 2_000), (3, 60 << 10), (4, 40 * PAGE_BYTES), (5, 66 * PAGE_BYTES), (6, 10)]
        {
            memory.put(&key("000000"), &entry(version, &vec![0; n_bytes], now));
            assert_eq!(version_held(&memory, &key("000000")), Some(version), "{eviction:?} of {n_bytes}");
            let figures = memory.figures();
            assert!(figures.bytes <= figures.capacity_bytes, "{eviction:?}");
        }
    }
}

/// Room for about this many of the entries that `fill_up` writes.
const ROOM: usize = 1 << 10;

/// Has room for [`ROOM`] of them: 64 pages, and what each takes beside them.
fn small_memory(eviction: Eviction) -> Memory {
    Memory::new(ROOM as u64 * (1024 + ENTRY_OVERHEAD_BYTES), 1024, eviction)
}

/// Writes entries of which sixteen fill a page, `numbers` of them.
fn fill_up(memory: &Memory, numbers: std::ops::Range<usize>, now: Moment) {
    for number in numbers {
        let key = key(&format!("{number:06}"));
        let value = vec![0; 1024 - key.as_str().len() - Record::HEAD_BYTES];
        let lives_until = now + Duration::from_secs(60 + number as u64);
        memory.put(&key, &Entry { lives_until, ..entry(1, &value, now) });
    }
}

fn held(memory: &Memory, numbers: std::ops::Range<usize>) -> usize {
    numbers.filter(|number| memory.get(&key(&format!("{number:06}"))).is_some()).count()
}

#[test]
fn lfu_keeps_what_is_read_through_a_scan() {
    let memory = small_memory(Eviction::Lfu);
    let now = time().0.now();
    fill_up(&memory, 0..ROOM, now);
    for _ in 0..2 {
        held(&memory, 0..ROOM / 2);
    }
    fill_up(&memory, ROOM..4 * ROOM, now);
    assert_eq!(held(&memory, 0..ROOM / 2), ROOM / 2);
    assert_eq!(held(&memory, ROOM / 2..ROOM), 0);
}

#[test]
fn lfu_takes_back_at_once_what_it_let_go_too_early() {
    let memory = small_memory(Eviction::Lfu);
    let now = time().0.now();
    fill_up(&memory, 0..ROOM, now);
    fill_up(&memory, ROOM..ROOM + 100, now);
    assert_eq!(held(&memory, 0..100), 0, "they left their trial");
    fill_up(&memory, 0..100, now);
    fill_up(&memory, 2 * ROOM..4 * ROOM, now);
    let n_held = held(&memory, 0..100);
    assert!(n_held >= 90, "only {n_held} of what came back within the time of a ghost are held");
}

#[test]
fn lru_lets_go_what_was_not_read_for_longest() {
    let memory = small_memory(Eviction::Lru);
    let now = time().0.now();
    fill_up(&memory, 0..ROOM, now);
    held(&memory, 0..ROOM / 2);
    fill_up(&memory, ROOM..ROOM + ROOM / 2, now);
    assert_eq!(held(&memory, ROOM / 2..ROOM), 0);
    assert_eq!(held(&memory, 0..ROOM / 2), ROOM / 2);
}

#[test]
fn fifo_lets_go_what_was_not_written_for_longest() {
    let memory = small_memory(Eviction::Fifo);
    let now = time().0.now();
    fill_up(&memory, 0..ROOM, now);
    held(&memory, 0..ROOM / 2);
    fill_up(&memory, 0..10, now);
    fill_up(&memory, ROOM..ROOM + ROOM / 2, now);
    assert_eq!(held(&memory, 0..10), 10, "they were written anew");
    assert_eq!(held(&memory, 10..ROOM / 2 + 10), 0);
    assert_eq!(held(&memory, ROOM / 2 + 10..ROOM), ROOM / 2 - 10);
}

#[test]
fn ttl_lets_go_what_ends_first() {
    let memory = small_memory(Eviction::Ttl);
    let now = time().0.now();
    // The later a number the later its end, so the first written here end last.
    fill_up(&memory, ROOM..2 * ROOM, now);
    fill_up(&memory, 0..ROOM / 2, now);
    assert_eq!(held(&memory, 0..ROOM / 2), 1, "only the one just written, for which the others made room");
    assert_eq!(held(&memory, ROOM..2 * ROOM), ROOM - 1);
}

#[test]
fn a_change_of_policy_keeps_the_entries_and_changes_who_leaves_next() {
    let now = time().0.now();
    for from in Eviction::ALL {
        for to in Eviction::ALL {
            let memory = small_memory(from);
            fill_up(&memory, 0..ROOM, now);
            held(&memory, 0..ROOM / 2);
            assert!(memory.set_eviction("test", to));
            assert_eq!(memory.figures().entries, ROOM as u64, "{from:?} to {to:?}");
            memory.sweep(now);
            assert_eq!((memory.figures().entries, memory.figures().evictions), (ROOM as u64, 0));
            let by_eviction = memory.figures_by_eviction();
            let counted = by_eviction.iter().find(|(eviction, _)| *eviction == to).unwrap().1;
            assert_eq!(counted.entries, ROOM as u64, "{from:?} to {to:?}");
            // As many more as there were: whatever stood in an older order must be able to leave.
            fill_up(&memory, ROOM..2 * ROOM, now);
            let figures = memory.figures();
            assert_eq!(
                (figures.entries, figures.evictions),
                (ROOM as u64, ROOM as u64),
                "{from:?} to {to:?}"
            );
            if to == Eviction::Ttl {
                assert_eq!(held(&memory, 0..ROOM), 0, "{from:?} to {to:?}");
            }
        }
    }
}

#[test]
fn namespaces_give_up_entries_in_proportion_to_what_they_hold() {
    let memory = small_memory(Eviction::Lfu);
    let now = time().0.now();
    let value = vec![0; 800];
    let put = |namespace: &str, number: usize| {
        memory.put(&Key::try_new(namespace, &format!("{number:06}")).unwrap(), &entry(1, &value, now));
    };
    assert!(memory.set_eviction("lru", Eviction::Lru) && memory.set_eviction("ttl", Eviction::Ttl));
    (0..2_000).for_each(|number| put("lru", number));
    (0..100).for_each(|number| put("ttl", number));
    let of =
        |wanted| memory.figures_by_eviction().into_iter().find(|(is, _)| *is == wanted).unwrap().1.entries;
    let (small, large) = (of(Eviction::Ttl), of(Eviction::Lru));
    assert!(small >= 80, "a newcomer found room for {small} of 100 beside {large}");
    // Both write the same number from now on, and come to hold the same.
    for number in 0..10_000 {
        put("lru", 2_000 + number);
        put("ttl", 2_000 + number);
    }
    let (one, other) = (of(Eviction::Ttl), of(Eviction::Lru));
    assert!(one * 2 > other && other * 2 > one, "{one} and {other}");
}
