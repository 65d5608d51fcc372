//! Where feeds are kept that are put at run time: one hash in Redis, with a revision that rises with each change.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fred::types::Value;
use mainstay_proto::realtime::v1::KeptFeed;
use mainstay_redis::{Redis, RedisError, Script, number};
use prost::Message as _;

const KEY: &str = "ws!feeds";
/// What the field of a feed begins with; that of the revision does not.
const FEED: &str = "f:";
const REVISION: &str = "revision";

const READ: &str = r"
local at = redis.call('HGET', KEYS[1], 'revision') or ''
if at == ARGV[1] then return {'same'} end
local all = redis.call('HGETALL', KEYS[1])
table.insert(all, 1, 'all')
return all
";

/// ARGV: field, content (empty: none), expected version or empty, what tells this change from others, most feeds.
const PUT: &str = r"
local now = redis.call('HGET', KEYS[1], ARGV[1])
local version = now and string.match(now, '^%d+') or '0'
if ARGV[3] ~= '' and ARGV[3] ~= version then return {'version', version} end
local last = tonumber(string.match(redis.call('HGET', KEYS[1], 'revision') or '0', '^%d+'))
local next = string.format('%.0f', last + 1)
if ARGV[2] == '' then
  if not now then return {'unknown', '0'} end
  redis.call('HDEL', KEYS[1], ARGV[1])
else
  if not now and redis.call('HLEN', KEYS[1]) > tonumber(ARGV[5]) then return {'full', '0'} end
  redis.call('HSET', KEYS[1], ARGV[1], next .. ' ' .. ARGV[2])
end
redis.call('HSET', KEYS[1], 'revision', next .. '-' .. ARGV[4])
return {'done', next}
";

/// ARGV: the number of the revision, the revision, and fields with their contents.
const PUT_BACK: &str = r"
local at = tonumber(string.match(redis.call('HGET', KEYS[1], 'revision') or '0', '^%d+'))
if at >= tonumber(ARGV[1]) then return 0 end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'revision', ARGV[2])
for i = 3, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
return 1
";

/// Keeps feeds in Redis.
pub(super) struct Shelf {
    redis: Arc<Redis>,
    within: Duration,
    most: u32,
    read: Script,
    put: Script,
    put_back: Script,
}

/// All feeds that were put, as of one revision.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Content {
    pub(super) revision: Revision,
    pub(super) feeds: BTreeMap<String, Kept>,
}

/// A feed that was put.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Kept {
    pub(super) version: u64,
    pub(super) feed: KeptFeed,
}

/// Tells one state of the shelf from all others; empty before the first change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Revision(String);

/// What a change came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    Done,
    /// Another version is there.
    Version(u64),
    Unknown,
    Full,
}

impl Shelf {
    pub(super) fn new(redis: Arc<Redis>, within: Duration, most: u32) -> Self {
        let [read, put, put_back] = [READ, PUT, PUT_BACK].map(Script::new);
        Self { redis, within, most, read, put, put_back }
    }

    /// Returns what is there, unless it is what is known.
    pub(super) async fn read(&self, known: &Revision) -> Result<Option<Content>, RedisError> {
        let arguments = vec![known.0.as_str().into()];
        let told: Vec<Bytes> = self.redis.run_script(&self.read, &[KEY], arguments, self.within).await?;
        let mut told = told.into_iter();
        if told.next().as_deref() == Some(b"same") {
            return Ok(None);
        }
        let mut content = Content::default();
        while let (Some(field), Some(value)) = (told.next(), told.next()) {
            let field = String::from_utf8_lossy(&field);
            if field == REVISION {
                content.revision = Revision(String::from_utf8_lossy(&value).into_owned());
            } else if let (Some(name), Some(kept)) = (field.strip_prefix(FEED), Kept::parse(&value)) {
                content.feeds.insert(name.to_owned(), kept);
            } else {
                tracing::warn!(field = %field, "what is kept of a feed is not understood");
            }
        }
        Ok(Some(content))
    }

    /// Puts a feed, or takes it away; `if_version` is the version that must be there, 0 for none.
    pub(super) async fn put(
        &self,
        name: &str,
        feed: Option<&KeptFeed>,
        if_version: Option<u64>,
    ) -> Result<Change, RedisError> {
        let content = feed.map(prost::Message::encode_to_vec).unwrap_or_default();
        let arguments = vec![
            format!("{FEED}{name}").into(),
            Value::Bytes(content.into()),
            if_version.map(|version| version.to_string()).unwrap_or_default().into(),
            format!("{:016x}", rand::random::<u64>()).into(),
            number(self.most.into()),
        ];
        let (word, version): (String, u64) =
            self.redis.run_script(&self.put, &[KEY], arguments, self.within).await?;
        Ok(match word.as_str() {
            "version" => Change::Version(version),
            "unknown" => Change::Unknown,
            "full" => Change::Full,
            _ => Change::Done,
        })
    }

    /// Puts back what Redis has lost; false when it has not.
    pub(super) async fn put_back(&self, content: &Content) -> Result<bool, RedisError> {
        let revision = &content.revision;
        let mut arguments = vec![number(revision.number()), revision.0.as_str().into()];
        for (name, kept) in &content.feeds {
            let mut value = format!("{} ", kept.version).into_bytes();
            value.extend(kept.feed.encode_to_vec());
            arguments.extend([format!("{FEED}{name}").into(), Value::Bytes(value.into())]);
        }
        let done: u64 = self.redis.run_script(&self.put_back, &[KEY], arguments, self.within).await?;
        Ok(done == 1)
    }
}

impl Revision {
    /// Rises with each change.
    pub(super) fn number(&self) -> u64 {
        self.0.split('-').next().and_then(|number| number.parse().ok()).unwrap_or(0)
    }
}

impl Kept {
    fn parse(value: &Bytes) -> Option<Self> {
        let end = value.iter().position(|&byte| byte == b' ')?;
        let version = std::str::from_utf8(&value[..end]).ok()?.parse().ok()?;
        Some(Self { version, feed: KeptFeed::decode(value.slice(end + 1..)).ok()? })
    }
}
