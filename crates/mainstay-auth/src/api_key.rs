//! Whose API key this is.

use std::collections::HashSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::{ConditionallySelectable, ConstantTimeEq};

use crate::{Method, Principal, Role};

mod stored;

pub use stored::{LONGEST_NAME_BYTES, StoredKey, StoredKeys, is_name, text};

/// Longer texts are no keys of ours, and hashing them would be work for nothing.
const LONGEST_KEY_BYTES: usize = 1_024;

/// Recognises callers by API key, of which only the SHA-256 is stored.
///
/// Plain SHA-256 is enough for keys drawn at random with 128 bits or more; it is not for passwords.
#[derive(Clone, Default)]
pub struct ApiKeys {
    keys: Vec<Key>,
}

#[derive(Clone)]
struct Key {
    digest: [u8; 32],
    id: String,
    role: Role,
    scopes: Vec<String>,
}

/// One API key as it stands in configuration.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    /// Names the holder; becomes the subject of the principal.
    pub id: String,
    /// SHA-256 of the key in hex, as made by [`hash`].
    pub sha256: String,
    /// The role the key gives.
    pub role: Role,
    /// Rights beside the role.
    #[serde(default)]
    pub scopes: Vec<String>,
}

impl ApiKeys {
    /// Accepts entries with distinct ids and distinct, well-formed hashes.
    pub fn try_new(entries: impl IntoIterator<Item = ApiKey>) -> Result<Self, InvalidApiKey> {
        let (mut ids, mut digests, mut keys) = (HashSet::new(), HashSet::new(), Vec::new());
        for ApiKey { id, sha256, role, scopes } in entries {
            if id.is_empty() {
                return Err(InvalidApiKey::EmptyId);
            }
            let mut digest = [0; 32];
            if hex::decode_to_slice(&sha256, &mut digest).is_err() {
                return Err(InvalidApiKey::Hash { id });
            }
            if !ids.insert(id.clone()) {
                return Err(InvalidApiKey::DuplicateId { id });
            }
            if !digests.insert(digest) {
                return Err(InvalidApiKey::DuplicateKey { id });
            }
            keys.push(Key { digest, id, role, scopes });
        }
        Ok(Self { keys })
    }

    /// Returns whose key was presented.
    ///
    /// Looks at every stored key in full, so the time taken tells nothing about which one matched or how nearly.
    pub fn verify(&self, presented: &str) -> Option<Principal> {
        if presented.len() > LONGEST_KEY_BYTES {
            return None;
        }
        let digest: [u8; 32] = Sha256::digest(presented).into();
        let mut found = u64::MAX;
        for (position, key) in (0_u64..).zip(&self.keys) {
            found.conditional_assign(&position, key.digest.ct_eq(&digest));
        }
        let key = self.keys.get(usize::try_from(found).ok()?)?;
        Some(Principal {
            subject: key.id.clone(),
            role: key.role,
            scopes: key.scopes.clone(),
            method: Method::ApiKey,
            expires_at: None,
        })
    }

    /// Tells whether no key is known.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

/// Returns the SHA-256 of a key in lower-case hex, as configuration stores it.
pub fn hash(key: &str) -> String {
    hex::encode(Sha256::digest(key))
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| (&key.id, key.role))).finish()
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey")
            .field("id", &self.id)
            .field("role", &self.role)
            .field("scopes", &self.scopes)
            .finish_non_exhaustive()
    }
}

/// Says which configured API key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidApiKey {
    /// Nobody could be named as its holder.
    #[error("an api key has an empty id")]
    EmptyId,
    /// The hash is not 64 hex digits.
    #[error("sha256 of api key {id:?} must be 64 hex digits")]
    Hash {
        /// The entry's id.
        id: String,
    },
    /// Two holders could not be told apart.
    #[error("api key id {id:?} is used twice")]
    DuplicateId {
        /// The repeated id.
        id: String,
    },
    /// It would not be clear who presents it.
    #[error("api key {id:?} is the same key as an earlier entry")]
    DuplicateKey {
        /// The id of the later entry.
        id: String,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(id: &str, key: &str, role: Role) -> ApiKey {
        ApiKey { id: id.into(), sha256: hash(key), role, scopes: vec!["sql:write".into()] }
    }

    fn keys() -> ApiKeys {
        ApiKeys::try_new([
            entry("first", "key-one", Role::Viewer),
            entry("second", "key-two", Role::Admin),
            entry("third", "key-three", Role::Operator),
        ])
        .unwrap()
    }

    #[test]
    fn each_key_names_its_holder() {
        let found = |key| keys().verify(key).map(|principal| (principal.subject, principal.role));
        assert_eq!(found("key-one"), Some(("first".into(), Role::Viewer)));
        assert_eq!(found("key-two"), Some(("second".into(), Role::Admin)));
        assert_eq!(found("key-three"), Some(("third".into(), Role::Operator)));
        for wrong in ["", "key-on", "key-one ", "KEY-ONE", &hash("key-one"), &"k".repeat(5_000)] {
            assert_eq!(found(wrong), None, "{wrong:?}");
        }
        assert!(ApiKeys::default().verify("").is_none());
    }

    #[test]
    fn hash_is_sha256_in_lower_case_hex() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hash("abc"), abc);
        let upper = ApiKey { sha256: abc.to_uppercase(), ..entry("a", "", Role::Viewer) };
        assert!(ApiKeys::try_new([upper]).unwrap().verify("abc").is_some());
    }

    #[test]
    fn unusable_entries_are_named() {
        let good = || entry("a", "one", Role::Viewer);
        let with_hash = |sha256: &str| ApiKey { sha256: sha256.into(), ..good() };
        let table = [
            (vec![entry("", "one", Role::Viewer)], InvalidApiKey::EmptyId),
            (vec![with_hash("abcd")], InvalidApiKey::Hash { id: "a".into() }),
            (vec![with_hash(&"g".repeat(64))], InvalidApiKey::Hash { id: "a".into() }),
            (vec![good(), entry("a", "two", Role::Viewer)], InvalidApiKey::DuplicateId { id: "a".into() }),
            (vec![good(), entry("b", "one", Role::Viewer)], InvalidApiKey::DuplicateKey { id: "b".into() }),
        ];
        for (entries, expected) in table {
            assert_eq!(ApiKeys::try_new(entries).unwrap_err(), expected);
        }
    }

    #[test]
    fn debug_output_shows_no_hash() {
        let shown = format!("{:?} {:?}", keys(), entry("first", "key-one", Role::Viewer));
        assert!(shown.contains("first") && !shown.contains(&hash("key-one")), "{shown}");
    }

    proptest! {
        #[test]
        fn unknown_texts_are_nobody(presented in ".{0,64}") {
            prop_assume!(!["key-one", "key-two", "key-three"].contains(&presented.as_str()));
            prop_assert_eq!(keys().verify(&presented), None);
        }
    }
}
