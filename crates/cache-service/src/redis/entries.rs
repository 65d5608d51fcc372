//! The scripts behind writes. Each numbers its change and appends it to the log in the same step.
//!
//! The number is at once the version of the entry, the position in the log, and what barriers of tags and namespaces are
//! compared with: one more than the last, or the time of the server in microseconds where that is higher. So numbers
//! grow even when clocks go back, and start above all earlier ones after a loss of the counter.

use std::time::Duration;

use fred::interfaces::KeysInterface as _;
use fred::types::Value;
use mainstay_redis::{RedisError, Script, number};

use super::Redis;
use super::durable::Change;
use super::waiting::WAITING;
use crate::engine::MOST_CHANGES;
use crate::entry::{Body, Condition, Decision, Draft, Removal, Removed, Written};
use crate::fence::Fence;
use crate::key::Key;
use crate::once::{Made, Once};
use crate::write_behind::{NAMES, queue_of, waiting_of};

/// Keys that are not entries begin so; a namespace cannot.
pub(super) const SEQUENCE: &str = "!seq";
pub(super) const LOG: &str = "!log";

/// What all scripts begin with. `append` numbers a change and writes it to the log. `once_before` gives 5, version, set-at
/// and whether there was an entry when the change was made before under its idempotency key, or 6 when it was another; it
/// writes, so that a replica can be waited for.
macro_rules! script {
    ($keys:literal, $rest:literal) => {
        concat!(
            $keys,
            r"
local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local last = redis.call('GET', sequence) or '0'
local function next_number(least) return math.max(least, now_us, last + 1) end
local function old_version(key)
  local head = redis.call('GETRANGE', key, 0, 9)
  if #head == 10 and string.byte(head, 1) == 202 and string.byte(head, 2) <= 3 then
    local old = struct.unpack('>I8', head, 3)
    if old < 9007199254740991 then return old, head end
  end
  return 0, head
end
local function fenced(key, fence)
  if fence == '' then return nil end
  local newest = tonumber(redis.call('GET', key) or '0') or 0
  if newest > tonumber(fence) then return newest end
  return nil
end
local function once_before(key, print, ms)
  local before = print ~= '' and redis.call('GET', key)
  if not before then return nil end
  local of, version, set_at, existed = string.match(before, '^(%x+) (%d+) (%d+) (%d)$')
  if of ~= print then return {6, 0, 0, 0} end
  redis.call('PEXPIRE', key, ms)
  return {5, tonumber(version), tonumber(set_at), tonumber(existed)}
end
local function note_once(key, print, ms, version, set_at, existed)
  if print == '' then return end
  redis.call('SET', key, string.format('%s %.0f %.0f %d', print, version, set_at, existed), 'PX', ms)
end
local function append(number, kind, name)
  local text = string.format('%.0f', number)
  local entry = last .. ' ' .. kind .. ' ' .. string.format('%.0f', math.floor(now_us / 1000)) .. ' ' .. name
  redis.call('XADD', log, 'MAXLEN', '~', log_length, text .. '-0', 'e', entry)
  redis.call('SET', sequence, text)
  last = text
end
",
            $rest
        )
    };
}

/// Gives 1, version, set-at and whether there was an entry; or 0 and the version that is there when the condition does not
/// hold; or 2 when the lease is lost; or 4 when the queue is full; or what `once_before` gives. What the lease says must still be so is checked in the
/// same step as the write; one that an invalidation has outdated is taken away, for whoever loads next needs a new one. With a queue, the change is in it before anything else is done.
const SET: &str = script!(
    "local key, sequence, log, lease, floor, barriers, fence_of_lock, once, queue, queues, waiting = unpack(KEYS)
local body, ttl, lowest, format, condition, name, log_length, token, fence, most_queued, print, once_ms = unpack(ARGV)
",
    r"
local before = once_before(once, print, once_ms)
if before then return before end
local outdated = fenced(fence_of_lock, fence)
if outdated then return {3, outdated, 0, 0} end
local old, head = old_version(key)
local there = string.byte(head, 2) == 3 and 0 or old
if condition ~= '' and (there ~= tonumber(condition) or (old == 0 and #head > 0)) then return {0, there, 0, 0} end
local held = redis.call('GET', lease)
if token ~= '' then
  local holder, since = string.match(held or '', '^(%d+):(%d+)$')
  if holder ~= token then return {2, 0, 0, 0} end
  local barrier = tonumber(redis.call('GET', floor) or '0')
  for i = 13, #ARGV do
    barrier = math.max(barrier, tonumber(redis.call('HGET', barriers, ARGV[i]) or '0'))
  end
  if barrier > tonumber(since) then
    redis.call('DEL', lease)
    return {2, 0, 0, 0}
  end
end
local version = next_number(math.max(tonumber(lowest), old + 1))
local set_at = math.floor(now_us / 1000)
local magic = string.char(202, tonumber(format))
local envelope = magic .. struct.pack('>I8I8I8', version, set_at, set_at + ttl) .. body
if queue then
  if redis.call('XLEN', queue) >= tonumber(most_queued) then return {4, 0, 0, 0} end
  local place = redis.call('XADD', queue, '*', 'k', name, 'e', envelope)
  redis.call('HSET', waiting, name, place)
  redis.call('SADD', queues, string.match(name, '^[^:]+'))
end
note_once(once, print, once_ms, version, set_at, there == 0 and 0 or 1)
append(version, 'k', name)
if held then redis.call('DEL', lease) end
redis.call('SETNX', floor, '0')
if #ARGV > 12 then redis.call('HSETNX', barriers, '', '1') end
redis.call('SET', key, envelope, 'PX', ttl)
return {1, version, set_at, there == 0 and 0 or 1}
"
);

/// Gives 1, the number, 0, and whether it was there; or 3 and the newest token of the lock; or what `once_before` gives.
/// Removes before it appends: a full Redis lets it.
const DELETE: &str = script!(
    "local key, sequence, log, lease, fence_of_lock, once = unpack(KEYS)
local lowest, name, log_length, fence, print, once_ms = unpack(ARGV)
",
    r"
local before = once_before(once, print, once_ms)
if before then return before end
local outdated = fenced(fence_of_lock, fence)
if outdated then return {3, outdated, 0, 0} end
local old, head = old_version(key)
local existed = redis.call('DEL', key)
if string.byte(head, 2) == 3 and old > 0 then existed = 0 end
redis.call('DEL', lease)
local number = next_number(math.max(tonumber(lowest), old + 1))
note_once(once, print, once_ms, number, 0, existed)
append(number, 'k', name)
return {1, number, 0, existed}
"
);

/// Gives the last number, and how many keys were there. After `tags_most` tags of a namespace the whole namespace is
/// invalidated instead, so that barriers take bounded room.
const INVALIDATE: &str = script!(
    "local sequence, log, floor, barriers = unpack(KEYS)
local log_length, lowest, namespace, all, tags_most, n_tags = unpack(ARGV)
redis.call('XTRIM', log, 'MAXLEN', '~', log_length)
",
    r"
lowest, n_tags = tonumber(lowest), tonumber(n_tags)
local removed = 0
for i = 5, #KEYS, 2 do
  local old, head = old_version(KEYS[i])
  local there = redis.call('DEL', KEYS[i])
  if string.byte(head, 2) ~= 3 or old == 0 then removed = removed + there end
  redis.call('DEL', KEYS[i + 1])
  append(next_number(math.max(lowest, old + 1)), 'k', ARGV[7 + n_tags + (i - 5) / 2])
end
for i = 7, 6 + n_tags do
  append(next_number(lowest), 't', namespace .. ':' .. ARGV[i])
  redis.call('HSET', barriers, '', '1', ARGV[i], last)
end
if all == '1' or redis.call('HLEN', barriers) > tonumber(tags_most) then
  append(next_number(lowest), 'n', namespace)
  redis.call('DEL', barriers)
  redis.call('SET', floor, last)
end
return {tonumber(last), removed}
"
);

/// Gives 1 when the lease is ours, also if it was before: an answer may have been lost. It remembers the last number, with
/// which barriers are compared later.
const LEASE: &str = r"
local holder = redis.call('GET', KEYS[1])
if holder then return string.match(holder, '^(%d+):') == ARGV[1] and 1 or 0 end
local since = redis.call('GET', KEYS[2]) or '0'
if redis.call('SET', KEYS[1], ARGV[1] .. ':' .. since, 'NX', 'PX', ARGV[2]) then return 1 end
return 0
";

const RELEASE: &str = r"
local holder = string.match(redis.call('GET', KEYS[1]) or '', '^(%d+):')
if holder == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
";

/// Gives the number of the change, or 0 when another version is there.
const PUT_POLICY: &str = script!(
    "local sequence, log, policies, history = unpack(KEYS)
local log_length, lowest, namespace, expected, policy, kept = unpack(ARGV)
",
    r"
local before = redis.call('HGET', policies, namespace) or '0'
if string.match(before, '^%d+') ~= expected then return 0 end
local number = next_number(tonumber(lowest))
append(number, 'p', namespace)
local after = last .. ' ' .. policy
redis.call('HSET', policies, namespace, after)
redis.call('LPUSH', history, namespace .. '\n' .. before .. '\n' .. after)
redis.call('LTRIM', history, 0, kept - 1)
return number
"
);

/// What is to be invalidated in one step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Invalidation<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) keys: &'a [Key],
    pub(crate) tags: &'a [Box<str>],
    pub(crate) all: bool,
}

/// Scripts, with their hashes.
#[derive(Debug)]
pub(super) struct Scripts {
    set: Script,
    delete: Script,
    invalidate: Script,
    lease: Script,
    release: Script,
    put_policy: Script,
    pub(super) waiting: Script,
    log_length: u64,
}

impl Scripts {
    pub(super) fn new(log_length: u64) -> Self {
        Self {
            set: Script::new(SET),
            delete: Script::new(DELETE),
            invalidate: Script::new(INVALIDATE),
            lease: Script::new(LEASE),
            release: Script::new(RELEASE),
            put_policy: Script::new(PUT_POLICY),
            waiting: Script::new(WAITING),
            log_length,
        }
    }
}

impl Redis {
    /// Stores a draft, packed as `body`, with a version of at least `lowest_version` and above that of the entry in
    /// place, if its condition and its lease hold.
    ///
    /// After [`RedisError::Timeout`] or [`RedisError::Lost`] the write may have been done or not.
    pub(crate) async fn set(
        &self,
        key: &Key,
        draft: &Draft,
        body: &Body,
        lowest_version: u64,
        within: Duration,
    ) -> Result<Decision, RedisError> {
        let condition = match draft.condition {
            Condition::Always => Value::from(""),
            Condition::Absent => number(0),
            Condition::Version(version) => number(version),
        };
        let (lease, floor, barriers) =
            (lease_of(key), floor_of(key.namespace()), barriers_of(key.namespace()));
        // A script names its keys beforehand; without a fence the last one is not looked at.
        let fence = draft.fence.as_ref().map_or_else(String::new, |fence| Fence::key_of(&fence.lock));
        let fence_key = if fence.is_empty() { lease.as_str() } else { &fence };
        let once = OnceParts::of(draft.once.as_ref(), key, &lease);
        let mut keys = vec![key.as_str(), SEQUENCE, LOG, &lease, &floor, &barriers, fence_key, &once.key];
        let (queue, waiting) = (queue_of(key.namespace()), waiting_of(key.namespace()));
        if draft.max_queued.is_some() {
            keys.extend([queue.as_str(), NAMES, waiting.as_str()]);
        }
        let mut arguments = vec![
            body.bytes.clone().into(),
            number(draft.ttl.as_millis()),
            number(lowest_version),
            number(body.format.into()),
            condition,
            key.as_str().into(),
            number(self.scripts.log_length),
            draft.lease.map_or_else(|| Value::from(""), number),
            draft.fence.as_ref().map_or_else(|| Value::from(""), |fence| number(fence.token)),
            number(draft.max_queued.unwrap_or(0)),
            once.fingerprint,
            OnceParts::known_for(),
        ];
        arguments.extend(draft.tags.iter().map(Value::from));
        let partition = self.partition_of(key.namespace());
        let (script, replica_ack) = (&self.scripts.set, draft.replica_ack);
        let change = Change { partition, script, keys, arguments, replica_ack };
        let ((code, version, set_at_unix_ms, existed), acked) = self.run_change(change, within).await?;
        let existed = existed > 0;
        Ok(match code {
            0 => Decision::Refused { version },
            1 | 5 if !acked => Decision::NotDurable { version },
            1 => Decision::Stored { written: Written { version, set_at_unix_ms }, existed },
            3 => Decision::Fenced { newest: version },
            4 => Decision::QueueFull,
            5 => Decision::Replayed(Made { version, existed }),
            6 => Decision::OnceReused,
            _ => Decision::LeaseLost,
        })
    }

    /// Removes a key and tells whether it was there, if its fence holds.
    pub(crate) async fn delete(
        &self,
        key: &Key,
        removal: &Removal,
        lowest: u64,
        within: Duration,
    ) -> Result<Removed, RedisError> {
        let lease = lease_of(key);
        let fence_key = removal.fence.as_ref().map(|fence| Fence::key_of(&fence.lock));
        let once = OnceParts::of(removal.once.as_ref(), key, &lease);
        let fence_key = fence_key.as_deref().unwrap_or(&lease);
        let keys = vec![key.as_str(), SEQUENCE, LOG, &lease, fence_key, &once.key];
        let arguments = vec![
            number(lowest),
            key.as_str().into(),
            number(self.scripts.log_length),
            removal.fence.as_ref().map_or_else(|| Value::from(""), |fence| number(fence.token)),
            once.fingerprint,
            OnceParts::known_for(),
        ];
        let partition = self.partition_of(key.namespace());
        let (script, replica_ack) = (&self.scripts.delete, removal.replica_ack);
        let change = Change { partition, script, keys, arguments, replica_ack };
        let ((code, version, _, existed), acked) = self.run_change(change, within).await?;
        let made = Made { version, existed: existed > 0 };
        Ok(match code {
            1 | 5 if !acked => Removed::NotDurable { version },
            3 => Removed::Fenced { newest: version },
            5 => Removed::Replayed(made),
            6 => Removed::OnceReused,
            _ => Removed::Done(made),
        })
    }

    /// Invalidates and returns the last number given, and how many keys were there.
    pub(crate) async fn invalidate(
        &self,
        what: &Invalidation<'_>,
        lowest: u64,
        within: Duration,
    ) -> Result<(u64, u64), RedisError> {
        let mut keys =
            vec![SEQUENCE.to_owned(), LOG.to_owned(), floor_of(what.namespace), barriers_of(what.namespace)];
        keys.extend(what.keys.iter().flat_map(|key| [key.as_str().to_owned(), lease_of(key)]));
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let mut arguments = vec![
            number(self.scripts.log_length),
            number(lowest),
            what.namespace.into(),
            if what.all { "1" } else { "" }.into(),
            number(crate::invalidation::MOST_TAGS as u64),
            number(what.tags.len() as u64),
        ];
        arguments.extend(what.tags.iter().map(|tag| Value::from(&**tag)));
        arguments.extend(what.keys.iter().map(|key| Value::from(key.as_str())));
        self.namespace(what.namespace).run_script(&self.scripts.invalidate, &keys, arguments, within).await
    }

    /// Takes the lease to fill a key, if nobody has it.
    pub(crate) async fn lease(
        &self,
        key: &Key,
        token: u64,
        ttl: Duration,
        within: Duration,
    ) -> Result<bool, RedisError> {
        let lease = lease_of(key);
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1);
        let arguments = vec![number(token), number(ttl_ms)];
        let (part, keys) = (self.namespace(key.namespace()), [lease.as_str(), SEQUENCE]);
        let given: u64 = part.run_script(&self.scripts.lease, &keys, arguments, within).await?;
        Ok(given == 1)
    }

    /// Tells whether a lease is still its holder's.
    pub(crate) async fn holds_lease(
        &self,
        key: &Key,
        token: u64,
        within: Duration,
    ) -> Result<bool, RedisError> {
        let part = self.namespace(key.namespace());
        let lease = part.full(&lease_of(key));
        let held: Option<String> =
            part.command(within, |client| async move { client.get(lease).await }).await?;
        let holder = held.as_deref().and_then(|held| held.split(':').next());
        Ok(holder == Some(token.to_string().as_str()))
    }

    /// Gives a lease back that was not used.
    pub(crate) async fn release(&self, key: &Key, token: u64, within: Duration) -> Result<(), RedisError> {
        let lease = lease_of(key);
        let (part, arguments) = (self.namespace(key.namespace()), vec![number(token)]);
        let _: u64 = part.run_script(&self.scripts.release, &[&lease], arguments, within).await?;
        Ok(())
    }

    /// Replaces a run-time policy of this version and returns the new version; none when another one is there.
    pub(crate) async fn put_policy(
        &self,
        namespace: &str,
        expected: u64,
        policy: &str,
        within: Duration,
    ) -> Result<Option<u64>, RedisError> {
        let keys = [SEQUENCE, LOG, POLICIES, POLICY_HISTORY];
        let arguments = vec![
            number(self.scripts.log_length),
            number(0),
            namespace.into(),
            number(expected),
            policy.into(),
            number(MOST_CHANGES as u64),
        ];
        let script = &self.scripts.put_policy;
        let version: u64 = self.first().run_script(script, &keys, arguments, within).await?;
        Ok((version > 0).then_some(version))
    }
}

/// The last changes of run-time policies, the last first: the namespace, the policy before and the one put, one a line.
pub(super) const POLICY_HISTORY: &str = "!policy-history";
/// Run-time policies by namespace: version, a space, JSON.
pub(super) const POLICIES: &str = "!policies";

/// What a script is told of an idempotency key.
struct OnceParts {
    key: String,
    fingerprint: Value,
}

impl OnceParts {
    /// A script names its keys beforehand; without an idempotency key this one is not looked at.
    fn of(once: Option<&Once>, key: &Key, unused: &str) -> Self {
        match once {
            Some(once) => Self { key: once.key_of(key), fingerprint: once.fingerprint().into() },
            None => Self { key: unused.to_owned(), fingerprint: "".into() },
        }
    }

    fn known_for() -> Value {
        number(u64::try_from(Once::KNOWN_FOR.as_millis()).unwrap_or(u64::MAX))
    }
}

fn lease_of(key: &Key) -> String {
    ["!lease:", key.as_str()].concat()
}

/// Number up to which a namespace is invalid. It is there as soon as there is an entry: an entry without it has lost it.
pub(super) fn floor_of(namespace: &str) -> String {
    ["!floor:", namespace].concat()
}

/// Numbers up to which tags of a namespace are invalid. There, with an empty field, as soon as a tag is used.
pub(super) fn barriers_of(namespace: &str) -> String {
    ["!tags:", namespace].concat()
}
