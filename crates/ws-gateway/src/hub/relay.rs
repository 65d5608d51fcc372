//! How far the publications of one channel have come that arrive from Redis, without any input or output.
//!
//! They arrive at most once and mostly in order; subscribers of this node get each exactly once and in order. What does
//! not follow on the last one is held back until what lies between has been read from the history.

use std::collections::VecDeque;

use crate::broker::{Arrival, ReadBack};
use crate::engine::{Item, Position, Stream};

/// Publications held back for one channel; more are dropped and read from the history later.
const MOST_HELD: usize = 256;
/// Publications kept for subscriptions that are about to begin.
const MOST_RECENT: usize = 1_024;

/// The place in one channel up to which its subscribers on this node have everything.
#[derive(Debug, Default)]
pub(super) struct Relay {
    at: Option<Position>,
    catching_up: bool,
    held: VecDeque<Arrival>,
    /// Some of what was held back was dropped.
    dropped: bool,
    n_beginning: usize,
    /// What was given to subscribers while other subscriptions were about to begin.
    recent: VecDeque<Item>,
}

/// What is to be done with a publication that arrives.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Deliver,
    /// Subscribers have it, or get it in another way.
    Drop,
    /// What came before it is missing; `read` asks for the history to be read.
    Hold {
        read: bool,
    },
}

/// What follows from reading the history.
#[derive(Debug, Default)]
pub(super) struct CaughtUp {
    /// What subscribers did not have, in order.
    pub(super) missed: Vec<Item>,
    /// Something is lost for good: who counts positions has to begin anew.
    pub(super) lost: bool,
    /// It has to be read once more.
    pub(super) again: bool,
}

impl Relay {
    pub(super) fn at(&self) -> Option<&Position> {
        self.at.as_ref()
    }

    /// Decides about a publication that arrives.
    pub(super) fn take(&mut self, arrival: &Arrival) -> Step {
        let offset = arrival.item.offset;
        match &mut self.at {
            Some(at) if *at.epoch == *arrival.epoch && offset <= at.offset => Step::Drop,
            Some(at) if !self.catching_up && *at.epoch == *arrival.epoch && offset == at.offset + 1 => {
                at.offset = offset;
                self.remember(&arrival.item);
                Step::Deliver
            }
            _ => {
                if self.held.len() < MOST_HELD {
                    self.held.push_back(arrival.clone());
                } else {
                    self.dropped = true;
                }
                Step::Hold { read: !std::mem::replace(&mut self.catching_up, true) }
            }
        }
    }

    /// Asks for the history to be read; false when it is being read already.
    pub(super) fn start_catching_up(&mut self) -> bool {
        !std::mem::replace(&mut self.catching_up, true)
    }

    /// Goes on without having read anything: the next publication that does not fit asks anew.
    pub(super) fn give_up_catching_up(&mut self) {
        self.catching_up = false;
    }

    /// Takes what was read of the history: where the channel is, and what came after [`Relay::at`].
    pub(super) fn catch_up(&mut self, read: ReadBack) -> CaughtUp {
        self.catching_up = false;
        let mut outcome = CaughtUp::default();
        match &self.at {
            // What was read may be older than what has arrived since.
            Some(at) if at.epoch == read.position.epoch && read.position.offset <= at.offset => {}
            Some(at) if at.epoch == read.position.epoch => {
                let follows = |item: &Item| item.offset > at.offset;
                let items: Vec<Item> = read.items.into_iter().filter(follows).collect();
                let is_whole =
                    (at.offset + 1..=read.position.offset).eq(items.iter().map(|item| item.offset));
                if is_whole {
                    outcome.missed = items;
                } else {
                    outcome.lost = true;
                }
                self.at = Some(read.position);
            }
            Some(_) => {
                outcome.lost = true;
                self.at = Some(read.position);
            }
            None => self.at = Some(read.position),
        }
        for item in &outcome.missed {
            self.remember(item);
        }
        if outcome.lost {
            self.recent.clear();
        }
        for arrival in std::mem::take(&mut self.held) {
            // Of another numbering: an older one is over, and a newer one is read next.
            if self.at.as_ref().is_none_or(|at| at.epoch != arrival.epoch) {
                outcome.again = true;
                continue;
            }
            match self.take(&arrival) {
                Step::Deliver => outcome.missed.push(arrival.item),
                Step::Drop => {}
                Step::Hold { .. } => outcome.again = true,
            }
        }
        outcome.again |= std::mem::take(&mut self.dropped);
        self.catching_up = outcome.again;
        outcome
    }

    /// Keeps what is given to subscribers from now on, for a subscription that is about to begin.
    pub(super) fn will_begin(&mut self) {
        self.n_beginning += 1;
    }

    pub(super) fn has_begun(&mut self) {
        self.n_beginning -= 1;
        if self.n_beginning == 0 {
            self.recent = VecDeque::new();
        }
    }

    pub(super) fn is_awaited(&self) -> bool {
        self.n_beginning > 0
    }

    /// Joins what a subscription has read to what has been given to others since, so that what arrives next follows on
    /// it; none when they do not meet.
    pub(super) fn join(&self, read: ReadBack) -> Option<Stream> {
        let at = self.at.as_ref()?;
        if at.epoch != read.position.epoch {
            return None;
        }
        let from = read.position.offset + 1;
        let newer: Vec<Item> = self.recent.iter().filter(|item| item.offset >= from).cloned().collect();
        if !(from..=at.offset).eq(newer.iter().map(|item| item.offset)) {
            return None;
        }
        let mut stream = read.into_stream();
        stream.extend(newer);
        Some(stream)
    }

    fn remember(&mut self, item: &Item) {
        if self.n_beginning > 0 {
            if self.recent.len() >= MOST_RECENT {
                self.recent.pop_front();
            }
            self.recent.push_back(item.clone());
        }
    }
}

#[cfg(test)]
#[path = "relay/tests.rs"]
mod tests;
