//! What a channel remembers, without any input or output: its latest publications and the numbers by which a client that
//! comes back gets what it missed.

mod stream;
#[cfg(test)]
mod tests;

pub(crate) use stream::{Epoch, HistoryQuery, Item, NotThisEpoch, Position, Since, Stream};
