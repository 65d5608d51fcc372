//! The list of nodes that live, one in each partition.

use std::sync::atomic::Ordering;

use fred::types::Value;
use mainstay_proto::realtime::v1;
use mainstay_redis::{Partition, RedisError, Script, number};
use prost::Message as _;
use tokio::time::Instant;

use super::will::will_of;
use super::wire::parts;
use super::{LIFE, Mesh, Standing, send_by};

pub(super) const NODES: &str = "ws!nodes";

/// Says that a node lives. An entry is `<end of its lease>:<since when it lives without a break>:<state>`; `!` in place of
/// the state marks a life that is being buried. Gives 0 when this life was given up, else 1 and for each other node its
/// life and its state, which is empty for one that has to be buried by the asker. Only who has lived for a lease without
/// a break may say that others are dead: after an outage of Redis nobody could say that he lives.
const LIVE: &str = r"
local nodes = KEYS[1]
local life, known, lease, state, send, place, beat = unpack(ARGV)
lease = tonumber(lease)
local time = redis.call('TIME')
local now = math.floor((time[1] * 1000000 + time[2]) / 1000)
local function text(ms) return string.format('%.0f', ms) end
local function read(entry)
  local one = string.find(entry, ':', 1, true)
  local two = string.find(entry, ':', one + 1, true)
  return tonumber(string.sub(entry, 1, one - 1)), tonumber(string.sub(entry, one + 1, two - 1)), string.sub(entry, two + 1)
end
local since = now
local before = redis.call('HGET', nodes, life)
if before then
  local ends, began, rest = read(before)
  if rest == '!' then return {'0'} end
  if ends > now then since = began end
elseif known == '1' then
  return {'0'}
end
redis.call('HSET', nodes, life, text(now + lease) .. ':' .. text(since) .. ':' .. state)
local answer = {'1'}
local all = redis.call('HGETALL', nodes)
for i = 1, #all, 2 do
  if all[i] ~= life then
    local ends, _, rest = read(all[i + 1])
    if ends > now then
      if rest ~= '!' then
        answer[#answer + 1] = all[i]
        answer[#answer + 1] = rest
      end
    elseif now - since >= lease then
      redis.call('HSET', nodes, all[i], text(now + lease) .. ':0:!')
      answer[#answer + 1] = all[i]
      answer[#answer + 1] = ''
    end
  end
end
redis.call(send, place, beat)
return answer
";

/// Ends a life in order. What is left in its will, if anything is, is told by another node.
const DEPART: &str = r"
local nodes, will = unpack(KEYS)
local life, send, place, message = unpack(ARGV)
if redis.call('HLEN', will) == 0 then
  redis.call('HDEL', nodes, life)
elseif redis.call('HEXISTS', nodes, life) == 1 then
  redis.call('HSET', nodes, life, '0:0:?')
end
return redis.call(send, place, message)
";

/// The scripts about the list.
pub(super) struct RollScripts {
    live: Script,
    depart: Script,
}

impl RollScripts {
    pub(super) const fn new() -> Self {
        Self { live: Script::new(LIVE), depart: Script::new(DEPART) }
    }
}

/// What saying that one lives has shown.
#[derive(Debug)]
pub(super) enum Roll {
    /// These lives are to be buried by this node.
    Called { dead: Vec<String> },
    /// The others had given this node up and have told that its members are gone. It has a new life now.
    GivenUp,
}

impl Mesh {
    /// Returns the name of the present life.
    pub(super) fn life(&self, partition: Partition) -> String {
        self.life_numbered(self.standing(partition).life.load(Ordering::Relaxed))
    }

    /// Returns the name of the life before this one.
    pub(super) fn life_before(&self, partition: Partition) -> Option<String> {
        let number = self.standing(partition).life.load(Ordering::Relaxed);
        (number > 1).then(|| self.life_numbered(number - 1))
    }

    fn life_numbered(&self, number: u32) -> String {
        format!("{}{LIFE}{number}", self.id)
    }

    /// Says that this node lives, and learns of the others. `is_known` says that it has done so before.
    pub(super) async fn live(
        &self,
        partition: Partition,
        state: &v1::Node,
        is_known: bool,
    ) -> Result<Roll, RedisError> {
        let Standing { life, canary } = self.standing(partition);
        let beat = canary.lock().next();
        let arguments = vec![
            self.life(partition).into(),
            number(u64::from(is_known)),
            number(u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX)),
            Value::Bytes(state.encode_to_vec().into()),
            send_by(&self.redis).into(),
            self.beat_place(partition).into(),
            self.beat(beat).into(),
        ];
        let part = self.redis.part(partition);
        let answer: Vec<Value> = part.run_script(&self.roll.live, &[NODES], arguments, self.within).await?;
        let mut answer = answer.into_iter();
        if answer.next().and_then(Value::into_string).as_deref() != Some("1") {
            life.fetch_add(1, Ordering::Relaxed);
            return Ok(Roll::GivenUp);
        }
        let now = Instant::now();
        canary.lock().sent(beat, now);
        let (mut dead, mut nodes) = (Vec::new(), std::collections::HashMap::new());
        while let (Some(life), Some(state)) = (answer.next(), answer.next()) {
            let life = life.into_string().ok_or(RedisError::Foreign)?;
            match state.as_bytes().unwrap_or_default() {
                [] => dead.push(life),
                state => {
                    let node = v1::Node::decode(state).map_err(|_| RedisError::Foreign)?;
                    nodes.insert(node.id.clone(), node);
                }
            }
        }
        if partition == Partition::FIRST {
            // A life of this node that is over is none of the others.
            nodes.remove(&self.id);
            let mut peers = self.peers.lock();
            peers.nodes = nodes;
            peers.seen_at = Some(now);
        }
        Ok(Roll::Called { dead })
    }

    /// Ends this life in order.
    pub(super) async fn depart(&self, partition: Partition) -> Result<(), RedisError> {
        let life = self.life(partition);
        let will = will_of(&life);
        let gone = parts(&["d", &self.id, "0"]);
        let place = self.beat_place(partition);
        let arguments = vec![life.into(), send_by(&self.redis).into(), place.into(), gone.into()];
        let (part, keys) = (self.redis.part(partition), [NODES, &will]);
        part.run_script::<u64>(&self.roll.depart, &keys, arguments, self.within).await.map(drop)
    }
}
