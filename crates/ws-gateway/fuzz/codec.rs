//! A stream of a client, cut into pieces: whatever the pieces, the same is heard, and nothing panics.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ws_gateway::codec::Decoder;

const MAX_MESSAGE_BYTES: usize = 4_096;

fn heard(stream: &[u8], lengths: &[u8]) -> (Vec<String>, Option<String>) {
    let (mut decoder, mut messages) = (Decoder::new(MAX_MESSAGE_BYTES), Vec::new());
    let mut lengths = lengths.iter().cycle();
    let mut rest = stream;
    while !rest.is_empty() {
        let length = lengths.next().map_or(rest.len(), |length| usize::from(*length).clamp(1, rest.len()));
        let (piece, later) = rest.split_at(length);
        rest = later;
        let mut piece = piece.to_vec();
        let mut input = &mut piece[..];
        loop {
            match decoder.next(&mut input) {
                Ok(Some(message)) => messages.push(format!("{message:?}")),
                Ok(None) => break,
                Err(violation) => return (messages, Some(format!("{violation:?}"))),
            }
        }
        assert!(input.is_empty(), "bytes were left behind");
    }
    (messages, None)
}

fuzz_target!(|given: (Vec<u8>, Vec<u8>)| {
    let (lengths, stream) = given;
    assert_eq!(heard(&stream, &lengths), heard(&stream, &[]));
});
