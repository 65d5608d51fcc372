//! Which prepared statements a connection keeps.

use std::{
    collections::{HashMap, VecDeque},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;
use tokio_postgres::types::{Oid, Type};

use crate::{session::read::Layout, sql::param::Param};

/// Prepared statements of one connection, at most so many; the one used longest ago makes room.
///
/// A statement is wanted from its second time on: a text that never comes again is not worth being prepared. It is kept
/// for [`KEPT_FOR`] at most: the types that the database once inferred for its parameters stay with it, and would outlive
/// a change of the table.
#[derive(Debug)]
pub(crate) struct Kept {
    most: usize,
    entries: HashMap<u64, Entry>,
    /// Statements that were asked lately and are not kept, the last one at the end.
    asked: VecDeque<u64>,
    /// Names that are kept no more, which the server still has.
    released: Vec<Arc<str>>,
    turn: u64,
}

/// A statement that the server has prepared.
#[derive(Debug, Clone)]
pub(crate) struct Named {
    pub name: Arc<str>,
    pub layout: Arc<Layout>,
}

/// What tells one statement from another: its text and the types that the caller gave its parameters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key<'a> {
    sql: &'a str,
    params: &'a [Param],
    hash: u64,
}

#[derive(Debug)]
struct Entry {
    sql: Box<str>,
    types: Box<[Oid]>,
    named: Named,
    prepared_at: Instant,
    turn: u64,
}

const KEPT_FOR: Duration = Duration::from_mins(1);
/// Statements that are remembered as asked, for each that may be kept.
const ASKED_PER_KEPT: usize = 2;

impl Kept {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, entries: HashMap::new(), asked: VecDeque::new(), released: Vec::new(), turn: 0 }
    }

    /// Returns the statement if it is kept.
    pub(crate) fn find(&mut self, key: Key<'_>, now: Instant) -> Option<Named> {
        let entry = self.entries.get_mut(&key.hash).filter(|entry| entry.is(key))?;
        if now.saturating_duration_since(entry.prepared_at) >= KEPT_FOR {
            self.remove(key.hash);
            self.note_asked(key.hash);
            return None;
        }
        self.turn += 1;
        entry.turn = self.turn;
        Some(entry.named.clone())
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
    pub(crate) fn keep(&mut self, key: Key<'_>, named: Named, now: Instant) -> bool {
        let full = self.entries.len() >= self.most && !self.entries.contains_key(&key.hash);
        let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.turn).map(|(hash, _)| *hash);
        let evicted = oldest.filter(|_| full).is_some_and(|hash| self.remove(hash));
        self.turn += 1;
        let entry = Entry {
            sql: key.sql.into(),
            types: key.oids().collect(),
            named,
            prepared_at: now,
            turn: self.turn,
        };
        let replaced = self.entries.insert(key.hash, entry);
        self.released.extend(replaced.map(|entry| entry.named.name));
        evicted
    }

    /// Forgets one statement: it does not fit the tables any more.
    pub(crate) fn forget(&mut self, key: Key<'_>) {
        self.remove(key.hash);
    }

    /// Notes that the server may have a statement that is not kept.
    pub(crate) fn release(&mut self, name: Arc<str>) {
        self.released.push(name);
    }

    /// Returns the names that the server is to forget.
    pub(crate) fn take_released(&mut self) -> Vec<Arc<str>> {
        std::mem::take(&mut self.released)
    }

    /// Forgets all, as the server seems to have.
    pub(crate) fn clear(&mut self) {
        self.released.extend(self.entries.drain().map(|(_, entry)| entry.named.name));
    }

    fn remove(&mut self, hash: u64) -> bool {
        let removed = self.entries.remove(&hash).map(|entry| entry.named.name);
        let any = removed.is_some();
        self.released.extend(removed);
        any
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

impl Entry {
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

    fn named(n: u32) -> Named {
        Named { name: n.to_string().into(), layout: Arc::default() }
    }

    fn find(kept: &mut Kept, key: Key<'_>) -> Option<u32> {
        kept.find(key, Instant::now()).map(|named| named.name.parse().unwrap())
    }

    fn ask(kept: &mut Kept, sql: &str, n: u32) -> Option<u32> {
        let found = find(kept, key(sql));
        if found.is_none() && kept.wants(key(sql)) {
            kept.keep(key(sql), named(n), Instant::now());
        }
        found
    }

    fn released(kept: &mut Kept) -> Vec<String> {
        kept.take_released().iter().map(|name| name.to_string()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_statement_is_kept_from_its_second_time_on_and_for_a_minute() {
        let mut kept = Kept::new(2);
        assert_eq!([1, 2, 3].map(|n| ask(&mut kept, "a", n)), [None, None, Some(2)]);
        tokio::time::advance(KEPT_FOR).await;
        assert_eq!([4, 5].map(|n| ask(&mut kept, "a", n)), [None, Some(4)]);
        assert_eq!(released(&mut kept), ["2"], "the server is told to forget what grew too old");
    }

    #[tokio::test(start_paused = true)]
    async fn types_of_parameters_tell_statements_apart() {
        let (int4, int8) = ([Param::int(1)], [Param::int(5_000_000_000)]);
        let mut kept = Kept::new(2);
        kept.keep(Key::of("a", &int4), named(4), Instant::now());
        assert_eq!(find(&mut kept, Key::of("a", &int8)), None);
        assert_eq!(find(&mut kept, Key::of("a", &int4)), Some(4));
        assert!(!Key::of("a", &int4).is_inferred());
        assert!(Key::of("a", &[Param::text(Type::UNKNOWN, "x")]).is_inferred());
    }

    #[tokio::test(start_paused = true)]
    async fn the_one_used_longest_ago_makes_room_and_there_are_never_more() {
        let (mut kept, now) = (Kept::new(2), Instant::now());
        assert!(!kept.keep(key("a"), named(1), now));
        assert!(!kept.keep(key("b"), named(2), now));
        assert_eq!(find(&mut kept, key("a")), Some(1));
        assert!(kept.keep(key("c"), named(3), now));
        assert_eq!(["a", "b", "c"].map(|sql| find(&mut kept, key(sql))), [Some(1), None, Some(3)]);
        assert_eq!(released(&mut kept), ["2"]);
        for n in 0..1_000 {
            let sql = n.to_string();
            ask(&mut kept, &sql, n);
            assert!(kept.entries.len() <= 2 && kept.asked.len() <= 4);
        }
        assert_eq!(find(&mut kept, key("c")), Some(3), "texts asked once drive nothing out");
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
            kept.keep(key(sql), named(1), now);
        }
        kept.forget(key("b"));
        assert_eq!(["a", "b"].map(|sql| find(&mut kept, key(sql))), [Some(1), None]);
        kept.clear();
        assert_eq!(["a", "c"].map(|sql| find(&mut kept, key(sql))), [None; 2]);
    }
}
