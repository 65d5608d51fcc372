//! Policies of namespaces that were put at run time. They lie in Redis, so all nodes have the same, and they are
//! versioned. Without Redis they live as long as this process.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::Engine;
use super::audit::{LocalAudit, PolicyChange};
use crate::adaptive::Report;
use crate::config::{NamespaceConfig, NamespaceOverrides, Strategy};
use crate::error::CacheError;

const READ_WITHIN: Duration = Duration::from_secs(1);

/// The run-time policies that are in force here.
#[derive(Debug, Default)]
pub(crate) struct RunTimePolicies {
    /// By namespace.
    in_force: Mutex<HashMap<String, RunTimePolicy>>,
    pub(super) audit: Mutex<LocalAudit>,
}

/// What was put at run time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunTimePolicy {
    #[serde(skip)]
    pub(crate) version: u64,
    pub(crate) overrides: NamespaceOverrides,
    pub(crate) put_at_unix_ms: u64,
    pub(crate) put_by: String,
}

/// What holds for a namespace.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PolicyView {
    pub(crate) effective: NamespaceConfig,
    pub(crate) run_time: Option<RunTimePolicy>,
    /// What the strategy `adaptive` last found.
    pub(crate) adaptive: Option<Report>,
}

impl Engine {
    /// Returns what holds for a namespace here.
    pub(crate) fn policy(&self, namespace: &str) -> Result<PolicyView, CacheError> {
        let unknown = || CacheError::UnknownNamespace { namespace: namespace.to_owned() };
        let configured = self.namespaces.configured(namespace).ok_or_else(unknown)?;
        let run_time = self.policies.in_force.lock().get(namespace).cloned();
        let effective = run_time.as_ref().map(|put| put.overrides.over(&configured));
        let effective = effective.unwrap_or(configured);
        let adaptive = match effective.strategy {
            Strategy::Adaptive => {
                self.namespaces.get(namespace).and_then(|used| used.adaptive.as_ref()?.report())
            }
            _ => None,
        };
        Ok(PolicyView { effective, run_time, adaptive })
    }

    /// Replaces the run-time policy of a namespace, if the one in place has the version that is expected.
    pub(crate) async fn put_policy(
        &self,
        namespace: &str,
        expected: u64,
        overrides: NamespaceOverrides,
        put_by: String,
        left: Duration,
    ) -> Result<PolicyView, CacheError> {
        let unknown = || CacheError::UnknownNamespace { namespace: namespace.to_owned() };
        let configured = self.namespaces.configured(namespace).ok_or_else(unknown)?;
        let problems = self.problems(&overrides.over(&configured));
        if !problems.is_empty() {
            return Err(CacheError::PolicyInvalid { problems });
        }
        let mut put = RunTimePolicy { version: 0, overrides, put_at_unix_ms: self.time.unix_ms(), put_by };
        put.version = match &self.redis {
            Some(redis) => {
                let text = serde_json::to_string(&put).expect("texts and numbers have a JSON form");
                let version = redis.put_policy(namespace, expected, &text, left).await;
                version.map_err(CacheError::PolicyNotStored)?.ok_or(CacheError::PolicyChanged)?
            }
            None => {
                let there = self.policies.in_force.lock().get(namespace).cloned();
                if there.as_ref().map_or(0, |policy| policy.version) != expected {
                    return Err(CacheError::PolicyChanged);
                }
                put.version = self.versions.next(self.time.unix_us());
                let before = there.map(|policy| policy.overrides);
                let change = PolicyChange { namespace: namespace.to_owned(), before, after: put.clone() };
                self.policies.audit.lock().add(change);
                put.version
            }
        };
        tracing::info!(namespace, version = put.version, by = put.put_by, "run-time policy put");
        self.enforce(namespace, put);
        self.policy(namespace)
    }

    /// Reads all run-time policies from Redis and tells whether that was possible.
    pub(crate) async fn refresh_policies(&self) -> bool {
        let Some(redis) = &self.redis else { return true };
        let Ok(policies) = redis.policies(READ_WITHIN).await else { return false };
        for (namespace, text) in policies {
            match RunTimePolicy::parse(&text) {
                Some(policy) => self.enforce(&namespace, policy),
                None => tracing::warn!(namespace, "run-time policy in redis cannot be read"),
            }
        }
        true
    }

    /// Tells what is wrong with a policy here.
    fn problems(&self, policy: &NamespaceConfig) -> Vec<String> {
        let mut problems = self.namespaces.problems(policy);
        let largest = self.memory.largest_value_bytes();
        if policy.memory && policy.max_value_size.as_u64() > largest {
            problems.push(format!(
                "policy.max_value_size: must be at most {largest} bytes while the process runs, is {}",
                policy.max_value_size.as_u64()
            ));
        }
        problems
    }

    fn enforce(&self, namespace: &str, policy: RunTimePolicy) {
        // Another node may allow other namespaces or larger values; here the configuration bounds what is legal.
        let Some(configured) = self.namespaces.configured(namespace) else { return };
        let effective = policy.overrides.over(&configured);
        let problems = self.problems(&effective);
        if !problems.is_empty() {
            tracing::warn!(namespace, ?problems, "run-time policy does not fit this node, it is not applied");
            return;
        }
        let mut policies = self.policies.in_force.lock();
        if policies.get(namespace).is_some_and(|there| there.version >= policy.version) {
            return;
        }
        self.namespaces.put(namespace, &effective);
        if !self.memory.set_eviction(namespace, effective.eviction) {
            tracing::warn!(
                namespace,
                "too many namespaces have an order of their own, this one keeps the default"
            );
        }
        policies.insert(namespace.to_owned(), policy);
    }
}

impl RunTimePolicy {
    /// Reads what lies in Redis: version, a space, JSON.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (version, json) = text.split_once(' ')?;
        let policy: Self = serde_json::from_str(json).ok()?;
        Some(Self { version: version.parse().ok()?, ..policy })
    }
}
