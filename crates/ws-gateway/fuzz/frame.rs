//! A binary frame: what it is turned into is JSON, one command a line.

#![no_main]

libfuzzer_sys::fuzz_target!(|frame: &[u8]| ws_gateway::fuzzing::frame(frame));
