use std::fmt;

use sha2::{Digest as _, Sha256};

/// A session's id: a secret that its holder shows, and that is kept nowhere.
pub(crate) struct SessionId(String);

/// The SHA-256 of an id, in hex: names the session without being able to stand for it.
///
/// No salt: an id has 192 random bits, so there is nothing to guess.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Handle(Box<str>);

impl SessionId {
    const BYTES: usize = 24;

    /// Makes one from the process's cryptographic generator.
    pub(crate) fn random() -> Self {
        Self(hex::encode(rand::random::<[u8; Self::BYTES]>()))
    }

    /// Takes what a caller shows; what is not an id will not be found.
    pub(crate) fn shown(text: String) -> Self {
        Self(text)
    }

    pub(crate) fn handle(&self) -> Handle {
        Handle(hex::encode(Sha256::digest(self.0.as_bytes())).into())
    }

    /// Gives the secret out.
    pub(crate) fn into_secret(self) -> String {
        self.0
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionId([redacted])")
    }
}

impl Handle {
    const CHARACTERS: usize = 64;

    /// Accepts 64 hexadecimal digits.
    pub(crate) fn try_new(text: &str) -> Option<Self> {
        let legal = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f');
        (text.len() == Self::CHARACTERS && text.bytes().all(legal)).then(|| Self(text.into()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_long_unlike_others_and_never_shown_by_debug() {
        let (a, b) = (SessionId::random(), SessionId::random());
        assert_ne!(a.handle(), b.handle());
        assert_eq!(format!("{a:?}"), "SessionId([redacted])");
        let handle = a.handle();
        let secret = a.into_secret();
        assert_eq!(secret.len(), 48);
        assert!(!handle.as_str().contains(&secret[..16]));
        assert_eq!(Handle::try_new(handle.as_str()), Some(handle));
        assert_eq!(Handle::try_new(&secret), None);
    }
}
