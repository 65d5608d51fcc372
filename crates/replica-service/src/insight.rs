//! What each kind of statement has cost.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;

mod fingerprint;
mod sketch;

pub(crate) use fingerprint::Shape;
use sketch::Sketch;

/// Counts calls by fingerprint; bounded, the statement called longest ago is forgotten first.
pub(crate) struct Insight {
    max_statements: usize,
    hasher: RandomState,
    book: Mutex<Book>,
}

/// One call of a statement.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub took: Duration,
    pub ok: bool,
    pub rows: u64,
    /// Who answered.
    pub node: Option<Arc<str>>,
}

/// What is known about one kind of statement.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub fingerprint: u64,
    /// Its text with `?` for literals.
    pub sql: String,
    pub calls: u64,
    pub errors: u64,
    pub rows: u64,
    pub times: Sketch,
    /// By name, also of nodes that are configured no more.
    pub calls_by_node: BTreeMap<Arc<str>, u64>,
    pub last_call_at: SystemTime,
    /// Number of the last call among all calls.
    turn: u64,
}

/// What a look at the book shows.
#[derive(Debug, Clone)]
pub(crate) struct Summary {
    pub entries: Vec<Entry>,
    pub forgotten: u64,
}

#[derive(Default)]
struct Book {
    /// From the hash of a text to its fingerprint, so that a text is read once.
    by_text: HashMap<u64, u64>,
    entries: HashMap<u64, Entry>,
    turn: u64,
    forgotten: u64,
}

/// Texts remembered for each statement known.
const TEXTS_PER_STATEMENT: usize = 4;

impl Insight {
    /// Remembers at most `max_statements`; 0 turns it off.
    pub(crate) fn new(max_statements: usize) -> Self {
        Self { max_statements, hasher: RandomState::new(), book: Mutex::default() }
    }

    /// Notes one call.
    pub(crate) fn record(&self, sql: &str, call: &Call, now: SystemTime) {
        if self.max_statements == 0 {
            return;
        }
        let text = self.hasher.hash_one(sql);
        let known = self.book.lock().fingerprint_of(text);
        // Read outside of the lock: texts may be long.
        let shape = if known.is_some() { None } else { Some(Shape::of(sql)) };
        let mut book = self.book.lock();
        book.turn += 1;
        let turn = book.turn;
        let entry = match (known, shape) {
            (Some(fingerprint), _) if book.entries.contains_key(&fingerprint) => {
                book.entries.get_mut(&fingerprint)
            }
            (_, shape) => {
                let shape = shape.unwrap_or_else(|| Shape::of(sql));
                book.learn(text, shape, self.max_statements, now)
            }
        };
        if let Some(entry) = entry {
            entry.note(call, now, turn);
        }
    }

    /// Returns a time that the share `q` of the calls of a kind of statement did not pass, once there were `enough`.
    pub(crate) fn quantile(&self, sql: &str, q: f64, enough: u64) -> Option<Duration> {
        let text = self.hasher.hash_one(sql);
        let book = self.book.lock();
        let entry = book.entries.get(&book.fingerprint_of(text)?)?;
        (entry.calls >= enough).then(|| entry.times.quantile(q))
    }

    /// Returns everything known, in no order.
    pub(crate) fn summary(&self) -> Summary {
        let book = self.book.lock();
        Summary { entries: book.entries.values().cloned().collect(), forgotten: book.forgotten }
    }
}

impl Book {
    fn fingerprint_of(&self, text: u64) -> Option<u64> {
        self.by_text.get(&text).copied().filter(|fingerprint| self.entries.contains_key(fingerprint))
    }

    fn learn(
        &mut self,
        text: u64,
        shape: Shape,
        max_statements: usize,
        now: SystemTime,
    ) -> Option<&mut Entry> {
        if self.by_text.len() >= max_statements * TEXTS_PER_STATEMENT {
            self.by_text.clear();
        }
        self.by_text.insert(text, shape.fingerprint);
        if !self.entries.contains_key(&shape.fingerprint) && self.entries.len() >= max_statements {
            let oldest = self.entries.values().min_by_key(|entry| entry.turn).map(|entry| entry.fingerprint);
            self.entries.remove(&oldest?);
            self.forgotten += 1;
        }
        let Shape { fingerprint, sql, .. } = shape;
        Some(self.entries.entry(fingerprint).or_insert_with(|| Entry {
            fingerprint,
            sql,
            calls: 0,
            errors: 0,
            rows: 0,
            times: Sketch::default(),
            calls_by_node: BTreeMap::new(),
            last_call_at: now,
            turn: 0,
        }))
    }
}

impl Entry {
    fn note(&mut self, call: &Call, now: SystemTime, turn: u64) {
        self.calls += 1;
        self.errors += u64::from(!call.ok);
        self.rows += call.rows;
        self.times.record(call.took);
        if let Some(node) = &call.node {
            *self.calls_by_node.entry(Arc::clone(node)).or_default() += 1;
        }
        self.last_call_at = now;
        self.turn = turn;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(ms: u64, node: Option<&str>) -> Call {
        let node = node.map(Into::into);
        Call { took: Duration::from_millis(ms), ok: node.is_some(), rows: 2, node }
    }

    #[test]
    fn statements_that_differ_in_literals_only_are_counted_together() {
        let insight = Insight::new(10);
        insight.record("SELECT 1", &call(1, Some("a")), SystemTime::UNIX_EPOCH);
        insight.record("SELECT  2 -- two", &call(3, Some("b")), SystemTime::UNIX_EPOCH);
        insight.record("SELECT 3", &call(2, None), SystemTime::UNIX_EPOCH);
        let summary = insight.summary();
        let [entry] = &summary.entries[..] else { panic!("{summary:?}") };
        assert_eq!((entry.sql.as_str(), entry.calls, entry.errors, entry.rows), ("SELECT ?", 3, 1, 6));
        assert_eq!(entry.calls_by_node, [("a".into(), 1), ("b".into(), 1)].into());
        assert_eq!(entry.times.max(), Duration::from_millis(3));
    }

    #[test]
    fn the_statement_called_longest_ago_is_forgotten_first() {
        let insight = Insight::new(2);
        for sql in ["SELECT a", "SELECT b", "SELECT a", "SELECT c"] {
            insight.record(sql, &call(1, Some("a")), SystemTime::UNIX_EPOCH);
        }
        let summary = insight.summary();
        let mut known: Vec<_> = summary.entries.iter().map(|entry| entry.sql.as_str()).collect();
        known.sort_unstable();
        assert_eq!((known, summary.forgotten), (vec!["SELECT a", "SELECT c"], 1));
    }

    #[test]
    fn nothing_is_kept_when_it_is_off() {
        let insight = Insight::new(0);
        insight.record("SELECT 1", &call(1, Some("a")), SystemTime::UNIX_EPOCH);
        assert!(insight.summary().entries.is_empty());
    }
}
