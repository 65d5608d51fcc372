//! Who looks after an alert.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// Records that somebody has seen an alert; changes nothing about its state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Acknowledgement {
    /// Subject of the credentials used.
    pub by: String,
    /// When.
    pub at: SystemTime,
    /// Why, or what is being done.
    pub comment: String,
    /// When it stops to hold; never, if absent.
    pub expires_at: Option<SystemTime>,
}

/// Most characters in a comment.
pub(crate) const COMMENT_MAX: usize = 1000;
/// An acknowledgement for longer than this is a silence, not an acknowledgement.
const EXPIRES_IN_MAX: Duration = Duration::from_hours(24 * 30);

/// Says what makes an acknowledgement unacceptable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidAcknowledgement {
    /// Nobody reads that.
    #[error("has {0} characters; at most 1000 are allowed")]
    CommentTooLong(usize),
    /// It would be over before it began, or hold for ever.
    #[error("must be above zero and at most 30 days")]
    ExpiresIn,
}

impl InvalidAcknowledgement {
    /// Names the field of the request that is wrong.
    pub(crate) fn field(&self) -> &'static str {
        match self {
            Self::CommentTooLong(_) => "comment",
            Self::ExpiresIn => "expires_in",
        }
    }
}

impl Acknowledgement {
    /// Accepts a comment and a duration within bounds.
    pub(crate) fn try_new(
        by: String,
        comment: String,
        expires_in: Option<Duration>,
        now: SystemTime,
    ) -> Result<Self, InvalidAcknowledgement> {
        let n_characters = comment.chars().count();
        if n_characters > COMMENT_MAX {
            return Err(InvalidAcknowledgement::CommentTooLong(n_characters));
        }
        if expires_in.is_some_and(|expires_in| expires_in.is_zero() || expires_in > EXPIRES_IN_MAX) {
            return Err(InvalidAcknowledgement::ExpiresIn);
        }
        Ok(Self { by, at: now, comment, expires_at: expires_in.map(|expires_in| now + expires_in) })
    }

    /// Tells whether it still counts.
    pub(crate) fn holds(&self, now: SystemTime) -> bool {
        self.expires_at.is_none_or(|expires_at| now < expires_at)
    }
}
