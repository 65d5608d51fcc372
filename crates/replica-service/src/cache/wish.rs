use std::{collections::BTreeSet, time::Duration};

use mainstay_proto::replica::v1::{CacheWish, QueryRequest};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::error::QueryError;

/// What a caller wants of the cache for one read.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    pub ttl: Duration,
    pub tags: Vec<String>,
    /// Of the statement, its parameters and its limit of rows.
    digest: [u8; 32],
}

/// Names what is kept for one read of one database.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub system_identifier: u64,
    database: String,
    digest: [u8; 32],
}

const MAX_TAGS: usize = 16;
const MAX_TAG_BYTES: usize = 128;

impl Wish {
    /// Reads the wish of a request; an error names the field.
    pub(crate) fn of(request: &QueryRequest, max_ttl: Duration) -> Result<Option<Self>, QueryError> {
        let Some(CacheWish { ttl, tags }) = &request.cache else { return Ok(None) };
        if !request.table.is_empty() {
            return Err(invalid(
                "cache",
                "cannot be used with a table: the switchover measures the database",
            ));
        }
        let ttl = ttl.and_then(|ttl| Duration::try_from(ttl).ok()).unwrap_or_default();
        if ttl.is_zero() || ttl > max_ttl {
            let range = format!("must be above zero and at most {max_ttl:?}");
            return Err(invalid("cache.ttl", range));
        }
        let identity = QueryRequest {
            sql: request.sql.clone(),
            params: request.params.clone(),
            max_rows: request.max_rows,
            ..QueryRequest::default()
        };
        let digest = Sha256::digest(identity.encode_to_vec()).into();
        Ok(Some(Self { ttl, tags: check_tags("cache.tags", tags.clone())?, digest }))
    }

    pub(super) fn key(&self, system_identifier: u64, database: &str) -> Key {
        Key { system_identifier, database: database.to_owned(), digest: self.digest }
    }
}

impl Key {
    /// Names the marks of a database only.
    pub(super) fn of_marks(system_identifier: u64, database: &str) -> Self {
        Self { system_identifier, database: database.to_owned(), digest: [0; 32] }
    }

    pub(super) fn answer(&self) -> String {
        let digest: String = self.digest.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("answer:{:016x}:{}:{digest}", self.system_identifier, self.database)
    }

    /// Names the entry that is there while a process reads the answer.
    pub(super) fn flight(&self) -> String {
        format!("flight:{}", self.answer())
    }

    pub(super) fn mark(&self, tag: &str) -> String {
        format!("written:{:016x}:{}:{tag}", self.system_identifier, self.database)
    }
}

/// Takes each tag once; an error names the field.
pub(crate) fn check_tags(field: &str, tags: Vec<String>) -> Result<Vec<String>, QueryError> {
    let tags: BTreeSet<_> = tags.into_iter().collect();
    if tags.len() > MAX_TAGS {
        return Err(invalid(field, format!("must be at most {MAX_TAGS}, are {}", tags.len())));
    }
    let legal = |tag: &String| (1..=MAX_TAG_BYTES).contains(&tag.len()) && !tag.chars().any(char::is_control);
    if !tags.iter().all(legal) {
        return Err(invalid(
            field,
            format!("each must be 1 to {MAX_TAG_BYTES} bytes without control characters"),
        ));
    }
    Ok(tags.into_iter().collect())
}

fn invalid(field: &str, message: impl Into<String>) -> QueryError {
    QueryError::Invalid { field: field.to_owned(), message: message.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(ttl_s: i64, tags: &[&str]) -> QueryRequest {
        let ttl = Some(prost_types::Duration { seconds: ttl_s, nanos: 0 });
        let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
        let cache = Some(CacheWish { ttl, tags });
        QueryRequest { sql: "SELECT 1".to_owned(), cache, ..QueryRequest::default() }
    }

    fn wish(request: &QueryRequest) -> Result<Option<Wish>, QueryError> {
        Wish::of(request, Duration::from_secs(60))
    }

    #[test]
    fn what_makes_another_answer_makes_another_key_and_nothing_else_does() {
        let key = |request: &QueryRequest| wish(request).unwrap().unwrap().key(1, "db").answer();
        let one = request(1, &["a"]);
        let same =
            [request(2, &["b", "b"]), QueryRequest { prefer: 2, after: "t".to_owned(), ..one.clone() }];
        for other in &same {
            assert_eq!(key(&one), key(other), "{other:?}");
        }
        let others = [
            QueryRequest { sql: "SELECT 2".to_owned(), ..one.clone() },
            QueryRequest { params: vec![mainstay_proto::replica::v1::Value::default()], ..one.clone() },
            QueryRequest { max_rows: 7, ..one.clone() },
        ];
        for other in &others {
            assert_ne!(key(&one), key(other), "{other:?}");
        }
        let wish = wish(&one).unwrap().unwrap();
        assert_ne!(wish.key(1, "db").answer(), wish.key(2, "db").answer());
        assert_ne!(wish.key(1, "db").mark("a"), wish.key(1, "other").mark("a"));
    }

    #[test]
    fn wishes_beyond_the_limits_are_refused_with_the_field() {
        let many: Vec<_> = (0..17).map(|n| format!("t{n}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        let named = QueryRequest { table: "pair".to_owned(), ..request(1, &[]) };
        for (request, wanted) in [
            (request(0, &[]), "invalid cache.ttl: must be above zero and at most 60s"),
            (request(-1, &[]), "invalid cache.ttl: must be above zero and at most 60s"),
            (request(61, &[]), "invalid cache.ttl: must be above zero and at most 60s"),
            (request(1, &many), "invalid cache.tags: must be at most 16, are 17"),
            (
                request(1, &["a\n"]),
                "invalid cache.tags: each must be 1 to 128 bytes without control characters",
            ),
            (named, "invalid cache: cannot be used with a table: the switchover measures the database"),
        ] {
            assert_eq!(wish(&request).unwrap_err().to_string(), wanted);
        }
        assert!(wish(&QueryRequest::default()).unwrap().is_none());
    }
}
