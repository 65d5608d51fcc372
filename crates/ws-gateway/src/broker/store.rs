//! What lies in Redis for a channel, and the scripts that change it in one step.
//!
//! A channel with a history has a hash of its position (`e` epoch, `s` offset of the last publication, `g` id of the
//! server that gave it) and a stream whose ids are the offsets. In a cluster all keys of a channel, and the place where it is
//! sent, lie in the slot of its partition. Replication lags, so a server that takes over may not
//! have the last publications; the next ones would get their offsets, and who had seen the lost ones would be told that
//! nothing was missed. So a numbering belongs to one server process: under another one it begins anew, with a new epoch.

use std::sync::Arc;
use std::time::Duration;

use fred::types::Value;
use mainstay_redis::{Partition, Redis, RedisError, Script, number};
use uuid::Uuid;

use super::wire::{pack, unpack};
use crate::channel::Channel;
use crate::config::NamespaceConfig;
use crate::engine::{HistoryQuery, Item, NotThisEpoch, Position, Since, Stream};
use crate::hub::Message;

/// Numbers, keeps and sends a publication. Gives whether its idempotency key was seen before, its place, and how many
/// nodes were told.
const PUBLISH: &str = r"
local meta, stream, seen_key = unpack(KEYS)
local server, new_epoch, payload, send, place, size, ttl, meta_ttl, seen_ttl = unpack(ARGV)
if seen_ttl ~= '0' then
  local seen = redis.call('GET', seen_key)
  if seen then return {1, seen, 0} end
end
local time = redis.call('TIME')
local now_ms = string.format('%.0f', math.floor((time[1] * 1000000 + time[2]) / 1000))
local offset, epoch = '0', ''
if size ~= '0' then
  local known = redis.call('HMGET', meta, 'e', 'g')
  epoch = known[1]
  if not epoch or known[2] ~= server then
    epoch = new_epoch
    redis.call('DEL', stream, meta)
    redis.call('HSET', meta, 'e', epoch, 'g', server)
  end
  offset = string.format('%.0f', redis.call('HINCRBY', meta, 's', 1))
  redis.call('XADD', stream, 'MAXLEN', size, offset .. '-0', 'd', payload, 't', now_ms)
  redis.call('PEXPIRE', stream, ttl)
  redis.call('PEXPIRE', meta, meta_ttl)
end
local position = offset .. ':' .. epoch
if seen_ttl ~= '0' then redis.call('SET', seen_key, position, 'PX', seen_ttl) end
return {0, position, redis.call(send, place, 'p' .. position .. ':' .. now_ms .. ':' .. payload)}
";

/// Gives epoch, offset and the time of the server, then id, payload and time of each publication in the range.
const READ: &str = r"
local meta, stream = unpack(KEYS)
local server, new_epoch, meta_ttl, command, from, to, count = unpack(ARGV)
local known = redis.call('HMGET', meta, 'e', 'g', 's')
local epoch, top = known[1], known[3] or '0'
if not epoch or known[2] ~= server then
  epoch, top = new_epoch, '0'
  redis.call('DEL', stream, meta)
  redis.call('HSET', meta, 'e', epoch, 'g', server)
end
redis.call('PEXPIRE', meta, meta_ttl)
local time = redis.call('TIME')
local answer = {epoch, top, string.format('%.0f', math.floor((time[1] * 1000000 + time[2]) / 1000))}
if count ~= '0' then
  for _, entry in ipairs(redis.call(command, stream, from, to, 'COUNT', count)) do
    answer[#answer + 1] = entry[1]
    answer[#answer + 1] = entry[2][2]
    answer[#answer + 1] = entry[2][4]
  end
end
return answer
";

/// Gives `offset:epoch` of each channel, empty where this server has given none.
const POSITIONS: &str = r"
local server, meta_ttl = unpack(ARGV)
local answer = {}
for i, meta in ipairs(KEYS) do
  local known = redis.call('HMGET', meta, 'e', 'g', 's')
  answer[i] = ''
  if known[1] and known[2] == server then
    answer[i] = (known[3] or '0') .. ':' .. known[1]
    redis.call('PEXPIRE', meta, meta_ttl)
  end
end
return answer
";

/// How long things are kept, and how long one exchange with Redis may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) position_ttl: Duration,
    pub(super) idempotency_ttl: Duration,
    pub(super) within: Duration,
}

/// Reads and writes what lies in Redis.
pub(super) struct Store {
    redis: Arc<Redis>,
    terms: Terms,
    publish: Script,
    read: Script,
    positions: Script,
}

/// What became of a publication in Redis.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) duplicate: bool,
    /// None where the channel has no history.
    pub(super) position: Option<Position>,
    pub(super) n_nodes: u64,
}

/// What part of a channel's history is read.
#[derive(Clone, Debug)]
pub(super) enum Part {
    Nothing,
    /// All after an offset, unless that is more than so many.
    After(u64, usize),
    Latest,
    Page(HistoryQuery),
}

/// What was read of a channel.
#[derive(Clone, Debug)]
pub(crate) struct ReadBack {
    pub(crate) position: Position,
    /// Those that are too old are left out.
    pub(crate) items: Vec<Item>,
}

impl Store {
    pub(super) fn new(redis: Arc<Redis>, terms: Terms) -> Self {
        let (publish, read, positions) = (Script::new(PUBLISH), Script::new(READ), Script::new(POSITIONS));
        Self { redis, terms, publish, read, positions }
    }

    /// Returns what a channel is called among the nodes.
    pub(super) fn place(&self, channel: &Channel) -> String {
        crate::mesh::place_of(&self.redis, channel)
    }

    pub(super) async fn publish(
        &self,
        channel: &Channel,
        options: &NamespaceConfig,
        message: &Message,
    ) -> Result<Placed, RedisError> {
        let key = &*message.idempotency_key;
        let seen_ttl = if key.is_empty() { 0 } else { ms(self.terms.idempotency_ttl) };
        // The last one is named also where there is none: while a slot is being moved a script whose keys are not all in one
        // place runs nowhere, so nothing is sent from a node to which nobody listens yet.
        let keys = [meta(channel), stream(channel), ["ws:{", channel.as_str(), "}i:", key].concat()];
        let payload = Value::from(pack(&message.publication, message.exclusion.as_deref()));
        let arguments = |server: &str| {
            vec![
                server.into(),
                new_epoch().into(),
                payload.clone(),
                crate::mesh::send_by(&self.redis).into(),
                self.place(channel).into(),
                number(options.history_size as u64),
                number(ms(options.history_ttl)),
                number(ms(self.terms.position_ttl)),
                number(seen_ttl),
            ]
        };
        let keys = keys.each_ref().map(String::as_str);
        let (duplicate, place, n_nodes): (u64, String, u64) =
            self.part(channel).run_script_at(&self.publish, &keys, arguments, self.terms.within).await?;
        let position = parse_position(&place).ok_or(RedisError::Foreign)?;
        let position = (position.offset > 0).then_some(position);
        Ok(Placed { duplicate: duplicate == 1, position, n_nodes })
    }

    pub(super) async fn read(
        &self,
        channel: &Channel,
        options: &NamespaceConfig,
        part: &Part,
    ) -> Result<ReadBack, RedisError> {
        let keys = [meta(channel), stream(channel)];
        let (command, from, to, count) = part.range();
        let arguments = |server: &str| {
            vec![
                server.into(),
                new_epoch().into(),
                number(ms(self.terms.position_ttl)),
                command.into(),
                from.as_str().into(),
                to.as_str().into(),
                number(count as u64),
            ]
        };
        let keys = keys.each_ref().map(String::as_str);
        let answer: Vec<Value> =
            self.part(channel).run_script_at(&self.read, &keys, arguments, self.terms.within).await?;
        parse_read(answer, options.history_ttl).ok_or(RedisError::Foreign)
    }

    /// Returns where channels of one partition are; none where this server knows nothing of one.
    pub(super) async fn positions(
        &self,
        partition: Partition,
        channels: &[Channel],
    ) -> Result<Vec<Option<Position>>, RedisError> {
        let keys: Vec<String> = channels.iter().map(meta).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let arguments = |server: &str| vec![server.into(), number(ms(self.terms.position_ttl))];
        let part = self.redis.part(partition);
        let answer: Vec<String> =
            part.run_script_at(&self.positions, &keys, arguments, self.terms.within).await?;
        Ok(answer.iter().map(|text| parse_position(text)).collect())
    }

    /// Forgets what was published into a channel. Offsets go on from where they are.
    pub(super) async fn forget(&self, channel: &Channel) -> Result<(), RedisError> {
        let part = self.part(channel);
        part.send("DEL", vec![part.full(&stream(channel)).into()], self.terms.within).await
    }

    fn part(&self, channel: &Channel) -> mainstay_redis::Part<'_> {
        self.redis.part(self.redis.partition_of(channel.as_str()))
    }
}

impl Part {
    /// Returns the command, where it begins and ends, and how many entries it may give.
    fn range(&self) -> (&'static str, String, String, usize) {
        let (oldest, newest) = ("-".to_owned(), "+".to_owned());
        match self {
            Self::Nothing => ("XRANGE", oldest, newest, 0),
            Self::After(offset, most) => ("XRANGE", format!("({offset}-0"), newest, most + 1),
            Self::Latest => ("XREVRANGE", newest, oldest, 1),
            Self::Page(query) => {
                let since = query.since.as_ref().map(|since| format!("({}-0", since.offset));
                if query.reverse {
                    ("XREVRANGE", since.unwrap_or(newest), oldest, query.max_items)
                } else {
                    ("XRANGE", since.unwrap_or(oldest), newest, query.max_items)
                }
            }
        }
    }

    /// Returns what a subscriber needs to begin.
    pub(super) fn to_begin(since: Option<&Since>, cache: bool, most: usize) -> Self {
        match since {
            _ if cache => Self::Latest,
            Some(since) => Self::After(since.offset, most),
            None => Self::Nothing,
        }
    }
}

impl ReadBack {
    /// Returns it as the newest part of a history. What does not reach up to the position is of no use there.
    pub(crate) fn into_stream(self) -> Stream {
        let Self { position, mut items } = self;
        let is_whole = items.last().is_none_or(|last| last.offset == position.offset)
            && items.iter().zip(items.iter().skip(1)).all(|(one, next)| one.offset + 1 == next.offset);
        if !is_whole {
            items.clear();
        }
        Stream::restored(position, items)
    }

    /// Returns a page as it was asked for.
    pub(super) fn into_page(
        mut self,
        query: &HistoryQuery,
        max_bytes: usize,
    ) -> Result<(Vec<Item>, Position), NotThisEpoch> {
        let other = |since: &Since| !since.epoch.is_empty() && *since.epoch != *self.position.epoch;
        if query.since.as_ref().is_some_and(other) {
            return Err(NotThisEpoch);
        }
        let mut bytes = 0;
        let n_fit = self.items.iter().take_while(|item| {
            bytes += item.publication.cost_bytes();
            bytes <= max_bytes
        });
        let n_fit = n_fit.count();
        self.items.truncate(n_fit);
        Ok((self.items, self.position))
    }
}

fn parse_read(answer: Vec<Value>, ttl: Duration) -> Option<ReadBack> {
    let mut answer = answer.into_iter();
    let epoch = answer.next()?.into_string()?;
    let offset = answer.next()?.into_string()?.parse().ok()?;
    let now_ms: u64 = answer.next()?.into_string()?.parse().ok()?;
    let oldest_ms = now_ms.saturating_sub(ms(ttl));
    let mut items = Vec::new();
    while let Some(id) = answer.next() {
        let id = id.into_string()?;
        let offset = id.split_once('-')?.0.parse().ok()?;
        let payload = answer.next()?;
        let published_ms = answer.next()?.into_string()?.parse().ok()?;
        if published_ms > oldest_ms {
            items.push(unpack(offset, published_ms, payload.as_bytes()?).ok()?);
        }
    }
    Some(ReadBack { position: Position { offset, epoch: epoch.into() }, items })
}

/// Reads `offset:epoch`.
fn parse_position(text: &str) -> Option<Position> {
    let (offset, epoch) = text.split_once(':')?;
    Some(Position { offset: offset.parse().ok()?, epoch: epoch.into() })
}

fn meta(channel: &Channel) -> String {
    ["ws:{", channel.as_str(), "}m"].concat()
}

fn stream(channel: &Channel) -> String {
    ["ws:{", channel.as_str(), "}s"].concat()
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}

fn new_epoch() -> String {
    let mut text = Uuid::new_v4().simple().to_string();
    text.truncate(8);
    text
}
