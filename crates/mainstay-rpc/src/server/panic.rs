//! A handler that panics answers `INTERNAL` and takes nothing else down.

use std::any::Any;

use crate::failure::Failure;

pub(super) fn failure(payload: &(dyn Any + Send)) -> Failure {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a value that is not text".to_owned());
    Failure::internal(Panicked(text)).with_reason("PANIC")
}

#[derive(Debug, thiserror::Error)]
#[error("handler panicked: {0}")]
struct Panicked(String);
