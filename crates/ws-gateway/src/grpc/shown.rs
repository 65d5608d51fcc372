//! What is told to servers, in the form of the protocol buffers.

use std::sync::Arc;

use mainstay_proto::realtime::v1;
use serde_json::value::RawValue;

use crate::engine::Item;
use crate::error::Refusal;
use crate::hub::{Connection, Published, Reach};
use crate::publication::ClientInfo;

pub(super) fn described(connection: &Connection, node: &str) -> v1::Connection {
    let profile = connection.profile();
    let (messages_sent, bytes_sent) = connection.traffic.total_sent();
    let (messages_received, bytes_received) = connection.traffic.total_received();
    let level = connection.outbox.level();
    v1::Connection {
        client: connection.client.to_string(),
        user: profile.map(|profile| profile.user.to_string()).unwrap_or_default(),
        remote: connection.remote.to_string(),
        client_name: profile.map(|profile| profile.client_name.to_string()).unwrap_or_default(),
        client_version: profile.map(|profile| profile.client_version.to_string()).unwrap_or_default(),
        connected_at: Some(connection.connected_at.into()),
        channels: connection.channels().iter().map(|channel| channel.as_str().to_owned()).collect(),
        ping_rtt: connection.traffic.last_round_trip().and_then(|took| took.try_into().ok()),
        queue_bytes: level.bytes as u64,
        queue_bytes_peak: level.peak_bytes as u64,
        messages_sent,
        messages_received,
        bytes_sent,
        bytes_received,
        meta: profile
            .and_then(|profile| profile.meta.as_ref())
            .map(|meta| meta.get().to_owned().into())
            .unwrap_or_default(),
        node: node.to_owned(),
    }
}

/// Returns how far a publication went, and how many nodes were told.
pub(super) fn shown_reach(reach: Reach) -> (v1::Reach, u64) {
    match reach {
        Reach::Alone => (v1::Reach::EveryNode, 0),
        Reach::Everywhere { n_nodes } => (v1::Reach::EveryNode, n_nodes),
        Reach::Here => (v1::Reach::ThisNode, 0),
    }
}

/// Returns what became of one message of many.
pub(super) fn shown_outcome(channel: String, outcome: Result<Published, Refusal>) -> v1::BroadcastResult {
    let mut result = v1::BroadcastResult { channel, ..v1::BroadcastResult::default() };
    match outcome {
        Ok(published) => {
            (result.receivers, result.duplicate) = (published.receivers, published.duplicate);
            let (reach, nodes) = shown_reach(published.reach);
            (result.reach, result.nodes) = (reach.into(), nodes);
            if let Some(position) = published.position {
                (result.offset, result.epoch) = (position.offset, position.epoch.to_string());
            }
        }
        Err(refusal) => {
            result.error_code = refusal.reason().to_owned();
            result.error_message = refusal.to_string();
        }
    }
    result
}

impl ClientInfo {
    /// Reads what another node tells of a client.
    pub(crate) fn from_wire(told: &v1::ClientInfo) -> Option<Self> {
        Some(Self {
            user: told.user.as_str().into(),
            client: uuid::Uuid::parse_str(&told.client).ok()?,
            conn_info: document(&told.conn_info).ok()?,
            chan_info: document(&told.chan_info).ok()?,
        })
    }
}

fn document(bytes: &[u8]) -> serde_json::Result<Option<Arc<RawValue>>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice::<Box<RawValue>>(bytes).map(|document| Some(document.into()))
}

pub(super) fn shown_client(info: &ClientInfo) -> v1::ClientInfo {
    let bytes = |document: &Option<Arc<RawValue>>| {
        document.as_ref().map(|document| document.get().to_owned().into()).unwrap_or_default()
    };
    v1::ClientInfo {
        client: info.client.to_string(),
        user: info.user.to_string(),
        conn_info: bytes(&info.conn_info),
        chan_info: bytes(&info.chan_info),
    }
}

pub(super) fn shown_item(item: &Item) -> v1::Publication {
    let publication = &item.publication;
    let tags = publication.tags.iter();
    v1::Publication {
        offset: item.offset,
        data: publication.data.get().to_owned().into(),
        tags: tags.map(|(key, value)| (key.to_string(), value.to_string())).collect(),
        info: publication.info.as_ref().map(shown_client),
        published_at: Some(item.published_at.into()),
    }
}
