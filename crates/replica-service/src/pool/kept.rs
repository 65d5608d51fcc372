//! Which prepared statements a connection keeps.

use std::{
    collections::{HashMap, VecDeque},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Duration,
};

use tokio::time::Instant;
use tokio_postgres::types::{Oid, Type};

use crate::sql::param::Param;

/// Prepared statements of one connection, at most so many; the one used longest ago makes room.
///
/// A statement is wanted from its second time on: a text that never comes again is not worth being prepared. It is kept
/// for [`KEPT_FOR`] at most: the types that the database once inferred for its parameters stay with it, and would outlive
/// a change of the table.
#[derive(Debug)]
pub(crate) struct Kept<S> {
    most: usize,
    entries: HashMap<u64, Entry<S>>,
    /// Statements that were asked lately and are not kept, the last one at the end.
    asked: VecDeque<u64>,
    turn: u64,
}

/// What tells one statement from another: its text and the types that the caller gave its parameters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key<'a> {
    sql: &'a str,
    params: &'a [Param],
    hash: u64,
}

#[derive(Debug)]
struct Entry<S> {
    sql: Box<str>,
    types: Box<[Oid]>,
    statement: S,
    prepared_at: Instant,
    turn: u64,
}

const KEPT_FOR: Duration = Duration::from_mins(1);
/// Statements that are remembered as asked, for each that may be kept.
const ASKED_PER_KEPT: usize = 2;

impl<S: Clone> Kept<S> {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, entries: HashMap::new(), asked: VecDeque::new(), turn: 0 }
    }

    /// Returns the statement if it is kept.
    pub(crate) fn find(&mut self, key: Key<'_>, now: Instant) -> Option<S> {
        let entry = self.entries.get_mut(&key.hash).filter(|entry| entry.is(key))?;
        if now.saturating_duration_since(entry.prepared_at) >= KEPT_FOR {
            self.entries.remove(&key.hash);
            self.note_asked(key.hash);
            return None;
        }
        self.turn += 1;
        entry.turn = self.turn;
        Some(entry.statement.clone())
    }

    /// Notes that a statement was asked that is not kept, and tells whether it should be: it was asked lately.
    pub(crate) fn wants(&mut self, key: Key<'_>) -> bool {
        if self.most == 0 {
            return false;
        }
        let known = self.asked.contains(&key.hash);
        if !known {
            self.note_asked(key.hash);
        }
        known
    }

    /// Keeps a statement; returns whether another one had to make room.
    pub(crate) fn keep(&mut self, key: Key<'_>, statement: S, now: Instant) -> bool {
        let oldest = (self.entries.len() >= self.most && !self.entries.contains_key(&key.hash))
            .then(|| self.entries.iter().min_by_key(|(_, entry)| entry.turn).map(|(hash, _)| *hash))
            .flatten();
        let evicted = oldest.and_then(|hash| self.entries.remove(&hash)).is_some();
        self.turn += 1;
        let entry = Entry {
            sql: key.sql.into(),
            types: key.oids().collect(),
            statement,
            prepared_at: now,
            turn: self.turn,
        };
        self.entries.insert(key.hash, entry);
        evicted
    }

    /// Forgets one statement: it does not fit the tables any more.
    pub(crate) fn forget(&mut self, key: Key<'_>) {
        self.entries.remove(&key.hash);
    }

    /// Forgets all: the server has.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }

    fn note_asked(&mut self, hash: u64) {
        if self.asked.len() >= self.most * ASKED_PER_KEPT {
            self.asked.pop_front();
        }
        self.asked.push_back(hash);
    }
}

impl<'a> Key<'a> {
    pub(crate) fn of(sql: &'a str, params: &'a [Param]) -> Self {
        let mut hasher = DefaultHasher::new();
        sql.hash(&mut hasher);
        params.iter().for_each(|param| param.ty.oid().hash(&mut hasher));
        Self { sql, params, hash: hasher.finish() }
    }

    /// Tells whether the database infers the type of a parameter.
    pub(crate) fn is_inferred(&self) -> bool {
        self.params.iter().any(|param| param.ty == Type::UNKNOWN)
    }

    fn oids(&self) -> impl Iterator<Item = Oid> + use<'a> {
        self.params.iter().map(|param| param.ty.oid())
    }
}

impl<S> Entry<S> {
    fn is(&self, key: Key<'_>) -> bool {
        *self.sql == *key.sql && key.oids().eq(self.types.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(sql: &str) -> Key<'_> {
        Key::of(sql, &[])
    }

    fn ask(kept: &mut Kept<u32>, sql: &str, statement: u32) -> Option<u32> {
        let now = Instant::now();
        let found = kept.find(key(sql), now);
        if found.is_none() && kept.wants(key(sql)) {
            kept.keep(key(sql), statement, now);
        }
        found
    }

    #[tokio::test(start_paused = true)]
    async fn a_statement_is_kept_from_its_second_time_on_and_for_a_minute() {
        let mut kept = Kept::new(2);
        assert_eq!([1, 2, 3].map(|n| ask(&mut kept, "a", n)), [None, None, Some(2)]);
        tokio::time::advance(KEPT_FOR).await;
        assert_eq!([4, 5].map(|n| ask(&mut kept, "a", n)), [None, Some(4)]);
    }

    #[tokio::test(start_paused = true)]
    async fn types_of_parameters_tell_statements_apart() {
        let (int4, int8) = ([Param::int(1)], [Param::int(5_000_000_000)]);
        let mut kept = Kept::new(2);
        kept.keep(Key::of("a", &int4), 4, Instant::now());
        assert_eq!(kept.find(Key::of("a", &int8), Instant::now()), None);
        assert_eq!(kept.find(Key::of("a", &int4), Instant::now()), Some(4));
        assert!(!Key::of("a", &int4).is_inferred());
        assert!(Key::of("a", &[Param::text(Type::UNKNOWN, "x")]).is_inferred());
    }

    #[tokio::test(start_paused = true)]
    async fn the_one_used_longest_ago_makes_room_and_there_are_never_more() {
        let (mut kept, now) = (Kept::new(2), Instant::now());
        assert!(!kept.keep(key("a"), 1, now));
        assert!(!kept.keep(key("b"), 2, now));
        assert_eq!(kept.find(key("a"), now), Some(1));
        assert!(kept.keep(key("c"), 3, now));
        assert_eq!(["a", "b", "c"].map(|sql| kept.find(key(sql), now)), [Some(1), None, Some(3)]);
        for n in 0..1_000 {
            let sql = n.to_string();
            ask(&mut kept, &sql, n);
            assert!(kept.entries.len() <= 2 && kept.asked.len() <= 4);
        }
        assert_eq!(kept.find(key("c"), now), Some(3), "texts asked once drive nothing out");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_kept_where_the_size_is_zero() {
        let mut kept = Kept::new(0);
        assert_eq!([1, 2, 3].map(|n| ask(&mut kept, "a", n)), [None; 3]);
        assert!(kept.asked.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_forgotten_is_not_found() {
        let (mut kept, now) = (Kept::new(4), Instant::now());
        for sql in ["a", "b", "c"] {
            kept.keep(key(sql), 1, now);
        }
        kept.forget(key("b"));
        assert_eq!(["a", "b"].map(|sql| kept.find(key(sql), now)), [Some(1), None]);
        kept.clear();
        assert_eq!(["a", "c"].map(|sql| kept.find(key(sql), now)), [None; 2]);
    }
}
