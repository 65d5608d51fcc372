//! Several monitors, one message: before a monitor sends, it claims the alert for that channel in Redis and learns what the
//! channel was told already, by whomever. Without Redis each sends what it sees.

use std::sync::Arc;
use std::time::Duration;

use fred::types::Value;
use mainstay_redis::{Redis, RedisError, Script};
use mainstay_runtime::{Activate, Component};
use parking_lot::Mutex;
use tokio::time::Instant;
use uuid::Uuid;

use super::Outbox;
use super::told::Told;
use crate::alert::{Alert, Record};
use crate::metrics::MonitorMetrics;
use crate::said::{Board, Entry};

/// Agrees with other monitors on who sends.
#[derive(Debug)]
pub(crate) struct Shared {
    redis: Arc<Redis>,
    terms: Terms,
    /// Tells this process from all others.
    token: String,
    component: Component,
    /// Nobody can be asked now.
    is_alone: Mutex<bool>,
    metrics: MonitorMetrics,
}

/// Says how long things hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    /// A claim, unless it is given back.
    pub lease: Duration,
    /// One command.
    pub within: Duration,
    /// What was told of an alert that is over.
    pub remembered: Duration,
}

/// Holds records by what is to become of them.
#[derive(Debug, Default)]
pub(super) struct Claimed {
    /// To be sent by this monitor.
    pub(super) ours: Vec<Record>,
    /// Told already by another one.
    pub(super) known: Vec<Record>,
    /// Being told by another one; to be looked at again.
    pub(super) held: Vec<Record>,
}

/// Gives, for each pair of keys (claim, told), `held`, or claims it and gives what was told.
const CLAIM: &str = "
local out = {}
for i = 1, #KEYS, 2 do
  local holder = redis.call('get', KEYS[i])
  if holder and holder ~= ARGV[1] then
    out[#out + 1] = 'held'
  else
    redis.call('set', KEYS[i], ARGV[1], 'px', ARGV[2])
    out[#out + 1] = redis.call('get', KEYS[i + 1]) or ''
  end
end
return out";
/// Notes, for each pair of keys, what was told, where it was, and gives the claim back, if it still is ours.
const SETTLE: &str = "
for i = 1, #KEYS, 2 do
  if ARGV[i + 1] ~= '' then
    redis.call('set', KEYS[i + 1], ARGV[i + 1], 'px', ARGV[i + 2])
  end
  if redis.call('get', KEYS[i]) == ARGV[1] then
    redis.call('del', KEYS[i])
  end
end
return 1";
/// Keeps in mind that these fire on.
const KEEP: &str = "
for i = 1, #KEYS do
  local told = redis.call('get', KEYS[i])
  if told and string.sub(told, 1, 4) ~= 'over' then
    redis.call('pexpire', KEYS[i], ARGV[1])
  end
end
return 1";

/// Gives all fields of a hash, unless the version is the one that is known.
const READ: &str = "
local version = redis.call('hget', KEYS[1], 'version') or ''
if version == ARGV[1] then
  return {'known'}
end
local all = redis.call('hgetall', KEYS[1])
table.insert(all, 1, 'all')
return all";
/// Writes or removes each field that is still as it was seen, and gives the hash another version.
const WRITE: &str = "
local n = 0
for i = 3, #ARGV, 3 do
  if (redis.call('hget', KEYS[1], ARGV[i]) or '') == ARGV[i + 1] then
    if ARGV[i + 2] == '' then
      redis.call('hdel', KEYS[1], ARGV[i])
    else
      redis.call('hset', KEYS[1], ARGV[i], ARGV[i + 2])
    end
    n = n + 1
  end
end
if n > 0 then
  redis.call('hset', KEYS[1], 'version', ARGV[1])
  redis.call('pexpire', KEYS[1], ARGV[2])
end
return {tostring(n)}";

static CLAIM_SCRIPT: Script = Script::new(CLAIM);
static SETTLE_SCRIPT: Script = Script::new(SETTLE);
static KEEP_SCRIPT: Script = Script::new(KEEP);
static READ_SCRIPT: Script = Script::new(READ);
static WRITE_SCRIPT: Script = Script::new(WRITE);

const HELD: &str = "held";
/// Leases for which it is remembered that an alert fires; monitors that still see it renew that every second.
const FIRING_LEASES: u32 = 4;
/// What people said to one of the monitors.
const BOARD: &str = "monitor:said";
const VERSION: &str = "version";
/// Longer than anything on it may hold.
const BOARD_KEPT: Duration = Duration::from_hours(24 * 91);
/// Keys renewed, and fields written, by one command.
const TOGETHER_MAX: usize = 200;
/// Time for the first connection, before anything is sent that another monitor may have sent.
const CONNECTS_WITHIN: Duration = Duration::from_secs(2);
const LOOKS_EVERY: Duration = Duration::from_millis(20);

impl Shared {
    /// Begins without a connection; the watch of Redis makes one.
    pub(crate) fn new(
        redis: Arc<Redis>,
        terms: Terms,
        component: Component,
        metrics: MonitorMetrics,
    ) -> Self {
        component.degraded("not connected yet");
        let token = Uuid::new_v4().to_string();
        Self { redis, terms, token, component, is_alone: Mutex::new(false), metrics }
    }

    /// Waits a little for the first connection: what waited over a restart was perhaps told meanwhile.
    pub(super) async fn connected(&self) {
        let until = Instant::now() + CONNECTS_WITHIN;
        while !self.redis.is_available() && Instant::now() < until {
            tokio::time::sleep(LOOKS_EVERY).await;
        }
    }

    /// Claims what others may tell, too. `is_over_here` says of a record whether its alert has ended since;
    /// `again_after` how long after a message the channel wants another one.
    pub(super) async fn claim(
        &self,
        channel: &str,
        records: Vec<Record>,
        is_over_here: impl Fn(&Record) -> bool,
        again_after: Duration,
    ) -> Claimed {
        // What a monitor says of itself and of its machine nobody else tells.
        let (shared, own): (Vec<_>, Vec<_>) =
            records.into_iter().partition(|record| record.alert.fingerprint().is_some());
        let mut claimed = Claimed { ours: own, ..Claimed::default() };
        if shared.is_empty() {
            return claimed;
        }
        let lease = self.terms.lease.as_millis().to_string();
        match self.run(&CLAIM_SCRIPT, &pairs(channel, &shared), vec![self.token.clone(), lease]).await {
            Ok(answers) if answers.len() == shared.len() => {
                for (record, answer) in shared.into_iter().zip(answers) {
                    let told = Told::from_text(&answer);
                    let covers = |told: Told| told.covers(&record, is_over_here(&record), again_after);
                    let place = match answer == HELD {
                        true => &mut claimed.held,
                        false if told.is_some_and(covers) => &mut claimed.known,
                        false => &mut claimed.ours,
                    };
                    place.push(record);
                }
            }
            _ => {
                self.metrics.notified_alone(channel);
                claimed.ours.extend(shared);
            }
        }
        // In the order in which they came.
        claimed.ours.sort_by_key(|record| record.id);
        claimed
    }

    /// Notes for all monitors that these were told, or only gives the claims back.
    pub(super) async fn settle(&self, channel: &str, records: &[Record], are_told: bool) {
        let shared: Vec<Record> =
            records.iter().filter(|record| record.alert.fingerprint().is_some()).cloned().collect();
        if shared.is_empty() || *self.is_alone.lock() {
            return;
        }
        let mut arguments = vec![self.token.clone()];
        for record in &shared {
            let told = Told::of(record);
            let kept = if told.is_over { self.terms.remembered } else { self.firing_for() };
            arguments.push(if are_told { told.to_text() } else { String::new() });
            arguments.push(kept.as_millis().to_string());
        }
        // When that fails, the claim runs out and another monitor tells it again: at least once. That is told by `run`.
        let _ = self.run(&SETTLE_SCRIPT, &pairs(channel, &shared), arguments).await;
    }

    fn firing_for(&self) -> Duration {
        self.terms.lease * FIRING_LEASES
    }

    async fn keep(&self, keys: &[String]) -> Result<(), RedisError> {
        let kept = self.firing_for().as_millis().to_string();
        for some in keys.chunks(TOGETHER_MAX) {
            self.run(&KEEP_SCRIPT, some, vec![kept.clone()]).await?;
        }
        Ok(())
    }

    /// Reads what people said to any of the monitors, and its version; none when the version is the one that is known.
    pub(crate) async fn read_board(&self, known: &str) -> Result<Option<(String, Board)>, RedisError> {
        let key = [BOARD.to_owned()];
        let mut answer = self.run(&READ_SCRIPT, &key, vec![known.to_owned()]).await?.into_iter();
        if answer.next().is_none_or(|first| first != "all") {
            return Ok(None);
        }
        let mut board = Board::new();
        while let Some((field, text)) = answer.next().zip(answer.next()) {
            board.insert(field, text);
        }
        let version = board.remove(VERSION).unwrap_or_default();
        Ok(Some((version, board)))
    }

    /// Writes what others do not know yet.
    pub(crate) async fn write_board(&self, entries: &[Entry]) -> Result<(), RedisError> {
        let key = [BOARD.to_owned()];
        for some in entries.chunks(TOGETHER_MAX) {
            let mut arguments = vec![Uuid::new_v4().to_string(), BOARD_KEPT.as_millis().to_string()];
            for Entry { field, seen, text } in some {
                arguments.extend([field.clone(), seen.clone(), text.clone()]);
            }
            self.run(&WRITE_SCRIPT, &key, arguments).await?;
        }
        Ok(())
    }

    /// Runs a script, and says when nobody can be asked, and when somebody can again.
    async fn run(
        &self,
        script: &Script,
        keys: &[String],
        arguments: Vec<String>,
    ) -> Result<Vec<String>, RedisError> {
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let arguments = arguments.into_iter().map(Value::from).collect();
        let answer = self.redis.run_script(script, &keys, arguments, self.terms.within).await;
        self.tell(answer.as_ref().err());
        answer
    }

    fn tell(&self, error: Option<&RedisError>) {
        let mut is_alone = self.is_alone.lock();
        match error {
            Some(error) => {
                let reason = format!("every monitor tells what it sees: {}", error.in_full());
                if !*is_alone {
                    tracing::warn!(reason, "notifications are not agreed on with other monitors");
                }
                self.component.degraded(reason);
            }
            None => {
                if *is_alone {
                    tracing::info!("notifications are agreed on with other monitors again");
                }
                self.component.healthy("one monitor tells what several see");
            }
        }
        *is_alone = error.is_some();
    }
}

/// Names the claim and what was told, for each record.
fn pairs(channel: &str, records: &[Record]) -> Vec<String> {
    let of = |record: &Record| [key("claim", channel, &record.alert), key("told", channel, &record.alert)];
    records.iter().flat_map(of).collect()
}

fn key(what: &str, channel: &str, alert: &Alert) -> String {
    format!("monitor:{what}:{channel}:{}", alert.fingerprint().unwrap_or_default())
}

/// Renews, once a second, what is remembered of alerts that fire on; and so learns whether Redis is there.
pub(crate) struct Keeper<F> {
    /// Whose memory it is.
    pub shared: Arc<Shared>,
    /// Which channels are there.
    pub outbox: Outbox,
    /// Lists the alerts that fire and that people were told of.
    pub firing: F,
}

impl<F: Fn() -> Vec<Alert> + Send + 'static> Activate for Keeper<F> {
    async fn activate(&mut self) -> anyhow::Result<()> {
        let alerts: Vec<Alert> =
            (self.firing)().into_iter().filter(|alert| alert.fingerprint().is_some()).collect();
        let of =
            |channel: &String| alerts.iter().map(|alert| key("told", channel, alert)).collect::<Vec<_>>();
        let mut keys: Vec<String> = self.outbox.queues.keys().flat_map(of).collect();
        if keys.is_empty() {
            // A question, too: is anybody there?
            keys.push("monitor:nothing".to_owned());
        }
        Ok(self.shared.keep(&keys).await?)
    }
}
