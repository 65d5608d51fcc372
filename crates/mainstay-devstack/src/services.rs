//! The five services and the environment that each one is given; the only file that knows their configuration keys.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::{
    Error,
    credentials::{Credentials, sha256_hex},
    demo,
    manifest::{Kind, Manifest},
    node::{Node, NodeParams},
    postgres::{DATABASE, MONITOR_ROLE, SERVICE_ROLE},
    probe::Probe,
    process::Launch,
    redis::MASTER_NAME,
};

/// Names a service process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Service {
    CacheService,
    WsGateway,
    ReplicaService,
    MonitorService,
    EdgeGateway,
}

/// Says where a service listens and where others reach it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceAddress {
    /// gRPC, `/livez`, `/readyz`, `/metrics`: where the process listens.
    pub internal: SocketAddr,
    /// Where the other services reach it: a proxy where asked for.
    pub internal_public: SocketAddr,
    /// HTTP of the edge, WebSocket of the gateway.
    pub outer: Option<SocketAddr>,
}

/// Is everything that a service can be told about the stack.
#[derive(Debug, Clone)]
pub(crate) struct Surroundings {
    /// All five have an address; those in `running` also have a process.
    pub(crate) services: BTreeMap<Service, ServiceAddress>,
    pub(crate) running: BTreeSet<Service>,
    /// Where the Sentinels are reached; empty without Redis.
    pub(crate) sentinels: Vec<SocketAddr>,
    /// Nodes of the Redis Cluster; empty without one.
    pub(crate) cluster: Vec<SocketAddr>,
    /// Name, server and PgBouncer of each node; empty without PostgreSQL.
    pub(crate) postgres: Vec<(String, SocketAddr, Option<SocketAddr>)>,
    /// The demo tables are there.
    pub(crate) demo_data: bool,
    pub(crate) credentials: Credentials,
    pub(crate) otlp_endpoint: Option<String>,
}

const READY_WITHIN: Duration = Duration::from_mins(2);

impl Service {
    pub const ALL: [Self; 5] =
        [Self::CacheService, Self::WsGateway, Self::ReplicaService, Self::MonitorService, Self::EdgeGateway];

    /// Returns the name of crate, binary and process.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CacheService => "cache-service",
            Self::WsGateway => "ws-gateway",
            Self::ReplicaService => "replica-service",
            Self::MonitorService => "monitor-service",
            Self::EdgeGateway => "edge-gateway",
        }
    }

    /// Returns the fixed ports: internal and outer.
    pub(crate) const fn fixed_ports(self) -> (u16, Option<u16>) {
        match self {
            Self::CacheService => (4010, None),
            Self::WsGateway => (4020, Some(4021)),
            Self::ReplicaService => (4030, None),
            Self::MonitorService => (4040, None),
            Self::EdgeGateway => (4001, Some(4000)),
        }
    }
}

impl FromStr for Service {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|service| service.name() == name);
        found.ok_or_else(|| format!("service must be one of {}", Self::ALL.map(Self::name).join(", ")))
    }
}

/// Returns the environment of `service`: a pure function of what is around it.
pub(crate) fn environment(service: Service, around: &Surroundings) -> Vec<(String, String)> {
    let mut env = Env::default();
    let own = around.services[&service];
    env.set("SERVER__LISTEN", own.internal);
    env.set("SERVER__TOKEN", &around.credentials.service_token);
    if let Some(endpoint) = &around.otlp_endpoint {
        env.set("TELEMETRY__OTLP_ENDPOINT", endpoint);
    }
    match service {
        Service::CacheService if around.sentinels.is_empty() && !around.cluster.is_empty() => {
            redis_cluster(&mut env, around);
        }
        Service::CacheService => redis(&mut env, around),
        Service::WsGateway => realtime(&mut env, own, around),
        Service::ReplicaService => replica(&mut env, around),
        Service::MonitorService => monitor(&mut env, around),
        Service::EdgeGateway => edge(&mut env, own, around),
    }
    env.0
}

/// Points cache-service and ws-gateway at Redis.
fn redis(env: &mut Env, around: &Surroundings) {
    if around.sentinels.is_empty() {
        env.set("REDIS__MODE", "none");
        return;
    }
    let sentinels: Vec<_> = around.sentinels.iter().map(SocketAddr::to_string).collect();
    env.set("REDIS__MODE", "sentinel");
    env.set("REDIS__SENTINELS", sentinels.join(","));
    env.set("REDIS__MASTER_NAME", MASTER_NAME);
    env.set("REDIS__PASSWORD", &around.credentials.redis_password);
}

/// Names two of the nodes, as an operator would: the others are learned from them.
fn redis_cluster(env: &mut Env, around: &Surroundings) {
    let nodes: Vec<_> = around.cluster.iter().take(2).map(SocketAddr::to_string).collect();
    env.set("REDIS__MODE", "cluster");
    env.set("REDIS__NODES", nodes.join(","));
    env.set("REDIS__PASSWORD", &around.credentials.redis_password);
}

fn realtime(env: &mut Env, own: ServiceAddress, around: &Surroundings) {
    if let Some(outer) = own.outer {
        env.set("WEBSOCKET__LISTEN", outer);
        env.set("WEBSOCKET__PUBLIC_URL", format!("ws://{outer}/connection/websocket"));
    }
    env.set("AUTH__JWT_SECRET", &around.credentials.jwt_secret);
    redis(env, around);
}

fn replica(env: &mut Env, around: &Surroundings) {
    env.set("POSTGRES__DATABASE", DATABASE);
    env.set("POSTGRES__USER", SERVICE_ROLE);
    env.set("POSTGRES__PASSWORD", &around.credentials.postgres_password);
    // As deployed: probes, and the console of PgBouncer, have a role of their own.
    env.set("HEALTH__USER", MONITOR_ROLE);
    env.set("HEALTH__PASSWORD", &around.credentials.postgres_monitor_password);
    env.upstream_if_running("CACHE__UPSTREAM", Service::CacheService, around);
    for (name, address, bouncer) in &around.postgres {
        let name = name.to_uppercase();
        env.set(&format!("NODES__{name}__ADDRESS"), address);
        if let Some(bouncer) = bouncer {
            env.set(&format!("NODES__{name}__PGBOUNCER"), bouncer);
        }
    }
    for table in demo::TABLES.iter().filter(|_| around.demo_data) {
        let name = table.trim_end_matches("_transactions").to_uppercase();
        env.set(&format!("SWITCHOVER__{name}__LEGACY"), table);
        env.set(&format!("SWITCHOVER__{name}__PARTITIONED"), format!("{table}_partitioned"));
        env.set(&format!("SWITCHOVER__{name}__KEY"), "id");
        env.set(&format!("SWITCHOVER__{name}__TIME_COLUMN"), "occurred_at");
    }
}

fn monitor(env: &mut Env, around: &Surroundings) {
    // Relative to the service's own directory.
    env.set("STORE__PATH", "monitor.db");
    for service in Service::ALL.into_iter().filter(|service| *service != Service::MonitorService) {
        // A variable cannot have a hyphen in its name; the runtime reads the underscore as one.
        let key = service.name().replace('-', "_").to_uppercase();
        env.upstream_if_running(&format!("TARGETS__{key}"), service, around);
    }
}

fn edge(env: &mut Env, own: ServiceAddress, around: &Surroundings) {
    if let Some(outer) = own.outer {
        env.set("HTTP__LISTEN", outer);
    }
    let upstreams = [
        ("CACHE", Service::CacheService),
        ("REALTIME", Service::WsGateway),
        ("REPLICA", Service::ReplicaService),
        ("MONITOR", Service::MonitorService),
    ];
    for (key, service) in upstreams {
        env.upstream_if_running(&format!("UPSTREAMS__{key}"), service, around);
    }
    env.set("AUTH__JWT_SECRET", &around.credentials.jwt_secret);
    for (role, key) in around.credentials.api_keys.by_role() {
        let id = role.to_uppercase();
        env.set(&format!("AUTH__API_KEYS__{id}__SHA256"), sha256_hex(key));
        env.set(&format!("AUTH__API_KEYS__{id}__ROLE"), role);
    }
}

/// Collects `MAINSTAY__SECTION__KEY=value` pairs.
#[derive(Default)]
struct Env(Vec<(String, String)>);

impl Env {
    #[expect(clippy::needless_pass_by_value, reason = "callers pass strings, references and addresses alike")]
    fn set(&mut self, key: &str, value: impl ToString) {
        self.0.push((format!("MAINSTAY__{key}"), value.to_string()));
    }

    /// Points at a service. One that was left out on purpose is not looked for, else it would be missed for ever.
    fn upstream_if_running(&mut self, section: &str, service: Service, around: &Surroundings) {
        if !around.running.contains(&service) {
            self.set(&format!("{section}__ENDPOINTS"), "");
            return;
        }
        self.set(
            &format!("{section}__ENDPOINTS"),
            format!("http://{}", around.services[&service].internal_public),
        );
        self.set(&format!("{section}__TOKEN"), &around.credentials.service_token);
    }
}

pub(crate) struct ServicePlan<'a> {
    pub(crate) dir: &'a Path,
    pub(crate) binary: PathBuf,
    pub(crate) service: Service,
    pub(crate) around: &'a Surroundings,
    /// Variables of the caller; they win.
    pub(crate) extra: Vec<(String, String)>,
    pub(crate) manifest: &'a Arc<Manifest>,
}

impl ServicePlan<'_> {
    pub(crate) fn build(self) -> Result<Node, Error> {
        let name = self.service.name();
        // An own working directory: a `deploy/config` of the place we were started from must not leak in.
        let home = self.dir.join("services").join(name);
        fs::create_dir_all(&home).map_err(Error::io(format!("create {}", home.display())))?;
        let mut envs = environment(self.service, self.around);
        envs.extend(self.extra);
        let address = self.around.services[&self.service].internal;
        Ok(Node::new(NodeParams {
            launch: Launch {
                name: name.to_owned(),
                kind: Kind::Kill,
                program: self.binary,
                args: Vec::new(),
                envs,
                run_as: None,
                dir: home,
                log: self.dir.join("logs").join(format!("{name}.log")),
                data: None,
            },
            probe: Probe::Readyz { address },
            address,
            stop_signal: Signal::TERM,
            ready_within: READY_WITHIN,
            manifest: Arc::clone(self.manifest),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::local;

    fn around() -> Surroundings {
        let services = Service::ALL.map(|service| {
            let (internal, outer) = service.fixed_ports();
            let internal = local(internal);
            (service, ServiceAddress { internal, internal_public: internal, outer: outer.map(local) })
        });
        Surroundings {
            services: services.into(),
            running: Service::ALL.into(),
            sentinels: vec![local(26390), local(26391)],
            cluster: Vec::new(),
            postgres: vec![("replica1".to_owned(), local(5441), Some(local(6441)))],
            demo_data: false,
            credentials: Credentials::random(),
            otlp_endpoint: None,
        }
    }

    fn value(env: &[(String, String)], key: &str) -> Option<String> {
        env.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone())
    }

    #[test]
    fn cache_and_gateway_run_alone_without_redis_and_by_sentinel_with_it() {
        for service in [Service::CacheService, Service::WsGateway] {
            let mut around = around();
            let env = environment(service, &around);
            assert_eq!(value(&env, "MAINSTAY__REDIS__SENTINELS").unwrap(), "127.0.0.1:26390,127.0.0.1:26391");
            around.sentinels.clear();
            let env = environment(service, &around);
            assert_eq!(value(&env, "MAINSTAY__REDIS__MODE").unwrap(), "none");
            assert_eq!(value(&env, "MAINSTAY__REDIS__PASSWORD"), None);
        }
        let mut around = around();
        around.cluster = vec![local(7000), local(7001), local(7002)];
        let env = environment(Service::CacheService, &around);
        assert_eq!(value(&env, "MAINSTAY__REDIS__MODE").unwrap(), "sentinel", "what has both is asked there");
        around.sentinels.clear();
        let env = environment(Service::CacheService, &around);
        assert_eq!(value(&env, "MAINSTAY__REDIS__MODE").unwrap(), "cluster");
        assert_eq!(value(&env, "MAINSTAY__REDIS__NODES").unwrap(), "127.0.0.1:7000,127.0.0.1:7001");
    }

    #[test]
    fn proxied_service_is_reached_through_the_proxy_and_listens_behind_it() {
        let mut around = around();
        around.services.get_mut(&Service::CacheService).unwrap().internal_public = local(9);
        let edge = environment(Service::EdgeGateway, &around);
        assert_eq!(value(&edge, "MAINSTAY__UPSTREAMS__CACHE__ENDPOINTS").unwrap(), "http://127.0.0.1:9");
        let cache = environment(Service::CacheService, &around);
        assert_eq!(value(&cache, "MAINSTAY__SERVER__LISTEN").unwrap(), "127.0.0.1:4010");
    }

    #[test]
    fn monitor_and_edge_look_only_for_what_runs() {
        let mut around = around();
        around.running.remove(&Service::ReplicaService);
        let env = environment(Service::MonitorService, &around);
        let cache = value(&env, "MAINSTAY__TARGETS__CACHE_SERVICE__ENDPOINTS").unwrap();
        assert_eq!(cache, "http://127.0.0.1:4010");
        assert_eq!(value(&env, "MAINSTAY__TARGETS__REPLICA_SERVICE__ENDPOINTS").unwrap(), "");
        let env = environment(Service::EdgeGateway, &around);
        assert_eq!(value(&env, "MAINSTAY__UPSTREAMS__REPLICA__ENDPOINTS").unwrap(), "");
    }

    #[test]
    fn queries_go_to_pgbouncer_and_probes_to_the_server() {
        let env = environment(Service::ReplicaService, &around());
        assert_eq!(value(&env, "MAINSTAY__NODES__REPLICA1__ADDRESS").unwrap(), "127.0.0.1:5441");
        assert_eq!(value(&env, "MAINSTAY__NODES__REPLICA1__PGBOUNCER").unwrap(), "127.0.0.1:6441");
        assert_eq!(value(&env, "MAINSTAY__HEALTH__USER").unwrap(), MONITOR_ROLE);
    }

    #[test]
    fn demo_tables_are_pairs_to_switch_over() {
        let mut around = around();
        let env = environment(Service::ReplicaService, &around);
        assert!(env.iter().all(|(key, _)| !key.contains("SWITCHOVER")), "{env:?}");
        around.demo_data = true;
        let env = environment(Service::ReplicaService, &around);
        let twin = value(&env, "MAINSTAY__SWITCHOVER__REVENUE__PARTITIONED").unwrap();
        assert_eq!(twin, "revenue_transactions_partitioned");
    }

    #[test]
    fn edge_knows_only_hashes_of_api_keys() {
        let around = around();
        let env = environment(Service::EdgeGateway, &around);
        for (_, key) in around.credentials.api_keys.by_role() {
            assert!(env.iter().all(|(_, value)| !value.contains(key)));
            assert!(env.iter().any(|(_, value)| *value == sha256_hex(key)));
        }
    }
}
