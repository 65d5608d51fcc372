use std::{collections::BTreeMap, time::Duration};

use mainstay_auth::Role;
use mainstay_runtime::Problems;
use serde::{Deserialize, Serialize};

use super::{CacheConfig, PairConfig};

/// Says which statements have names, and who may send others.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StatementsConfig {
    /// Nobody may send a text of his own.
    pub only_named: bool,
    /// Subjects (names of keys, `sub` of tokens) who may not; at most 1,000.
    pub only_named_for: Vec<String>,
    /// By name: 1 to 64 of a-z, 0-9, `_`, `-` and `.`; at most 1,000.
    pub named: BTreeMap<String, NamedConfig>,
}

/// Describes one statement.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NamedConfig {
    /// One statement with `$1`..`$n` for its parameters.
    pub sql: String,
    pub kind: NamedKind,
    /// The smallest role that may run it; without one the role that may send a text of the kind: viewer for a query, admin
    /// for an execute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Subjects who may run it; none means everybody with the role; at most 1,000.
    pub callers: Vec<String>,
    /// Of a query: its answer is kept so long in the cache and given again; 0 never; at most `cache.max_ttl`.
    #[serde(with = "humantime_serde")]
    pub ttl: Duration,
    /// Tables or tags: what a query reads, and what an execute changes; at most 16.
    pub tags: Vec<String>,
    /// Of a query that is not kept: a pair under `switchover`, for which `{table}` stands in the text; empty for none.
    pub table: String,
}

/// What a statement is meant to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NamedKind {
    /// Reads, on a fit replica.
    #[default]
    Query,
    /// Writes, on the primary.
    Execute,
}

/// Statements, and subjects in one list.
const MOST: usize = 1_000;
const MOST_TAGS: usize = 16;

impl NamedKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Execute => "execute",
        }
    }
}

impl NamedConfig {
    /// Returns the smallest role that may run it.
    pub(crate) fn role(&self) -> Role {
        self.role.unwrap_or(match self.kind {
            NamedKind::Query => Role::Viewer,
            NamedKind::Execute => Role::Admin,
        })
    }
}

impl StatementsConfig {
    pub(super) fn check(
        &self,
        cache: &CacheConfig,
        pairs: &BTreeMap<String, PairConfig>,
        max_sql_bytes: u64,
        problems: &mut Problems,
    ) {
        let few = |key: &str, n: usize, problems: &mut Problems| {
            problems.ensure(n <= MOST, key, format!("must be at most {MOST}"));
        };
        few("statements.named", self.named.len(), problems);
        few("statements.only_named_for", self.only_named_for.len(), problems);
        for (name, named) in &self.named {
            let key = |field: &str| format!("statements.named.{name}{field}");
            let legal =
                |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-' | '.');
            let is_name = (1..=64).contains(&name.len()) && name.chars().all(legal);
            problems.ensure(is_name, &key(""), "the name must be 1 to 64 of a-z, 0-9, _, - and .");
            let is_text = !named.sql.trim().is_empty() && named.sql.len() as u64 <= max_sql_bytes;
            problems.ensure(is_text, &key(".sql"), format!("must be 1 to {max_sql_bytes} bytes"));
            few(&key(".callers"), named.callers.len(), problems);
            let tags = named.tags.len() <= MOST_TAGS;
            problems.ensure(tags, &key(".tags"), format!("must be at most {MOST_TAGS}"));
            problems.duration(&key(".ttl"), named.ttl, Duration::ZERO..=cache.max_ttl);
            let cached = named.ttl.is_zero() || named.kind == NamedKind::Query;
            problems.ensure(cached, &key(".ttl"), "is for a query only");
            if !named.table.is_empty() {
                let is_pair = pairs.contains_key(&named.table);
                problems.ensure(is_pair, &key(".table"), "must be the name of a pair under switchover");
                let plain = named.ttl.is_zero() && named.kind == NamedKind::Query;
                problems.ensure(plain, &key(".table"), "is for a query without a ttl only");
            }
        }
    }
}

impl Default for NamedConfig {
    fn default() -> Self {
        Self {
            sql: String::new(),
            kind: NamedKind::default(),
            role: None,
            callers: Vec::new(),
            ttl: Duration::ZERO,
            tags: Vec::new(),
            table: String::new(),
        }
    }
}
