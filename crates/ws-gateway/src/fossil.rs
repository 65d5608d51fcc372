//! Patches between texts, in the delta format of the Fossil version control system
//! (<https://fossil-scm.org/home/doc/trunk/www/delta_format.wiki>).
//!
//! A patch says how to make the new text from pieces of the old one. Pieces begin and end between characters, so a patch
//! is a text itself and can travel inside of JSON.

/// The digits of numbers, base 64.
const DIGITS: &[u8; 64] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~";

/// The old text is looked up in blocks of this size.
const BLOCK_BYTES: usize = 16;

/// Places looked at for one block; those that find none free are left out.
const PROBES: usize = 8;

/// Naming a shorter piece of the old text takes about as much room as repeating it.
const SHORTEST_COPY: usize = 10;

/// Returns a patch that makes `new` from `old`; none when it would not be shorter than `new`.
///
/// Takes time in proportion to the two lengths, and memory to that of `old`.
pub(crate) fn patch(old: &str, new: &str) -> Option<String> {
    let mut writer = Writer { old: old.as_bytes(), new, text: String::new(), written: 0 };
    put_number(new.len(), &mut writer.text);
    writer.text.push('\n');
    writer.pieces();
    writer.repeat(new.len());
    put_number(checksum(new.as_bytes()) as usize, &mut writer.text);
    writer.text.push(';');
    (writer.text.len() < new.len()).then_some(writer.text)
}

struct Writer<'a> {
    old: &'a [u8],
    new: &'a str,
    text: String,
    /// How much of the new text the patch makes so far.
    written: usize,
}

impl Writer<'_> {
    /// Writes all but the last piece that is not in the old text.
    fn pieces(&mut self) {
        let new = self.new.as_bytes();
        let ends = common(self.old.iter(), new.iter());
        if self.copy(0, 0, ends) && self.written == new.len() {
            return;
        }
        // What the ends have in common needs no search.
        let left = self.old.len().min(new.len() - self.written);
        let tail = common(self.old.iter().rev(), new.iter().rev()).min(left);
        let blocks = Blocks::new(self.old);
        let searched = new.len() - tail;
        let mut at = self.written;
        while let Some(block) = new[..searched].get(at..at + BLOCK_BYTES) {
            at = match blocks.find(block) {
                Some(from) if self.extended(from, at, searched) => self.written,
                _ => at + 1,
            };
        }
        self.copy(self.old.len() - tail, new.len() - tail, tail);
    }

    /// Copies as much as is equal around a block that is.
    fn extended(&mut self, from: usize, at: usize, searched: usize) -> bool {
        let (old, new) = (self.old, self.new.as_bytes());
        let ahead = common(old[from..].iter(), new[at..searched].iter());
        let behind = common(old[..from].iter().rev(), new[self.written..at].iter().rev());
        self.copy(from - behind, at - behind, ahead + behind)
    }

    /// Writes that a piece is in the old text, unless it is too short between its first and its last whole character.
    fn copy(&mut self, mut from: usize, mut at: usize, len: usize) -> bool {
        let mut end = at + len;
        while at < end && !self.new.is_char_boundary(at) {
            (from, at) = (from + 1, at + 1);
        }
        end = self.new.floor_char_boundary(end).max(at);
        if end - at < SHORTEST_COPY {
            return false;
        }
        self.repeat(at);
        put_number(end - at, &mut self.text);
        self.text.push('@');
        put_number(from, &mut self.text);
        self.text.push(',');
        self.written = end;
        true
    }

    /// Writes out the new text up to a place.
    fn repeat(&mut self, until: usize) {
        let piece = &self.new[self.written..until];
        if !piece.is_empty() {
            put_number(piece.len(), &mut self.text);
            self.text.push(':');
            self.text.push_str(piece);
        }
        self.written = until;
    }
}

/// Where the blocks of a text are, for the first block of each content.
struct Blocks<'a> {
    text: &'a [u8],
    /// Number of the block, plus one; 0 where there is none. A quarter of the places is taken at most.
    table: Vec<u32>,
}

impl<'a> Blocks<'a> {
    fn new(text: &'a [u8]) -> Self {
        let n_blocks = text.len() / BLOCK_BYTES;
        let mut blocks = Self { text, table: vec![0; (4 * n_blocks).next_power_of_two()] };
        for (number, block) in (1..).zip(text.chunks_exact(BLOCK_BYTES)) {
            if let Some(free) = blocks.places(block).find(|&place| !blocks.is_other(place, block))
                && blocks.table[free] == 0
            {
                blocks.table[free] = number;
            }
        }
        blocks
    }

    fn find(&self, block: &[u8]) -> Option<usize> {
        let place = self.places(block).find(|&place| !self.is_other(place, block))?;
        Some((self.table[place] as usize).checked_sub(1)? * BLOCK_BYTES)
    }

    /// Returns where a block may stand, the likeliest place first.
    fn places(&self, block: &[u8]) -> impl Iterator<Item = usize> + use<> {
        let (head, tail) = block.split_at(8);
        let number = |part: &[u8]| u64::from_le_bytes(part.try_into().expect("half a block has 8 bytes"));
        // Fibonacci hashing: the upper bits of the product depend on all of the input.
        let mixed = (number(head) ^ number(tail).rotate_left(29)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let (first, mask) = ((mixed >> 32) as usize, self.table.len() - 1);
        (first..first + PROBES).map(move |place| place & mask)
    }

    /// Tells whether another block stands in a place.
    fn is_other(&self, place: usize, block: &[u8]) -> bool {
        let Some(at) = (self.table[place] as usize).checked_sub(1) else { return false };
        self.text[at * BLOCK_BYTES..][..BLOCK_BYTES] != *block
    }
}

fn common<'a>(one: impl Iterator<Item = &'a u8>, other: impl Iterator<Item = &'a u8>) -> usize {
    one.zip(other).take_while(|(one, other)| one == other).count()
}

/// Adds up a text as numbers of four bytes, the first byte counting most.
fn checksum(text: &[u8]) -> u32 {
    text.chunks(4).fold(0, |sum: u32, chunk| {
        let mut bytes = [0; 4];
        bytes[..chunk.len()].copy_from_slice(chunk);
        sum.wrapping_add(u32::from_be_bytes(bytes))
    })
}

fn put_number(number: usize, text: &mut String) {
    let n_digits = number.checked_ilog2().map_or(1, |log| log / 6 + 1);
    text.extend((0..n_digits).rev().map(|digit| DIGITS[number >> (6 * digit) & 63] as char));
}

#[cfg(test)]
mod tests;
