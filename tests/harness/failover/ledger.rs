use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use mainstay_devstack::{RedisNode, RedisReply, wait_until};
use parking_lot::Mutex;
use tonic::transport::Channel;

use super::{Answer, FailoverOutcome, NAMESPACE, OFTEN, PATIENCE, increment, is_set, key};

/// Remembers how each write was answered, and compares it with what Redis has in the end.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    notes: Mutex<Notes>,
}

#[derive(Debug, Default)]
struct Notes {
    answers: BTreeMap<usize, Answer>,
    acknowledged_at: Vec<Instant>,
    n_settled: usize,
}

/// Keys of one question to Redis.
const KEYS_AT_ONCE: usize = 100;

impl Ledger {
    pub(super) fn note(&self, number: usize, answer: Answer) {
        let mut notes = self.notes.lock();
        notes.answers.insert(number, answer);
        if answer == Answer::Acknowledged {
            notes.acknowledged_at.push(Instant::now());
        }
    }

    /// Asks again for what is unknown, under the same idempotency keys, until it is known.
    pub(super) async fn settle(&self, channel: &Channel) -> anyhow::Result<()> {
        let unknown: Vec<usize> = {
            let notes = self.notes.lock();
            let unknown = notes.answers.iter().filter(|(_, answer)| **answer == Answer::Unknown);
            unknown.map(|(number, _)| *number).collect()
        };
        for number in unknown {
            wait_until(format!("increment {number} to be settled"), OFTEN, PATIENCE, || async {
                match increment(channel.clone(), number).await {
                    Answer::Acknowledged => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            })
            .await?;
            self.notes.lock().n_settled += 1;
        }
        Ok(())
    }

    /// Asks Redis, where all keys begin with `prefix`, what became of each write.
    pub(super) async fn audit(&self, primary: &RedisNode, prefix: &str) -> anyhow::Result<FailoverOutcome> {
        let (answers, gap, n_settled) = {
            let notes = self.notes.lock();
            (notes.answers.clone(), gap(&notes.acknowledged_at), notes.n_settled)
        };
        let count = |wanted: Answer| answers.values().filter(|answer| **answer == wanted).count();
        let mut outcome = FailoverOutcome {
            sent: answers.len(),
            acknowledged: count(Answer::Acknowledged),
            errors: answers.len() - count(Answer::Acknowledged),
            unknown: n_settled,
            gap,
            ..FailoverOutcome::default()
        };
        let times_logged = times_logged(primary, prefix).await?;
        let numbers: Vec<usize> = answers.keys().copied().collect();
        for some in numbers.chunks(KEYS_AT_ONCE) {
            let names: Vec<String> = some.iter().map(|number| name(prefix, *number)).collect();
            let words: Vec<&str> = std::iter::once("MGET").chain(names.iter().map(String::as_str)).collect();
            let RedisReply::List(values) = primary.command(&words).await? else { bail!("MGET gave no list") };
            ensure!(values.len() == some.len(), "MGET left keys out");
            for (number, value) in some.iter().zip(values) {
                // What was unknown has been settled, so it has been made.
                let must_be_there = answers[number] != Answer::NotMade;
                outcome.lost += usize::from(must_be_there && value == RedisReply::Nil);
                let is_twice = if is_set(*number) {
                    times_logged.get(&format!("{NAMESPACE}:{}", key(*number))).is_some_and(|times| *times > 1)
                } else {
                    value.text().is_some_and(|text| text != "1")
                };
                outcome.doubled += usize::from(is_twice);
            }
        }
        Ok(outcome)
    }
}

/// Returns the longest time between two acknowledgements.
fn gap(acknowledged_at: &[Instant]) -> Duration {
    let mut at = acknowledged_at.to_vec();
    at.sort_unstable();
    at.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

/// Returns the name in Redis.
fn name(prefix: &str, number: usize) -> String {
    if is_set(number) {
        format!("{prefix}{NAMESPACE}:{}", key(number))
    } else {
        format!("{prefix}_counter:{}", key(number))
    }
}

/// Counts how often each key is in the log of changes, which has one entry for each set.
async fn times_logged(primary: &RedisNode, prefix: &str) -> anyhow::Result<HashMap<String, usize>> {
    let log = format!("{prefix}!log");
    let RedisReply::List(entries) = primary.command(&["XRANGE", &log, "-", "+"]).await? else {
        bail!("XRANGE gave no list")
    };
    let mut times = HashMap::new();
    for entry in entries {
        let text = text_of(&entry).with_context(|| format!("a foreign entry: {entry:?}"))?;
        // The number before, the kind, the time, the name.
        let name = text.splitn(4, ' ').nth(3).with_context(|| format!("a foreign entry: {text}"))?;
        *times.entry(name.to_owned()).or_default() += 1;
    }
    Ok(times)
}

/// Reads `[id, ["e", text]]`.
fn text_of(entry: &RedisReply) -> Option<&str> {
    let RedisReply::List(entry) = entry else { return None };
    let RedisReply::List(fields) = entry.get(1)? else { return None };
    fields.get(1)?.text()
}
