//! Changes that are made once: who asks again under the same key is told the outcome of the first, and nothing is written.

use std::time::Duration;

use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

use crate::error::CacheError;
use crate::key::{Invalid, Key};
use crate::shared::{Expiring, Name};
use crate::time::Time;

/// The idempotency key of a change, and by what a different change under the same key is told from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Once {
    key: Name,
    fingerprint: String,
}

/// How a change that was made once ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Made {
    pub(crate) version: u64,
    pub(crate) existed: bool,
}

impl Once {
    pub(crate) const KEY_BYTES_MAX: usize = 128;
    /// So long is an outcome known after it was last asked for.
    pub(crate) const KNOWN_FOR: Duration = Duration::from_mins(10);

    /// Takes the key of a request, empty for none, and all that makes the change what it is.
    pub(crate) fn try_new(key: &str, change: &[&[u8]]) -> Result<Option<Self>, Invalid> {
        if key.is_empty() {
            return Ok(None);
        }
        let key = Name::try_new("idempotency_key", key, Self::KEY_BYTES_MAX);
        let key = key.map_err(|_| Invalid::IdempotencyKey)?;
        Ok(Some(Self { key, fingerprint: digest(change) }))
    }

    /// Names what lies in Redis; unambiguous, for a key has no control characters.
    pub(crate) fn key_of(&self, key: &Key) -> String {
        ["!once:", key.as_str(), "\n", self.key.as_str()].concat()
    }

    /// Returns 32 hexadecimal digits.
    pub(crate) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}

/// Parts are told apart by their lengths.
fn digest(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// Knows what was made once where a namespace is not in Redis, for as long as the process lives.
#[derive(Debug)]
pub(crate) struct MadeHere {
    made: Mutex<Expiring<(String, Made)>>,
    time: Time,
}

/// Outcomes known at once; each takes about 150 bytes.
const MOST_HERE: usize = 100_000;

impl MadeHere {
    pub(crate) fn new(time: Time) -> Self {
        Self { made: Mutex::new(Expiring::new(MOST_HERE)), time }
    }

    /// Makes a change unless it was made before; tells the outcome, and whether it is that of an earlier one.
    pub(crate) fn make(
        &self,
        key: &Key,
        once: Option<&Once>,
        change: impl FnOnce() -> Result<Made, CacheError>,
    ) -> Result<(Made, bool), CacheError> {
        let Some(once) = once else { return change().map(|made| (made, false)) };
        let name = digest(&[once.key_of(key).as_bytes()]);
        let mut known = self.made.lock();
        let now = self.time.now();
        if let Some(((fingerprint, made), _)) = known.get(&name, now) {
            let same = fingerprint == once.fingerprint();
            return if same { Ok((*made, true)) } else { Err(CacheError::OnceReused) };
        }
        // The place first: a change whose outcome could not be told again must not be made.
        let nothing = Made { version: 0, existed: false };
        let mut note = |made| {
            let outcome = (once.fingerprint.clone(), made);
            known.put(&name, outcome, Some(Once::KNOWN_FOR), now).map_err(|_| CacheError::OnceFull)
        };
        note(nothing)?;
        match change() {
            Ok(made) => note(made).map(|()| (made, false)),
            Err(error) => {
                known.remove(&name, now);
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use mainstay_runtime::Clock;

    use super::*;

    fn here() -> MadeHere {
        MadeHere::new(Time::by_clock_alone(Clock::fixed(std::time::UNIX_EPOCH).0))
    }

    fn once(key: &str, change: &[u8]) -> Once {
        Once::try_new(key, &[change]).unwrap().unwrap()
    }

    #[test]
    fn a_change_is_made_once_and_a_different_one_under_its_key_is_refused() {
        let here = here();
        let key = Key::try_new("n", "k").unwrap();
        let change = once("id", b"set v");
        let made = Made { version: 7, existed: true };
        assert_eq!(here.make(&key, Some(&change), || Ok(made)).unwrap(), (made, false));
        let again = here.make(&key, Some(&change), || panic!("it is made twice"));
        assert_eq!(again.unwrap(), (made, true));
        let other = here.make(&key, Some(&once("id", b"delete")), || panic!("it is another change"));
        assert!(matches!(other, Err(CacheError::OnceReused)));
        // Another key of the cache has outcomes of its own.
        let elsewhere = Key::try_new("n", "k2").unwrap();
        assert!(!here.make(&elsewhere, Some(&change), || Ok(made)).unwrap().1);
    }

    #[test]
    fn what_was_refused_may_be_tried_again() {
        let here = here();
        let (key, change) = (Key::try_new("n", "k").unwrap(), once("id", b""));
        let refused = here.make(&key, Some(&change), || Err(CacheError::LeaseLost));
        assert!(matches!(refused, Err(CacheError::LeaseLost)));
        let made = Made { version: 1, existed: false };
        assert_eq!(here.make(&key, Some(&change), || Ok(made)).unwrap(), (made, false));
    }

    #[test]
    fn keys_are_short_texts_and_changes_cannot_be_shifted_into_each_other() {
        assert_eq!(Once::try_new("", &[]), Ok(None));
        assert_eq!(Once::try_new(&"x".repeat(129), &[]), Err(Invalid::IdempotencyKey));
        assert_eq!(Once::try_new("a\nb", &[]), Err(Invalid::IdempotencyKey));
        assert_ne!(digest(&[b"ab", b"c"]), digest(&[b"a", b"bc"]));
    }
}
