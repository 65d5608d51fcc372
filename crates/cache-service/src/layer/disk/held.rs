use std::collections::HashMap;

/// What the disk holds of a namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct HeldOnDisk {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    /// Entries that left with the oldest file.
    pub(crate) evictions: u64,
}

/// Counts what lies on disk by namespace. Beyond a number of names the rest is counted together.
#[derive(Debug, Default)]
pub(super) struct Held {
    numbers: HashMap<Box<str>, u32>,
    figures: Vec<HeldOnDisk>,
    rest: HeldOnDisk,
}

/// Names that are told apart.
const MOST_NAMES: usize = 1_100;
/// Of the rest.
const REST: u32 = u32::MAX;
const REST_NAME: &str = "(other)";

impl Held {
    /// Returns the number of the namespace of `namespace:key`.
    pub(super) fn number(&mut self, key: &str) -> u32 {
        let name = key.split_once(':').map_or(key, |(name, _)| name);
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        if self.figures.len() >= MOST_NAMES {
            return REST;
        }
        let number = u32::try_from(self.figures.len()).expect("there are few names");
        self.numbers.insert(name.into(), number);
        self.figures.push(HeldOnDisk::default());
        number
    }

    pub(super) fn added(&mut self, number: u32, bytes: u32) {
        let held = self.of(number);
        held.entries += 1;
        held.bytes += u64::from(bytes);
    }

    pub(super) fn removed(&mut self, number: u32, bytes: u32) {
        let held = self.of(number);
        held.entries -= 1;
        held.bytes -= u64::from(bytes);
    }

    pub(super) fn evicted(&mut self, number: u32) {
        self.of(number).evictions += 1;
    }

    /// Forgets what lies on disk, and not what was evicted before.
    pub(super) fn clear(&mut self) {
        for held in self.figures.iter_mut().chain([&mut self.rest]) {
            *held = HeldOnDisk { evictions: held.evictions, ..HeldOnDisk::default() };
        }
    }

    /// Takes over what another one counted, which had nothing before; what was evicted here stays counted.
    pub(super) fn take_over(&mut self, found: Self) {
        let before = std::mem::replace(self, found);
        self.rest.evictions += before.rest.evictions;
        for (name, held) in before.figures() {
            if name != REST_NAME {
                let number = self.number(&name);
                self.of(number).evictions += held.evictions;
            }
        }
    }

    pub(super) fn figures(&self) -> Vec<(String, HeldOnDisk)> {
        let named =
            self.numbers.iter().map(|(name, number)| (name.to_string(), self.figures[*number as usize]));
        let rest = (self.rest != HeldOnDisk::default()).then(|| (REST_NAME.to_owned(), self.rest));
        named.chain(rest).collect()
    }

    fn of(&mut self, number: u32) -> &mut HeldOnDisk {
        self.figures.get_mut(number as usize).unwrap_or(&mut self.rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_beyond_a_number_of_them_are_counted_together() {
        let mut held = Held::default();
        for name in 0..MOST_NAMES + 5 {
            let number = held.number(&format!("n{name}:key"));
            held.added(number, 10);
            held.added(number, 10);
            held.removed(number, 10);
        }
        let figures = held.figures();
        assert_eq!(figures.len(), MOST_NAMES + 1);
        let rest = figures.iter().find(|(name, _)| name == REST_NAME).unwrap().1;
        assert_eq!(rest, HeldOnDisk { entries: 5, bytes: 50, evictions: 0 });
        assert!(figures.iter().all(|(name, held)| name == REST_NAME || held.bytes == 10));
    }
}
