//! What is published: checked on the way in, encoded once for everybody.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::channel::Channel;
use crate::error::Refusal;
use crate::protocol::{self, ClientInfo};

const MAX_TAGS: usize = 16;
const MAX_TAG_BYTES: usize = 64;

/// One message for any number of channels: its JSON body, ready to be put behind a channel's name.
#[derive(Clone, Debug)]
pub(crate) struct Publication {
    body: Box<RawValue>,
}

#[derive(Serialize)]
struct Body<'a> {
    data: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    info: Option<&'a ClientInfo<'a>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tags: BTreeMap<&'a str, &'a str>,
}

impl Publication {
    /// Accepts what a server wants to publish.
    pub(crate) fn from_server(
        data: &[u8],
        tags: &HashMap<String, String>,
        max_data_bytes: usize,
    ) -> Result<Self, Refusal> {
        if data.len() > max_data_bytes {
            return Err(Refusal::DataTooLarge { len_bytes: data.len(), max_bytes: max_data_bytes });
        }
        let data = one_line(data);
        let data: &RawValue = serde_json::from_slice(&data).map_err(Refusal::DataNotJson)?;
        Ok(Self::encode(&Body { data, info: None, tags: check_tags(tags)? }))
    }

    /// Takes what a client wants to publish. `data` comes from one line of a frame.
    pub(crate) fn from_client(data: &RawValue, info: &ClientInfo<'_>) -> Self {
        Self::encode(&Body { data, info: Some(info), tags: BTreeMap::new() })
    }

    fn encode(body: &Body<'_>) -> Self {
        let body = serde_json::value::to_raw_value(body).expect("texts and checked JSON can be written");
        Self { body }
    }

    /// Returns the push for the subscribers of `channel`.
    pub(crate) fn push_to(&self, channel: &Channel) -> Bytes {
        protocol::publication_push(channel.as_str(), &self.body)
    }
}

/// Frames join messages by line feeds. Inside JSON these stand only between tokens, where a space does as well.
fn one_line(data: &[u8]) -> std::borrow::Cow<'_, [u8]> {
    if data.contains(&b'\n') {
        data.iter().map(|&byte| if byte == b'\n' { b' ' } else { byte }).collect::<Vec<_>>().into()
    } else {
        data.into()
    }
}

fn check_tags(tags: &HashMap<String, String>) -> Result<BTreeMap<&str, &str>, Refusal> {
    if tags.len() > MAX_TAGS {
        return Err(Refusal::TagsInvalid(format!("{} tags, at most {MAX_TAGS} are allowed", tags.len())));
    }
    for (key, value) in tags {
        if key.is_empty() || key.len() > MAX_TAG_BYTES {
            return Err(Refusal::TagsInvalid(format!(
                "the key of a tag must have 1 to {MAX_TAG_BYTES} bytes"
            )));
        }
        if value.len() > MAX_TAG_BYTES {
            return Err(Refusal::TagsInvalid(format!(
                "the value of tag {key:?} has {} bytes, at most {MAX_TAG_BYTES} are allowed",
                value.len()
            )));
        }
    }
    Ok(tags.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(data: &[u8], tags: &[(&str, &str)]) -> Result<String, Refusal> {
        let tags = tags.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        let channel = Channel::parse("a\"b", 255).unwrap();
        let push = Publication::from_server(data, &tags, 64)?.push_to(&channel);
        Ok(String::from_utf8(push.to_vec()).unwrap())
    }

    #[test]
    fn a_push_is_one_line_of_json_with_data_as_it_was_written() {
        assert_eq!(
            publish(b"{\"n\": 1.0}", &[]).unwrap(),
            r#"{"push":{"channel":"a\"b","pub":{"data":{"n": 1.0}}}}"#
        );
        assert_eq!(
            publish(b"[1,\n\r\n \"a\\nb\"]\n", &[("z", "1"), ("a", "")]).unwrap(),
            "{\"push\":{\"channel\":\"a\\\"b\",\"pub\":{\"data\":[1, \r  \"a\\nb\"],\"tags\":{\"a\":\"\",\"z\":\"1\"}}}}"
        );
    }

    #[test]
    fn what_is_not_one_json_document_is_refused() {
        for data in ["", " ", "{", "1 2", "{\"a\":1}}", "'a'", "\"a\nb\u{0}\""] {
            assert!(matches!(publish(data.as_bytes(), &[]), Err(Refusal::DataNotJson(_))), "{data:?}");
        }
        assert!(matches!(publish(b"\"\xff\"", &[]), Err(Refusal::DataNotJson(_))));
        let nested = "[".repeat(32) + &"]".repeat(32);
        assert!(publish(nested.as_bytes(), &[]).is_ok());
        assert!(matches!(
            publish(&[b' '; 65], &[]),
            Err(Refusal::DataTooLarge { len_bytes: 65, max_bytes: 64 })
        ));
    }

    #[test]
    fn tags_have_limits() {
        let long = "x".repeat(65);
        let many: Vec<_> = (0..17).map(|n| n.to_string()).collect();
        let many: Vec<_> = many.iter().map(|key| (key.as_str(), "")).collect();
        for tags in [&[("", "a")][..], &[(long.as_str(), "a")], &[("a", long.as_str())], &many] {
            assert!(matches!(publish(b"1", tags), Err(Refusal::TagsInvalid(_))), "{tags:?}");
        }
        assert!(publish(b"1", &many[..16]).is_ok());
    }
}
