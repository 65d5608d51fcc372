//! What is published: checked on the way in, shared by everybody who receives or keeps it.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::value::RawValue;
use uuid::Uuid;

use crate::error::Refusal;
use crate::filter::Tags;

const MAX_TAGS: usize = 16;
const MAX_TAG_BYTES: usize = 64;
/// What a publication costs in memory beside its texts.
const OVERHEAD_BYTES: usize = 160;

/// One message for any number of channels.
#[derive(Debug)]
pub(crate) struct Publication {
    /// One JSON document in one line.
    pub(crate) data: Box<RawValue>,
    /// Absent when a server publishes.
    pub(crate) info: Option<ClientInfo>,
    pub(crate) tags: Tags,
}

/// Who a client is, as other clients are told.
#[derive(Clone, Debug)]
pub(crate) struct ClientInfo {
    pub(crate) user: Arc<str>,
    pub(crate) client: Uuid,
    /// From the connection token.
    pub(crate) conn_info: Option<Arc<RawValue>>,
    /// From the subscription token.
    pub(crate) chan_info: Option<Arc<RawValue>>,
}

/// Who does not receive a publication.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Exclusion {
    pub(crate) client: Option<Uuid>,
    /// Empty excludes nobody.
    pub(crate) user: Box<str>,
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
        let data = serde_json::from_slice(&one_line(data)).map_err(Refusal::DataNotJson)?;
        Ok(Self { data, info: None, tags: check_tags(tags)? })
    }

    /// Takes what a client wants to publish. `data` comes from one line of a frame.
    pub(crate) fn from_client(data: Box<RawValue>, info: ClientInfo) -> Self {
        Self { data, info: Some(info), tags: Tags::new() }
    }

    /// Returns about how much memory it takes.
    pub(crate) fn cost_bytes(&self) -> usize {
        let tags: usize = self.tags.iter().map(|(key, value)| key.len() + value.len() + 32).sum();
        OVERHEAD_BYTES + self.data.get().len() + tags
    }
}

impl Exclusion {
    /// Reads whom a server wants to leave out.
    pub(crate) fn parse(client: &str, user: String) -> Result<Option<Arc<Self>>, Refusal> {
        let client = match client {
            "" => None,
            client => Some(Uuid::parse_str(client).map_err(|_| Refusal::ClientInvalid)?),
        };
        let exclusion = Self { client, user: user.into() };
        Ok((exclusion != Self::default()).then(|| Arc::new(exclusion)))
    }

    pub(crate) fn covers(&self, client: Uuid, user: &str) -> bool {
        self.client == Some(client) || (!self.user.is_empty() && *self.user == *user)
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

fn check_tags(tags: &HashMap<String, String>) -> Result<Tags, Refusal> {
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
    Ok(tags.iter().map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(data: &[u8], tags: &[(&str, &str)]) -> Result<String, Refusal> {
        let tags = tags.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        let publication = Publication::from_server(data, &tags, 64)?;
        Ok(format!("{} {:?}", publication.data.get(), publication.tags))
    }

    #[test]
    fn data_is_one_line_of_json_as_it_was_written() {
        assert_eq!(publish(b"{\"n\": 1.0}", &[]).unwrap(), r#"{"n": 1.0} {}"#);
        assert_eq!(
            publish(b"[1,\n\r\n \"a\\nb\"]\n", &[("z", "1"), ("a", "")]).unwrap(),
            "[1, \r  \"a\\nb\"] {\"a\": \"\", \"z\": \"1\"}"
        );
    }

    #[test]
    fn exclusions_name_a_connection_or_a_user() {
        let (this, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert_eq!(Exclusion::parse("", String::new()).unwrap(), None);
        assert!(matches!(Exclusion::parse("me", String::new()), Err(Refusal::ClientInvalid)));
        let exclusion = Exclusion::parse(&this.to_string(), String::new()).unwrap().unwrap();
        assert!(exclusion.covers(this, "") && !exclusion.covers(other, ""));
        let exclusion = Exclusion::parse("", "42".to_owned()).unwrap().unwrap();
        assert!(
            exclusion.covers(other, "42") && !exclusion.covers(other, "") && !exclusion.covers(other, "4")
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
