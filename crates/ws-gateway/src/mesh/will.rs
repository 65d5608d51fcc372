//! What other nodes have been told of the members of this one, kept in Redis so that somebody else can take it back. There
//! is one in each partition, about the channels there.

use std::collections::HashMap;

use fred::types::Value;
use mainstay_redis::{Partition, RedisError, Script};

use super::roll::NODES;
use super::wire::SEPARATOR;
use super::{Attendance, Coming, LIFE, Mesh, place_of, send_by};
use crate::broker::ClientPacked;
use crate::channel::Channel;

/// Members told of with one script.
const MEMBERS_AT_ONCE: usize = 128;
/// Members of a dead node told of with one script.
const DEAD_AT_ONCE: &str = "256";

/// Tells who came and went, each once, and changes the will accordingly: life and command to send, then place, field of the will, message, and what the
/// will says of it (empty for somebody who left). Gives 0 when this life was given up.
const TELL: &str = r"
local will, nodes = unpack(KEYS)
local entry = redis.call('HGET', nodes, ARGV[1])
if not entry or string.sub(entry, -2) == ':!' then return 0 end
for i = 3, #ARGV, 4 do
  local changed
  if ARGV[i + 3] == '' then
    changed = redis.call('HDEL', will, ARGV[i + 1])
  else
    changed = redis.call('HSET', will, ARGV[i + 1], ARGV[i + 3])
  end
  if changed == 1 then redis.call(ARGV[2], ARGV[i], ARGV[i + 2]) end
end
return 1
";

/// Tells that some members of a dead node have left, and strikes them out. Gives how many are left; when none are, the
/// node is struck out too.
const BURY: &str = r"
local will, nodes = unpack(KEYS)
local node, life, send, before, after, count = unpack(ARGV)
local some = redis.call('HRANDFIELD', will, count, 'WITHVALUES')
for i = 1, #some, 2 do
  local channel = string.sub(some[i], 1, string.find(some[i], '\31', 1, true) - 1)
  redis.call(send, before .. channel .. after, 'l' .. node .. '\31' .. some[i + 1])
  redis.call('HDEL', will, some[i])
end
local left = redis.call('HLEN', will)
if left == 0 then redis.call('HDEL', nodes, life) end
return left
";

/// The scripts about members.
pub(super) struct WillScripts {
    tell: Script,
    bury: Script,
}

impl WillScripts {
    pub(super) const fn new() -> Self {
        Self { tell: Script::new(TELL), bury: Script::new(BURY) }
    }
}

/// What became of telling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    All,
    /// The others had given this node up.
    GivenUp,
}

impl Mesh {
    /// Tells the others who came and left in channels of one partition, as far as they do not know.
    pub(super) async fn tell(
        &self,
        partition: Partition,
        changes: &[Attendance],
    ) -> Result<Told, RedisError> {
        let (part, life) = (self.redis.part(partition), self.life(partition));
        let will = will_of(&life);
        for some in changes.chunks(MEMBERS_AT_ONCE) {
            let mut arguments: Vec<Value> = Vec::with_capacity(2 + some.len() * 4);
            arguments.extend([life.as_str().into(), send_by(&self.redis).into()]);
            for change in some {
                self.put(change, &mut arguments);
            }
            let keys = [will.as_str(), NODES];
            let told: u64 = part.run_script(&self.wills.tell, &keys, arguments, self.within).await?;
            if told == 0 {
                return Ok(Told::GivenUp);
            }
        }
        Ok(Told::All)
    }

    fn put(&self, Attendance { channel, info, coming }: &Attendance, arguments: &mut Vec<Value>) {
        let packed = ClientPacked::of(info);
        let kind = if *coming == Coming::Came { "j" } else { "l" };
        arguments.push(place_of(&self.redis, channel).into());
        arguments.push(field(channel, &info.client.to_string()).into());
        arguments.push(format!("{kind}{}{SEPARATOR}{packed}", self.id).into());
        arguments.push(if *coming == Coming::Came { packed } else { String::new() }.into());
    }

    /// Returns what has to be told so that the others know who is here: `present`, of one partition.
    pub(super) async fn difference(
        &self,
        partition: Partition,
        present: Vec<Attendance>,
    ) -> Result<Vec<Attendance>, RedisError> {
        let part = self.redis.part(partition);
        let key = part.full(&will_of(&self.life(partition)));
        let mut told: HashMap<String, String> = part.read("HGETALL", vec![key.into()], self.within).await?;
        let mut changes: Vec<Attendance> = present
            .into_iter()
            .filter(|one| told.remove(&field(&one.channel, &one.info.client.to_string())).is_none())
            .collect();
        changes.extend(told.iter().filter_map(|(field, packed)| {
            let (channel, _) = field.split_once(SEPARATOR)?;
            let channel = Channel::parse(channel, usize::MAX).ok()?;
            Some(Attendance { channel, info: ClientPacked::read(packed)?, coming: Coming::Left })
        }));
        Ok(changes)
    }

    /// Tells whether somebody has still to tell what the life before this one has left. A will of it that nobody knows of
    /// (a failover may lose a part of what was written) is taken away: its members are told anew.
    pub(super) async fn is_being_buried(&self, partition: Partition) -> Result<bool, RedisError> {
        let Some(life) = self.life_before(partition) else { return Ok(false) };
        let part = self.redis.part(partition);
        let (nodes, will) = (part.full(NODES), part.full(&will_of(&life)));
        let is_known: bool = part.read("HEXISTS", vec![nodes.into(), life.into()], self.within).await?;
        if !is_known {
            let _: u64 = part.send("DEL", vec![will.into()], self.within).await?;
        }
        Ok(is_known)
    }

    /// Tells that all members of a dead node in channels of a partition have left; returns how many they were.
    pub(super) async fn bury(&self, partition: Partition, life: &str) -> Result<u64, RedisError> {
        let node = life.rsplit_once(LIFE).map_or(life, |(node, _)| node);
        let (part, will) = (self.redis.part(partition), will_of(life));
        let n_members: u64 = part.read("HLEN", vec![part.full(&will).into()], self.within).await?;
        loop {
            let arguments = vec![
                node.into(),
                life.into(),
                send_by(&self.redis).into(),
                part.full("ws:{").into(),
                "}".into(),
                DEAD_AT_ONCE.into(),
            ];
            let keys = [will.as_str(), NODES];
            let left: u64 = part.run_script(&self.wills.bury, &keys, arguments, self.within).await?;
            if left == 0 {
                return Ok(n_members);
            }
        }
    }
}

pub(super) fn will_of(life: &str) -> String {
    ["ws!will:", life].concat()
}

fn field(channel: &Channel, client: &str) -> String {
    format!("{}{SEPARATOR}{client}", channel.as_str())
}
