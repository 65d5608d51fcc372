//! Finds in what a source says what the configuration calls its id, its number and its data.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::events::Event;
use crate::config::FeedConfig;

/// A message of a source that is one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) id: Option<String>,
    pub(super) number: Option<u64>,
    /// As it was written.
    pub(super) data: String,
    /// Of an event stream; empty for none.
    pub(super) event_id: String,
}

impl Told {
    /// Reads what a source says; none when it is no message.
    pub(super) fn read(event: Event, config: &FeedConfig) -> Option<Self> {
        let FeedConfig { id, sequence, data, .. } = config;
        let Event { id: event_id, data: text } = event;
        if [id, sequence, data].iter().all(|pointer| pointer.is_empty()) {
            let id = (!event_id.is_empty()).then(|| event_id.clone());
            return Some(Self { id, number: None, data: text, event_id });
        }
        let document: &RawValue = serde_json::from_str(&text).ok()?;
        let id = match id.as_str() {
            "" => (!event_id.is_empty()).then(|| event_id.clone()),
            pointer => Some(word(at(document, pointer)?)?),
        };
        let number = match sequence.as_str() {
            "" => None,
            pointer => Some(word(at(document, pointer)?)?.parse().ok()?),
        };
        let data = match data.as_str() {
            "" => None,
            pointer => Some(at(document, pointer)?.get().to_owned()),
        };
        Some(Self { id, number, data: data.unwrap_or(text), event_id })
    }
}

/// Finds the value at a JSON pointer (RFC 6901), as it was written: numbers keep their digits.
fn at<'d>(document: &'d RawValue, pointer: &str) -> Option<&'d RawValue> {
    let mut value = document;
    for token in pointer.split('/').skip(1) {
        let token = token.replace("~1", "/").replace("~0", "~");
        value = match value.get().as_bytes().first()? {
            b'{' => {
                let fields: BTreeMap<Cow<'_, str>, &'d RawValue> = serde_json::from_str(value.get()).ok()?;
                fields.get(token.as_str()).copied()?
            }
            b'[' => {
                let items: Vec<&'d RawValue> = serde_json::from_str(value.get()).ok()?;
                items.get(token.parse::<usize>().ok()?).copied()?
            }
            _ => return None,
        };
    }
    Some(value)
}

/// Reads a text or a number.
fn word(value: &RawValue) -> Option<String> {
    match value.get().as_bytes().first()? {
        b'"' => serde_json::from_str(value.get()).ok(),
        b'-' | b'0'..=b'9' => Some(value.get().to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_where_the_configuration_says() {
        let told = |id: Option<&str>, number, data: &str, event_id: &str| {
            let (id, data) = (id.map(str::to_owned), data.to_owned());
            Some(Told { id, number, data, event_id: event_id.to_owned() })
        };
        let plain = FeedConfig::default();
        let deep = FeedConfig {
            id: "/m/i~1d".to_owned(),
            sequence: "/n/1".to_owned(),
            data: "/m/body".to_owned(),
            ..FeedConfig::default()
        };
        let exact = r#"{"price": 1.00000000000000000001, "n": 123456789012345678901234567890}"#;
        let with_exact = format!(r#"{{"n":[0,3],"m":{{"i/d":"x","body":{exact}}}}}"#);
        for (config, event_id, text, expected) in [
            (&plain, "", "{\"a\": 1.0}", told(None, None, "{\"a\": 1.0}", "")),
            (&plain, "7", "1", told(Some("7"), None, "1", "7")),
            (&deep, "7", r#"{"n":[0,3],"m":{"i/d":"x","body":[1]}}"#, told(Some("x"), Some(3), "[1]", "7")),
            (&deep, "", r#"{"n":["a","3"],"m":{"i/d":8,"body":null}}"#, told(Some("8"), Some(3), "null", "")),
            (&deep, "", &with_exact, told(Some("x"), Some(3), exact, "")),
            (&deep, "", r#"{"n":[0,-3],"m":{"i/d":8,"body":1}}"#, None),
            (&deep, "", r#"{"n":[0,3],"m":{"i/d":8}}"#, None),
            (&deep, "", r#"{"n":[0,3],"m":{"i/d":null,"body":1}}"#, None),
            (&deep, "", r#"{"subscribed":true}"#, None),
            (&deep, "", "{", None),
            (&deep, "", "", None),
        ] {
            let event = Event { id: event_id.to_owned(), data: text.to_owned() };
            assert_eq!(Told::read(event, config), expected, "{text}");
        }
    }
}
