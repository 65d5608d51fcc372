//! The last statements that were slow.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;

use crate::{
    config::SlowLogConfig,
    error::Kind,
    insight::Shape,
    sql::param::{Body, Param},
};

/// Keeps the newest; values of statements only where the configuration says so.
pub(crate) struct SlowLog {
    after: Duration,
    max_entries: usize,
    keep_values: bool,
    book: Mutex<Book>,
}

/// One slow statement.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub id: u64,
    pub ended_at: SystemTime,
    pub kind: Kind,
    pub shape: Shape,
    /// Where it ran last.
    pub node: Option<Arc<str>>,
    pub waited: Duration,
    pub executed: Duration,
    pub rows: u64,
    /// Code of the failure.
    pub error: Option<String>,
    pub trace_id: String,
    pub kept: Option<Kept>,
}

/// A statement as it was sent.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub sql: String,
    pub params: Vec<Param>,
}

/// What is known when a statement has ended.
pub(crate) struct Ended<'a> {
    pub at: SystemTime,
    pub kind: Kind,
    pub sql: &'a str,
    pub params: &'a [Param],
    pub node: Option<Arc<str>>,
    pub waited: Duration,
    pub executed: Duration,
    pub rows: u64,
    pub error: Option<String>,
    pub trace_id: Option<String>,
}

#[derive(Default)]
struct Book {
    entries: VecDeque<Arc<Entry>>,
    /// Of the newest entry.
    last_id: u64,
    forgotten: u64,
}

/// Text and parameters of one entry above this are not kept.
const KEPT_BYTES: usize = 16 << 10;
const SHOWN_PARAM_BYTES: usize = 256;

impl SlowLog {
    pub(crate) fn new(config: &SlowLogConfig) -> Self {
        Self {
            after: config.after,
            max_entries: config.max_entries as usize,
            keep_values: config.keep_values,
            book: Mutex::default(),
        }
    }

    /// Returns what is slow; `None` while the log is off.
    pub(crate) fn after(&self) -> Option<Duration> {
        (!self.after.is_zero()).then_some(self.after)
    }

    /// Tells whether a statement belongs here.
    pub(crate) fn is_slow(&self, took: Duration) -> bool {
        self.after().is_some_and(|after| took >= after)
    }

    /// Keeps one statement.
    pub(crate) fn keep(&self, ended: Ended<'_>) {
        let shape = Shape::of(ended.sql);
        let n_bytes = ended.sql.len() + ended.params.iter().map(param_bytes).sum::<usize>();
        let kept = (self.keep_values && n_bytes <= KEPT_BYTES)
            .then(|| Kept { sql: ended.sql.to_owned(), params: ended.params.to_vec() });
        let mut book = self.book.lock();
        book.last_id += 1;
        let entry = Entry {
            id: book.last_id,
            ended_at: ended.at,
            kind: ended.kind,
            shape,
            node: ended.node,
            waited: ended.waited,
            executed: ended.executed,
            rows: ended.rows,
            error: ended.error,
            trace_id: ended.trace_id.unwrap_or_default(),
            kept,
        };
        if book.entries.len() >= self.max_entries {
            book.entries.pop_front();
            book.forgotten += 1;
        }
        book.entries.push_back(Arc::new(entry));
    }

    /// Returns the newest `limit` entries that are wanted, and how many had to make room.
    pub(crate) fn newest(&self, limit: usize, wanted: impl Fn(&Entry) -> bool) -> (Vec<Arc<Entry>>, u64) {
        let book = self.book.lock();
        let entries = book.entries.iter().rev().filter(|entry| wanted(entry)).take(limit).cloned().collect();
        (entries, book.forgotten)
    }

    pub(crate) fn find(&self, id: u64) -> Option<Arc<Entry>> {
        self.book.lock().entries.iter().find(|entry| entry.id == id).cloned()
    }
}

impl Entry {
    pub(crate) fn took(&self) -> Duration {
        self.waited + self.executed
    }

    /// Returns a text that means what the statement meant, as far as one was kept.
    pub(crate) fn text(&self) -> Option<Kept> {
        let whole = || self.shape.is_whole.then(|| Kept { sql: self.shape.sql.clone(), params: Vec::new() });
        self.kept.clone().or_else(whole)
    }
}

/// Shows a parameter to a person.
pub(crate) fn shown(param: &Param) -> String {
    match &param.body {
        Body::Null => "NULL".to_owned(),
        Body::Text(text) | Body::Array(text) => {
            let mut end = text.len().min(SHOWN_PARAM_BYTES);
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            text[..end].to_owned()
        }
        Body::Bytes(bytes) => format!("{} bytes", bytes.len()),
    }
}

fn param_bytes(param: &Param) -> usize {
    match &param.body {
        Body::Null => 0,
        Body::Text(text) | Body::Array(text) => text.len(),
        Body::Bytes(bytes) => bytes.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(sql: &str) -> Ended<'_> {
        Ended {
            at: SystemTime::UNIX_EPOCH,
            kind: Kind::Query,
            sql,
            params: &[],
            node: Some("a".into()),
            waited: Duration::from_millis(1),
            executed: Duration::from_millis(2),
            rows: 0,
            error: None,
            trace_id: None,
        }
    }

    fn log(keep_values: bool) -> SlowLog {
        SlowLog::new(&SlowLogConfig { max_entries: 2, keep_values, ..SlowLogConfig::default() })
    }

    #[test]
    fn the_oldest_makes_room_and_ids_are_not_given_twice() {
        let log = log(false);
        for sql in ["SELECT a", "SELECT b", "SELECT c"] {
            log.keep(ended(sql));
        }
        let (entries, forgotten) = log.newest(10, |_| true);
        let seen: Vec<_> = entries.iter().map(|entry| (entry.id, entry.shape.sql.as_str())).collect();
        assert_eq!((seen, forgotten), (vec![(3, "SELECT c"), (2, "SELECT b")], 1));
        assert!(log.find(1).is_none() && log.find(3).is_some());
        assert_eq!(log.newest(1, |entry| entry.id < 3).0[0].id, 2);
    }

    #[test]
    fn literals_are_kept_only_where_values_are() {
        for (keep_values, sql, text) in [
            (false, "SELECT  $1 -- x", Some("SELECT $1")),
            (false, "SELECT 'secret'", None),
            (true, "SELECT 'secret'", Some("SELECT 'secret'")),
        ] {
            let log = log(keep_values);
            log.keep(ended(sql));
            assert_eq!(log.find(1).unwrap().text().map(|kept| kept.sql).as_deref(), text, "{sql}");
        }
        let log = log(true);
        log.keep(ended(&format!("SELECT '{}'", "x".repeat(KEPT_BYTES))));
        assert!(log.find(1).unwrap().text().is_none());
    }

    #[test]
    fn nothing_is_slow_while_it_is_off() {
        let log = SlowLog::new(&SlowLogConfig { after: Duration::ZERO, ..SlowLogConfig::default() });
        assert!(!log.is_slow(Duration::from_hours(1)) && log.after().is_none());
    }
}
