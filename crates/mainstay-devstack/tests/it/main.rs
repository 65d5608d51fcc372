//! Real servers, really killed. Every test has a stack of its own on free ports.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod crash;
mod postgres;
mod redis;
