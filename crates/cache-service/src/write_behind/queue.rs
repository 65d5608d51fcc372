//! The queues in Redis: a stream for each namespace, one for its dead letters, and a lease that says who empties it.
//!
//! Changes enter by the script that stores the entry (see `redis/entries.rs`), in the same step.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fred::types::Value;
use futures_util::future::join_all;

use super::plan::{Place, Taken};
use crate::entry::{Body, Envelope};
use crate::key::{Key, Ttl};
use crate::layer::redis::{LayerError, RedisLayer};
use crate::origin::{Change, Loaded};
use crate::redis::Script;

/// Names of the namespaces that have a queue.
pub(crate) const NAMES: &str = "!wb";
/// Values of one batch; at least one is taken however large it is.
const BATCH_BYTES: u64 = 4 << 20;
const WITHIN: Duration = Duration::from_secs(2);

/// Gives 0 when another node empties the queue, else 1 and id, key and envelope of each change. An empty queue is given
/// back, and forgotten if it has no dead letters.
const TAKE: &str = r"
local owner, queue, dead, names = unpack(KEYS)
local token, lease_ms, count, most_bytes, namespace = unpack(ARGV)
local holder = redis.call('GET', owner)
if holder and holder ~= token then return {'0'} end
local taken, bytes = {'1'}, 0
for _, change in ipairs(redis.call('XRANGE', queue, '-', '+', 'COUNT', count)) do
  bytes = bytes + #change[2][4]
  if #taken > 1 and bytes > tonumber(most_bytes) then break end
  taken[#taken + 1] = change[1]
  taken[#taken + 1] = change[2][2]
  taken[#taken + 1] = change[2][4]
end
if #taken > 1 then
  redis.call('SET', owner, token, 'PX', lease_ms)
else
  redis.call('DEL', owner)
  if redis.call('XLEN', queue) + redis.call('XLEN', dead) == 0 then redis.call('SREM', names, namespace) end
end
return taken
";

/// Gives 1 when the queue is still ours.
const RENEW: &str = r"
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
";

const RELEASE: &str = r"
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
";

/// Gives 1 when the changes have left the queue, 0 when it is no longer ours.
const DONE: &str = r"
local owner, queue, waiting = unpack(KEYS)
if redis.call('GET', owner) ~= ARGV[1] then return 0 end
for i = 2, #ARGV, 2 do
  redis.call('XDEL', queue, ARGV[i])
  if redis.call('HGET', waiting, ARGV[i + 1]) == ARGV[i] then redis.call('HDEL', waiting, ARGV[i + 1]) end
end
return 1
";

/// Gives 1 when the change is a dead letter now, 0 when the queue is no longer ours, 2 when there are too many.
const BURY: &str = r"
local owner, queue, dead, waiting = unpack(KEYS)
local token, id, most, reason, attempts = unpack(ARGV)
if redis.call('GET', owner) ~= token then return 0 end
local change = redis.call('XRANGE', queue, id, id)[1]
if not change then return 1 end
if redis.call('XLEN', dead) >= tonumber(most) then return 2 end
redis.call('XADD', dead, '*', 'k', change[2][2], 'e', change[2][4], 'r', reason, 'n', attempts)
redis.call('XDEL', queue, id)
if redis.call('HGET', waiting, change[2][2]) == id then redis.call('HDEL', waiting, change[2][2]) end
return 1
";

/// Gives length, id of the first change, dead letters, owner, and the time in milliseconds.
const STATUS: &str = r"
local queue, dead, owner = unpack(KEYS)
local first = redis.call('XRANGE', queue, '-', '+', 'COUNT', '1')[1]
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
return {
  tostring(redis.call('XLEN', queue)), first and first[1] or '', tostring(redis.call('XLEN', dead)),
  redis.call('GET', owner) or '', string.format('%.0f', now_ms)
}
";

/// Gives id, key, head of the envelope, bytes of the rest, reason and attempts of each dead letter after an id.
const DEAD: &str = r"
local letters = {}
for _, letter in ipairs(redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+', 'COUNT', ARGV[2])) do
  local fields = letter[2]
  for _, part in ipairs({letter[1], fields[2], string.sub(fields[4], 1, 26), tostring(math.max(0, #fields[4] - 26)), fields[6], fields[8]}) do
    letters[#letters + 1] = part
  end
end
return letters
";

/// Puts dead letters at the end of the queue, with the versions they had, and gives how many.
const REPLAY: &str = r"
local dead, queue, names, waiting = unpack(KEYS)
local n = 0
for i = 2, #ARGV do
  local letter = redis.call('XRANGE', dead, ARGV[i], ARGV[i])[1]
  if letter then
    local place = redis.call('XADD', queue, '*', 'k', letter[2][2], 'e', letter[2][4])
    redis.call('HSETNX', waiting, letter[2][2], place)
    redis.call('XDEL', dead, ARGV[i])
    redis.call('SADD', names, ARGV[1])
    n = n + 1
  end
end
return n
";

const DROP: &str = r"
local n = 0
for i = 1, #ARGV do n = n + redis.call('XDEL', KEYS[1], ARGV[i]) end
return n
";

/// Asks Redis for the queues, as one node of many.
#[derive(Debug)]
pub(crate) struct Queues {
    redis: Arc<RedisLayer>,
    /// Of this process; whoever has a queue is known by it.
    token: String,
    lease_ms: u64,
    names: Script,
    take: Script,
    renew: Script,
    release: Script,
    done: Script,
    bury: Script,
    status: Script,
    dead: Script,
    replay: Script,
    drop: Script,
}

/// The changes at the head of a queue.
#[derive(Debug, Default)]
pub(super) struct Head {
    pub(super) taken: Vec<Taken>,
    /// What is not ours, or was damaged.
    pub(super) damaged: Vec<String>,
}

/// What became of a dead letter to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Buried {
    Done,
    NotOurs,
    /// There are too many dead letters.
    NoRoom,
}

/// What a queue holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QueueStatus {
    pub(crate) n_queued: u64,
    pub(crate) oldest_age: Duration,
    pub(crate) n_dead: u64,
    /// Name of the node that empties it; empty: none.
    pub(crate) owner: String,
}

/// A change that the origin refused too often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeadLetter {
    pub(crate) id: String,
    /// Without its namespace.
    pub(crate) key: String,
    pub(crate) version: u64,
    pub(crate) is_delete: bool,
    pub(crate) value_bytes: u64,
    pub(crate) reason: String,
    pub(crate) attempts: u32,
}

impl Queues {
    pub(crate) fn new(redis: Arc<RedisLayer>, node: &str, lease: Duration) -> Self {
        Self {
            redis,
            token: format!("{node}/{:016x}", rand::random::<u64>()),
            lease_ms: u64::try_from(lease.as_millis()).unwrap_or(u64::MAX),
            names: Script::new("return redis.call('SMEMBERS', KEYS[1])"),
            take: Script::new(TAKE),
            renew: Script::new(RENEW),
            release: Script::new(RELEASE),
            done: Script::new(DONE),
            bury: Script::new(BURY),
            status: Script::new(STATUS),
            dead: Script::new(DEAD),
            replay: Script::new(REPLAY),
            drop: Script::new(DROP),
        }
    }

    /// Returns the namespaces that have a queue or dead letters.
    pub(crate) async fn names(&self) -> Result<Vec<String>, LayerError> {
        let ask = |partition| {
            let part = self.redis.part(partition);
            part.script::<Vec<String>>("redis.queues", &self.names, &[NAMES], Vec::new(), WITHIN)
        };
        let mut answers = join_all(self.redis.partitions().map(ask)).await;
        // A partition that does not answer holds up its own queues alone.
        if answers.iter().all(Result::is_err)
            && let Some(answer) = answers.pop()
        {
            return answer;
        }
        Ok(answers.into_iter().flatten().flatten().collect())
    }

    /// Takes the changes at the head, and with them the queue; none when another node has it.
    pub(super) async fn take(&self, namespace: &str, most: u32) -> Result<Option<Head>, LayerError> {
        let arguments = vec![
            self.token.as_str().into(),
            self.lease_ms.to_string().into(),
            most.to_string().into(),
            BATCH_BYTES.to_string().into(),
            namespace.into(),
        ];
        let (owner, queue, dead) = (owner_of(namespace), queue_of(namespace), dead_of(namespace));
        let keys = [owner.as_str(), &queue, &dead, NAMES];
        let parts: Vec<Bytes> =
            self.redis.of(namespace).script("redis.take", &self.take, &keys, arguments, WITHIN).await?;
        let mut parts = parts.into_iter();
        if parts.next().is_none_or(|ours| ours != "1") {
            return Ok(None);
        }
        let mut head = Head::default();
        while let (Some(id), Some(key), Some(envelope)) = (parts.next(), parts.next(), parts.next()) {
            let id = String::from_utf8_lossy(&id).into_owned();
            match decode(&key, &envelope) {
                Some(change) => head.taken.push(Taken { id, change }),
                None => head.damaged.push(id),
            }
        }
        Ok(Some(head))
    }

    /// Keeps the queue for another lease; false when it is no longer ours.
    pub(super) async fn renew(&self, namespace: &str) -> Result<bool, LayerError> {
        let arguments = vec![self.token.as_str().into(), self.lease_ms.to_string().into()];
        let owner = owner_of(namespace);
        let renewed: u64 =
            self.redis.of(namespace).script("redis.renew", &self.renew, &[&owner], arguments, WITHIN).await?;
        Ok(renewed == 1)
    }

    pub(super) async fn release(&self, namespace: &str) {
        let (owner, arguments) = (owner_of(namespace), vec![self.token.as_str().into()]);
        // If it fails, the lease ends by itself.
        let _: Result<u64, _> = self
            .redis
            .of(namespace)
            .script("redis.release", &self.release, &[&owner], arguments, WITHIN)
            .await;
    }

    /// Removes changes from the queue; false when it is no longer ours.
    pub(super) async fn done<'a>(
        &self,
        namespace: &str,
        places: impl Iterator<Item = Place<'a>>,
    ) -> Result<bool, LayerError> {
        let mut arguments = vec![Value::from(self.token.as_str())];
        arguments.extend(places.flat_map(|Place { id, key }| [Value::from(id), key.as_str().into()]));
        let (owner, queue, waiting) = (owner_of(namespace), queue_of(namespace), waiting_of(namespace));
        let keys = [owner.as_str(), &queue, &waiting];
        let done: u64 =
            self.redis.of(namespace).script("redis.done", &self.done, &keys, arguments, WITHIN).await?;
        Ok(done == 1)
    }

    pub(super) async fn bury(
        &self,
        namespace: &str,
        id: &str,
        most: u64,
        reason: &str,
        attempts: u32,
    ) -> Result<Buried, LayerError> {
        let arguments = vec![
            self.token.as_str().into(),
            id.into(),
            most.to_string().into(),
            reason.into(),
            attempts.to_string().into(),
        ];
        let (owner, queue, dead) = (owner_of(namespace), queue_of(namespace), dead_of(namespace));
        let waiting = waiting_of(namespace);
        let keys = [owner.as_str(), &queue, &dead, &waiting];
        let buried: u64 =
            self.redis.of(namespace).script("redis.bury", &self.bury, &keys, arguments, WITHIN).await?;
        Ok(match buried {
            0 => Buried::NotOurs,
            1 => Buried::Done,
            _ => Buried::NoRoom,
        })
    }

    pub(crate) async fn status(&self, namespace: &str) -> Result<QueueStatus, LayerError> {
        let (queue, dead, owner) = (queue_of(namespace), dead_of(namespace), owner_of(namespace));
        let parts: Vec<String> = self
            .redis
            .of(namespace)
            .script("redis.queue", &self.status, &[&queue, &dead, &owner], Vec::new(), WITHIN)
            .await?;
        let text = |place: usize| parts.get(place).map_or("", String::as_str);
        let number = |place: usize| -> u64 { text(place).parse().unwrap_or(0) };
        let first_ms = text(1).split('-').next().and_then(|ms| ms.parse::<u64>().ok());
        let age_ms = first_ms.map_or(0, |first_ms| number(4).saturating_sub(first_ms));
        Ok(QueueStatus {
            n_queued: number(0),
            oldest_age: Duration::from_millis(age_ms),
            n_dead: number(2),
            owner: text(3).split('/').next().unwrap_or_default().to_owned(),
        })
    }

    /// Returns dead letters after an id, the oldest first; an empty id begins.
    pub(crate) async fn dead(
        &self,
        namespace: &str,
        after: &str,
        most: u32,
        left: Duration,
    ) -> Result<Vec<DeadLetter>, LayerError> {
        let after = if after.is_empty() { "0-0" } else { after };
        let arguments = vec![after.into(), most.to_string().into()];
        let dead = dead_of(namespace);
        let parts: Vec<Bytes> =
            self.redis.of(namespace).script("redis.dead", &self.dead, &[&dead], arguments, left).await?;
        Ok(parts.chunks_exact(6).filter_map(letter).collect())
    }

    /// Puts dead letters at the end of the queue and returns how many were there.
    pub(crate) async fn replay(
        &self,
        namespace: &str,
        ids: &[String],
        left: Duration,
    ) -> Result<u64, LayerError> {
        let mut arguments = vec![Value::from(namespace)];
        arguments.extend(ids.iter().map(Value::from));
        let (dead, queue, waiting) = (dead_of(namespace), queue_of(namespace), waiting_of(namespace));
        let keys = [dead.as_str(), &queue, NAMES, &waiting];
        self.redis.of(namespace).script("redis.replay", &self.replay, &keys, arguments, left).await
    }

    /// Removes dead letters for good and returns how many were there.
    pub(crate) async fn drop_dead(
        &self,
        namespace: &str,
        ids: &[String],
        left: Duration,
    ) -> Result<u64, LayerError> {
        let dead = dead_of(namespace);
        let arguments = ids.iter().map(Value::from).collect();
        self.redis.of(namespace).script("redis.drop", &self.drop, &[&dead], arguments, left).await
    }
}

fn decode(key: &[u8], envelope: &Bytes) -> Option<Change> {
    let key = Key::from_text(std::str::from_utf8(key).ok()?)?;
    let envelope = Envelope::decode(envelope).ok()?;
    let ttl_ms = envelope.expires_at_unix_ms.saturating_sub(envelope.set_at_unix_ms);
    let value = envelope.value.map(|value| Loaded {
        value,
        content_type: envelope.content_type,
        ttl: Ttl::try_new(Duration::from_millis(ttl_ms)).ok(),
        tags: envelope.tags,
    });
    Some(Change { key, value, version: envelope.version })
}

fn letter(parts: &[Bytes]) -> Option<DeadLetter> {
    let text = |place: usize| Some(String::from_utf8_lossy(parts.get(place)?).into_owned());
    let head = parts.get(2)?;
    Some(DeadLetter {
        id: text(0)?,
        // What cannot be read has become a dead letter for that, and is to be seen.
        key: text(1).map(|key| key.split_once(':').map_or_else(|| key.clone(), |(_, key)| key.to_owned()))?,
        version: head.get(2..10).and_then(|version| version.try_into().ok()).map_or(0, u64::from_be_bytes),
        is_delete: head.get(1) == Some(&Body::ABSENT),
        value_bytes: text(3)?.parse().ok()?,
        reason: text(4)?,
        attempts: text(5)?.parse().ok()?,
    })
}

/// The changes of a namespace that wait, each with its key (`k`) and the envelope of the entry (`e`).
pub(crate) fn queue_of(namespace: &str) -> String {
    ["!wbq:", namespace].concat()
}

/// The place in the queue of the newest change of each key that waits.
pub(crate) fn waiting_of(namespace: &str) -> String {
    ["!wbw:", namespace].concat()
}

fn dead_of(namespace: &str) -> String {
    ["!wbd:", namespace].concat()
}

fn owner_of(namespace: &str) -> String {
    ["!wbo:", namespace].concat()
}
