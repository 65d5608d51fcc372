use std::time::Duration;

use mainstay_proto::cache::v1::operation::Action;
use mainstay_proto::cache::v1::outcome::Result as Outcome;
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::shared::exact;

fn action() -> impl Strategy<Value = Option<Action>> {
    prop_oneof![
        8 => Just(Some(Action::Get(pb::GetAction {}))),
        1 => Just(None),
        1 => Just(Some(Action::Delete(pb::DeleteAction::default()))),
        1 => "\\PC{0,9}".prop_map(|value| {
            Some(Action::Set(pb::SetAction { value: value.into_bytes().into(), ..pb::SetAction::default() }))
        }),
    ]
}

fn batch() -> impl Strategy<Value = pb::BatchRequest> {
    let operation = ("\\PC{0,200}", action()).prop_map(|(key, action)| pb::Operation { key, action });
    let get = "\\PC{0,40}".prop_map(|key| pb::Operation { key, action: Some(Action::Get(pb::GetAction {})) });
    let operations = prop_oneof![prop::collection::vec(operation, 0..6), prop::collection::vec(get, 0..20),];
    ("[a-z]{0,9}", operations).prop_map(|(namespace, operations)| pb::BatchRequest { namespace, operations })
}

fn stream_request() -> impl Strategy<Value = pb::StreamRequest> {
    let duration =
        (-1_i64..3, -1_i32..3).prop_map(|(seconds, nanos)| prost_types::Duration { seconds, nanos });
    let within = prop::option::of(duration);
    (any::<u64>(), prop::option::of(batch()), within).prop_map(|(id, batch, within)| pb::StreamRequest {
        id,
        batch,
        within,
    })
}

fn only_reads(batch: &pb::BatchRequest) -> bool {
    batch.operations.iter().all(|operation| matches!(operation.action, Some(Action::Get(_))))
}

fn is_same(gets: &Gets, batch: &pb::BatchRequest) -> bool {
    let keys = batch.operations.iter().map(|operation| operation.key.as_str());
    only_reads(batch) && gets.namespace() == batch.namespace && gets.keys_from(0).eq(keys)
}

/// Bytes that are nearly a message: one with some bytes changed, left out, doubled or put in.
fn damaged(bytes: Vec<u8>) -> impl Strategy<Value = Bytes> {
    let damage = (any::<prop::sample::Index>(), any::<u8>(), 0_u8..4);
    prop::collection::vec(damage, 0..4).prop_map(move |damages| {
        let mut bytes = bytes.clone();
        for (at, byte, kind) in damages {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, byte),
                _ => bytes.extend_from_within(at..),
            }
        }
        bytes.into()
    })
}

proptest! {
    #[test]
    fn every_request_of_reads_is_read_and_no_other(request in stream_request()) {
        let read = Gets::read_streamed(&request.encode_to_vec().into());
        let is_legal = |within| exact(within).is_some_and(|within| !within.is_zero());
        let known = request.within.is_none_or(is_legal) && request.batch.as_ref().is_some_and(only_reads);
        prop_assert_eq!(read.is_some(), known);
        if let Some((id, within, gets)) = read {
            prop_assert_eq!((id, within), (request.id, request.within.and_then(exact)));
            prop_assert!(is_same(&gets, &request.batch.unwrap()));
        }
    }

    #[test]
    fn what_is_read_of_damaged_bytes_is_what_prost_reads(
        bytes in stream_request().prop_flat_map(|request| damaged(request.encode_to_vec())),
    ) {
        if let Some((id, within, gets)) = Gets::read_streamed(&bytes) {
            let request = pb::StreamRequest::decode(bytes.clone()).unwrap();
            prop_assert_eq!((request.id, request.within.and_then(exact)), (id, within));
            prop_assert_eq!(request.within.is_some(), within.is_some());
            prop_assert!(is_same(&gets, &request.batch.unwrap()));
        }
        if let Some(gets) = Gets::read(&bytes) {
            prop_assert!(is_same(&gets, &pb::BatchRequest::decode(bytes.clone()).unwrap()));
        }
        if let Some(get) = Get::read(&bytes) {
            let request = pb::GetRequest::decode(bytes.clone()).unwrap();
            prop_assert_eq!((get.namespace, get.key), (&*request.namespace, &*request.key));
            prop_assert!(!request.lease);
        }
    }

    #[test]
    fn a_read_of_one_key_is_read_as_it_was_written(
        namespace in "\\PC{0,20}", key in "\\PC{0,200}", lease in any::<bool>(),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let request = pb::GetRequest { namespace, key, lease };
        let mut bytes = request.encode_to_vec();
        if let Some(cut) = cut.filter(|_| !bytes.is_empty()) {
            bytes.truncate(cut.index(bytes.len()));
        }
        match Get::read(&bytes) {
            Some(get) => {
                let request = pb::GetRequest::decode(&bytes[..]).unwrap();
                prop_assert_eq!((get.namespace, get.key), (&*request.namespace, &*request.key));
                prop_assert!(!request.lease);
            }
            None => prop_assert!(lease || pb::GetRequest::decode(&bytes[..]).is_err()),
        }
    }

    #[test]
    fn answers_are_written_as_prost_writes_them(
        value in prop::collection::vec(any::<u8>(), 0..400),
        content_type in "[a-z/]{0,200}",
        version in prop_oneof![Just(0), any::<u64>(), Just(u64::MAX)],
        ttl_left_ms in prop_oneof![Just(0), 0_u64..5_000, 0_u64..1 << 40],
        age_ms in prop_oneof![Just(0), 0_u64..5_000, 0_u64..1 << 40],
        indices in prop::collection::vec(0_u32..1_000, 0..4),
        id in any::<u64>(),
        last in any::<bool>(),
    ) {
        let seen = Seen { value: value.as_slice().into(), content_type: &content_type, version, ttl_left_ms, age_ms };
        let millis = |millis| prost_types::Duration::try_from(Duration::from_millis(millis)).ok();
        let get = pb::GetResponse {
            entry: Some(pb::Entry {
                value: value.clone().into(),
                version,
                ttl: millis(ttl_left_ms),
                age: millis(age_ms),
                content_type: content_type.clone(),
            }),
            layer: pb::Layer::L1.into(),
            ..pb::GetResponse::default()
        };
        let mut written = BytesMut::new();
        put_get_response(&seen, &mut written);
        prop_assert_eq!(&written[..], &get.encode_to_vec()[..]);

        let mut written = BytesMut::new();
        put_stream_id(id, &mut written);
        for index in &indices {
            put_outcome(2, *index, &seen, &mut written);
        }
        if last {
            put_stream_last(&mut written);
        }
        let outcomes = indices.iter().map(|&index| pb::Outcome { index, result: Some(Outcome::Get(get.clone())) });
        let outcomes: Vec<_> = outcomes.collect();
        prop_assert_eq!(&written[..], &pb::StreamResponse { id, outcomes: outcomes.clone(), last }.encode_to_vec()[..]);

        let mut written = BytesMut::new();
        for index in &indices {
            put_outcome(1, *index, &seen, &mut written);
        }
        prop_assert_eq!(&written[..], &pb::BatchResponse { outcomes }.encode_to_vec()[..]);
    }
}

#[test]
fn what_is_no_plain_read_is_left_to_prost() {
    let batch = |operations: Vec<u8>| Bytes::from([&[10, 1, b'n'][..], &operations].concat());
    for (operations, is_read, what) in [
        (vec![18, 5, 10, 1, b'k', 18, 0], true, "a read"),
        (vec![18, 5, 18, 0, 10, 1, b'k'], true, "a read, the other way round"),
        (vec![18, 3, 10, 1, b'k'], false, "no action"),
        (vec![18, 7, 10, 1, b'k', 18, 2, 8, 1], false, "a read with a field of a later version"),
        (vec![18, 5, 10, 1, 0xFF, 18, 0], false, "a key that is no text"),
        (vec![18, 8, 10, 1, 0xFF, 10, 1, b'k', 18, 0], false, "the same, then another key"),
        (vec![18, 6, 10, 1, b'k', 18, 0], false, "an operation that is cut off"),
        (vec![18, 7, 10, 1, b'k', 18, 0, 24, 1], false, "a field of a wrong type"),
    ] {
        assert_eq!(Gets::read(&batch(operations)).is_some(), is_read, "{what}");
    }
    let get = pb::Operation { key: "k".to_owned(), action: Some(Action::Get(pb::GetAction {})) };
    for (n, is_read) in [(MOST_IN_BATCH, true), (MOST_IN_BATCH + 1, false)] {
        let batch = pb::BatchRequest { namespace: "n".to_owned(), operations: vec![get.clone(); n] };
        assert_eq!(Gets::read(&batch.encode_to_vec().into()).is_some(), is_read, "{n} operations");
    }
}
