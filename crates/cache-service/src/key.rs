//! What a request may name: every limit stands here, once.

use std::fmt;
use std::time::Duration;

/// Names one entry: a namespace and a key in it.
///
/// Kept as one text, `namespace:key`, which is unambiguous because a namespace has no colon.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    text: Box<str>,
    namespace_bytes: u8,
}

impl Key {
    pub(crate) const MAX_BYTES: usize = 1024;
    /// Of [`Key::as_str`].
    pub(crate) const MAX_TEXT_BYTES: usize = Namespace::MAX_BYTES + 1 + Self::MAX_BYTES;

    /// Accepts 1 to 1024 bytes without control characters, in a legal namespace.
    pub(crate) fn try_new(namespace: &str, key: &str) -> Result<Self, Invalid> {
        let namespace = Namespace::try_new(namespace)?;
        if key.is_empty() {
            return Err(Invalid::KeyEmpty);
        }
        if key.len() > Self::MAX_BYTES {
            return Err(Invalid::KeyTooLong { bytes: key.len() });
        }
        if let Some(at) = key.find(char::is_control) {
            return Err(Invalid::KeyHasControlCharacters { at });
        }
        let namespace_bytes =
            u8::try_from(namespace.as_str().len()).expect("a namespace has at most 64 bytes");
        let mut text = String::with_capacity(namespace.as_str().len() + 1 + key.len());
        text.push_str(namespace.as_str());
        text.push(':');
        text.push_str(key);
        Ok(Self { text: text.into_boxed_str(), namespace_bytes })
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.text[..usize::from(self.namespace_bytes)]
    }

    /// Reads what [`Key::as_str`] returns.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let (namespace, key) = text.split_once(':')?;
        Self::try_new(namespace, key).ok()
    }

    /// Returns the key without its namespace.
    pub(crate) fn name(&self) -> &str {
        &self.text[usize::from(self.namespace_bytes) + 1..]
    }

    /// Returns `namespace:key`.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

/// Names a namespace: 1 to 64 characters of `[a-z0-9_-]`, the first a letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Namespace<'a>(&'a str);

impl<'a> Namespace<'a> {
    pub(crate) const MAX_BYTES: usize = 64;

    pub(crate) fn try_new(name: &'a str) -> Result<Self, Invalid> {
        let legal = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
        let starts_well = name.as_bytes().first().is_some_and(u8::is_ascii_lowercase);
        if starts_well && name.len() <= Self::MAX_BYTES && name.bytes().all(legal) {
            Ok(Self(name))
        } else {
            Err(Invalid::Namespace)
        }
    }

    pub(crate) fn as_str(self) -> &'a str {
        self.0
    }
}

/// How long an entry lives: above zero, at most 365 days, in whole milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ttl(Duration);

impl Ttl {
    pub(crate) const MAX: Duration = Duration::from_hours(365 * 24);

    /// Rounds up to a whole millisecond: nothing lives shorter than was asked for.
    pub(crate) fn try_new(ttl: Duration) -> Result<Self, Invalid> {
        if ttl.is_zero() || ttl > Self::MAX {
            return Err(Invalid::TtlOutOfRange);
        }
        let millis = ttl.as_nanos().div_ceil(1_000_000);
        Ok(Self(Duration::from_millis(u64::try_from(millis).expect("365 days fit into 64 bits"))))
    }

    pub(crate) fn as_duration(self) -> Duration {
        self.0
    }

    pub(crate) fn as_millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).expect("365 days fit into 64 bits")
    }
}

/// The media type of a value: at most 255 visible ASCII characters and spaces; may be empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ContentType(Box<str>);

impl ContentType {
    pub(crate) const MAX_BYTES: usize = 255;

    pub(crate) fn try_new(text: &str) -> Result<Self, Invalid> {
        // It travels in an HTTP header.
        let legal = |byte: u8| matches!(byte, b' '..=b'~');
        if text.len() <= Self::MAX_BYTES && text.bytes().all(legal) {
            Ok(Self(text.into()))
        } else {
            Err(Invalid::ContentType)
        }
    }

    /// Takes what was accepted before.
    pub(crate) fn kept(text: &str) -> Self {
        Self(text.into())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The tags of an entry: at most 16, each 1 to 128 bytes without control characters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Tags(Box<[Box<str>]>);

impl Tags {
    pub(crate) const MOST: usize = 16;
    pub(crate) const MAX_BYTES: usize = 128;
    /// How long a tagged entry may live.
    pub(crate) const TTL_MAX: Duration = Duration::from_hours(30 * 24);

    pub(crate) fn try_new<'a>(tags: impl IntoIterator<Item = &'a str>) -> Result<Self, Invalid> {
        let tags: Result<Box<[Box<str>]>, Invalid> = tags.into_iter().map(Self::check).collect();
        tags.and_then(|tags| if tags.len() > Self::MOST { Err(Invalid::TooManyTags) } else { Ok(Self(tags)) })
    }

    pub(crate) fn check(tag: &str) -> Result<Box<str>, Invalid> {
        let legal = !tag.is_empty() && tag.len() <= Self::MAX_BYTES && !tag.contains(char::is_control);
        if legal { Ok(tag.into()) } else { Err(Invalid::Tag) }
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.iter().map(|tag| &**tag)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns what they take in memory beside the entry.
    pub(crate) fn bytes(&self) -> usize {
        self.0.iter().map(|tag| tag.len() + 2 * size_of::<Box<str>>()).sum()
    }
}

/// Says what is wrong with a part of a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Invalid {
    #[error("must be 1 to 64 characters of [a-z0-9_-], starting with a letter")]
    Namespace,
    #[error("must have 1 to 1024 bytes, is empty")]
    KeyEmpty,
    #[error("must have 1 to 1024 bytes, has {bytes}")]
    KeyTooLong { bytes: usize },
    #[error("must not have control characters, has one at byte {at}")]
    KeyHasControlCharacters { at: usize },
    #[error("must be above zero and at most 365 days")]
    TtlOutOfRange,
    #[error("must have at most 255 visible ASCII characters or spaces")]
    ContentType,
    #[error("must have 1 to 128 bytes without control characters each")]
    Tag,
    #[error("must be at most 16")]
    TooManyTags,
    #[error("must be at most 30 days for an entry with tags")]
    TaggedTtlTooLong,
    #[error("must have 1 to 256 bytes without control characters")]
    FenceLock,
    #[error("must be a token that a lock gave, 1 to 2^53-1")]
    FenceToken,
    #[error("must have at most 128 bytes without control characters")]
    IdempotencyKey,
}

impl Invalid {
    /// Returns the field of the request and the stable reason.
    pub(crate) fn field_and_reason(&self) -> (&'static str, &'static str) {
        match self {
            Self::Namespace => ("namespace", "NAMESPACE_INVALID"),
            Self::KeyEmpty => ("key", "KEY_EMPTY"),
            Self::KeyTooLong { .. } => ("key", "KEY_TOO_LONG"),
            Self::KeyHasControlCharacters { .. } => ("key", "KEY_HAS_CONTROL_CHARACTERS"),
            Self::TtlOutOfRange => ("ttl", "TTL_OUT_OF_RANGE"),
            Self::ContentType => ("content_type", "CONTENT_TYPE_INVALID"),
            Self::Tag | Self::TooManyTags => ("tags", "TAGS_INVALID"),
            Self::TaggedTtlTooLong => ("ttl", "TTL_OUT_OF_RANGE"),
            Self::FenceLock => ("fence.lock", "FENCE_INVALID"),
            Self::FenceToken => ("fence.token", "FENCE_INVALID"),
            Self::IdempotencyKey => ("idempotency_key", "IDEMPOTENCY_KEY_INVALID"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_illegal_name_gets_its_own_reason() {
        let long = "k".repeat(1025);
        let long_namespace = "n".repeat(65);
        for (namespace, key, reason) in [
            ("", "k", "NAMESPACE_INVALID"),
            ("Users", "k", "NAMESPACE_INVALID"),
            ("1st", "k", "NAMESPACE_INVALID"),
            ("a:b", "k", "NAMESPACE_INVALID"),
            (&long_namespace, "k", "NAMESPACE_INVALID"),
            ("users", "", "KEY_EMPTY"),
            ("users", &long, "KEY_TOO_LONG"),
            ("users", "a\nb", "KEY_HAS_CONTROL_CHARACTERS"),
            ("users", "a\u{85}b", "KEY_HAS_CONTROL_CHARACTERS"),
        ] {
            let invalid = Key::try_new(namespace, key).unwrap_err();
            assert_eq!(invalid.field_and_reason().1, reason, "{namespace:?} {key:?}");
        }
    }

    #[test]
    fn the_longest_legal_names_are_accepted() {
        let key = Key::try_new(&"n".repeat(64), &"k".repeat(1024)).unwrap();
        assert_eq!(key.namespace().len(), 64);
        assert_eq!(key.as_str().len(), 64 + 1 + 1024);
    }

    #[test]
    fn a_ttl_is_rounded_up_and_bounded() {
        let ttl = |nanos| Ttl::try_new(Duration::from_nanos(nanos)).map(Ttl::as_millis);
        assert_eq!(ttl(1), Ok(1));
        assert_eq!(ttl(1_000_001), Ok(2));
        assert_eq!(ttl(0), Err(Invalid::TtlOutOfRange));
        assert!(Ttl::try_new(Ttl::MAX).is_ok());
        assert!(Ttl::try_new(Ttl::MAX + Duration::from_nanos(1)).is_err());
    }

    #[test]
    fn a_content_type_is_fit_for_a_header() {
        assert!(ContentType::try_new("").is_ok());
        assert!(ContentType::try_new("text/plain; charset=utf-8").is_ok());
        for illegal in ["a\r\nb", "\u{e4}", &"x".repeat(256)] {
            assert!(ContentType::try_new(illegal).is_err(), "{illegal:?}");
        }
    }

    proptest! {
        #[test]
        fn a_key_is_accepted_exactly_when_short_and_without_control_characters(key in "\\PC{0,40}|[\\x00-\\x7f]{0,40}") {
            let legal = !key.is_empty() && key.len() <= Key::MAX_BYTES && !key.chars().any(char::is_control);
            let made = Key::try_new("users", &key);
            prop_assert_eq!(made.is_ok(), legal);
            if let Ok(made) = made {
                prop_assert_eq!(made.namespace(), "users");
                prop_assert_eq!(made.as_str(), format!("users:{key}"));
            }
        }

        #[test]
        fn keys_are_equal_exactly_when_namespace_and_key_are(
            a in "[a-z]{1,3}", b in "[a-c:]{1,3}", c in "[a-z]{1,3}", d in "[a-c:]{1,3}",
        ) {
            let same = Key::try_new(&a, &b).unwrap() == Key::try_new(&c, &d).unwrap();
            prop_assert_eq!(same, a == c && b == d);
        }
    }
}
