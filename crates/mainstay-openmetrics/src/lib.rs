#![doc = include_str!("../README.md")]

mod kind;
mod merge;
mod model;
mod parse;
mod query;
mod render;
#[cfg(test)]
mod roundtrip;

pub use kind::Kind;
pub use model::{Exemplar, Exposition, Family, Labels, Sample};
pub use parse::{Dialect, Limits, ParseError, Reason, parse, parse_as};
