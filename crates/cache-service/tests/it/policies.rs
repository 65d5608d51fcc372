//! Run-time policies: they hold on all nodes, keep the entries, and are kept with who put them.

use mainstay_devstack::wait_until;
use mainstay_proto::cache::v1::cache_admin_client::CacheAdminClient;
use mainstay_proto::cache::v1::policy_service_client::PolicyServiceClient;
use mainstay_proto::cache::v1::{
    ListNamespacesRequest, NamespacePolicy, PolicyChange, PolicyHistoryRequest, PutNamespaceRequest,
};
use mainstay_rpc::{Failure, Status};

use crate::node::{CacheNode, LOOK_EVERY, WITHIN, redis, single};

impl CacheNode {
    pub(crate) async fn put(
        &self,
        namespace: &str,
        policy: NamespacePolicy,
        if_version: u64,
    ) -> Result<u64, Status> {
        let namespace = namespace.to_owned();
        let request = PutNamespaceRequest { namespace, policy: Some(policy), if_version };
        let put = CacheAdminClient::new(self.channel.clone()).put_namespace(request).await;
        put.map(|view| view.into_inner().version)
    }

    async fn history(&self, namespace: &str) -> Vec<PolicyChange> {
        let request = PolicyHistoryRequest { namespace: namespace.to_owned() };
        let mut client = PolicyServiceClient::new(self.channel.clone());
        client.policy_history(request).await.unwrap().into_inner().changes
    }

    pub(crate) async fn eviction(&self, namespace: &str) -> Option<String> {
        let mut client = PolicyServiceClient::new(self.channel.clone());
        let listed = client.list_namespaces(ListNamespacesRequest {}).await.unwrap().into_inner();
        let view = listed.namespaces.into_iter().find(|view| view.namespace == namespace)?;
        view.effective.unwrap().eviction
    }

    async fn l1_entries(&self, namespace: &str) -> u64 {
        let stats = self.stats().await;
        stats.namespaces.iter().find(|stats| stats.namespace == namespace).map_or(0, |stats| stats.l1_entries)
    }
}

pub(crate) fn evicting(eviction: &str) -> NamespacePolicy {
    NamespacePolicy { eviction: Some(eviction.to_owned()), ..NamespacePolicy::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_put_at_run_time_keeps_the_entries_and_is_kept_with_what_it_changed() {
    let stack = redis().await;
    let (a, b) = (CacheNode::start(single(&stack)).await, CacheNode::start(single(&stack)).await);
    a.wait_ready(true).await;
    b.wait_ready(true).await;
    for number in 0..50 {
        a.wait_for_confirmed_set(&format!("k{number}"), "value").await;
    }
    let first = a.put("test", evicting("lru"), 0).await.unwrap();
    let with_disk = NamespacePolicy { disk: Some(false), compress_above_bytes: Some(9), ..evicting("ttl") };
    let second = a.put("test", with_disk, first).await.unwrap();
    a.put("other", evicting("fifo"), 0).await.unwrap();
    wait_until("the other node to have it", LOOK_EVERY, WITHIN, || async {
        match b.eviction("test").await {
            Some(eviction) if eviction == "ttl" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
    assert_eq!(a.l1_entries("test").await, 50);
    assert_eq!(a.eviction("test").await.as_deref(), Some("ttl"));

    for node in [&a, &b] {
        let history = node.history("test").await;
        let shown: Vec<(u64, Vec<&str>)> = history
            .iter()
            .map(|change| (change.version, change.changed.iter().map(String::as_str).collect()))
            .collect();
        assert_eq!(shown, [(second, vec!["compress_above", "disk", "eviction"]), (first, vec!["eviction"])]);
        assert_eq!(history[0].before, Some(evicting("lru")));
        assert!(history[1].before.is_none() && history[0].put_at.is_some());
        assert_eq!(node.history("").await.len(), 3);
    }

    let refused = Failure::from(a.put("test", evicting("best"), second).await.unwrap_err());
    assert_eq!((refused.reason(), refused.fields()[0].field.as_str()), ("POLICY_INVALID", "policy.eviction"));
    let late = Failure::from(a.put("test", evicting("lfu"), first).await.unwrap_err());
    assert_eq!(late.reason(), "VERSION_MISMATCH");
    assert_eq!(a.history("test").await.len(), 2, "what was refused is not in the history");
    for node in [a, b] {
        node.cx.shut_down().await;
    }
    stack.stop().await.unwrap();
}
