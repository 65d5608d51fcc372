//! Whether the pages keep what was stored, whatever moves in them, and whether they stay full.

use std::sync::atomic::AtomicBool;

use super::*;

/// Values of every way of lying: in one item, in chunks, in pages of their own.
fn length_of(random: u32) -> usize {
    let within = |most: usize| random as usize / 8 % most;
    match random % 8 {
        0..4 => within(400),
        4 => within(2_500),
        5 => within(16_000),
        6 => within(66_000),
        _ => 60_000 + within(100_000),
    }
}

/// A value that tells whose it is, and which one.
fn value_of(name: u32, version: u64, n_bytes: usize) -> Vec<u8> {
    let seed = (u64::from(name) << 32 | version).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (0..n_bytes as u64)
        .map(|at| (seed.wrapping_add(at / 7).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 56) as u8)
        .collect()
}

fn weights_of(memory: &Memory) -> u64 {
    memory.figures_by_pool().iter().map(|pool| pool.bytes).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn memory_holds_what_a_map_would(
        steps in prop::collection::vec((0_u32..120, any::<u32>(), 0_u8..8), 1..400),
        eviction in prop::sample::select(Eviction::ALL.to_vec()),
    ) {
        let memory = Memory::new(64 << 20, 1 << 20, eviction);
        let now = time().0.now();
        let mut model = HashMap::new();
        for (version, (name, random, what)) in (1_u64..).zip(steps) {
            let key = key(&name.to_string());
            match what {
                0..2 => {
                    let removed = memory.remove(&key).map(|head| head.version);
                    prop_assert_eq!(removed, model.remove(&name).map(|(version, _)| version));
                }
                2 => prop_assert!(memory.set_eviction("test", Eviction::ALL[random as usize % Eviction::ALL.len()])),
                _ => {
                    let n_bytes = length_of(random);
                    memory.put(&key, &entry(version, &value_of(name, version, n_bytes), now));
                    model.insert(name, (version, n_bytes));
                }
            }
            if version % 20 == 0 {
                let mut seen = HashMap::new();
                memory.visit(|key, bytes, _| seen.extend([(key.to_owned(), bytes - key.len() as u64)]));
                let wanted = model.iter().map(|(name, (_, n))| (format!("test:{name}"), *n as u64)).collect();
                prop_assert_eq!(&seen, &wanted);
            }
        }
        for name in 0..120 {
            let wanted = model.get(&name).map(|(version, n)| (*version, value_of(name, *version, *n)));
            let held = memory.get(&key(&name.to_string()));
            let held = held.map(|held| (held.version, held.into_parts().2.unwrap().to_vec()));
            prop_assert_eq!(&held, &wanted);
            let looked = memory.look(&format!("test:{name}"), |record| {
                (record.head().version, record.value().to_bytes().to_vec())
            });
            prop_assert_eq!(&looked, &wanted);
        }
    }
}

#[test]
fn readers_see_whole_entries_while_others_move_and_leave() {
    let memory = Memory::new(4 << 20, 256 << 10, Eviction::Lfu);
    let (now, done) = (time().0.now(), AtomicBool::new(false));
    let check = |name: u32, record: &Record<'_>| {
        let (version, value) = (record.head().version, record.value());
        assert_eq!(record.key_text(), format!("test:{name}"));
        assert!(value.to_bytes() == value_of(name, version, value.len()), "{name} of version {version}");
    };
    std::thread::scope(|scope| {
        for reader in 0..2 {
            let (memory, done) = (&memory, &done);
            scope.spawn(move || {
                let mut random: u32 = 7 + reader;
                while !done.load(Ordering::Relaxed) {
                    random = (random * 48_271) % 65_521;
                    let names: Vec<u32> = (0..8).map(|nth| (random + nth * 131) % 2_000).collect();
                    let texts: Vec<String> = names.iter().map(|name| format!("test:{name}")).collect();
                    let keys: Vec<&str> = texts.iter().map(String::as_str).collect();
                    let mut names_left = names.iter();
                    memory.look_at_once(&keys, |record| {
                        check(*names_left.next().unwrap(), record);
                        true
                    });
                    memory.look(keys[0], |record| check(names[0], record));
                    if let Some(held) = memory.get(&key(&names[1].to_string())) {
                        let (head, _, value) = held.into_parts();
                        let value = value.unwrap();
                        assert!(value == value_of(names[1], head.version, value.len()));
                    }
                }
            });
        }
        let mut random = 1_u32;
        for version in 1..6_000 {
            random = random.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
            let (name, what) = (random >> 8 & 2_047, random >> 24);
            let key = key(&name.to_string());
            if what < 60 {
                memory.remove(&key);
            } else {
                let n_bytes = length_of(random.rotate_right(7));
                memory.put(&key, &entry(version, &value_of(name, version, n_bytes), now));
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    let figures = memory.figures();
    assert!(figures.evictions > 0 && figures.bytes <= 4 << 20);
}

/// What the pages hold beyond what lives in them, after sizes have changed again and again.
#[test]
fn a_change_of_sizes_leaves_no_holes() {
    for eviction in [Eviction::Lfu, Eviction::Lru] {
        let capacity: u64 = 16 << 20;
        let memory = Memory::new(capacity, 1 << 20, eviction);
        let now = time().0.now();
        let mut random = 1_u64;
        let mut next = |most: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) as usize % most
        };
        for (round, (least, most)) in
            [(64, 512), (4_096, 16_384), (200, 2_000), (64, 32_768), (65_000, 300_000), (8, 64)]
                .into_iter()
                .enumerate()
        {
            let mut written = 0;
            while written < 2 * capacity {
                let n_bytes = least + next(most - least);
                let name = format!("{}", next(10 * usize::try_from(capacity).unwrap() / (most + 150)));
                if next(10) == 0 {
                    memory.remove(&key(&name));
                } else {
                    memory.put(&key(&name), &entry(round as u64, &vec![0; n_bytes], now));
                    written += n_bytes as u64 + 150;
                }
            }
            let (held, lives) = (memory.figures().bytes, weights_of(&memory));
            assert!(held <= capacity, "{eviction:?}: {held}");
            assert!(
                held >= capacity / 100 * 95,
                "{eviction:?}: only {held} after values of {least} to {most}"
            );
            assert!(
                lives * 100 >= held * 93,
                "{eviction:?}: {lives} bytes live in {held} after values of {least} to {most}"
            );
            // Nor do the numbers of many small entries stay when few large ones have come.
            let (n_numbers, n_entries) = memory.shards.iter().fold((0, 0), |sum, shard| {
                let shard = shard.read();
                (sum.0 + u64::from(shard.n_numbers()), sum.1 + shard.n_entries())
            });
            assert!(n_numbers <= n_entries + n_entries / 3 + 2_000, "{n_numbers} for {n_entries}");
        }
    }
}
