use std::time::Duration;

use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::operation::Action;
use mainstay_proto::cache::v1::outcome::Result as Outcome;
use mainstay_rpc::{ErrorCode, Failure};

use super::codec::{
    decode_removal, decode_set, encode_deleted, encode_failure, encode_found, encode_stored, refused,
};
use crate::engine::{Engine, Set};
use crate::entry::Removal;
use crate::key::Key;
use crate::origin::Seat;

/// Most operations in one batch.
pub(super) const MOST_IN_BATCH: usize = 1_000;

/// One operation of a batch, checked.
#[derive(Debug)]
pub(super) enum Operation {
    Get(Key),
    Set(Box<Set>),
    Delete(Key, Box<Removal>),
}

impl Operation {
    pub(super) fn decode(namespace: &str, operation: pb::Operation) -> Result<Self, Failure> {
        let pb::Operation { key, action } = operation;
        match action {
            Some(Action::Get(pb::GetAction {})) => {
                Key::try_new(namespace, &key).map(Self::Get).map_err(refused)
            }
            Some(Action::Delete(pb::DeleteAction { fence, idempotency_key })) => {
                let key = Key::try_new(namespace, &key).map_err(refused)?;
                let removal = decode_removal(fence, &idempotency_key).map_err(refused)?;
                Ok(Self::Delete(key, Box::new(removal)))
            }
            Some(Action::Set(set)) => {
                let pb::SetAction { value, ttl, content_type, if_version, tags, fence, idempotency_key } =
                    set;
                let request = pb::SetRequest {
                    namespace: namespace.to_owned(),
                    key,
                    value,
                    ttl,
                    content_type,
                    if_version,
                    tags,
                    fence,
                    idempotency_key,
                    ..pb::SetRequest::default()
                };
                decode_set(request).map(|set| Self::Set(Box::new(set))).map_err(refused)
            }
            None => Err(Failure::invalid("action", "must be get, set or delete")),
        }
    }

    /// Does it. A read that has to be loaded is loaded together with those of the other seats.
    pub(super) async fn run(self, engine: &Engine, left: Duration, seat: Option<Seat>) -> Outcome {
        let outcome = match self {
            Self::Get(key) => {
                let found = engine.get_among(&key, left, seat).await;
                found.map(|found| Outcome::Get(encode_found(found)))
            }
            Self::Set(set) => engine.set(*set, left).await.map(|stored| Outcome::Set(encode_stored(stored))),
            Self::Delete(key, removal) => {
                let deleted = engine.delete(&key, *removal, left).await;
                deleted.map(|deleted| Outcome::Delete(encode_deleted(deleted)))
            }
        };
        outcome.unwrap_or_else(|error| failed(&error.into()))
    }
}

/// Refuses a batch that is empty or too long.
pub(super) fn check_length(n_operations: usize) -> Result<(), Failure> {
    if (1..=MOST_IN_BATCH).contains(&n_operations) {
        return Ok(());
    }
    let message = format!("must have 1 to {MOST_IN_BATCH} operations, has {n_operations}");
    Err(Failure::invalid("operations", message).with_reason("BATCH_SIZE"))
}

/// Gives a failure as the outcome of an operation; what is our own fault is logged.
pub(super) fn failed(failure: &Failure) -> Outcome {
    if failure.code() == ErrorCode::Internal {
        failure.log();
    }
    Outcome::Error(encode_failure(failure))
}

/// Returns about how much an outcome takes in an answer.
pub(super) fn size(outcome: &Outcome) -> usize {
    const FRAME_BYTES: usize = 64;
    match outcome {
        Outcome::Get(get) => {
            FRAME_BYTES + get.entry.as_ref().map_or(0, |entry| entry.value.len() + entry.content_type.len())
        }
        Outcome::Set(_) | Outcome::Delete(_) => FRAME_BYTES,
        Outcome::Error(error) => 2 * FRAME_BYTES + error.message.len(),
    }
}
