/// Hashes bytes with FNV-1a (64 bits): the same figure on every machine and in every release, which `std`'s hasher
/// does not promise. Not for anything an attacker could gain from.
pub(crate) struct Fingerprint(u64);

impl Fingerprint {
    pub(crate) fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// Adds one part; parts do not run together.
    pub(crate) fn part(mut self, bytes: &[u8]) -> Self {
        for byte in bytes.iter().chain(&[0xff]) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self
    }

    pub(crate) fn value(&self) -> u64 {
        self.0
    }

    pub(crate) fn hex(&self) -> String {
        format!("{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_together_and_the_hash_is_stable() {
        let of = |parts: &[&str]| parts.iter().fold(Fingerprint::new(), |f, p| f.part(p.as_bytes())).hex();
        assert_ne!(of(&["ab", "c"]), of(&["a", "bc"]));
        assert_eq!(of(&["ab", "c"]), of(&["ab", "c"]));
        assert_eq!(Fingerprint::new().hex(), "cbf29ce484222325");
    }
}
