//! How publications look in Redis and between nodes.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::engine::{Epoch, Item};
use crate::filter::Tags;
use crate::publication::{ClientInfo, Exclusion, Publication};

/// A publication as it comes from Redis, at its place.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    /// Its offset is 0 where the channel has no history.
    pub(crate) item: Item,
    pub(crate) epoch: Epoch,
}

/// Says that something in Redis was not written by us.
#[derive(Debug, thiserror::Error)]
#[error("what came from redis is not a publication")]
pub(crate) struct Foreign;

#[derive(Serialize, Deserialize)]
struct Packed {
    d: Box<RawValue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    i: Option<PackedInfo>,
    #[serde(default, skip_serializing_if = "Tags::is_empty")]
    g: Tags,
    /// Connection and user that are left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    xc: Option<String>,
    #[serde(default, skip_serializing_if = "str::is_empty")]
    xu: Box<str>,
}

#[derive(Serialize, Deserialize)]
struct PackedInfo {
    u: Box<str>,
    c: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ci: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hi: Option<Box<RawValue>>,
}

/// A client as nodes tell each other of it.
pub(crate) struct ClientPacked;

impl ClientPacked {
    /// Writes who a client is.
    pub(crate) fn of(info: &ClientInfo) -> String {
        serde_json::to_string(&PackedInfo::of(info)).expect("texts and checked JSON can be written")
    }

    /// Reads it again.
    pub(crate) fn read(text: &str) -> Option<ClientInfo> {
        serde_json::from_str::<PackedInfo>(text).ok()?.into_info().ok()
    }
}

impl PackedInfo {
    fn of(info: &ClientInfo) -> Self {
        let document = |info: &Option<Arc<RawValue>>| info.as_deref().map(ToOwned::to_owned);
        Self {
            u: (*info.user).into(),
            c: info.client.to_string(),
            ci: document(&info.conn_info),
            hi: document(&info.chan_info),
        }
    }

    fn into_info(self) -> Result<ClientInfo, Foreign> {
        Ok(ClientInfo {
            user: (*self.u).into(),
            client: Uuid::parse_str(&self.c).map_err(|_| Foreign)?,
            conn_info: self.ci.map(Into::into),
            chan_info: self.hi.map(Into::into),
        })
    }
}

/// Writes a publication as every node reads it.
pub(super) fn pack(publication: &Publication, exclusion: Option<&Exclusion>) -> String {
    let packed = Packed {
        d: publication.data.clone(),
        i: publication.info.as_ref().map(PackedInfo::of),
        g: publication.tags.clone(),
        xc: exclusion.and_then(|exclusion| exclusion.client).map(|client| client.to_string()),
        xu: exclusion.map(|exclusion| exclusion.user.clone()).unwrap_or_default(),
    };
    serde_json::to_string(&packed).expect("texts and checked JSON can be written")
}

/// Reads what a node or the history holds.
pub(super) fn unpack(offset: u64, published_ms: u64, payload: &[u8]) -> Result<Item, Foreign> {
    let packed: Packed = serde_json::from_slice(payload).map_err(|_| Foreign)?;
    let client = |text: &str| Uuid::parse_str(text).map_err(|_| Foreign);
    let info = packed.i.map(PackedInfo::into_info).transpose()?;
    let exclusion = Exclusion { client: packed.xc.as_deref().map(client).transpose()?, user: packed.xu };
    let exclusion = (exclusion != Exclusion::default()).then(|| Arc::new(exclusion));
    let published_at = SystemTime::UNIX_EPOCH + Duration::from_millis(published_ms);
    let publication = Arc::new(Publication { data: packed.d, info, tags: packed.g });
    Ok(Item::restored(offset, published_at, publication, exclusion))
}

/// Reads `p<offset>:<epoch>:<milliseconds>:<payload>`, which is what the script sends to all nodes.
pub(super) fn read_message(message: &[u8]) -> Result<Arrival, Foreign> {
    let mut parts = message.strip_prefix(b"p").ok_or(Foreign)?.splitn(4, |&byte| byte == b':');
    let mut text = || parts.next().and_then(|part| std::str::from_utf8(part).ok()).ok_or(Foreign);
    let offset = text()?.parse().map_err(|_| Foreign)?;
    let epoch = text()?.into();
    let published_ms = text()?.parse().map_err(|_| Foreign)?;
    let payload = parts.next().ok_or(Foreign)?;
    Ok(Arrival { item: unpack(offset, published_ms, payload)?, epoch })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publication_is_read_as_it_was_written() {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
        let info = ClientInfo {
            user: "u:1".into(),
            client: Uuid::from_u128(7),
            conn_info: Some(raw("{\"a\": 1.0}").into()),
            chan_info: None,
        };
        let tags = Tags::from([("k".into(), "v:w".into())]);
        let publication = Publication { data: raw("{\"n\": 1.0, \"t\":\"a:b\"}"), info: Some(info), tags };
        let exclusion = Exclusion { client: Some(Uuid::from_u128(9)), user: "x".into() };
        let payload = pack(&publication, Some(&exclusion));
        let arrival = read_message(format!("p12:ep:1700000000123:{payload}").as_bytes()).unwrap();
        assert_eq!((arrival.item.offset, &*arrival.epoch), (12, "ep"));
        assert_eq!(arrival.item.exclusion.as_deref(), Some(&exclusion));
        let read = &arrival.item.publication;
        assert_eq!((read.data.get(), &read.tags), (publication.data.get(), &publication.tags));
        let info = read.info.as_ref().unwrap();
        assert_eq!((&*info.user, info.client), ("u:1", Uuid::from_u128(7)));
        assert_eq!(info.conn_info.as_deref().unwrap().get(), "{\"a\": 1.0}");
    }

    #[test]
    fn what_others_write_is_not_a_publication() {
        for message in ["", "p", "x1:e:1:{}", "p1:e:1:", "p1:e:1:{}", "px:e:1:{\"d\":1}", "p1:e:{\"d\":1}"] {
            assert!(read_message(message.as_bytes()).is_err(), "{message}");
        }
        assert!(read_message(b"p0::5:{\"d\":1}").is_ok());
    }
}
