//! Lists of keys as text: cut into lines, each checked by itself.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::Deserialize;

use crate::key::{ContentType, Invalid, Key, Tags, Ttl};

/// A key that is to be brought in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) key: Key,
    /// Given with the key; else it is loaded.
    pub(super) value: Option<Given>,
    /// Reads that it had in the last run, where that is known.
    pub(super) n_reads: u64,
}

/// A value that stands beside its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) value: Bytes,
    pub(super) content_type: ContentType,
    pub(super) ttl: Option<Ttl>,
    pub(super) tags: Tags,
}

/// One line, and what it says or what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) number: u64,
    pub(super) wanted: Result<Wanted, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    key: String,
    value: Option<String>,
    value_base64: Option<String>,
    #[serde(default)]
    content_type: String,
    #[serde(default, with = "humantime_serde")]
    ttl: Option<std::time::Duration>,
    #[serde(default)]
    tags: Vec<String>,
}

/// Cuts chunks of a text into lines of bounded length.
#[derive(Debug)]
pub(super) struct Lines {
    namespace: String,
    most_bytes: usize,
    rest: Vec<u8>,
    /// The rest was longer than a line may be, and the line goes on.
    is_too_long: bool,
    number: u64,
}

impl Lines {
    pub(super) fn new(namespace: &str, most_bytes: usize) -> Self {
        Self { namespace: namespace.to_owned(), most_bytes, rest: Vec::new(), is_too_long: false, number: 0 }
    }

    /// Takes the next chunk, and gives the lines that end in it.
    pub(super) fn push(&mut self, chunk: &[u8]) -> Vec<Line> {
        let mut lines = Vec::new();
        let mut parts = chunk.split(|byte| *byte == b'\n').peekable();
        while let Some(part) = parts.next() {
            self.take(part);
            if parts.peek().is_some() {
                lines.extend(self.end_line());
            }
        }
        lines
    }

    /// Gives the last line, if no line feed ended it.
    pub(super) fn finish(&mut self) -> Option<Line> {
        if self.rest.is_empty() && !self.is_too_long { None } else { self.end_line() }
    }

    fn take(&mut self, part: &[u8]) {
        self.is_too_long |= self.rest.len() + part.len() > self.most_bytes;
        if !self.is_too_long {
            self.rest.extend_from_slice(part);
        }
    }

    fn end_line(&mut self) -> Option<Line> {
        self.number += 1;
        let line = std::mem::take(&mut self.rest);
        if std::mem::take(&mut self.is_too_long) {
            let wrong = format!("must have at most {} bytes", self.most_bytes);
            return Some(Line { number: self.number, wanted: Err(wrong) });
        }
        let wanted = parse(&self.namespace, &line).transpose()?;
        Some(Line { number: self.number, wanted })
    }
}

/// Reads a line: a key, a key as a JSON text, or an object with a key. An empty line says nothing.
fn parse(namespace: &str, line: &[u8]) -> Result<Option<Wanted>, String> {
    let text = std::str::from_utf8(line).map_err(|_| "must be UTF-8".to_owned())?.trim();
    let bare = |key: String| Written {
        key,
        value: None,
        value_base64: None,
        content_type: String::new(),
        ttl: None,
        tags: Vec::new(),
    };
    let written = match text.as_bytes().first() {
        None => return Ok(None),
        Some(b'"') => serde_json::from_str(text).map(bare).map_err(|error| error.to_string())?,
        Some(b'{') => serde_json::from_str(text).map_err(|error| error.to_string())?,
        Some(_) => bare(text.to_owned()),
    };
    written.check(namespace).map(Some)
}

impl Written {
    fn check(self, namespace: &str) -> Result<Wanted, String> {
        let illegal = |invalid: Invalid| format!("{}: {invalid}", invalid.field_and_reason().0);
        let key = Key::try_new(namespace, &self.key).map_err(illegal)?;
        let value = match (self.value, self.value_base64) {
            (Some(_), Some(_)) => return Err("must have value or value_base64, has both".to_owned()),
            (Some(text), None) => Some(Bytes::from(text)),
            (None, Some(text)) => {
                let bytes = BASE64_STANDARD.decode(text);
                Some(Bytes::from(bytes.map_err(|_| "value_base64: must be base64".to_owned())?))
            }
            (None, None) => None,
        };
        let content_type = ContentType::try_new(&self.content_type).map_err(illegal)?;
        let ttl = self.ttl.map(Ttl::try_new).transpose().map_err(illegal)?;
        let tags = Tags::try_new(self.tags.iter().map(String::as_str)).map_err(illegal)?;
        let has_more = ttl.is_some() || !tags.is_empty() || !content_type.as_str().is_empty();
        if value.is_none() && has_more {
            return Err("must have ttl, tags and content_type only beside a value".to_owned());
        }
        let value = value.map(|value| Given { value, content_type, ttl, tags });
        Ok(Wanted { key, value, n_reads: 0 })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(text: &[u8], most_bytes: usize) -> Vec<(u64, Result<String, String>)> {
        let mut lines = Lines::new("test", most_bytes);
        let mut all = lines.push(text);
        all.extend(lines.finish());
        let name = |wanted: Wanted| wanted.key.name().to_owned();
        all.into_iter().map(|line| (line.number, line.wanted.map(name))).collect()
    }

    #[test]
    fn each_line_that_is_no_key_is_told_by_its_number_and_the_others_count() {
        let text = b"plain\n\n\"as json\"\n{\"key\":\"k\",\"value\":\"v\",\"ttl\":\"5m\",\"tags\":[\"t\"]}\n\
            {\"key\":\"\"}\n{\"key\":\"k\",\"valeu\":1}\n{\"key\":\n\xff\n{\"key\":\"k\",\"ttl\":\"1m\"}\n\
            {\"key\":\"k\",\"value_base64\":\"?\"}\n{\"key\":\"k\",\"value\":\"v\",\"ttl\":\"0s\"}\nlast";
        let seen = lines(text, 1_000);
        let good: Vec<(u64, &str)> =
            seen.iter().filter_map(|(number, key)| Some((*number, key.as_deref().ok()?))).collect();
        assert_eq!(good, [(1, "plain"), (3, "as json"), (4, "k"), (12, "last")]);
        let wrong: Vec<(u64, &str)> =
            seen.iter().filter_map(|(number, key)| Some((*number, key.as_ref().err()?.as_str()))).collect();
        let begins = [
            (5, "key: must have 1 to 1024 bytes, is empty"),
            (6, "unknown field `valeu`"),
            (7, "EOF while parsing"),
            (8, "must be UTF-8"),
            (9, "must have ttl, tags and content_type only beside a value"),
            (10, "value_base64: must be base64"),
            (11, "ttl: must be above zero"),
        ];
        assert_eq!(wrong.len(), begins.len(), "{wrong:?}");
        for ((number, message), (expected, begin)) in wrong.iter().zip(begins) {
            assert!(*number == expected && message.starts_with(begin), "{number}: {message}");
        }
    }

    #[test]
    fn a_line_of_any_length_takes_bounded_memory() {
        let mut cutter = Lines::new("test", 100);
        for _ in 0..1_000 {
            assert!(cutter.push(&[b'x'; 1_000]).is_empty());
            assert!(cutter.rest.len() <= 100);
        }
        let seen = cutter.push(b"\nnext\n");
        assert_eq!(seen[0].wanted.as_ref().unwrap_err(), "must have at most 100 bytes");
        assert_eq!((seen[1].number, seen[1].wanted.as_ref().unwrap().key.name()), (2, "next"));
    }

    proptest! {
        #[test]
        fn lines_are_the_same_however_the_text_is_cut(
            text in prop::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..200), cut in 1_usize..20,
        ) {
            let mut pieces = Lines::new("test", 30);
            let mut seen: Vec<Line> = text.chunks(cut).flat_map(|chunk| pieces.push(chunk)).collect();
            seen.extend(pieces.finish());
            let mut whole = Lines::new("test", 30);
            let mut expected = whole.push(&text);
            expected.extend(whole.finish());
            prop_assert_eq!(seen, expected);
        }
    }
}
