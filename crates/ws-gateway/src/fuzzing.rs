//! What the targets under `fuzz/` call.

use serde_json::value::RawValue;

use crate::protocol::{Command, protobuf};

/// Reads one line of a text frame.
pub fn command(line: &str) {
    drop(Command::parse(line));
}

/// Reads a binary frame.
///
/// # Panics
///
/// Panics when what it is turned into is not JSON, one command a line.
pub fn frame(frame: &[u8]) {
    let Ok(lines) = protobuf::to_json(frame) else { return };
    for line in lines.split('\n').filter(|_| !lines.is_empty()) {
        assert!(serde_json::from_str::<&RawValue>(line).is_ok(), "not JSON: {line:?}");
        command(line);
    }
}
