//! A running stack.

use std::{collections::BTreeMap, net::SocketAddr, path::Path, time::Duration};

use crate::{
    Builder, ChaosProxy, Component, Error,
    credentials::Credentials,
    endpoints::Endpoints,
    guard::Guard,
    node::{Node, UnexpectedExit},
    ports::PortClaims,
    postgres::Postgres,
    redis::Redis,
    redis_cluster::RedisCluster,
    services::Service,
    stack_dir::StackDir,
};

/// Owns a running stack: its processes, ports, proxies and directory.
///
/// [`stop`](Self::stop) ends it in good order. Dropping it ends it at once and blocks until it is gone; so does the
/// death of the process that owns it, in whatever way. It may be kept in a static: nothing runs on the runtime of
/// the test that started it.
#[derive(Debug)]
pub struct Devstack {
    // Fields drop in this order: the processes must be gone before the ports and the directory are let go.
    guard: Guard,
    proxies: BTreeMap<Component, ChaosProxy>,
    redis: Option<Redis>,
    redis_cluster: Option<RedisCluster>,
    postgres: Option<Postgres>,
    services: BTreeMap<Service, Node>,
    endpoints: Endpoints,
    _claims: PortClaims,
    dir: StackDir,
}

pub(crate) struct Parts {
    pub(crate) redis: Option<Redis>,
    pub(crate) redis_cluster: Option<RedisCluster>,
    pub(crate) postgres: Option<Postgres>,
    pub(crate) services: BTreeMap<Service, Node>,
    pub(crate) proxies: BTreeMap<Component, ChaosProxy>,
    pub(crate) endpoints: Endpoints,
    pub(crate) guard: Guard,
    pub(crate) dir: StackDir,
    pub(crate) claims: PortClaims,
}

const EXIT_LOOK_EVERY: Duration = Duration::from_millis(200);

impl Devstack {
    /// Begins an empty stack: every part is asked for by name.
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { redis, redis_cluster, postgres, services, proxies, endpoints, guard, dir, claims } =
            parts;
        Self { guard, proxies, redis, redis_cluster, postgres, services, endpoints, _claims: claims, dir }
    }

    pub fn dir(&self) -> &Path {
        &self.dir.path
    }

    /// Returns all addresses and logins, as `endpoints.json` has them.
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    pub fn credentials(&self) -> &Credentials {
        &self.endpoints.credentials
    }

    pub fn redis(&self) -> Option<&Redis> {
        self.redis.as_ref()
    }

    pub fn redis_cluster(&self) -> Option<&RedisCluster> {
        self.redis_cluster.as_ref()
    }

    pub fn postgres(&self) -> Option<&Postgres> {
        self.postgres.as_ref()
    }

    pub fn services(&self) -> impl Iterator<Item = &Node> {
        self.services.values()
    }

    /// Returns the handle on a service that this stack runs.
    pub fn service(&self, service: Service) -> Result<&Node, Error> {
        self.services.get(&service).ok_or_else(|| Error::NotPartOfStack { name: service.name().to_owned() })
    }

    /// Returns the HTTP address of the edge.
    pub fn edge(&self) -> Result<SocketAddr, Error> {
        self.outer(Service::EdgeGateway)
    }

    /// Returns the WebSocket address of the gateway.
    pub fn websocket(&self) -> Result<SocketAddr, Error> {
        self.outer(Service::WsGateway)
    }

    /// Returns the proxy that was asked for in front of `component`.
    pub fn proxy(&self, component: Component) -> Result<&ChaosProxy, Error> {
        self.proxies
            .get(&component)
            .ok_or_else(|| Error::NotPartOfStack { name: format!("a proxy for {component:?}") })
    }

    /// Waits for the next process that ends without having been asked to. Cancel safe.
    pub async fn next_unexpected_exit(&self) -> UnexpectedExit {
        let nodes = self.all_nodes();
        loop {
            if let Some(exit) = nodes.iter().find_map(Node::unexpected_exit) {
                return exit;
            }
            tokio::time::sleep(EXIT_LOOK_EVERY).await;
        }
    }

    /// Ends everything in good order, services first, and removes the directory if it was made for this run.
    pub async fn stop(self) -> Result<(), Error> {
        let mut first_error = None;
        for group in self.stop_order() {
            let stops = futures_util::future::join_all(group.iter().map(Node::stop)).await;
            first_error = first_error.or_else(|| stops.into_iter().find_map(Result::err));
        }
        // What would not stop is ended by the guard.
        let Self { guard, proxies, .. } = self;
        drop(proxies);
        guard.finish()?;
        first_error.map_or(Ok(()), Err)
    }

    fn stop_order(&self) -> Vec<Vec<Node>> {
        let mut groups = vec![self.services.values().cloned().collect()];
        let redis = self.redis.as_ref().map(Redis::all_nodes).unwrap_or_default();
        let (sentinels, servers): (Vec<_>, Vec<_>) =
            redis.into_iter().partition(|node| node.name().starts_with("sentinel"));
        let (bouncers, postgres): (Vec<_>, Vec<_>) = self
            .postgres
            .as_ref()
            .map(Postgres::all_nodes)
            .unwrap_or_default()
            .into_iter()
            .partition(|node| node.name().starts_with("pgbouncer"));
        groups.push(sentinels.into_iter().chain(bouncers).collect());
        let cluster = self.redis_cluster.as_ref().map(RedisCluster::all_nodes).unwrap_or_default();
        groups.push(servers.into_iter().chain(cluster).chain(postgres).collect());
        groups
    }

    fn all_nodes(&self) -> Vec<Node> {
        self.stop_order().into_iter().flatten().collect()
    }

    fn outer(&self, service: Service) -> Result<SocketAddr, Error> {
        self.service(service)?;
        let address = self.endpoints.services.get(service.name()).and_then(|address| address.outer);
        address.ok_or_else(|| Error::NotPartOfStack { name: format!("an outer port of {}", service.name()) })
    }
}
