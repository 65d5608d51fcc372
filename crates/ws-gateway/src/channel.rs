//! Names of channels, and who may listen.

use std::sync::Arc;

use crate::codes::ReplyError;

/// Longest name in bytes when nothing else is configured.
pub(crate) const MAX_CHANNEL_BYTES: usize = 255;

/// The name of a channel: printable ASCII without spaces, not empty and not too long.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Channel(Arc<str>);

impl Channel {
    /// Accepts a name of at most `max_bytes`.
    pub(crate) fn parse(name: &str, max_bytes: usize) -> Result<Self, InvalidChannel> {
        if name.is_empty() {
            return Err(InvalidChannel::Empty);
        }
        if name.len() > max_bytes {
            return Err(InvalidChannel::TooLong { len_bytes: name.len(), max_bytes });
        }
        if !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidChannel::NotPrintable);
        }
        Ok(Self(name.into()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Says whether a client that is `user` may listen of its own accord. `news#42,43` is for the users 42 and 43;
    /// `$news` needs a subscription token, which is not served yet.
    pub(crate) fn admits(&self, user: &str) -> Result<(), ReplyError> {
        if self.0.starts_with('$') {
            return Err(ReplyError::NOT_AVAILABLE);
        }
        match self.0.split_once('#') {
            Some((_, users)) if user.is_empty() || !users.split(',').any(|listed| listed == user) => {
                Err(ReplyError::PERMISSION_DENIED)
            }
            _ => Ok(()),
        }
    }
}

/// Says why a name is no name of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidChannel {
    #[error("channel is empty")]
    Empty,
    #[error("channel has {len_bytes} bytes, at most {max_bytes} are allowed")]
    TooLong { len_bytes: usize, max_bytes: usize },
    #[error("channel has characters other than printable ASCII without spaces")]
    NotPrintable,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_short_printable_names_are_channels() {
        for name in ["a", "news:today", "$private", "user#42", "~!\"\\{}", &"x".repeat(255)] {
            assert_eq!(Channel::parse(name, 255).unwrap().as_str(), name);
        }
        let long = "x".repeat(256);
        for (name, problem) in [
            ("", InvalidChannel::Empty),
            (long.as_str(), InvalidChannel::TooLong { len_bytes: 256, max_bytes: 255 }),
            ("a b", InvalidChannel::NotPrintable),
            ("a\n", InvalidChannel::NotPrintable),
            ("caf\u{e9}", InvalidChannel::NotPrintable),
            ("\u{7f}", InvalidChannel::NotPrintable),
        ] {
            assert_eq!(Channel::parse(name, 255), Err(problem), "{name:?}");
        }
    }

    #[test]
    fn channels_with_a_list_of_users_are_for_these_users() {
        let denied = Err(ReplyError::PERMISSION_DENIED);
        for (name, user, verdict) in [
            ("news", "42", Ok(())),
            ("news", "", Ok(())),
            ("chat#42", "42", Ok(())),
            ("chat#41,42", "42", Ok(())),
            ("chat#421", "42", denied),
            ("chat#42", "", denied),
            ("chat#", "", denied),
            ("chat#,", "", denied),
            ("chat#41#42", "42", denied),
            ("$news", "42", Err(ReplyError::NOT_AVAILABLE)),
            ("$news#42", "42", Err(ReplyError::NOT_AVAILABLE)),
        ] {
            assert_eq!(Channel::parse(name, 255).unwrap().admits(user), verdict, "{name} for {user:?}");
        }
    }
}
