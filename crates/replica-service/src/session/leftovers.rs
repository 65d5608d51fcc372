/// Statements that run in a transaction and leave nothing that its rollback, and giving back its locks, do not undo.
const QUERIES: [&str; 6] = ["select", "with", "values", "table", "show", "explain"];

/// Those that write and leave nothing that the end of a write does not take away either.
const WRITES: [&str; 18] = [
    "insert", "update", "delete", "merge", "create", "alter", "drop", "truncate", "grant", "revoke",
    "comment", "refresh", "analyze", "reindex", "lock", "notify", "set", "reset",
];

/// Tells whether a statement may leave a prepared statement in its session, which no rollback takes back: PREPARE does, and
/// DO may. A query cannot, unless it calls a function that somebody made for that.
pub(super) fn may_leave_statements(sql: &str) -> bool {
    !begins_with_one_of(sql, &QUERIES)
}

/// The same of a statement that may write.
pub(super) fn may_write_and_leave_statements(sql: &str) -> bool {
    !begins_with_one_of(sql, &QUERIES) && !begins_with_one_of(sql, &WRITES)
}

fn begins_with_one_of(sql: &str, words: &[&str]) -> bool {
    let text = without_leading_space(sql).trim_start_matches('(');
    let text = without_leading_space(text);
    let first = text.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or("");
    words.iter().any(|word| first.eq_ignore_ascii_case(word))
}

/// Cuts white space and comments; what is not closed stays, and is no query.
fn without_leading_space(sql: &str) -> &str {
    let mut text = sql.trim_start();
    loop {
        text = if let Some(comment) = text.strip_prefix("--") {
            comment.split_once('\n').map_or("", |(_, rest)| rest)
        } else if text.starts_with("/*") {
            match after_comment(text) {
                Some(rest) => rest,
                None => return text,
            }
        } else {
            return text;
        }
        .trim_start();
    }
}

/// Comments nest.
fn after_comment(text: &str) -> Option<&str> {
    let (bytes, mut at, mut depth) = (text.as_bytes(), 0, 0);
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => (at, depth) = (at + 2, depth + 1),
            b"*/" => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
        if depth == 0 {
            return text.get(at..);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_surely_a_query_leaves_nothing() {
        for sql in [
            "SELECT 1",
            "\n select(1)",
            "((SELECT 1) UNION (SELECT 2))",
            "WITH a AS (SELECT 1) TABLE a",
            "-- PREPARE\n/* DO /* nested */ */ VALUES (1)",
            "( /* é */ SELECT 1)",
            "EXPLAIN SELECT 1",
            "show all",
        ] {
            assert!(!may_leave_statements(sql), "{sql}");
        }
        for sql in [
            "PREPARE a AS SELECT 1",
            "/**/DO $$ BEGIN EXECUTE 'PREPARE a AS SELECT 1'; END $$",
            "/* SELECT */ deallocate all",
            "--SELECT",
            "/* SELECT 1",
            "/*/ SELECT 1",
            "selected",
            "COMMIT",
            "",
            "é",
        ] {
            assert!(may_leave_statements(sql), "{sql}");
        }
    }

    #[test]
    fn a_write_leaves_nothing_unless_it_is_made_of_other_statements() {
        for sql in
            ["INSERT INTO a VALUES (1)", "/* x */ update a SET n = 1", "CREATE TABLE a (n int)", "SELECT f()"]
        {
            assert!(!may_write_and_leave_statements(sql), "{sql}");
        }
        for sql in ["PREPARE a AS SELECT 1", "do $$ BEGIN END $$", "CALL p()", "EXECUTE a", "inserted", ""] {
            assert!(may_write_and_leave_statements(sql), "{sql}");
        }
    }
}
