//! One question to Redis for all who miss one key at once.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::Engine;
use super::keep::Loading;
use super::load::ANSWER_TAKES;
use crate::entry::Envelope;
use crate::key::Key;
use crate::layer::memory::Mark;
use crate::layer::redis::{LayerError, RedisLayer};
use crate::redis::RedisError;

/// Reads of Redis under way on this node, of keys that memory keeps.
///
/// The first who asks sends the command; the others wait for its answer. If the first goes away, one of the others asks
/// anew. Nobody waits for the answer to a question that is older than a change this node knows of.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    under_way: Mutex<HashMap<Key, UnderWay>>,
}

#[derive(Debug)]
struct UnderWay {
    as_of: AsOf,
    waiting: Vec<oneshot::Sender<Answer>>,
}

/// What this node knew of changes when it asked.
type AsOf = (Mark, u32);

/// What Redis answered, for all who wait.
type Answer = Result<Option<Envelope>, LayerError>;

/// How to come to the answer.
#[derive(Debug)]
enum Turn<'a> {
    Ask(Asking<'a>),
    Wait(oneshot::Receiver<Answer>),
    /// The key was changed since somebody else asked.
    AskAlone,
}

/// The right to ask for all. Dropped without an answer, it passes to one of the others.
#[derive(Debug)]
struct Asking<'a> {
    reads: &'a Reads,
    key: &'a Key,
    is_answered: bool,
}

impl Reads {
    fn turn<'a>(&'a self, key: &'a Key, as_of: AsOf) -> Turn<'a> {
        let mut under_way = self.under_way.lock();
        match under_way.get_mut(key) {
            None => {
                under_way.insert(key.clone(), UnderWay { as_of, waiting: Vec::new() });
                Turn::Ask(Asking { reads: self, key, is_answered: false })
            }
            Some(read) if read.as_of == as_of => {
                let (answer_tx, answer_rx) = oneshot::channel();
                read.waiting.push(answer_tx);
                Turn::Wait(answer_rx)
            }
            Some(_) => Turn::AskAlone,
        }
    }
}

impl Asking<'_> {
    fn answered(mut self, answer: &Answer) {
        self.is_answered = true;
        let read = self.reads.under_way.lock().remove(self.key);
        for waiting in read.into_iter().flat_map(|read| read.waiting) {
            // Who has left needs no answer.
            let _ = waiting.send(answer.clone());
        }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            self.reads.under_way.lock().remove(self.key);
        }
    }
}

impl Engine {
    /// Reads an entry in Redis, together with all who read it at the same time.
    pub(super) async fn read_together(
        &self,
        redis: &RedisLayer,
        key: &Key,
        loading: Loading,
        left: Duration,
    ) -> Answer {
        let started = Instant::now();
        let left = || left.saturating_sub(started.elapsed());
        loop {
            match self.reads.turn(key, (loading.mark, loading.epoch)) {
                Turn::AskAlone => return redis.read(key, left()).await,
                Turn::Ask(asking) => {
                    let is_patient = redis.gives_full_time(left());
                    let answer = redis.read(key, left()).await;
                    // Who has less time than Redis may take gives up for itself alone.
                    if is_patient || !matches!(answer, Err(LayerError::Redis(RedisError::Timeout))) {
                        asking.answered(&answer);
                    }
                    return answer;
                }
                Turn::Wait(answer) => match timeout(left().saturating_sub(ANSWER_TAKES), answer).await {
                    Ok(Ok(answer)) => {
                        self.metrics.coalesced.inc();
                        return answer;
                    }
                    // The one who asked went away.
                    Ok(Err(_)) => {}
                    Err(_) => return Err(LayerError::Redis(RedisError::Timeout)),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Eviction;
    use crate::layer::memory::Memory;

    #[test]
    fn one_asks_for_all_and_another_takes_over_when_it_leaves() {
        let memory = Memory::new(1 << 20, 1024, Eviction::Lfu);
        let (reads, key) = (Reads::default(), Key::try_new("test", "k").unwrap());
        let as_of = || (memory.mark(&key), 0);
        let Turn::Ask(first) = reads.turn(&key, as_of()) else { panic!("nobody else asks") };
        let Turn::Wait(mut second) = reads.turn(&key, as_of()) else { panic!("the first asks") };
        drop(first);
        assert_eq!(second.try_recv().unwrap_err(), oneshot::error::TryRecvError::Closed);
        let Turn::Ask(second) = reads.turn(&key, as_of()) else { panic!("the first is gone") };
        let Turn::Wait(mut third) = reads.turn(&key, as_of()) else { panic!("the second asks") };
        memory.remove(&key);
        assert!(matches!(reads.turn(&key, as_of()), Turn::AskAlone), "it was changed since");
        second.answered(&Ok(None));
        assert!(matches!(third.try_recv(), Ok(Ok(None))));
        assert!(matches!(reads.turn(&key, as_of()), Turn::Ask(_)), "that one is over");
        assert!(reads.under_way.lock().is_empty(), "and so is this one");
    }
}
