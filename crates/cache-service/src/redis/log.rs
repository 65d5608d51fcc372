use std::time::Duration;

use fred::interfaces::{ClientLike as _, KeysInterface as _};
use fred::types::{ClusterHash, CustomCommand, Value};
use mainstay_redis::{Address, Link, Partition, RedisError, number};
use mainstay_runtime::Context;

use super::Redis;
use super::entries::{LOG, SEQUENCE};
use crate::config::RedisConfig;
use crate::invalidation::LogEntry;

/// A connection of its own on which the log of changes is read: waiting for entries would hold up commands.
#[derive(Debug)]
pub(crate) struct LogLink {
    link: Link,
    log: String,
    sequence: String,
    within: Duration,
}

impl Redis {
    /// Connects to the server that commands for a partition go to; none when there is none.
    pub(crate) async fn open_log(
        &self,
        partition: Partition,
        config: &RedisConfig,
        cx: &Context,
    ) -> Result<Option<LogLink>, RedisError> {
        let part = self.part(partition);
        let Some(address) = part.primary() else { return Ok(None) };
        let link = Link::open(address, config, cx).await?;
        let within = config.command_within;
        Ok(Some(LogLink { link, log: part.full(LOG), sequence: part.full(SEQUENCE), within }))
    }
}

impl LogLink {
    pub(crate) fn address(&self) -> &Address {
        self.link.address()
    }

    /// Returns the last number given.
    pub(crate) async fn end(&self) -> Result<u64, RedisError> {
        let client = self.link.commands(self.within);
        let number: Option<u64> = self.link.run(self.within, client.get(&self.sequence)).await?;
        Ok(number.unwrap_or(0))
    }

    /// Tells whether the log has the entry of this number.
    pub(crate) async fn has(&self, position: u64) -> Result<bool, RedisError> {
        let id = format!("{position}-0");
        let arguments = [self.log.as_str(), &id, &id].map(Value::from).to_vec();
        let found: Value = self.command("XRANGE", arguments, self.within).await?;
        Ok(found.into_array().len() == 1)
    }

    /// Returns the entries after a position, at most `most`; waits up to `wait` for the first.
    pub(crate) async fn read_after(
        &self,
        position: u64,
        wait: Duration,
        most: usize,
    ) -> Result<Vec<LogEntry>, RedisError> {
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
        let id = format!("{position}-0");
        let arguments = vec![
            "COUNT".into(),
            number(most as u64),
            "BLOCK".into(),
            number(wait_ms),
            "STREAMS".into(),
            self.log.as_str().into(),
            id.as_str().into(),
        ];
        let answer = self.command("XREAD", arguments, wait + self.within).await?;
        let streams = if answer.is_null() { Vec::new() } else { answer.into_array() };
        let entries = streams.into_iter().flat_map(|stream| {
            let stream = stream.into_array();
            stream.into_iter().nth(1).map(Value::into_array).unwrap_or_default()
        });
        entries.map(|entry| parse(entry).ok_or(RedisError::Foreign)).collect()
    }

    async fn command(
        &self,
        name: &'static str,
        arguments: Vec<Value>,
        within: Duration,
    ) -> Result<Value, RedisError> {
        let command = CustomCommand::new_static(name, ClusterHash::FirstKey, false);
        let client = self.link.commands(within);
        self.link.run(within, client.custom(command, arguments)).await
    }
}

/// Reads `[id, ["e", text]]`.
fn parse(entry: Value) -> Option<LogEntry> {
    let mut entry = entry.into_array().into_iter();
    let id = entry.next()?.into_string()?;
    let position = id.split_once('-')?.0.parse().ok()?;
    let text = entry.next()?.into_array().into_iter().nth(1)?.into_string()?;
    LogEntry::parse(position, &text)
}
