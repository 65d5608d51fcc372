use std::io::{Cursor, Read, Write};

use proptest::prelude::*;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocket, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Error};

use super::{Decoder, Message, Violation};

mod autobahn;

const MAX_MESSAGE_BYTES: usize = 70_000;

/// A message that outlives the bytes it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Heard {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong,
    Close(Option<u16>),
}

type Outcome = (Vec<Heard>, Option<Violation>);

impl From<Message<'_>> for Heard {
    fn from(message: Message<'_>) -> Self {
        match message {
            Message::Text(text) => Self::Text(text.into_owned()),
            Message::Binary(data) => Self::Binary(data.into_owned()),
            Message::Ping(data) => Self::Ping(data.into_owned()),
            Message::Pong => Self::Pong,
            Message::Close(code) => Self::Close(code),
        }
    }
}

/// Decodes a stream that comes in pieces of the given lengths, over and over.
fn decode(stream: &[u8], lengths: &[usize]) -> Outcome {
    let mut decoder = Decoder::new(MAX_MESSAGE_BYTES);
    let mut heard = Vec::new();
    let mut rest = stream;
    for &length in lengths.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, later) = rest.split_at(length.clamp(1, rest.len()));
        rest = later;
        let mut piece = piece.to_vec();
        let mut input = &mut piece[..];
        loop {
            match decoder.next(&mut input) {
                Ok(Some(message)) => heard.push(message.into()),
                Ok(None) => break,
                Err(violation) => return (heard, Some(violation)),
            }
        }
        assert!(input.is_empty(), "bytes were left behind");
    }
    (heard, None)
}

/// Writes one frame of a client. `first` is the first byte: flags and opcode.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    masked(first, payload, [0x37, 0xfa, 0x21, 0x3d])
}

fn masked(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..=125 => frame.push(0x80 | len as u8),
        len @ 126..=0xffff => {
            frame.push(0x80 | 126);
            frame.extend((len as u16).to_be_bytes());
        }
        len => {
            frame.push(0x80 | 127);
            frame.extend((len as u64).to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(0x88, &[&code.to_be_bytes(), reason].concat())
}

fn text(text: &str) -> Heard {
    Heard::Text(text.to_owned())
}

#[test]
fn good_streams_are_read() {
    let long = "x".repeat(126);
    let longer = "x".repeat(65_536);
    for (name, stream, expected) in [
        ("text", frame(0x81, b"Hello"), vec![text("Hello")]),
        ("empty text", frame(0x81, b""), vec![text("")]),
        ("binary", frame(0x82, &[0xff]), vec![Heard::Binary(vec![0xff])]),
        ("16-bit length", frame(0x81, long.as_bytes()), vec![text(&long)]),
        ("64-bit length", frame(0x81, longer.as_bytes()), vec![text(&longer)]),
        ("fragments", [frame(1, b"a"), frame(0, b""), frame(0x80, b"b")].concat(), vec![text("ab")]),
        ("empty fragments", [frame(1, b""), frame(0, b""), frame(0x80, b"")].concat(), vec![text("")]),
        (
            "a ping between fragments",
            [frame(1, b"a"), frame(0x89, b"p"), frame(0x80, b"b")].concat(),
            vec![Heard::Ping(b"p".to_vec()), text("ab")],
        ),
        (
            "a character over two fragments",
            [frame(1, b"\xe2\x82"), frame(0x80, b"\xac")].concat(),
            vec![text("\u{20ac}")],
        ),
        ("largest ping", frame(0x89, &[7; 125]), vec![Heard::Ping(vec![7; 125])]),
        ("unasked pong", frame(0x8a, b"x"), vec![Heard::Pong]),
        ("close without code", frame(0x88, b""), vec![Heard::Close(None)]),
        ("close with reason", close(1000, "bye \u{20ac}".as_bytes()), vec![Heard::Close(Some(1000))]),
        (
            "what follows a close",
            [close(4000, b""), frame(0x81, b"x"), vec![0xff; 9]].concat(),
            vec![Heard::Close(Some(4000))],
        ),
    ] {
        for lengths in [&[usize::MAX][..], &[1], &[2, 3], &[7]] {
            assert_eq!(decode(&stream, lengths), (expected.clone(), None), "{name} in {lengths:?}");
        }
    }
}

#[test]
fn every_kind_of_bad_frame_is_told_apart_however_it_is_cut() {
    use Violation as V;
    let too_large = [&[0x81, 0xff][..], &70_001_u64.to_be_bytes()].concat();
    let negative = [&[0x82, 0xff][..], &[0x80, 0, 0, 0, 0, 0, 0, 0], &[0; 4]].concat();
    let in_parts = [frame(2, &[0; 40_000]), frame(0x80, &[0; 30_001])].concat();
    for (name, stream, violation) in [
        ("reserved bit 1", frame(0xc1, b""), V::ReservedBit),
        ("reserved bit 2", frame(0xa1, b""), V::ReservedBit),
        ("reserved bit 3", frame(0x91, b""), V::ReservedBit),
        ("reserved bit of a ping", frame(0xc9, b""), V::ReservedBit),
        ("reserved data opcode", frame(0x83, b""), V::ReservedOpcode),
        ("reserved control opcode", frame(0x8b, b""), V::ReservedOpcode),
        ("last opcode", frame(0x8f, b""), V::ReservedOpcode),
        ("not masked", vec![0x81, 0x00], V::NotMasked),
        ("16-bit length of 125", vec![0x81, 0xfe, 0, 125, 0, 0, 0, 0], V::LengthNotMinimal),
        (
            "64-bit length of 65,535",
            [&[0x81, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff][..], &[0; 4]].concat(),
            V::LengthNotMinimal,
        ),
        ("negative length", negative, V::LengthNegative),
        ("fragmented ping", frame(0x09, b""), V::ControlFragmented),
        ("fragmented close", frame(0x08, b""), V::ControlFragmented),
        ("long ping", frame(0x89, &[0; 126]), V::ControlTooLong),
        ("long close", close(1000, &[b'x'; 124]), V::ControlTooLong),
        ("continuation of nothing", frame(0x80, b"x"), V::NothingToContinue),
        ("continuation after the end", [frame(0x81, b"x"), frame(0, b"x")].concat(), V::NothingToContinue),
        ("text inside text", [frame(1, b"a"), frame(0x81, b"b")].concat(), V::MessageInterrupted),
        ("binary inside text", [frame(1, b"a"), frame(2, b"b")].concat(), V::MessageInterrupted),
        ("close of one byte", frame(0x88, &[3]), V::CloseTruncated),
        ("reason that is not utf-8", close(1000, &[0xff]), V::NotUtf8),
        ("text that is not utf-8", frame(0x81, b"a\xffb"), V::NotUtf8),
        ("a surrogate", frame(0x81, b"\xed\xa0\x80"), V::NotUtf8),
        ("an overlong form", frame(0x81, b"\xc0\xaf"), V::NotUtf8),
        ("beyond unicode", frame(0x81, b"\xf4\x90\x80\x80"), V::NotUtf8),
        ("half a character", frame(0x81, b"a\xe2\x82"), V::NotUtf8),
        ("half a character in fragments", [frame(1, b"\xe2"), frame(0x80, b"\x82")].concat(), V::NotUtf8),
        ("declared too large", [&too_large[..], &[0; 4]].concat(), V::TooLarge),
        ("too large in parts", in_parts, V::TooLarge),
    ] {
        for lengths in [&[usize::MAX][..], &[1], &[2, 3], &[7]] {
            assert_eq!(decode(&stream, lengths).1, Some(violation), "{name} in {lengths:?}");
        }
    }
}

#[test]
fn only_codes_that_may_be_sent_are_taken() {
    let allowed = |code| matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
    for code in (0..1_020).chain([1_100, 2_000, 2_999, 3_000, 3_999, 4_000, 4_999, 5_000, 65_535]) {
        let expected = match allowed(code) {
            true => (vec![Heard::Close(Some(code))], None),
            false => (vec![], Some(Violation::CloseCode)),
        };
        assert_eq!(decode(&close(code, b""), &[usize::MAX]), expected, "{code}");
    }
}

#[test]
fn a_text_is_refused_at_its_first_bad_byte() {
    let mut decoder = Decoder::new(100);
    let mut start = frame(0x81, b"ab\xffcdefgh");
    start.truncate(6 + 3);
    assert_eq!(decoder.next(&mut &mut start[..]), Err(Violation::NotUtf8));
}

#[test]
fn nothing_is_kept_between_messages() {
    let mut decoder = Decoder::new(MAX_MESSAGE_BYTES);
    let mut stream = [frame(1, b"a"), frame(0x89, b"p"), frame(0x80, b"b"), frame(0x81, b"c")].concat();
    for byte in &mut stream {
        let _ = decoder.next(&mut std::slice::from_mut(byte)).unwrap();
    }
    assert!(decoder.is_between_messages());
    assert!(!format!("{decoder:?}").contains("data: [9"), "{decoder:?}");
}

/// A message cut into fragments, each behind any number of control frames.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let fragment = (prop::collection::vec(control(), 0..2), any::<[u8; 4]>());
    let body = prop_oneof![
        6 => ".{0,40}".prop_map(|text| (1, text.into_bytes())),
        1 => Just((1, vec![b'x'; 300])),
        3 => prop::collection::vec(any::<u8>(), 0..200).prop_map(|data| (2, data)),
        1 => prop::collection::vec(any::<u8>(), 0..8).prop_map(|data| (1, data)),
    ];
    (body, prop::collection::vec(fragment, 1..4)).prop_map(|((opcode, body), fragments)| {
        let size = body.len().div_ceil(fragments.len()).max(1);
        let mut pieces = body.chunks(size);
        let last = fragments.len() - 1;
        let mut stream = Vec::new();
        for (index, (controls, mask)) in fragments.into_iter().enumerate() {
            stream.extend(controls.concat());
            let first = if index == 0 { opcode } else { 0 } | if index == last { 0x80 } else { 0 };
            stream.extend(masked(first, pieces.next().unwrap_or_default(), mask));
        }
        stream
    })
}

fn control() -> impl Strategy<Value = Vec<u8>> {
    (0x89_u8..=0x8a, prop::collection::vec(any::<u8>(), 0..20), any::<[u8; 4]>())
        .prop_map(|(first, payload, mask)| masked(first, &payload, mask))
}

/// Mostly good streams, with a frame that should not be there now and then, and a close at the end if at all.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let bad = (any::<u8>(), prop::collection::vec(any::<u8>(), 0..130), any::<[u8; 4]>())
        .prop_filter("close frames come last", |(first, ..)| first & 0x0f != 8)
        .prop_map(|(first, payload, mask)| masked(first, &payload, mask));
    let end = prop::option::of(".{0,20}".prop_map(|reason| close(1000, reason.as_bytes())));
    let part = prop_oneof![12 => message(), 2 => control(), 1 => bad];
    (prop::collection::vec(part, 0..6), end)
        .prop_map(|(parts, end)| [parts.concat(), end.unwrap_or_default()].concat())
}

/// A stream that is only read; what is written to it is of no interest.
struct ReadOnly(Cursor<Vec<u8>>);

impl Read for ReadOnly {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for ReadOnly {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        Ok(buf.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Reads a stream with the library that the tests trust; gives the close code of the error that ends it, if one does.
fn oracle(stream: &[u8]) -> (Vec<Heard>, Option<u16>) {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES));
    let stream = ReadOnly(Cursor::new(stream.to_vec()));
    let mut socket = WebSocket::from_raw_socket(stream, Role::Server, Some(config));
    let mut heard = Vec::new();
    loop {
        heard.push(match socket.read() {
            Ok(tungstenite::Message::Text(text)) => Heard::Text(text.to_string()),
            Ok(tungstenite::Message::Binary(data)) => Heard::Binary(data.to_vec()),
            Ok(tungstenite::Message::Ping(data)) => Heard::Ping(data.to_vec()),
            Ok(tungstenite::Message::Pong(_)) => Heard::Pong,
            Ok(tungstenite::Message::Close(frame)) => {
                heard.push(Heard::Close(frame.map(|frame| frame.code.into())));
                return (heard, None);
            }
            Ok(tungstenite::Message::Frame(frame)) => panic!("{frame:?}"),
            Err(Error::Utf8(_)) => return (heard, Some(1007)),
            Err(Error::Capacity(_)) => return (heard, Some(1009)),
            Err(Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake)) => {
                return (heard, None);
            }
            Err(Error::Protocol(_)) => return (heard, Some(1002)),
            Err(error) => panic!("{error}"),
        });
    }
}

proptest! {
    #[test]
    fn however_a_stream_is_cut_it_says_the_same(
        mut stream in stream(),
        spoil in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
        lengths in prop::collection::vec(1_usize..40, 1..8),
    ) {
        if let Some((index, byte)) = spoil && !stream.is_empty() {
            let index = index.index(stream.len());
            stream[index] = byte;
        }
        let whole = decode(&stream, &[usize::MAX]);
        prop_assert_eq!(&decode(&stream, &lengths), &whole);
        prop_assert_eq!(&decode(&stream, &[1]), &whole);
    }

    #[test]
    fn another_implementation_hears_the_same(stream in stream()) {
        let (heard, violation) = decode(&stream, &[usize::MAX]);
        prop_assert_eq!((heard, violation.map(Violation::close_code)), oracle(&stream));
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(stream in prop::collection::vec(any::<u8>(), 0..400)) {
        decode(&stream, &[usize::MAX]);
        decode(&stream, &[3, 1, 50]);
    }
}
