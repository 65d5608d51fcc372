//! Values of one series, compressed.

use std::collections::VecDeque;

use super::words::{WordReader, Words};

/// Holds one value per tick, with gaps, in chunks of [`CHUNK_TICKS`] ticks: of each its bits XOR those of the one before (0 at
/// the start of a chunk), as [`Words`].
///
/// So a figure that rests costs a byte per 128 samples, a counter that grows by small steps 2 to 4 bytes a sample, and
/// noise at most 9. With the overhead of a chunk (about 48 bytes) that is 0.2, 2 to 4 and 9 bytes a sample.
#[derive(Debug, Default)]
pub(super) struct Column {
    sealed: VecDeque<Chunk>,
    head: Option<Head>,
}

/// Ticks that share a chunk.
pub(super) const CHUNK_TICKS: u64 = 240;

#[derive(Debug)]
struct Chunk {
    first_tick: u64,
    last_tick: u64,
    bytes: Box<[u8]>,
}

#[derive(Debug)]
struct Head {
    first_tick: u64,
    last_tick: u64,
    last_bits: u64,
    words: Words,
}

impl Column {
    /// Adds a finite value. A tick that is not later than the last one is ignored.
    pub(super) fn append(&mut self, tick: u64, value: f64) {
        if self.last_tick().is_some_and(|last| tick <= last) {
            return;
        }
        let bits = value.to_bits();
        match &mut self.head {
            Some(head) if tick - head.first_tick < CHUNK_TICKS => head.append(tick, bits),
            Some(head) => self.sealed.push_back(head.begin_anew(tick, bits)),
            none => *none = Some(Head::starting(tick, bits)),
        }
    }

    /// Returns the newest sample.
    pub(super) fn last(&self) -> Option<(u64, f64)> {
        match &self.head {
            Some(head) => Some((head.last_tick, f64::from_bits(head.last_bits))),
            None => self.sealed.back().and_then(|chunk| decode(chunk.first_tick, &chunk.bytes).last()),
        }
    }

    /// Walks the samples from a tick on, oldest first.
    pub(super) fn since(&self, tick: u64) -> impl Iterator<Item = (u64, f64)> {
        let sealed = self.sealed.iter().filter(move |chunk| chunk.last_tick >= tick);
        let sealed = sealed.flat_map(|chunk| decode(chunk.first_tick, &chunk.bytes));
        let head = self.head.iter().flat_map(|head| decode(head.first_tick, head.words.as_bytes()));
        sealed.chain(head).filter(move |(at, _)| *at >= tick)
    }

    /// Drops the chunks that hold nothing but ticks before this one.
    pub(super) fn forget_before(&mut self, tick: u64) {
        while self.sealed.pop_front_if(|chunk| chunk.last_tick < tick).is_some() {}
        self.head.take_if(|head| head.last_tick < tick);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sealed.is_empty() && self.head.is_none()
    }

    /// Adds up the memory of the chunks, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let sealed: usize = self.sealed.iter().map(|chunk| chunk.bytes.len() + size_of::<Chunk>()).sum();
        sealed + self.head.as_ref().map_or(0, |head| head.words.capacity()) + size_of::<Self>()
    }

    fn last_tick(&self) -> Option<u64> {
        let sealed = || self.sealed.back().map(|chunk| chunk.last_tick);
        self.head.as_ref().map(|head| head.last_tick).or_else(sealed)
    }
}

impl Head {
    fn starting(tick: u64, bits: u64) -> Self {
        let mut words = Words::default();
        words.push(bits);
        Self { first_tick: tick, last_tick: tick, last_bits: bits, words }
    }

    fn append(&mut self, tick: u64, bits: u64) {
        self.words.skip(tick - self.last_tick - 1);
        self.words.push(bits ^ self.last_bits);
        (self.last_tick, self.last_bits) = (tick, bits);
    }

    /// Returns what it holds as a chunk, and goes on in the room it has: what grows anew each time leaves holes in memory.
    fn begin_anew(&mut self, tick: u64, bits: u64) -> Chunk {
        let bytes = self.words.as_bytes().into();
        let chunk = Chunk { first_tick: self.first_tick, last_tick: self.last_tick, bytes };
        self.words.clear();
        self.words.push(bits);
        (self.first_tick, self.last_tick, self.last_bits) = (tick, tick, bits);
        chunk
    }
}

fn decode(first_tick: u64, bytes: &[u8]) -> Decoder<'_> {
    Decoder { next_tick: first_tick, bits: 0, words: WordReader::new(bytes) }
}

struct Decoder<'b> {
    next_tick: u64,
    bits: u64,
    words: WordReader<'b>,
}

impl Iterator for Decoder<'_> {
    type Item = (u64, f64);

    fn next(&mut self) -> Option<Self::Item> {
        let (n_skipped, word) = self.words.next()?;
        let tick = self.next_tick + n_skipped;
        (self.next_tick, self.bits) = (tick + 1, self.bits ^ word);
        Some((tick, f64::from_bits(self.bits)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn column(samples: &[(u64, f64)]) -> Column {
        let mut column = Column::default();
        for (tick, value) in samples {
            column.append(*tick, *value);
        }
        column
    }

    proptest! {
        #[test]
        fn what_is_appended_is_read_back(
            steps in proptest::collection::vec((1..400_u64, prop_oneof![any::<f64>(), -3.0..3.0, Just(0.0), Just(7.0)]), 0..600),
            from in 0..20_000_u64,
        ) {
            let mut tick = 0;
            let samples: Vec<(u64, f64)> = steps
                .into_iter()
                .filter(|(_, value)| value.is_finite())
                .map(|(step, value)| { tick += if step > 300 { step } else { 1 + step % 3 }; (tick, value) })
                .collect();
            let column = column(&samples);
            let bits = |(tick, value): (u64, f64)| (tick, value.to_bits());
            let expected: Vec<_> = samples.iter().copied().filter(|(tick, _)| *tick >= from).map(bits).collect();
            prop_assert_eq!(column.since(from).map(bits).collect::<Vec<_>>(), expected);
            prop_assert_eq!(column.last().map(bits), samples.last().copied().map(bits));
        }

        #[test]
        fn no_sample_costs_more_than_nine_bytes(values in proptest::collection::vec(any::<f64>(), 240..=240)) {
            let samples: Vec<_> = values.iter().enumerate().map(|(tick, value)| (tick as u64, *value)).collect();
            let column = column(&samples);
            prop_assert!(column.head.is_some_and(|head| head.words.as_bytes().len() <= 9 * samples.len()));
        }
    }

    #[test]
    fn figure_that_rests_and_counter_that_grows_are_small() {
        let resting = column(&(0..3600).map(|tick| (tick, 42.5)).collect::<Vec<_>>());
        assert!(resting.bytes() < 3600 / 2, "resting: {} bytes", resting.bytes());
        let growing = column(&(0..3600).map(|tick| (tick, 1e6 + (tick * 17) as f64)).collect::<Vec<_>>());
        assert!(growing.bytes() < 3600 * 4, "growing: {} bytes", growing.bytes());
    }

    #[test]
    fn expired_chunks_are_dropped_and_an_empty_column_says_so() {
        let mut column = column(&(0..1000).map(|tick| (tick, tick as f64)).collect::<Vec<_>>());
        column.forget_before(500);
        assert_eq!(column.since(0).next(), Some((480, 480.0)));
        column.forget_before(1000);
        assert!(column.is_empty());
        assert_eq!(column.last(), None);
    }

    #[test]
    fn tick_that_does_not_advance_is_ignored() {
        let mut column = column(&[(5, 1.0)]);
        column.append(5, 2.0);
        column.append(4, 3.0);
        assert_eq!(column.since(0).collect::<Vec<_>>(), [(5, 1.0)]);
    }
}
