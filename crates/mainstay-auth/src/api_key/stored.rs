use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::LONGEST_KEY_BYTES;
use crate::{AuthError, Method, Principal, Role};

/// API keys that come and go while the process runs. Clones speak of the same keys.
///
/// Each text names its key, so that only that one is compared: whose key it is, is no secret.
#[derive(Debug, Clone, Default)]
pub struct StoredKeys {
    keys: Arc<ArcSwap<HashMap<String, StoredKey>>>,
}

/// One of them; times are in seconds since the Unix epoch.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredKey {
    /// Names the holder; becomes the subject of the principal.
    pub name: String,
    /// The role the key gives.
    pub role: Role,
    /// What it may reach.
    pub scopes: Vec<String>,
    /// SHA-256 of the whole text.
    pub sha256: [u8; 32],
    /// SHA-256 of the text before it was rotated, and until when that one is good.
    pub previous: Option<([u8; 32], u64)>,
    /// From then on it is refused.
    pub expires_at: Option<u64>,
}

/// Makes it plain to people and scanners what the text is.
const PREFIX: &str = "mk_";

/// Longest name of a stored key, in bytes.
pub const LONGEST_NAME_BYTES: usize = 64;

/// Tells whether a stored key may have this name: 1 to 64 of a-z, 0-9 and hyphens.
pub fn is_name(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=LONGEST_NAME_BYTES).contains(&name.len()) && name.bytes().all(legal)
}

/// Writes the text of a stored key: what its holder presents.
pub fn text(name: &str, secret: &[u8; 32]) -> String {
    format!("{PREFIX}{name}_{}", hex::encode(secret))
}

impl StoredKeys {
    /// Uses these keys from now on, and no earlier ones.
    pub fn replace(&self, keys: impl IntoIterator<Item = StoredKey>) {
        let keys = keys.into_iter().map(|key| (key.name.clone(), key)).collect();
        self.keys.store(Arc::new(keys));
    }

    /// Trusts no key until the next [`Self::replace`].
    pub fn forget(&self) {
        self.replace([]);
    }

    /// Returns whose key was presented at `now_unix_s`. Nothing is said about a key whose text is not known whole.
    pub fn verify(&self, presented: &str, now_unix_s: u64) -> Result<Principal, AuthError> {
        let keys = self.keys.load();
        let key = named(presented).and_then(|name| keys.get(name)).ok_or(AuthError::UnknownApiKey)?;
        let digest: [u8; 32] = Sha256::digest(presented).into();
        let is_current = key.sha256.ct_eq(&digest);
        let previous = key.previous.filter(|(_, until)| now_unix_s < *until).map(|(sha256, _)| sha256);
        let is_previous = previous.unwrap_or_default().ct_eq(&digest);
        if !bool::from(is_current | is_previous) {
            return Err(AuthError::UnknownApiKey);
        }
        if key.expires_at.is_some_and(|at| at <= now_unix_s) {
            return Err(AuthError::ApiKeyExpired);
        }
        Ok(Principal {
            subject: key.name.clone(),
            role: key.role,
            scopes: key.scopes.clone(),
            method: Method::ApiKey,
            expires_at: key.expires_at,
        })
    }
}

fn named(presented: &str) -> Option<&str> {
    if presented.len() > LONGEST_KEY_BYTES {
        return None;
    }
    presented.strip_prefix(PREFIX)?.split_once('_').map(|(name, _)| name)
}

impl fmt::Debug for StoredKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredKey")
            .field("name", &self.name)
            .field("role", &self.role)
            .field("scopes", &self.scopes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(text: &str) -> [u8; 32] {
        Sha256::digest(text).into()
    }

    fn key(name: &str, current: &str) -> StoredKey {
        StoredKey {
            name: name.to_owned(),
            role: Role::Operator,
            scopes: vec!["cache:orders".to_owned()],
            sha256: digest(current),
            previous: None,
            expires_at: None,
        }
    }

    #[test]
    fn a_key_is_good_as_a_whole_until_it_ends_and_its_predecessor_for_the_grace() {
        let [old, new, other] = [[1; 32], [2; 32], [3; 32]].map(|secret| text("ci", &secret));
        let keys = StoredKeys::default();
        let rotated =
            StoredKey { previous: Some((digest(&old), 1_000)), expires_at: Some(5_000), ..key("ci", &new) };
        keys.replace([rotated, key("other", &text("other", &[4; 32]))]);
        let table = [
            (new.as_str(), 10, Ok("ci")),
            (&new, 4_999, Ok("ci")),
            (&new, 5_000, Err(AuthError::ApiKeyExpired)),
            (&old, 999, Ok("ci")),
            (&old, 1_000, Err(AuthError::UnknownApiKey)),
            (&other, 10, Err(AuthError::UnknownApiKey)),
            ("mk_ci_", 10, Err(AuthError::UnknownApiKey)),
            ("mk_nobody_00", 10, Err(AuthError::UnknownApiKey)),
            ("ci", 10, Err(AuthError::UnknownApiKey)),
        ];
        for (presented, now, expected) in table {
            let seen = keys.verify(presented, now).map(|principal| principal.subject);
            assert_eq!(seen, expected.map(str::to_owned), "{presented} at {now}");
        }
        keys.forget();
        assert_eq!(keys.verify(&new, 10), Err(AuthError::UnknownApiKey));
    }

    #[test]
    fn a_key_without_a_predecessor_takes_no_empty_digest() {
        let keys = StoredKeys::default();
        keys.replace([key("ci", &text("ci", &[1; 32]))]);
        assert!(keys.verify(&text("ci", &[0; 32]), 0).is_err());
    }

    #[test]
    fn debug_output_shows_no_hash() {
        let shown = format!("{:?}", key("ci", "secret"));
        assert!(shown.contains("ci") && !shown.contains("sha256"), "{shown}");
    }
}
