//! Between protobuf and the types of the engine, the same for every door.

use std::time::Duration;

use mainstay_proto::cache::v1 as pb;
use mainstay_rpc::Failure;

use crate::engine::{Deleted, Found, Set, Stored, WriteOutcome};
use crate::entry::{Condition, Removal};
use crate::error::CacheError;
use crate::fence::Fence;
use crate::key::{ContentType, Invalid, Key, Tags, Ttl};
use crate::metrics::LastLayer;
use crate::once::Once;
use crate::shared::{Name, exact};

/// As the locks have it.
const LOCK_BYTES_MAX: usize = 256;

pub(super) fn refused(invalid: Invalid) -> Failure {
    CacheError::from(invalid).into()
}

pub(super) fn decode_set(request: pb::SetRequest) -> Result<Set, Invalid> {
    let ttl = request.ttl.map(|ttl| Ttl::try_new(exact(ttl).ok_or(Invalid::TtlOutOfRange)?));
    let once = once_of_set(&request)?;
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
        once,
    })
}

/// Takes all that the caller says of what is to be stored; conditions may differ from one try to the next.
fn once_of_set(request: &pb::SetRequest) -> Result<Option<Once>, Invalid> {
    if request.idempotency_key.is_empty() {
        return Ok(None);
    }
    let ttl = request.ttl.unwrap_or_default();
    let (seconds, nanos) = (ttl.seconds.to_be_bytes(), ttl.nanos.to_be_bytes());
    let mut change: Vec<&[u8]> =
        vec![b"set", &request.value, &seconds, &nanos, request.content_type.as_bytes()];
    change.extend(request.tags.iter().map(String::as_bytes));
    Once::try_new(&request.idempotency_key, &change)
}

pub(super) fn decode_removal(fence: Option<pb::Fence>, idempotency_key: &str) -> Result<Removal, Invalid> {
    let once = Once::try_new(idempotency_key, &[b"delete"])?;
    Ok(Removal { fence: decode_fence(fence)?, once, ..Removal::default() })
}

fn decode_fence(fence: Option<pb::Fence>) -> Result<Option<Fence>, Invalid> {
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
    let outcome = match stored.outcome {
        WriteOutcome::Applied => pb::WriteOutcome::Applied,
        WriteOutcome::NotApplied => pb::WriteOutcome::NotApplied,
        WriteOutcome::Unknown => pb::WriteOutcome::Unknown,
    };
    pb::SetResponse {
        version: stored.version,
        degraded: stored.is_degraded(),
        outcome: outcome.into(),
        replayed: stored.replayed,
    }
}

pub(super) fn encode_deleted(deleted: Deleted) -> pb::DeleteResponse {
    pb::DeleteResponse { existed: deleted.existed, replayed: deleted.replayed }
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
