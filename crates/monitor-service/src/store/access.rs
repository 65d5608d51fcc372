//! API keys and recorded changes, statement by statement.

use rusqlite::{Connection, Transaction, params};

use super::work::{json, signed, upsert};
use super::{Changes, StoreError, unix_ms};
use crate::access::{ChangeFilter, ChangeKind, RecordedChange};

/// Added to files of earlier versions too: an older monitor passes them over.
pub(super) const TABLES: &str = "
CREATE TABLE IF NOT EXISTS api_keys (name TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS recorded (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, subject TEXT NOT NULL, route TEXT NOT NULL, status INTEGER NOT NULL, at_ms INTEGER NOT NULL, body TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS recorded_of_kind ON recorded (kind, number);
CREATE INDEX IF NOT EXISTS recorded_of_subject ON recorded (subject, number);
";

/// Recorded changes kept of each kind.
const RECORDED_MAX: i64 = 100_000;

pub(super) fn change(transaction: &Transaction<'_>, changes: &Changes) -> Result<(), StoreError> {
    for (name, key) in &changes.keys {
        upsert(transaction, "api_keys", "name", name, key.as_ref())?;
    }
    let insert = "INSERT OR IGNORE INTO recorded (id, kind, subject, route, status, at_ms, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    for change in &changes.recorded {
        let RecordedChange { id, kind, subject, route, status, at, .. } = change;
        let row = params![id.to_string(), kind.as_str(), subject, route, status, unix_ms(*at), json(change)?];
        let mut insert = transaction.prepare_cached(insert).map_err(StoreError::Sqlite)?;
        insert.execute(row).map_err(StoreError::Sqlite)?;
    }
    if !changes.recorded.is_empty() {
        trim(transaction, RECORDED_MAX)?;
    }
    Ok(())
}

pub(super) fn trim(transaction: &Transaction<'_>, most: i64) -> Result<(), StoreError> {
    for kind in ChangeKind::ALL {
        // Only numbers of the index are walked; rows that go are few at a time.
        let oldest = "SELECT number FROM recorded WHERE kind = ?1 ORDER BY number DESC LIMIT 1 OFFSET ?2";
        let delete = format!("DELETE FROM recorded WHERE kind = ?1 AND number <= ({oldest})");
        transaction.execute(&delete, params![kind.as_str(), most]).map_err(StoreError::Sqlite)?;
    }
    Ok(())
}

pub(super) fn recorded(
    connection: &Connection,
    filter: &ChangeFilter,
) -> Result<Vec<(u64, RecordedChange)>, StoreError> {
    let select = "SELECT number, body FROM recorded WHERE number < ?1
        AND (?2 IS NULL OR kind = ?2) AND (?3 IS NULL OR subject = ?3) AND (?4 IS NULL OR route = ?4)
        AND status >= ?5 AND at_ms >= ?6 AND at_ms < ?7 ORDER BY number DESC LIMIT ?8";
    let row = params![
        filter.before.map_or(i64::MAX, signed),
        filter.kind.map(ChangeKind::as_str),
        filter.subject,
        filter.route,
        if filter.failed { 400 } else { 0 },
        filter.from.map_or(i64::MIN, unix_ms),
        filter.to.map_or(i64::MAX, unix_ms),
        i64::try_from(filter.limit).unwrap_or(i64::MAX),
    ];
    let mut select = connection.prepare_cached(select).map_err(StoreError::Sqlite)?;
    let rows = select
        .query_map(row, |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(StoreError::Sqlite)?;
    let read = |(number, body): (i64, String)| {
        let change = serde_json::from_str(&body).map_err(StoreError::Row)?;
        Ok((u64::try_from(number).unwrap_or_default(), change))
    };
    rows.into_iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use uuid::Uuid;

    use super::*;
    use crate::store::schema;

    fn database() -> Connection {
        let mut connection = Connection::open_in_memory().unwrap();
        schema::prepare(&mut connection).unwrap();
        connection
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn done(seconds: u64, kind: ChangeKind, subject: &str, status: u16) -> RecordedChange {
        RecordedChange {
            id: Uuid::new_v4(),
            at: at(seconds),
            kind,
            subject: subject.to_owned(),
            method: "api_key".to_owned(),
            role: "admin".to_owned(),
            address: "10.0.0.1".to_owned(),
            agent: String::new(),
            verb: "PUT".to_owned(),
            route: "/cache/{namespace}/{key}".to_owned(),
            target: format!("/cache/a/{seconds}"),
            status,
            code: String::new(),
            request_id: String::new(),
            edge: "edge-1".to_owned(),
        }
    }

    fn put(connection: &mut Connection, recorded: Vec<RecordedChange>) {
        let transaction = connection.transaction().unwrap();
        change(&transaction, &Changes { recorded, ..Changes::default() }).unwrap();
        transaction.commit().unwrap();
    }

    fn targets(connection: &Connection, filter: ChangeFilter) -> Vec<String> {
        let filter = ChangeFilter { limit: 100, ..filter };
        let found = recorded(connection, &filter).unwrap();
        found.into_iter().map(|(_, change)| change.target.replace("/cache/a/", "")).collect()
    }

    #[test]
    fn recorded_changes_are_found_by_what_is_asked_for() {
        use ChangeKind::{Control, Data};
        let mut connection = database();
        let all = vec![done(1, Control, "ann", 200), done(2, Data, "ann", 403), done(3, Data, "bob", 200)];
        // Told twice, kept once.
        put(&mut connection, all.clone());
        put(&mut connection, all);
        let filter = ChangeFilter::default;
        let some = |text: &str| Some(text.to_owned());
        let table = [
            (filter(), vec!["3", "2", "1"]),
            (ChangeFilter { kind: Some(Data), ..filter() }, vec!["3", "2"]),
            (ChangeFilter { subject: some("ann"), ..filter() }, vec!["2", "1"]),
            (ChangeFilter { route: some("/other"), ..filter() }, vec![]),
            (ChangeFilter { failed: true, ..filter() }, vec!["2"]),
            (ChangeFilter { from: Some(at(2)), to: Some(at(3)), ..filter() }, vec!["2"]),
            (ChangeFilter { before: Some(2), ..filter() }, vec!["1"]),
        ];
        for (filter, expected) in table {
            let told = format!("{filter:?}");
            assert_eq!(targets(&connection, filter), expected, "{told}");
        }
    }

    #[test]
    fn each_kind_is_bounded_by_itself() {
        let mut connection = database();
        let control = vec![done(1, ChangeKind::Control, "ann", 200)];
        put(&mut connection, control);
        put(&mut connection, (2..10).map(|n| done(n, ChangeKind::Data, "app", 200)).collect());
        let transaction = connection.transaction().unwrap();
        trim(&transaction, 3).unwrap();
        transaction.commit().unwrap();
        assert_eq!(targets(&connection, ChangeFilter::default()), ["9", "8", "7", "1"]);
    }

    #[test]
    fn file_of_an_earlier_version_gets_the_tables() {
        let mut connection = database();
        connection.execute_batch("DROP TABLE recorded; DROP TABLE api_keys;").unwrap();
        schema::prepare(&mut connection).unwrap();
        put(&mut connection, vec![done(1, ChangeKind::Data, "app", 200)]);
        assert_eq!(targets(&connection, ChangeFilter::default()), ["1"]);
    }
}
