//! Which partition a name belongs to, and where in a Redis Cluster a partition lies.

/// Slots of every Redis Cluster.
pub(crate) const N_SLOTS: u16 = 16_384;

/// A part of the keys that a script may use together. Outside of a cluster there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition(u16);

impl Partition {
    /// For what there is only one of.
    pub const FIRST: Self = Self(0);

    /// Returns its place among all.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// Returns the first so many.
    pub(crate) fn all(n_partitions: usize) -> impl Iterator<Item = Self> {
        (0..u16::try_from(n_partitions).unwrap_or(u16::MAX)).map(Self)
    }
}

/// Spreads names over partitions whose slots lie evenly among all slots, so that every primary of a cluster has its share.
///
/// A name never changes its partition while their number stays. All keys of a partition begin with its hash tag, so a script
/// may use several of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Partitions {
    tags: Vec<String>,
}

impl Partitions {
    /// Finds a tag for each: the first one whose slot lies in the partition's share.
    pub(crate) fn new(n_partitions: u16) -> Self {
        let tag = |index: u16| {
            let share = |slot: u16| u32::from(slot) * u32::from(n_partitions) / u32::from(N_SLOTS);
            let mut tags = (0_u32..).map(|number| format!("p{index}.{number}"));
            tags.find(|tag| share(slot(tag.as_bytes())) == u32::from(index)).expect("every slot has tags")
        };
        Self { tags: (0..n_partitions).map(tag).collect() }
    }

    /// Returns the partition of a name.
    pub(crate) fn of(&self, name: &str) -> Partition {
        Partition(crc16(name.as_bytes()) % u16::try_from(self.tags.len()).unwrap_or(u16::MAX))
    }

    /// Returns what decides where a partition lies.
    pub(crate) fn tags(&self) -> &[String] {
        &self.tags
    }
}

/// Returns the slot of a key: of what stands between the first `{` and the next `}`, if that is anything.
pub(crate) fn slot(key: &[u8]) -> u16 {
    let tagged = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        let close = rest.iter().position(|byte| *byte == b'}').filter(|close| *close > 0)?;
        Some(&rest[..close])
    });
    crc16(tagged.unwrap_or(key)) % N_SLOTS
}

/// CRC-16/XMODEM, as the cluster specification has it.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        // As CLUSTER KEYSLOT answers.
        for (key, expected) in [("foo", 12_182), ("{foo}.bar", 12_182), ("a{foo}{bar}", 12_182), ("", 0)] {
            assert_eq!(slot(key.as_bytes()), expected, "{key}");
        }
        assert_eq!(slot(b"{}foo"), crc16(b"{}foo") % N_SLOTS);
        assert_eq!(slot(b"{foo"), crc16(b"{foo") % N_SLOTS);
    }

    #[test]
    fn partitions_lie_evenly_among_the_slots() {
        for n in [1, 3, 16, 256] {
            for (index, tag) in Partitions::new(n).tags().iter().enumerate() {
                let slot = u32::from(slot(tag.as_bytes()));
                assert_eq!((slot * u32::from(n) / 16_384) as usize, index);
            }
        }
    }

    #[test]
    fn names_are_spread() {
        let (partitions, mut counts) = (Partitions::new(16), [0; 16]);
        for number in 0..16_000 {
            counts[partitions.of(&format!("ns:k{number}")).index()] += 1;
        }
        assert!(counts.iter().all(|n| (800..1_200).contains(n)), "{counts:?}");
    }
}
