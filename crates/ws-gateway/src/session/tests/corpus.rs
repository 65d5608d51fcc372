//! What clients really send, spoiled: every command in both forms, as bytes of a socket, with bytes changed, cut out, doubled
//! and put in. `PROPTEST_CASES=1000000` makes a long run of it.

use proptest::prelude::*;
use serde_json::Value;

use super::{Driven, rules};
use crate::codec::{Decoder, Message};
use crate::protocol::protobuf;
use crate::session::{Action, Rules};

const MAX_MESSAGE_BYTES: usize = 1 << 16;

/// Text frames: each command once, with all of its fields.
const TEXTS: [&str; 10] = [
    r#"{"id":1,"connect":{"data":{"a":[1]},"subs":{"a":{"recover":true,"epoch":"e","offset":3}},"name":"js","version":"5"}}"#,
    r#"{"id":2,"subscribe":{"channel":"a","recover":true,"epoch":"abcd","offset":18446744073709551615,"flag":3,"type":0,"delta":"fossil","positioned":true,"recoverable":true,"join_leave":true,"data":{}}}"#,
    r#"{"id":3,"subscribe":{"channel":"full:b","tf":{"op":"and","nodes":[{"key":"k","cmp":"in","vals":["1","2"]},{"op":"not","nodes":[{"key":"n","cmp":"gte","val":"-1.50"}]}]}}}"#,
    "{\"id\":4,\"publish\":{\"channel\":\"full:a\",\"data\":{\"text\":\"gr\\u00fc\\ud83d\\ude00\",\"n\":1e400}}}\n{\"id\":5,\"unsubscribe\":{\"channel\":\"a\"}}",
    r#"{"id":6,"history":{"channel":"full:a","limit":-1,"since":{"offset":1,"epoch":"e"},"reverse":true}}"#,
    r#"{"id":7,"presence":{"channel":"full:a"}}"#,
    "{\"id\":8,\"presence_stats\":{\"channel\":\"full:a\"}}\n{\"id\":9,\"ping\":{}}",
    r#"{"id":10,"rpc":{"method":"m","data":[null]}}"#,
    r#"{"id":11,"refresh":{"token":"a.b.c"}}"#,
    r#"{"id":12,"sub_refresh":{"channel":"$a#1,2","token":"a.b.c"}}"#,
];

/// Binary frames: the same, each command behind its length.
const BINARIES: [&[u8]; 8] = [
    b"\x0d\x08\x01\x22\x09\x12\x02{}\x22\x03js ",
    b"\x13\x08\x02\x2a\x0f\x0a\x01a\x18\x01\x32\x01e\x38\xff\x01\x70\x03\x48\x01",
    b"\x17\x08\x03\x2a\x13\x0a\x01b\x6a\x0e\x0a\x03not\x32\x07\x12\x01k\x1a\x02ex",
    b"\x0a\x08\x04\x3a\x06\x0a\x01a\x12\x011\x07\x08\x05\x32\x03\x0a\x01a",
    b"\x10\x08\x06\x52\x0c\x0a\x01a\x38\x0a\x42\x05\x08\x01\x12\x01e",
    b"\x07\x08\x07\x42\x03\x0a\x01a\x07\x08\x08\x4a\x03\x0a\x01a\x00",
    b"\x0a\x08\x09\x6a\x06\x0a\x01\x31\x12\x01m\x04\x08\x0a\x5a\x00",
    b"\x09\x08\x0b\x72\x05\x0a\x03a.b\x0c\x08\x0c\x7a\x08\x0a\x01a\x12\x03a.b",
];

/// What is known to make parsers stumble.
const STUMBLING: [&[u8]; 10] = [
    b"\n",
    b"\0",
    b"{\"id\":",
    b"99999999999999999999",
    b"\\ud800",
    b"\xed\xa0\x80",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"[[[[[[[[[[[[[[[[",
    b"-0.0e-999",
    b"\xe2\x80\xa8",
];

/// One change of a stream: where, which, and how much.
type Change = (prop::sample::Index, u8, u8);

fn spoil(bytes: &mut Vec<u8>, (at, kind, value): &Change) {
    let at = at.index(bytes.len() + 1);
    let end = (at + usize::from(*value)).min(bytes.len());
    match kind {
        0 if at < bytes.len() => bytes[at] = *value,
        1 if at < bytes.len() => bytes[at] ^= 1 << (value % 8),
        2 => bytes.insert(at, *value),
        3 => drop(bytes.drain(at..end)),
        4 => bytes.truncate(at),
        5 => {
            let again = bytes[at..end].to_vec();
            bytes.splice(at..at, again);
        }
        _ => {
            let some = STUMBLING[usize::from(*value) % STUMBLING.len()];
            bytes.splice(at..at, some.iter().copied());
        }
    }
}

/// Writes a frame of a client whose mask is all zeros, so that what spoils the stream spoils the payload.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..=125 => frame.push(0x80 | len as u8),
        len => {
            frame.push(0x80 | 126);
            frame.extend((len as u16).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// Gives a payload to a connected session, as the frame of either form; says what came of it.
fn hear(driven: &mut Driven, text: &str) -> Result<(), TestCaseError> {
    let mut actions = Vec::new();
    driven.session.on_text(text, driven.now, &mut actions);
    let close = actions.iter().position(|action| matches!(action, Action::Close(_)));
    prop_assert!(close.is_none_or(|index| index + 1 == actions.len()), "{actions:?}");
    for action in &actions {
        if let Action::Reply { frame, .. } = action {
            prop_assert!(serde_json::from_slice::<Value>(frame).is_ok(), "{action:?}");
            // It can be told in the other form too.
            let _ = protobuf::from_json(frame);
        }
    }
    Ok(())
}

fn open() -> Rules {
    Rules { allow_anonymous: true, rpc: true, ..rules() }
}

/// Lets a stream of frames go through all that stands before the hub.
fn read(driven: &mut Driven, mut stream: Vec<u8>) -> Result<(), TestCaseError> {
    let mut decoder = Decoder::new(MAX_MESSAGE_BYTES);
    let mut input = &mut stream[..];
    while let Ok(Some(message)) = decoder.next(&mut input) {
        match message {
            Message::Text(text) => hear(driven, &text)?,
            Message::Binary(data) => hear(driven, &protobuf::to_json(&data).unwrap_or_default())?,
            Message::Ping(_) | Message::Pong | Message::Close(_) => {}
        }
    }
    Ok(())
}

#[test]
fn what_is_not_spoiled_is_understood() {
    for (n, text) in TEXTS.iter().enumerate().skip(1) {
        let shown = Driven::connected(open()).text(text);
        assert!(!shown.iter().any(|action| action.starts_with("close 3501")), "{n}: {shown:?}");
    }
    for (n, binary) in BINARIES.iter().enumerate() {
        let lines = protobuf::to_json(binary).unwrap_or_else(|_| panic!("binary {n} is no frame"));
        assert!(lines.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{lines}");
    }
}

#[test]
fn no_depth_is_too_deep() {
    let deep = "[".repeat(30_000) + &"]".repeat(30_000);
    let node = r#"{"op":"not","nodes":["#.repeat(3_000) + &"]}".repeat(3_000);
    for command in [
        format!(r#"{{"id":2,"publish":{{"channel":"full:a","data":{deep}}}}}"#),
        format!(r#"{{"id":2,"rpc":{{"method":"m","data":{deep}}}}}"#),
        format!(r#"{{"id":2,"other":{deep}}}"#),
        format!(r#"{{"id":2,"subscribe":{{"channel":"a","tf":{node}}}}}"#),
        deep.clone(),
    ] {
        let mut driven = Driven::connected(open());
        hear(&mut driven, &command).unwrap();
    }
    let push = format!(r#"{{"push":{{"channel":"a","pub":{{"data":{deep}}}}}}}"#);
    assert!(protobuf::from_json(push.as_bytes()).len() > deep.len());
}

proptest! {
    #[test]
    fn spoiled_frames_make_nothing_panic(
        picked in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 1..4),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0_u8..8, any::<u8>()), 0..12),
        is_connected in any::<bool>(),
    ) {
        let mut stream = Vec::new();
        for (is_text, index) in picked {
            stream.extend(match is_text {
                true => frame(0x81, TEXTS[index.index(TEXTS.len())].as_bytes()),
                false => frame(0x82, BINARIES[index.index(BINARIES.len())]),
            });
        }
        for change in &changes {
            spoil(&mut stream, change);
        }
        let mut driven = if is_connected { Driven::connected(open()) } else { Driven::new(open()) };
        read(&mut driven, stream)?;
    }

    #[test]
    fn spoiled_payloads_make_nothing_panic(
        (is_text, index) in (any::<bool>(), any::<prop::sample::Index>()),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0_u8..8, any::<u8>()), 0..12),
    ) {
        // The frame is good, so that what is spoiled gets as far as the parser.
        let mut payload = match is_text {
            true => TEXTS[index.index(TEXTS.len())].as_bytes().to_vec(),
            false => BINARIES[index.index(BINARIES.len())].to_vec(),
        };
        for change in &changes {
            spoil(&mut payload, change);
        }
        payload.truncate(usize::from(u16::MAX));
        let text = String::from_utf8_lossy(&payload).into_owned();
        let payload = if is_text { text.as_bytes() } else { &payload[..] };
        let mut driven = Driven::connected(open());
        read(&mut driven, frame(if is_text { 0x81 } else { 0x82 }, payload))?;
    }
}
