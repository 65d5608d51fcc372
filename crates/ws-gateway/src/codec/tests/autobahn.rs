//! The classes of cases of Autobahn|Testsuite, by its numbers, where its suite cannot run (`scripts/autobahn` runs it).

use super::{Heard, Violation as V, close, decode, frame, text};

const CUTS: [&[usize]; 4] = [&[usize::MAX], &[1], &[997], &[2, 3]];

fn is_heard(name: &str, stream: &[u8], expected: &[Heard]) {
    for lengths in CUTS {
        assert_eq!(decode(stream, lengths), (expected.to_vec(), None), "{name} in {lengths:?}");
    }
}

fn is_refused(name: &str, stream: &[u8], violation: V) {
    for lengths in CUTS {
        assert_eq!(decode(stream, lengths).1, Some(violation), "{name} in {lengths:?}");
    }
}

fn ping(payload: &[u8]) -> Heard {
    Heard::Ping(payload.to_vec())
}

#[test]
fn lengths_on_both_sides_of_every_form_are_read() {
    for len in [0, 1, 125, 126, 127, 128, 65_535, 65_536] {
        let payload = "*".repeat(len);
        is_heard("1.1", &frame(0x81, payload.as_bytes()), &[text(&payload)]);
        let payload = vec![0xfe; len];
        is_heard("1.2", &frame(0x82, &payload), &[Heard::Binary(payload)]);
    }
}

#[test]
fn pings_and_pongs_are_told_apart() {
    for payload in [&b""[..], b"Hello, world!", &[0, 0xff, 0xfe, 0xfd], &[0xfe; 125]] {
        is_heard("2.1 to 2.4", &frame(0x89, payload), &[ping(payload)]);
    }
    is_refused("2.5", &frame(0x89, &[0xfe; 126]), V::ControlTooLong);
    is_heard(
        "2.7 to 2.9",
        &[frame(0x8a, b"unsolicited"), frame(0x89, b"p")].concat(),
        &[Heard::Pong, ping(b"p")],
    );
    let ten: Vec<u8> = (0..10).flat_map(|n| frame(0x89, &[b'0' + n])).collect();
    is_heard("2.10", &ten, &(0..10).map(|n| ping(&[b'0' + n])).collect::<Vec<_>>());
}

#[test]
fn reserved_bits_and_opcodes_end_the_stream_after_what_was_good() {
    for bits in 1..8_u8 {
        let stream = [frame(0x81, b"good"), frame(0x81 | bits << 4, b"bad"), frame(0x89, b"")].concat();
        is_refused("3", &stream, V::ReservedBit);
        assert_eq!(decode(&stream, &[usize::MAX]).0, [text("good")]);
    }
    for opcode in (3..=7).chain(11..=15_u8) {
        let stream = [frame(0x81, b"good"), frame(0x80 | opcode, b""), frame(0x89, b"")].concat();
        is_refused("4", &stream, V::ReservedOpcode);
        assert_eq!(decode(&stream, &[usize::MAX]).0, [text("good")]);
    }
}

#[test]
fn fragments_come_together_and_control_frames_come_between_them() {
    is_refused("5.1", &[frame(0x09, b"a"), frame(0x80, b"b")].concat(), V::ControlFragmented);
    is_refused("5.2", &[frame(0x0a, b"a"), frame(0x80, b"b")].concat(), V::ControlFragmented);
    let (one, two) = (frame(1, b"fragment1"), frame(0x80, b"fragment2"));
    let whole = text("fragment1fragment2");
    is_heard("5.3", &[&one[..], &two].concat(), std::slice::from_ref(&whole));
    is_heard("5.6", &[&one[..], &frame(0x89, b"p"), &two].concat(), &[ping(b"p"), whole.clone()]);
    is_heard("5.7", &[&one[..], &frame(0x8a, b"p"), &two].concat(), &[Heard::Pong, whole]);
    for (name, first) in [("5.9 to 5.11", 0x80), ("5.12 to 5.14", 0x00)] {
        is_refused(name, &[frame(first, b"nothing"), frame(0x81, b"x")].concat(), V::NothingToContinue);
    }
    is_refused("5.15", &[&one[..], &two, &frame(0, b"3"), &frame(1, b"4")].concat(), V::NothingToContinue);
    is_refused("5.18", &[&one[..], &frame(0x81, b"fragment2")].concat(), V::MessageInterrupted);
    let (first, middle) = (frame(1, b"1"), frame(0, b"2"));
    let stream =
        [&first[..], &middle, &frame(0x89, b"a"), &frame(0, b"3"), &frame(0x89, b"b"), &frame(0x80, b"4")];
    is_heard("5.19", &stream.concat(), &[ping(b"a"), ping(b"b"), text("1234")]);
    let parts = [vec![frame(1, &[b'*'; 1_300])], vec![frame(0, &[b'*'; 1_300]); 48], vec![frame(0x80, b"*")]];
    is_heard("10.1", &parts.concat().concat(), &[text(&"*".repeat(49 * 1_300 + 1))]);
}

#[test]
fn texts_are_utf_8_to_the_letter() {
    for (name, good) in [
        ("6.1", ""),
        ("6.5", "\u{3ba}\u{1f79}\u{3c3}\u{3bc}\u{3b5}"),
        ("6.7 one byte", "\0\u{7f}"),
        ("6.7 two bytes", "\u{80}\u{7ff}"),
        ("6.9 three bytes", "\u{800}\u{d7ff}\u{e000}\u{ffff}"),
        ("6.11 four bytes", "\u{10000}\u{10ffff}"),
        ("6.22 not characters", "\u{fffe}\u{ffff}\u{1fffe}\u{10fffe}"),
        ("6.23", "\u{fffd}\u{fff9}"),
    ] {
        is_heard(name, &frame(0x81, good.as_bytes()), &[text(good)]);
        // 6.2: each byte in a fragment of its own.
        let mut stream: Vec<u8> = frame(1, b"");
        stream.extend(good.bytes().flat_map(|byte| frame(0, &[byte])));
        stream.extend(frame(0x80, b""));
        is_heard(name, &stream, &[text(good)]);
    }
    for (name, bad) in [
        ("6.3", &b"\xce\xba\xe1\xbd\xb9\xed\xa0\x80edited"[..]),
        ("6.6 cut short", b"\xce\xba\xe1\xbd"),
        ("6.8 five bytes", b"\xf8\x88\x80\x80\x80"),
        ("6.8 six bytes", b"\xfc\x84\x80\x80\x80\x80"),
        ("6.10 beyond the last", b"\xf4\x90\x80\x80"),
        ("6.12 begun by a continuation", b"\x80"),
        ("6.14 only continuations", b"\x80\xbf\x80\xbf"),
        ("6.14 lonely beginnings", b"\xc0 \xdf \xe0 \xef "),
        ("6.15 cut inside", b"\xf0\x90\x80 "),
        ("6.16 impossible bytes", b"\xfe\xfe\xff\xff"),
        ("6.17 overlong", b"\xe0\x80\xaf"),
        ("6.18 overlong", b"\xf0\x8f\xbf\xbf"),
        ("6.19 overlong nothing", b"\xc0\x80"),
        ("6.20 a surrogate", b"\xed\xad\xbf"),
        ("6.21 two surrogates", b"\xed\xa0\x80\xed\xb0\x80"),
    ] {
        is_refused(name, &frame(0x81, bad), V::NotUtf8);
        let (one, two) = bad.split_at(bad.len() / 2);
        is_refused(name, &[frame(1, one), frame(0x80, two)].concat(), V::NotUtf8);
        is_refused(name, &close(1000, bad), V::NotUtf8);
    }
}

#[test]
fn a_close_is_the_last_that_is_heard() {
    let good = frame(0x81, b"Hello");
    for (name, after) in [
        ("7.1.2", close(1000, b"")),
        ("7.1.3", frame(0x89, b"p")),
        ("7.1.4", frame(0x81, b"x")),
        ("7.1.5", frame(0x80, b"fragment2")),
    ] {
        let stream = [&good[..], &close(1000, b""), &after].concat();
        is_heard(name, &stream, &[text("Hello"), Heard::Close(Some(1000))]);
    }
    is_heard("7.3.1", &frame(0x88, b""), &[Heard::Close(None)]);
    is_refused("7.3.2", &frame(0x88, b"a"), V::CloseTruncated);
    is_heard("7.3.5", &close(1000, &[b'*'; 123]), &[Heard::Close(Some(1000))]);
    is_refused("7.3.6", &close(1000, &[b'*'; 124]), V::ControlTooLong);
}
