use std::time::Duration;

use bytes::Bytes;
use mainstay_proto::cache::v1::{
    BatchRequest, DeleteAction, Entry, GetAction, InvalidateRequest, Operation, Outcome, SetAction,
    cache_admin_client::CacheAdminClient, cache_service_client::CacheServiceClient, operation::Action,
    outcome::Result as Done,
};
use mainstay_rpc::{Call, Failure, Upstream};
use prost::Message as _;
use tokio::time::Instant;

use super::{
    marks::{later, shows},
    wish::Key,
};
use crate::{
    config::CacheConfig,
    lsn::{Lsn, Position},
    token::Token,
};
use mainstay_proto::replica::v1::KeptAnswer;

/// Speaks with cache-service: one entry per answer, and one per tag that says up to where the tag was written.
///
/// A mark only ever grows: it is written on condition of the version that was read.
pub(super) struct Remote {
    upstream: Upstream,
    config: CacheConfig,
    /// Longer than any answer lives that was read before the write.
    mark_ttl: Duration,
}

/// What the cache holds for one read.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub answer: Option<(KeptAnswer, Duration)>,
    /// The latest write of any of the tags.
    pub written: Option<Position>,
}

/// Why the cache is of no use now.
#[derive(Debug, thiserror::Error)]
pub(super) enum RemoteError {
    #[error("cache-service did not answer")]
    Call(#[source] Box<Failure>),
    #[error("cache-service refused an operation: {0}")]
    Operation(String),
    /// A layer of it is failing: what it has may be out of date, and what it lacks may be there.
    #[error("cache-service answers without certainty")]
    Degraded,
    #[error("the mark of a tag was written by others all the time")]
    Contended,
}

const BATCH: &str = "mainstay.cache.v1.CacheService/Batch";
const INVALIDATE: &str = "mainstay.cache.v1.CacheAdmin/Invalidate";
const MARK_TRIES: u32 = 8;
const SECOND: Duration = Duration::from_secs(1);

impl Remote {
    pub(super) fn new(upstream: Upstream, config: &CacheConfig, longest_read: Duration) -> Self {
        let mark_ttl = config.max_ttl + longest_read + SECOND;
        Self { upstream, config: config.clone(), mark_ttl }
    }

    /// Reads an answer and the marks of its tags at once.
    pub(super) async fn look(&self, key: &Key, tags: &[String]) -> Result<Found, RemoteError> {
        let mut keys = vec![key.answer()];
        keys.extend(tags.iter().map(|tag| key.mark(tag)));
        let mut entries = self.get(keys, self.config.get_within).await?.into_iter();
        let answer = entries.next().flatten().and_then(read_answer);
        let written = entries.flatten().filter_map(|entry| read_mark(&entry)).reduce(later);
        Ok(Found { answer, written })
    }

    /// Reads what [`look`](Self::look) does, and whether a process is about to bring the answer.
    pub(super) async fn look_in_flight(
        &self,
        key: &Key,
        tags: &[String],
    ) -> Result<(Found, bool), RemoteError> {
        let mut keys = vec![key.flight(), key.answer()];
        keys.extend(tags.iter().map(|tag| key.mark(tag)));
        let mut entries = self.get(keys, self.config.get_within).await?.into_iter();
        let in_flight = entries.next().flatten().is_some();
        let answer = entries.next().flatten().and_then(read_answer);
        let written = entries.flatten().filter_map(|entry| read_mark(&entry)).reduce(later);
        Ok((Found { answer, written }, in_flight))
    }

    /// Says to all processes that this one reads an answer now, for at most `within`; `false` when another one does.
    pub(super) async fn begin_flight(&self, key: &Key, within: Duration) -> Result<bool, RemoteError> {
        let set = SetAction {
            value: Bytes::from_static(b"1"),
            ttl: wire(within),
            if_version: Some(0),
            ..SetAction::default()
        };
        let operation = Operation { key: key.flight(), action: Some(Action::Set(set)) };
        let outcomes = self.batch(vec![operation], self.config.get_within, false).await?;
        Ok(!outcomes.iter().map(lost_race).collect::<Result<Vec<_>, _>>()?.contains(&true))
    }

    /// Says that the reading is over; of one that took longer than it had said another one may have begun.
    pub(super) async fn end_flight(&self, flight: String) -> Result<(), RemoteError> {
        let operation = Operation { key: flight, action: Some(Action::Delete(DeleteAction::default())) };
        self.batch(vec![operation], self.config.invalidate_within, false).await.map(|_| ())
    }

    /// Keeps an answer; `false` when it is too large.
    pub(super) async fn keep(
        &self,
        key: &Key,
        kept: &KeptAnswer,
        ttl: Duration,
        tags: &[String],
    ) -> Result<bool, RemoteError> {
        if kept.encoded_len() as u64 > self.config.max_value_size.as_u64() {
            return Ok(false);
        }
        let set = SetAction {
            value: kept.encode_to_vec().into(),
            ttl: wire(ttl),
            content_type: "application/x-protobuf".to_owned(),
            tags: tags.to_vec(),
            ..SetAction::default()
        };
        let operation = Operation { key: key.answer(), action: Some(Action::Set(set)) };
        self.batch(vec![operation], self.config.invalidate_within, false).await.and_then(all_done)?;
        Ok(true)
    }

    /// Writes down where tags were written, unless it says so already; returns when the cache has confirmed all.
    pub(super) async fn mark(&self, key: &Key, tags: &[(String, Position)]) -> Result<(), RemoteError> {
        let until = Instant::now() + self.config.invalidate_within;
        for _ in 0..MARK_TRIES {
            let left = until.saturating_duration_since(Instant::now());
            let keys = tags.iter().map(|(tag, _)| key.mark(tag)).collect();
            let entries = self.get(keys, left).await?;
            let mut sets = Vec::new();
            for (entry, (tag, at)) in entries.into_iter().zip(tags) {
                let known = entry.as_ref().and_then(read_mark);
                if known.is_some_and(|known| shows(known, *at)) {
                    continue;
                }
                let at_least = known.map_or(*at, |known| later(known, *at));
                let token = Token { system_identifier: key.system_identifier, position: at_least };
                let set = SetAction {
                    value: token.encode().into_bytes().into(),
                    ttl: wire(self.mark_ttl),
                    if_version: Some(entry.map_or(0, |entry| entry.version)),
                    ..SetAction::default()
                };
                sets.push(Operation { key: key.mark(tag), action: Some(Action::Set(set)) });
            }
            if sets.is_empty() {
                return Ok(());
            }
            let outcomes = self.batch(sets, left, false).await?;
            let lost = outcomes.iter().map(lost_race).collect::<Result<Vec<_>, _>>()?;
            if !lost.contains(&true) {
                return Ok(());
            }
        }
        Err(RemoteError::Contended)
    }

    /// Makes entries unusable by what cache-service itself knows of their tags.
    pub(super) async fn invalidate(&self, tags: Vec<String>, all: bool) -> Result<(), Failure> {
        let request = InvalidateRequest {
            namespace: self.config.namespace.clone(),
            tags,
            all,
            ..InvalidateRequest::default()
        };
        let call = Call::write(INVALIDATE).within(self.config.invalidate_within);
        let send = |lane| {
            let request = request.clone();
            async move { CacheAdminClient::new(lane).invalidate(request).await }
        };
        self.upstream.call(call, send).await.map(|_| ())
    }

    async fn get(&self, keys: Vec<String>, within: Duration) -> Result<Vec<Option<Entry>>, RemoteError> {
        let operation = |key| Operation { key, action: Some(Action::Get(GetAction {})) };
        let outcomes = self.batch(keys.into_iter().map(operation).collect(), within, true).await?;
        outcomes.into_iter().map(entry).collect()
    }

    /// Does operations, and returns what came of each in their order.
    async fn batch(
        &self,
        operations: Vec<Operation>,
        within: Duration,
        read: bool,
    ) -> Result<Vec<Outcome>, RemoteError> {
        let n_operations = operations.len();
        let request = BatchRequest { namespace: self.config.namespace.clone(), operations };
        let call = if read { Call::read(BATCH) } else { Call::write(BATCH) };
        let largest = self.config.max_value_size.as_u64() as usize * 2;
        let send = |lane| {
            let request = request.clone();
            let mut client = CacheServiceClient::new(lane).max_decoding_message_size(largest.max(4 << 20));
            async move { client.batch(request).await }
        };
        let answer = self.upstream.call(call.within(within), send).await;
        let mut outcomes = answer.map_err(|failure| RemoteError::Call(Box::new(failure)))?.outcomes;
        outcomes.sort_by_key(|outcome| outcome.index);
        if outcomes.len() == n_operations {
            Ok(outcomes)
        } else {
            Err(RemoteError::Operation("it did not answer all of a batch".to_owned()))
        }
    }
}

/// Reads an entry; an absent one must be known to be absent.
fn entry(outcome: Outcome) -> Result<Option<Entry>, RemoteError> {
    match outcome.result {
        Some(Done::Get(get)) if get.stale || get.degraded => Err(RemoteError::Degraded),
        Some(Done::Get(get)) => Ok(get.entry),
        Some(Done::Error(error)) => Err(RemoteError::Operation(error.reason)),
        _ => Err(RemoteError::Operation("it answered something else".to_owned())),
    }
}

fn all_done(outcomes: Vec<Outcome>) -> Result<(), RemoteError> {
    for outcome in outcomes {
        if lost_race(&outcome)? {
            return Err(RemoteError::Contended);
        }
    }
    Ok(())
}

/// Tells whether a write found another version than the one that was read.
fn lost_race(outcome: &Outcome) -> Result<bool, RemoteError> {
    match &outcome.result {
        Some(Done::Set(set)) if set.degraded => Err(RemoteError::Degraded),
        Some(Done::Set(_)) => Ok(false),
        Some(Done::Error(error)) if error.reason == "VERSION_MISMATCH" => Ok(true),
        Some(Done::Error(error)) => Err(RemoteError::Operation(error.reason.clone())),
        _ => Err(RemoteError::Operation("it answered something else".to_owned())),
    }
}

/// What cannot be read was kept by another version of this service, and counts as absent.
fn read_answer(entry: Entry) -> Option<(KeptAnswer, Duration)> {
    let age = Duration::try_from(entry.age?).ok()?;
    Some((KeptAnswer::decode(entry.value).ok()?, age))
}

fn read_mark(entry: &Entry) -> Option<Position> {
    Token::decode(std::str::from_utf8(&entry.value).ok()?).ok().map(|token| token.position)
}

/// Returns the position that a kept answer shows.
pub(super) fn shown(kept: &KeptAnswer) -> Position {
    Position { timeline: kept.timeline, lsn: Lsn(kept.lsn) }
}

fn wire(duration: Duration) -> Option<prost_types::Duration> {
    duration.try_into().ok()
}
