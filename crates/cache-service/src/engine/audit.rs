//! Who changed which run-time policy, when, and what.

use std::collections::VecDeque;
use std::time::Duration;

use serde_json::{Map, Value};

use super::Engine;
use super::policies::RunTimePolicy;
use crate::config::NamespaceOverrides;
use crate::error::CacheError;

/// Changes kept, of all namespaces together.
pub(crate) const MOST_CHANGES: usize = 1_000;

/// The changes that this process made, where there is no Redis to keep them. The last comes first.
#[derive(Debug, Default)]
pub(super) struct LocalAudit(VecDeque<PolicyChange>);

/// One change of a run-time policy.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PolicyChange {
    pub(crate) namespace: String,
    pub(crate) before: Option<NamespaceOverrides>,
    pub(crate) after: RunTimePolicy,
}

impl LocalAudit {
    pub(super) fn add(&mut self, change: PolicyChange) {
        self.0.truncate(MOST_CHANGES - 1);
        self.0.push_front(change);
    }
}

impl Engine {
    /// Returns the changes of a namespace's policy, or of all, the last first.
    pub(crate) async fn policy_history(
        &self,
        namespace: Option<&str>,
        left: Duration,
    ) -> Result<Vec<PolicyChange>, CacheError> {
        let mut changes: Vec<PolicyChange> = match &self.redis {
            Some(redis) => {
                let texts = redis.policy_history(left).await.map_err(CacheError::HistoryNotRead)?;
                texts.iter().filter_map(|text| PolicyChange::parse(text)).collect()
            }
            None => self.policies.audit.lock().0.iter().cloned().collect(),
        };
        changes.retain(|change| namespace.is_none_or(|wanted| change.namespace == wanted));
        Ok(changes)
    }
}

impl PolicyChange {
    /// Names the fields that differ.
    pub(crate) fn changed(&self) -> Vec<String> {
        let fields = |overrides: &NamespaceOverrides| -> Map<String, Value> {
            match serde_json::to_value(overrides) {
                Ok(Value::Object(fields)) => fields,
                _ => Map::new(),
            }
        };
        let before = self.before.as_ref().map(fields).unwrap_or_default();
        let after = fields(&self.after.overrides);
        let mut names: Vec<String> = before.keys().chain(after.keys()).cloned().collect();
        names.sort();
        names.dedup();
        names.retain(|name| before.get(name) != after.get(name));
        names
    }

    /// Reads what lies in Redis: the namespace, the policy before (or `0`) and the policy put, one a line.
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.split('\n');
        let namespace = lines.next()?.to_owned();
        let before = RunTimePolicy::parse(lines.next()?).map(|policy| policy.overrides);
        Some(Self { namespace, before, after: RunTimePolicy::parse(lines.next()?)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Eviction;

    #[test]
    fn a_change_names_the_fields_that_differ() {
        let after = r#"8 {"overrides":{"ttl":"1m","eviction":"lru"},"put_at_unix_ms":5,"put_by":"ann"}"#;
        let before = r#"7 {"overrides":{"ttl":"1m","memory":false},"put_at_unix_ms":4,"put_by":"bob"}"#;
        let change = PolicyChange::parse(&format!("users\n{before}\n{after}")).unwrap();
        assert_eq!((change.namespace.as_str(), change.after.put_by.as_str()), ("users", "ann"));
        assert_eq!((change.after.version, change.after.overrides.eviction), (8, Some(Eviction::Lru)));
        assert_eq!(change.changed(), ["eviction", "memory"]);
        let first = PolicyChange::parse(&format!("users\n0\n{after}")).unwrap();
        assert_eq!(first.changed(), ["eviction", "ttl"]);
        assert_eq!(PolicyChange::parse("users\n0\n"), None);
    }
}
