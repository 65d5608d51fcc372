//! The other nodes: who they are, asking all of them something, and what is left of one that is gone.
//!
//! Every node says in Redis that it lives, with its load, for the time of a lease. What it asks goes to all of them in one
//! message; each answers from its own memory. Who comes to channels and leaves them is told to the others as it happens
//! and written down in Redis as the node's will: when its lease ends, one of the others tells what the will says.
//!
//! A will has to lie with the channels it is about, and with the list of those who live, or it could be told twice or not
//! at all. So in a cluster a node lives in every partition by itself, with a list, a will and a canary in each. Nodes know
//! each other, and speak to each other, by the first one.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fred::types::Value;
use mainstay_proto::realtime::v1;
use mainstay_redis::{Partition, Redis, RedisError};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use crate::channel::Channel;
use crate::config::BrokerConfig;
use crate::metrics::Metrics;

mod attendance;
mod canary;
mod herald;
mod roll;
mod will;
mod wire;

pub(crate) use attendance::{Attendance, Coming, Untold};
use canary::Canary;
pub(crate) use canary::Heard;
pub(crate) use herald::Herald;
use roll::RollScripts;
use will::WillScripts;
pub(crate) use wire::{Method, read_attendance};
use wire::{Said, parts};

/// Every node listens to it, in the first partition.
const ALL: &str = "ws!all";
/// Separates the name of a node from the number of its life.
const LIFE: char = '~';
/// Questions of this node that wait for answers at the same time; more wait for their turn, and not for long.
const ASKS_AT_ONCE: usize = 128;

/// What others answered.
#[derive(Debug)]
pub(crate) struct Answers<A> {
    pub(crate) given: Vec<A>,
    /// Nodes that did not answer in time.
    pub(crate) missing: Vec<String>,
}

/// A question of another node.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) node: String,
    pub(crate) id: u64,
    pub(crate) method: Method,
    pub(crate) body: Bytes,
}

/// What a message between nodes leads to.
#[derive(Debug)]
pub(crate) enum Heeded {
    /// Nothing more is to be done.
    Done,
    Asked(Question),
    /// Messages were lost before this one.
    Gap,
}

/// The nodes as this one knows them.
pub(crate) struct Mesh {
    id: String,
    /// Tells this process from others of the same name, of which there should be none.
    process: String,
    /// When a beat of such a one was heard last.
    namesake_at: Mutex<Option<Instant>>,
    redis: Arc<Redis>,
    metrics: Metrics,
    roll: RollScripts,
    wills: WillScripts,
    lease: Duration,
    within: Duration,
    ask_within: Duration,
    /// One for each partition.
    standings: Box<[Standing]>,
    peers: Mutex<Peers>,
    asked: Mutex<HashMap<u64, Asked>>,
    asks: Semaphore,
    last_ask: AtomicU64,
}

/// How this node stands in one partition.
struct Standing {
    /// Rises each time the others have given this node up. A life that was given up does not come back, or its burial
    /// and its return would get in each other's way.
    life: AtomicU32,
    canary: Mutex<Canary>,
}

#[derive(Default)]
struct Peers {
    nodes: HashMap<String, v1::Node>,
    seen_at: Option<Instant>,
}

#[derive(Default)]
struct Asked {
    missing: Vec<String>,
    answered: Vec<String>,
    answers: Vec<Bytes>,
    /// Nodes that the question was sent to, this one included, once that is known.
    n_told: Option<usize>,
    /// Own questions that came back.
    n_echoes: usize,
    done: Option<oneshot::Sender<()>>,
}

impl Mesh {
    pub(crate) fn new(
        id: String,
        redis: Arc<Redis>,
        metrics: Metrics,
        within: Duration,
        config: &BrokerConfig,
    ) -> Self {
        let standing = |_| Standing { life: AtomicU32::new(1), canary: Mutex::default() };
        Self {
            id,
            standings: redis.partitions().map(standing).collect(),
            process: Uuid::new_v4().simple().to_string(),
            namesake_at: Mutex::default(),
            redis,
            metrics,
            roll: RollScripts::new(),
            wills: WillScripts::new(),
            lease: config.lease,
            within,
            ask_within: config.ask_within,
            peers: Mutex::default(),
            asked: Mutex::default(),
            asks: Semaphore::new(ASKS_AT_ONCE),
            last_ask: AtomicU64::new(0),
        }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    fn standing(&self, partition: Partition) -> &Standing {
        &self.standings[partition.index()]
    }

    /// Returns the places in a partition that this node listens to beside its channels.
    pub(crate) fn places(&self, partition: Partition) -> Vec<String> {
        let own = self.place_in(partition, &self.id);
        if partition == Partition::FIRST { vec![self.redis.full(ALL), own] } else { vec![own] }
    }

    /// Returns where one node is spoken to.
    fn place_of(&self, node: &str) -> String {
        self.place_in(Partition::FIRST, node)
    }

    fn place_in(&self, partition: Partition, node: &str) -> String {
        self.redis.part(partition).full(&["ws!node:", node].concat())
    }

    /// Returns where this node says that it lives: to all in the first partition, and to itself in the others.
    fn beat_place(&self, partition: Partition) -> String {
        if partition == Partition::FIRST { self.redis.full(ALL) } else { self.place_in(partition, &self.id) }
    }

    /// Returns the other nodes that live, and whether that is as of now.
    pub(crate) fn peers(&self) -> (Vec<v1::Node>, bool) {
        let peers = self.peers.lock();
        let mut nodes: Vec<_> = peers.nodes.values().cloned().collect();
        nodes.sort_unstable_by(|one, other| one.id.cmp(&other.id));
        (nodes, peers.seen_at.is_some_and(|at| at.elapsed() <= self.lease))
    }

    /// Asks all other nodes, and waits for a while for their answers.
    pub(crate) async fn ask<A: prost::Message + Default>(
        &self,
        method: Method,
        question: &impl prost::Message,
    ) -> Answers<A> {
        let missing: Vec<String> = self.peers.lock().nodes.keys().cloned().collect();
        let alone = missing.is_empty();
        let answers = self.ask_at(self.redis.full(ALL), missing, method, question).await;
        if !alone || !answers.missing.is_empty() {
            self.metrics.asked_nodes(answers.missing.is_empty());
        }
        answers
    }

    /// Asks one other node; none when it is not known, or does not answer.
    pub(crate) async fn ask_one<A: prost::Message + Default>(
        &self,
        node: &str,
        method: Method,
        question: &impl prost::Message,
    ) -> Option<A> {
        if !self.peers.lock().nodes.contains_key(node) {
            return None;
        }
        let answers = self.ask_at(self.place_of(node), vec![node.to_owned()], method, question).await;
        answers.given.into_iter().next()
    }

    /// Asks whoever listens to a place of Redis.
    async fn ask_at<A: prost::Message + Default>(
        &self,
        place: String,
        missing: Vec<String>,
        method: Method,
        question: &impl prost::Message,
    ) -> Answers<A> {
        let deadline = Instant::now() + self.ask_within;
        let Ok(Ok(_turn)) = timeout_at(deadline, self.asks.acquire()).await else {
            return Answers { given: Vec::new(), missing };
        };
        let id = self.last_ask.fetch_add(1, Ordering::Relaxed) + 1;
        let (done, finished) = oneshot::channel();
        self.asked.lock().insert(id, Asked { missing, done: Some(done), ..Asked::default() });
        // Also when nobody waits for the answers any more.
        let _forget = Forget { mesh: self, id };
        let head = parts(&["q", &self.id, &id.to_string(), method.as_str(), ""]);
        if let Ok(n_told) = self.say(Partition::FIRST, place, &head, &question.encode_to_vec()).await {
            self.note(id, |asked| asked.n_told = Some(n_told));
            // Those that have not answered by then are named.
            let _ = timeout_at(deadline, finished).await;
        }
        let mut asked = self.asked.lock();
        let asked = asked.get_mut(&id).map(std::mem::take).unwrap_or_default();
        Answers {
            given: asked.answers.into_iter().filter_map(|answer| A::decode(answer).ok()).collect(),
            missing: asked.missing,
        }
    }

    /// Answers a question; none refuses.
    pub(crate) async fn answer(&self, asked: &Question, body: Option<Vec<u8>>) -> Result<(), RedisError> {
        let kind = if body.is_some() { "a" } else { "n" };
        let head = parts(&[kind, &self.id, &asked.id.to_string(), ""]);
        let place = self.place_of(&asked.node);
        self.say(Partition::FIRST, place, &head, &body.unwrap_or_default()).await.map(|_| ())
    }

    /// Says something; returns to how many.
    async fn say(
        &self,
        partition: Partition,
        place: String,
        head: &str,
        body: &[u8],
    ) -> Result<usize, RedisError> {
        let message = Value::Bytes([head.as_bytes(), body].concat().into());
        let words = vec![place.into(), message];
        self.redis.part(partition).send(send_by(&self.redis), words, self.within).await
    }

    /// Takes what a node said in a partition.
    pub(crate) fn heed(&self, partition: Partition, message: &Bytes) -> Heeded {
        match Said::parse(message) {
            Some(Said::Beat { node, process, .. }) if node == self.id && process != self.process => {
                *self.namesake_at.lock() = Some(Instant::now());
                Heeded::Done
            }
            Some(Said::Beat { node, number, .. }) => {
                let heard = self.standing(partition).canary.lock().hear(&self.id, &node, number);
                if heard == Heard::Gap { Heeded::Gap } else { Heeded::Done }
            }
            Some(Said::Gone { node }) => {
                if node != self.id {
                    self.peers.lock().nodes.remove(&node);
                }
                Heeded::Done
            }
            Some(Said::Answer { node, id, body }) => {
                self.note(id, |asked| asked.take(node, body));
                Heeded::Done
            }
            Some(Said::Question { node, id, .. }) if node == self.id => {
                self.note(id, |asked| asked.n_echoes += 1);
                Heeded::Done
            }
            Some(Said::Question { node, id, method, body }) => {
                Heeded::Asked(Question { node, id, method, body })
            }
            None => {
                tracing::debug!("what a node says is not understood");
                Heeded::Done
            }
        }
    }

    fn note(&self, id: u64, change: impl FnOnce(&mut Asked)) {
        let mut asked = self.asked.lock();
        let Some(asked) = asked.get_mut(&id) else { return };
        change(asked);
        if asked.is_complete()
            && let Some(done) = asked.done.take()
        {
            // Who has given up needs no word.
            let _ = done.send(());
        }
    }
}

/// How this node is heard by itself.
impl Mesh {
    /// Sends a beat at once; returns its number. It was not heard until [`Mesh::heard`] says so.
    pub(crate) async fn probe(&self, partition: Partition) -> Result<u64, RedisError> {
        let canary = &self.standing(partition).canary;
        let number = canary.lock().next();
        self.say(partition, self.beat_place(partition), &self.beat(number), b"").await?;
        canary.lock().sent(number, Instant::now());
        Ok(number)
    }

    fn beat(&self, number: u64) -> String {
        parts(&["b", &self.id, &number.to_string(), &self.process])
    }

    /// Tells whether another process goes by the name of this one, or did a lease ago.
    pub(crate) fn has_namesake(&self) -> bool {
        self.namesake_at.lock().is_some_and(|at| at.elapsed() <= self.lease)
    }

    /// Tells whether a beat of this node, or a later one, has come back.
    pub(crate) fn heard(&self, partition: Partition, number: u64) -> bool {
        self.standing(partition).canary.lock().heard(number)
    }

    /// Returns since when nothing that this node sends comes back to it.
    pub(crate) fn silent_since(&self, partition: Partition) -> Option<Instant> {
        self.standing(partition).canary.lock().silent_since()
    }

    /// Begins to listen anew: what was sent before is not waited for.
    pub(crate) fn listens_anew(&self, partition: Partition) {
        self.standing(partition).canary.lock().begin_anew();
    }
}

impl Asked {
    fn take(&mut self, node: String, body: Option<Bytes>) {
        if self.answered.contains(&node) {
            return;
        }
        // One that refuses is as good as missing.
        if let Some(body) = body {
            self.missing.retain(|missing| *missing != node);
            self.answers.push(body);
        }
        self.answered.push(node);
    }

    /// Everybody who heard the question has said something. Those who did not hear it are not waited for.
    fn is_complete(&self) -> bool {
        self.n_told.is_some_and(|n_told| self.answered.len() + self.n_echoes >= n_told)
    }
}

/// Takes a question off the list, whatever became of it.
struct Forget<'a> {
    mesh: &'a Mesh,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.mesh.asked.lock().remove(&self.id);
    }
}

/// Returns what a channel is called among the nodes.
pub(crate) fn place_of(redis: &Redis, channel: &Channel) -> String {
    let part = redis.part(redis.partition_of(channel.as_str()));
    part.full(&["ws:{", channel.as_str(), "}"].concat())
}

/// Returns the command that sends to the nodes. In a cluster what is sent stays where the slot of its place is; otherwise
/// older servers, and others than Redis, have to know it too.
pub(crate) fn send_by(redis: &Redis) -> &'static str {
    if redis.is_cluster() { "SPUBLISH" } else { "PUBLISH" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_answered_when_all_who_heard_it_have_spoken() {
        let mut asked = Asked { missing: vec!["a".into(), "b".into(), "dead".into()], ..Asked::default() };
        asked.take("a".into(), Some(Bytes::new()));
        asked.n_echoes += 1;
        assert!(!asked.is_complete());
        asked.n_told = Some(4);
        assert!(!asked.is_complete());
        asked.take("b".into(), None);
        asked.take("a".into(), Some(Bytes::new()));
        assert!(!asked.is_complete(), "a second word of one does not count");
        // One that was not known yet.
        asked.take("new".into(), Some(Bytes::new()));
        assert!(asked.is_complete());
        assert_eq!((asked.answers.len(), asked.missing), (2, vec!["b".to_owned(), "dead".to_owned()]));
    }
}
