use std::fmt;

use serde::{Deserialize, Serialize, Serializer};
use subtle::ConstantTimeEq as _;

/// Holds a password or token that no log, status page or printed configuration shows.
#[derive(Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Returns the secret itself; the name is for reviewers to search for.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Tells whether no secret is set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Compares in a time that does not depend on where the two differ; an empty secret matches nothing.
    pub fn matches(&self, candidate: &[u8]) -> bool {
        !self.is_empty() && bool::from(self.0.as_bytes().ct_eq(candidate))
    }

    /// Refuses what cannot be sent as a bearer token.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let legal = self.0.len() <= 4096 && self.0.bytes().all(|byte| byte.is_ascii_graphic());
        if legal { Ok(()) } else { Err("must be at most 4096 visible ASCII characters, without spaces") }
    }

    fn shown(&self) -> &'static str {
        if self.is_empty() { "" } else { "[redacted]" }
    }
}

impl From<String> for Secret {
    fn from(secret: String) -> Self {
        Self(secret)
    }
}

impl From<&str> for Secret {
    fn from(secret: &str) -> Self {
        Self(secret.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.shown(), f)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.shown())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_shown_nowhere() {
        let secret = Secret::from("hunter2");
        assert_eq!(format!("{secret:?}"), "\"[redacted]\"");
        assert_eq!(serde_json::to_string(&secret).unwrap(), "\"[redacted]\"");
        assert_eq!(format!("{:?}", Secret::default()), "\"\"");
        assert_eq!(serde_json::to_string(&Secret::default()).unwrap(), "\"\"");
    }

    #[test]
    fn only_the_whole_secret_matches_and_an_empty_one_matches_nothing() {
        let secret = Secret::from("hunter2");
        assert!(secret.matches(b"hunter2"));
        for wrong in ["", "hunter", "hunter22", "Hunter2"] {
            assert!(!secret.matches(wrong.as_bytes()), "{wrong}");
        }
        assert!(!Secret::default().matches(b""));
    }
}
