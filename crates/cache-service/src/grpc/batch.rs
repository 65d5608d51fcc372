//! Many operations in one call.

use futures_util::StreamExt as _;
use futures_util::stream;
use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::outcome::Result as Outcome;
use mainstay_rpc::{Deadline, ErrorCode, Failure};

use super::operation::{MOST_IN_BATCH, Operation, check_length, failed, size};
use crate::engine::Engine;
use crate::origin::Seat;

/// Operations of one batch that are under way below memory at once; they share one connection to Redis.
const CONCURRENT: usize = 64;

/// Answers every operation; what would make the answer larger than `most_bytes` is refused.
pub(super) async fn batch(
    engine: &Engine,
    request: pb::BatchRequest,
    deadline: Deadline,
    most_bytes: usize,
) -> Result<pb::BatchResponse, Failure> {
    let pb::BatchRequest { namespace, operations } = request;
    check_length(operations.len())?;
    let mut outcomes: Vec<Option<Outcome>> = Vec::new();
    outcomes.resize_with(operations.len(), || None);
    let below = hits(engine, &namespace, operations, &mut outcomes);
    // Reads that have to be loaded wait for one another, so they must all be under way.
    let concurrent = if engine.loads_misses(&namespace) { MOST_IN_BATCH } else { CONCURRENT };
    let first = Seat::first();
    let below: Vec<_> = below
        .into_iter()
        .map(|(index, operation)| {
            let seat = matches!(operation, Operation::Get(_)).then(|| first.another());
            async move { (index, operation.run(engine, deadline.left(), seat).await) }
        })
        .collect();
    drop(first);
    let mut below = stream::iter(below).buffer_unordered(concurrent);
    let mut room = most_bytes;
    for outcome in outcomes.iter_mut().flatten() {
        fit(outcome, &mut room);
    }
    while let Some((index, mut outcome)) = below.next().await {
        fit(&mut outcome, &mut room);
        outcomes[index] = Some(outcome);
    }
    let outcomes = outcomes
        .into_iter()
        .enumerate()
        .map(|(index, result)| pb::Outcome { index: u32::try_from(index).expect("at most 1,000"), result });
    Ok(pb::BatchResponse { outcomes: outcomes.collect() })
}

/// Answers what memory alone can and what is wrong, and returns the rest.
fn hits(
    engine: &Engine,
    namespace: &str,
    operations: Vec<pb::Operation>,
    outcomes: &mut [Option<Outcome>],
) -> Vec<(usize, Operation)> {
    let mut hits = engine.hits(namespace);
    let mut below = Vec::new();
    for (index, operation) in operations.into_iter().enumerate() {
        match Operation::decode(namespace, operation) {
            Err(failure) => outcomes[index] = Some(failed(&failure)),
            Ok(Operation::Get(key)) => match hits.as_mut().and_then(|hits| hits.get(&key)) {
                Some(found) => outcomes[index] = Some(Outcome::Get(super::codec::encode_found(found))),
                None => below.push((index, Operation::Get(key))),
            },
            Ok(operation) => below.push((index, operation)),
        }
    }
    below
}

/// Puts an outcome into the answer, or says that there is no room for it.
fn fit(outcome: &mut Outcome, room: &mut usize) {
    match room.checked_sub(size(outcome)) {
        Some(left) => *room = left,
        None => {
            let message = "the answers of the batch are too large for one response";
            *outcome = failed(&Failure::new(ErrorCode::ResourceExhausted, "RESPONSE_TOO_LARGE", message));
        }
    }
}
