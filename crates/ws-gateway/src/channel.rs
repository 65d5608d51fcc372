//! Names of channels, and what stands in them.

use std::sync::Arc;

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

    /// Returns the namespace, if the name has one, and the rest of the name: `$news:today` is `today` of `news`.
    pub(crate) fn parts(&self) -> (Option<&str>, &str) {
        let name = self.0.strip_prefix('$').unwrap_or(&self.0);
        match name.split_once(':') {
            Some((namespace, rest)) => (Some(namespace), rest),
            None => (None, name),
        }
    }

    /// Says whether subscribing takes a subscription token: `$news`.
    pub(crate) fn is_private(&self) -> bool {
        self.0.starts_with('$')
    }

    /// Says whether a user is on the list in the name, if there is one: `news#42,43` is for the users 42 and 43.
    pub(crate) fn lists(&self, user: &str) -> Option<bool> {
        let (_, users) = self.0.split_once('#')?;
        Some(!user.is_empty() && users.split(',').any(|listed| listed == user))
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
    fn names_may_list_users() {
        for (name, user, verdict) in [
            ("news", "42", None),
            ("news", "", None),
            ("chat#42", "42", Some(true)),
            ("chat#41,42", "42", Some(true)),
            ("chat#421", "42", Some(false)),
            ("chat#42", "", Some(false)),
            ("chat#", "", Some(false)),
            ("chat#,", "", Some(false)),
            ("chat#41#42", "42", Some(false)),
        ] {
            assert_eq!(Channel::parse(name, 255).unwrap().lists(user), verdict, "{name} for {user:?}");
        }
    }

    #[test]
    fn a_colon_ends_the_namespace() {
        for (name, parts, private) in [
            ("news", (None, "news"), false),
            ("$news", (None, "news"), true),
            ("a:b:c", (Some("a"), "b:c"), false),
            ("$a:b#1", (Some("a"), "b#1"), true),
            (":b", (Some(""), "b"), false),
        ] {
            let channel = Channel::parse(name, 255).unwrap();
            assert_eq!((channel.parts(), channel.is_private()), (parts, private), "{name}");
        }
    }
}
