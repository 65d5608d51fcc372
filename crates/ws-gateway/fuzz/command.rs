//! One line of a text frame.

#![no_main]

libfuzzer_sys::fuzz_target!(|line: &str| ws_gateway::fuzzing::command(line));
