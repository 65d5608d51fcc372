//! The statements that make triggers; pure.

use super::rows::{literal, quote};

/// Where our own tables and functions are.
pub(super) const SCHEMA: &str = "mainstay_switchover";
/// On the table that is written: writes the other one, and notes the key.
pub(super) const MIRROR: &str = "mainstay_mirror";
/// On the table that is written: refuses TRUNCATE, which is no event of a row.
pub(super) const NO_TRUNCATE: &str = "mainstay_no_truncate";
/// On the other table: notes the keys of rows that are written past the mirror.
pub(super) const WATCH: &str = "mainstay_watch";

/// Makes what all pairs share; harmless when it is there.
pub(super) const FOUNDATION: &str = "\
    SELECT pg_advisory_xact_lock(5572913022); \
    CREATE SCHEMA IF NOT EXISTS mainstay_switchover; \
    CREATE TABLE IF NOT EXISTS mainstay_switchover.pairs ( \
      name text PRIMARY KEY, legacy text NOT NULL, partitioned text NOT NULL, \
      stage text NOT NULL DEFAULT 'none', job text NOT NULL DEFAULT '', read_percent int NOT NULL DEFAULT 0, \
      backfilled bool NOT NULL DEFAULT false, backfill_from bigint, backfill_at bigint, backfill_end bigint, \
      rows_copied bigint NOT NULL DEFAULT 0, \
      verify_at bigint, verify_tx xid8, verify_token text NOT NULL DEFAULT '', \
      rows_verified bigint NOT NULL DEFAULT 0, rows_repaired bigint NOT NULL DEFAULT 0, \
      verified_at timestamptz, verified_tx xid8, \
      stepped_back text NOT NULL DEFAULT ''); \
    CREATE TABLE IF NOT EXISTS mainstay_switchover.journal ( \
      id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp(), \
      pair text NOT NULL, step text NOT NULL, actor text NOT NULL, outcome text NOT NULL, detail text NOT NULL); \
    CREATE INDEX IF NOT EXISTS journal_pair ON mainstay_switchover.journal (pair, id); \
    CREATE TABLE IF NOT EXISTS mainstay_switchover.changes ( \
      pair text NOT NULL, key bigint NOT NULL, tx xid8 NOT NULL DEFAULT pg_current_xact_id(), \
      at timestamptz NOT NULL DEFAULT clock_timestamp()); \
    CREATE INDEX IF NOT EXISTS changes_tx ON mainstay_switchover.changes (pair, tx); \
    CREATE OR REPLACE FUNCTION mainstay_switchover.refuse_truncate() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
      RAISE EXCEPTION 'TRUNCATE is refused while % is being switched over', TG_TABLE_NAME \
        USING HINT = 'Use DELETE: it is written to both tables.'; END $$";

/// What a mirror writes where.
pub(super) struct Mirror<'a> {
    pub pair: &'a str,
    /// Quoted, with their schemas.
    pub source: &'a str,
    pub target: &'a str,
    /// Without generated ones.
    pub columns: &'a [String],
    pub key: &'a str,
    pub time: &'a str,
    /// What is unique in the target: the key, and the time too where that is the partitioned table.
    pub unique: &'a [&'a str],
}

impl Mirror<'_> {
    /// Makes or renews the functions; takes no lock of a table.
    ///
    /// The row that was there is deleted by key and time, because an update may move it to another partition. The
    /// functions run as their owner, so whoever may write the one table need not be granted the other.
    pub(super) fn functions(&self) -> String {
        let (key, time) = (quote(self.key), quote(self.time));
        let columns: Vec<_> = self.columns.iter().map(|column| quote(column)).collect();
        let values: Vec<_> = columns.iter().map(|column| format!("NEW.{column}")).collect();
        let unique: Vec<_> = self.unique.iter().map(|column| quote(column)).collect();
        let rest: Vec<_> = columns
            .iter()
            .filter(|column| !unique.contains(column))
            .map(|column| format!("{column} = EXCLUDED.{column}"))
            .collect();
        let on_conflict =
            if rest.is_empty() { "NOTHING".to_owned() } else { format!("UPDATE SET {}", rest.join(", ")) };
        let (mirror, watch, pair, target) =
            (self.function("mirror"), self.function("watch"), literal(self.pair), self.target);
        let (columns, values, unique) = (columns.join(", "), values.join(", "), unique.join(", "));
        let note =
            |row: &str| format!("INSERT INTO {SCHEMA}.changes (pair, key) VALUES ({pair}, {row}.{key})");
        let (note_old, note_new) = (note("OLD"), note("NEW"));
        let header =
            "RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp";
        format!(
            "CREATE OR REPLACE FUNCTION {mirror}() {header} AS $mirror$ BEGIN \
               IF TG_OP = 'DELETE' OR (TG_OP = 'UPDATE' AND (OLD.{key}, OLD.{time}) IS DISTINCT FROM (NEW.{key}, NEW.{time})) THEN \
                 DELETE FROM {target} WHERE {key} = OLD.{key} AND {time} = OLD.{time}; {note_old}; \
               END IF; \
               IF TG_OP <> 'DELETE' THEN \
                 INSERT INTO {target} ({columns}) OVERRIDING SYSTEM VALUE VALUES ({values}) \
                   ON CONFLICT ({unique}) DO {on_conflict}; {note_new}; \
               END IF; RETURN NULL; END $mirror$; \
             CREATE OR REPLACE FUNCTION {watch}() {header} AS $watch$ BEGIN \
               IF TG_OP <> 'INSERT' THEN {note_old}; END IF; \
               IF TG_OP <> 'DELETE' THEN {note_new}; END IF; RETURN NULL; END $watch$"
        )
    }

    /// Makes the triggers; waits for all who write the source, and lets none begin before it is committed.
    ///
    /// They fire also where `session_replication_role` says that triggers should not. Rows that the mirror or a backfill
    /// writes to the target need not be noted there.
    pub(super) fn triggers(&self) -> String {
        let (source, target) = (self.source, self.target);
        let (mirror, watch) = (self.function("mirror"), self.function("watch"));
        format!(
            "{}; \
             CREATE TRIGGER {MIRROR} AFTER INSERT OR UPDATE OR DELETE ON {source} FOR EACH ROW EXECUTE FUNCTION {mirror}(); \
             CREATE TRIGGER {NO_TRUNCATE} BEFORE TRUNCATE ON {source} FOR EACH STATEMENT EXECUTE FUNCTION {SCHEMA}.refuse_truncate(); \
             CREATE TRIGGER {WATCH} AFTER INSERT OR UPDATE OR DELETE ON {target} FOR EACH ROW \
               WHEN (pg_trigger_depth() = 0 AND current_setting('mainstay.copying', true) IS DISTINCT FROM 'on') \
               EXECUTE FUNCTION {watch}(); \
             ALTER TABLE {source} ENABLE ALWAYS TRIGGER {MIRROR}; \
             ALTER TABLE {source} ENABLE ALWAYS TRIGGER {NO_TRUNCATE}; \
             ALTER TABLE {target} ENABLE ALWAYS TRIGGER {WATCH}",
            drop_triggers(source, target)
        )
    }

    fn function(&self, what: &str) -> String {
        format!("{SCHEMA}.{}", quote(&format!("{what}_{}", self.pair)))
    }
}

/// Removes the triggers of both directions.
pub(super) fn drop_triggers(one: &str, other: &str) -> String {
    let drop = |table: &str| {
        [MIRROR, NO_TRUNCATE, WATCH]
            .map(|name| format!("DROP TRIGGER IF EXISTS {name} ON {table}"))
            .join("; ")
    };
    format!("{}; {}", drop(one), drop(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn functions(unique: &[&str], columns: &[&str]) -> String {
        let columns: Vec<_> = columns.iter().map(|&column| column.to_owned()).collect();
        let mirror = Mirror {
            pair: "p",
            source: "\"s\".\"t\"",
            target: "\"s\".\"t_p\"",
            columns: &columns,
            key: "id",
            time: "at",
            unique,
        };
        mirror.functions()
    }

    #[test]
    fn an_upsert_names_what_is_unique_and_sets_the_rest() {
        let forward = functions(&["id", "at"], &["id", "at", "No\"te"]);
        assert!(
            forward
                .contains("ON CONFLICT (\"id\", \"at\") DO UPDATE SET \"No\"\"te\" = EXCLUDED.\"No\"\"te\";"),
            "{forward}"
        );
        let back = functions(&["id"], &["id", "at"]);
        assert!(back.contains("ON CONFLICT (\"id\") DO UPDATE SET \"at\" = EXCLUDED.\"at\";"), "{back}");
        assert!(functions(&["id", "at"], &["id", "at"]).contains("DO NOTHING"));
    }
}
