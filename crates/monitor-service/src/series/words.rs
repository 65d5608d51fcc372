//! Words that are mostly zero, or short, as bytes: what changes from one figure to the next.

/// Writes words, one operation after the other:
///
/// | first byte | meaning |
/// |---|---|
/// | `0nnnnnnn` | zero, n + 1 times |
/// | `10nnnnnn` | n + 1 places without a word |
/// | `11tttlll` | l + 1 bytes follow, shifted left by t bytes |
#[derive(Debug, Default)]
pub(crate) struct Words {
    bytes: Vec<u8>,
    /// The last operation is a run of zeros that may still grow.
    repeating: bool,
}

const GAP: u8 = 0b1000_0000;
const WORD: u8 = 0b1100_0000;
const ZEROS_MAX: u8 = 0b0111_1111;
const GAP_MAX: u64 = 64;

impl Words {
    /// Adds a word: at most nine bytes.
    pub(crate) fn push(&mut self, word: u64) {
        if word != 0 {
            let shift = word.trailing_zeros() / 8;
            let len = 8 - shift - word.leading_zeros() / 8;
            self.bytes.push(WORD | (shift << 3) as u8 | (len - 1) as u8);
            self.bytes.extend_from_slice(&(word >> (8 * shift)).to_le_bytes()[..len as usize]);
            self.repeating = false;
            return;
        }
        match self.bytes.last_mut().filter(|run| self.repeating && **run < ZEROS_MAX) {
            Some(run) => *run += 1,
            None => self.bytes.push(0),
        }
        self.repeating = true;
    }

    /// Leaves places without a word.
    pub(crate) fn skip(&mut self, mut n_places: u64) {
        while n_places > 0 {
            let step = n_places.min(GAP_MAX);
            self.bytes.push(GAP | (step - 1) as u8);
            self.repeating = false;
            n_places -= step;
        }
    }

    /// Returns what was written so far.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Begins anew in the same room.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.repeating = false;
    }

    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }
}

/// Reads words, each with the places left out before it; ends where an operation is cut short.
#[derive(Debug)]
pub(crate) struct WordReader<'b> {
    bytes: &'b [u8],
    zeros: u8,
}

impl<'b> WordReader<'b> {
    pub(crate) fn new(bytes: &'b [u8]) -> Self {
        Self { bytes, zeros: 0 }
    }

    /// Tells whether nothing is left.
    pub(crate) fn is_at_end(&self) -> bool {
        self.zeros == 0 && self.bytes.is_empty()
    }
}

impl Iterator for WordReader<'_> {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<Self::Item> {
        let mut n_skipped = 0;
        while self.zeros == 0 {
            let (&operation, rest) = self.bytes.split_first()?;
            self.bytes = rest;
            if operation & WORD == WORD {
                let shift = u32::from(operation >> 3 & 0b111) * 8;
                let (payload, rest) = self.bytes.split_at_checked(usize::from(operation & 0b111) + 1)?;
                self.bytes = rest;
                let mut word = [0; 8];
                word[..payload.len()].copy_from_slice(payload);
                return Some((n_skipped, u64::from_le_bytes(word) << shift));
            } else if operation & GAP == GAP {
                n_skipped += u64::from(operation & !GAP) + 1;
            } else {
                self.zeros = operation + 1;
            }
        }
        self.zeros -= 1;
        Some((n_skipped, 0))
    }
}
