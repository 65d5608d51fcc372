//! Between protobuf and the types of the engine, the same for every door.

use std::time::Duration;

use mainstay_proto::cache::v1 as pb;
use mainstay_rpc::Failure;

use crate::engine::{Found, Set, Stored};
use crate::entry::Condition;
use crate::error::CacheError;
use crate::fence::Fence;
use crate::key::{ContentType, Invalid, Key, Tags, Ttl};
use crate::metrics::LastLayer;
use crate::shared::Name;

/// As the locks have it.
const LOCK_BYTES_MAX: usize = 256;

pub(super) fn refused(invalid: Invalid) -> Failure {
    CacheError::from(invalid).into()
}

pub(super) fn decode_set(request: pb::SetRequest) -> Result<Set, Invalid> {
    let ttl = request.ttl.map(|ttl| {
        let ttl = Duration::try_from(ttl).map_err(|_| Invalid::TtlOutOfRange)?;
        Ttl::try_new(ttl)
    });
    Ok(Set {
        key: Key::try_new(&request.namespace, &request.key)?,
        value: request.value,
        ttl: ttl.transpose()?,
        content_type: ContentType::try_new(&request.content_type)?,
        condition: match request.if_version {
            None => Condition::Always,
            Some(0) => Condition::Absent,
            Some(version) => Condition::Version(version),
        },
        tags: Tags::try_new(request.tags.iter().map(String::as_str))?,
        lease: (request.lease != 0).then_some(request.lease),
        fence: decode_fence(request.fence)?,
    })
}

pub(super) fn decode_fence(fence: Option<pb::Fence>) -> Result<Option<Fence>, Invalid> {
    let Some(pb::Fence { lock, token }) = fence else { return Ok(None) };
    let lock = Name::try_new("fence.lock", &lock, LOCK_BYTES_MAX).map_err(|_| Invalid::FenceLock)?;
    if !(1..=Fence::TOKEN_MAX).contains(&token) {
        return Err(Invalid::FenceToken);
    }
    Ok(Some(Fence { lock, token }))
}

pub(super) fn encode_found(found: Found) -> pb::GetResponse {
    let layer = match found.layer {
        _ if found.entry.is_none() => pb::Layer::Unspecified,
        LastLayer::None => pb::Layer::Unspecified,
        LastLayer::L1 => pb::Layer::L1,
        LastLayer::L2 => pb::Layer::L2,
        LastLayer::L3 => pb::Layer::L3,
        LastLayer::Origin => pb::Layer::Origin,
    };
    // Both are bounded far below what a protobuf duration holds.
    let duration = |duration: Duration| duration.try_into().ok();
    let entry = found.entry.map(|entry| pb::Entry {
        value: entry.value,
        version: entry.version,
        ttl: duration(entry.ttl_left),
        age: duration(entry.age),
        content_type: entry.content_type.as_str().to_owned(),
    });
    pb::GetResponse {
        entry,
        layer: layer.into(),
        stale: found.stale,
        degraded: found.degraded,
        ..pb::GetResponse::default()
    }
}

pub(super) fn encode_stored(stored: Stored) -> pb::SetResponse {
    pb::SetResponse { version: stored.version, degraded: stored.degraded }
}

pub(super) fn encode_failure(failure: &Failure) -> pb::OperationError {
    pb::OperationError {
        code: failure.code().as_str().to_owned(),
        reason: failure.reason().to_owned(),
        message: failure.message().to_owned(),
        details: failure.details().iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
        retry_after: failure.retry_delay().and_then(|delay| delay.try_into().ok()),
    }
}
