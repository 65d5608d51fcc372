use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// One API key; its text is known to its holder alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ApiKey {
    /// Names the holder.
    pub name: String,
    /// `viewer`, `operator` or `admin`.
    pub role: String,
    /// What it may reach, in the words of the edge.
    pub scopes: Vec<String>,
    /// Of the whole text.
    pub sha256: Digest,
    /// The text before the last rotation.
    pub previous: Option<Previous>,
    /// When it was made.
    pub created_at: SystemTime,
    /// Who made it.
    pub created_by: String,
    /// When it got the text it has.
    pub rotated_at: Option<SystemTime>,
    /// From then on it is refused.
    pub expires_at: Option<SystemTime>,
}

/// The text of a key before it was rotated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Previous {
    /// Of that text.
    pub sha256: Digest,
    /// From then on it is refused.
    pub until: SystemTime,
}

/// SHA-256 of the text of a key. Shows itself to nobody.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Digest(pub [u8; 32]);

/// A key that is to be made, checked.
#[derive(Debug)]
pub(crate) struct NewKey {
    pub name: String,
    pub role: String,
    pub scopes: Vec<String>,
    pub sha256: Digest,
    pub expires_in: Option<Duration>,
}

const SCOPES_MAX: usize = 32;
const SCOPE_BYTES_MAX: usize = 256;
const NAME_BYTES_MAX: usize = 64;
const LONGEST_LIFE: Duration = Duration::from_hours(24 * 3_650);

impl NewKey {
    /// Reports everything that is wrong with it, field by field.
    pub(crate) fn check(&self) -> Vec<(&'static str, &'static str)> {
        let mut problems = Vec::new();
        let mut ensure = |holds: bool, field, message| {
            if !holds {
                problems.push((field, message));
            }
        };
        let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let is_name = (1..=NAME_BYTES_MAX).contains(&self.name.len()) && self.name.bytes().all(letter);
        ensure(is_name, "name", "must be 1 to 64 of a-z, 0-9 and hyphens");
        let is_role = ["viewer", "operator", "admin"].contains(&self.role.as_str());
        ensure(is_role, "role", "must be viewer, operator or admin");
        let are_short = self.scopes.iter().all(|scope| (1..=SCOPE_BYTES_MAX).contains(&scope.len()));
        ensure(
            self.scopes.len() <= SCOPES_MAX && are_short,
            "scopes",
            "must be at most 32, each of 1 to 256 bytes",
        );
        let minute = Duration::from_secs(60);
        let lasts = self.expires_in.is_none_or(|lasts| (minute..=LONGEST_LIFE).contains(&lasts));
        ensure(lasts, "expires_in", "must be between 1m and 3650days");
        problems
    }

    pub(super) fn into_key(self, created_by: String, now: SystemTime) -> ApiKey {
        ApiKey {
            name: self.name,
            role: self.role,
            scopes: self.scopes,
            sha256: self.sha256,
            previous: None,
            created_at: now,
            created_by,
            rotated_at: None,
            expires_at: self.expires_in.and_then(|lasts| now.checked_add(lasts)),
        }
    }
}

impl ApiKey {
    /// Gives it another text; the one it has stays good for `grace`.
    pub(super) fn rotated(self, sha256: Digest, grace: Duration, now: SystemTime) -> Self {
        let until = now.checked_add(grace).filter(|_| !grace.is_zero());
        let previous = until.map(|until| Previous { sha256: self.sha256, until });
        Self { sha256, previous, rotated_at: Some(now), ..self }
    }
}

impl TryFrom<String> for Digest {
    type Error = hex::FromHexError;

    fn try_from(text: String) -> Result<Self, hex::FromHexError> {
        let mut digest = [0; 32];
        hex::decode_to_slice(text, &mut digest).map(|()| Self(digest))
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        hex::encode(digest.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[sha256]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new_key() -> NewKey {
        NewKey {
            name: "ci-2".to_owned(),
            role: "operator".to_owned(),
            scopes: vec!["cache:orders".to_owned()],
            sha256: Digest([7; 32]),
            expires_in: Some(Duration::from_secs(3_600)),
        }
    }

    #[test]
    fn wrong_fields_are_named_all_at_once() {
        assert_eq!(new_key().check(), []);
        let wrong = NewKey {
            name: "CI".to_owned(),
            role: "root".to_owned(),
            scopes: vec![String::new()],
            expires_in: Some(Duration::from_secs(1)),
            ..new_key()
        };
        let fields: Vec<&str> = wrong.check().into_iter().map(|(field, _)| field).collect();
        assert_eq!(fields, ["name", "role", "scopes", "expires_in"]);
    }

    #[test]
    fn rotation_keeps_the_text_before_it_for_the_grace_and_the_end_as_it_is() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let key = new_key().into_key("ann".to_owned(), now);
        let ends = key.expires_at;
        let rotated = key.clone().rotated(Digest([8; 32]), Duration::from_secs(60), now);
        let kept = Previous { sha256: Digest([7; 32]), until: now + Duration::from_secs(60) };
        assert_eq!((rotated.previous, rotated.expires_at), (Some(kept), ends));
        assert_eq!(key.rotated(Digest([8; 32]), Duration::ZERO, now).previous, None);
    }

    #[test]
    fn debug_output_shows_no_hash() {
        let shown = format!("{:?}", new_key());
        assert!(shown.contains("ci-2") && !shown.contains("0707") && !shown.contains("7, 7"), "{shown}");
    }
}
