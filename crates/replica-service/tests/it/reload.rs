//! The configuration is read again while statements run: nodes come, go and move, and a bad one changes nothing.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use mainstay_devstack::{SERVICE_ROLE, wait_until};
use mainstay_proto::{
    common::v1::Health,
    replica::v1::{
        Configuration, DrainNodeRequest, GetConfigurationRequest, Node, QueryRequest, ReloadRequest,
        configuration_service_client::ConfigurationServiceClient, node_service_client::NodeServiceClient,
        value::Kind,
    },
};
use mainstay_rpc::{ErrorCode, Failure};
use replica_service::{NodeConfig, ReplicaConfig};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use crate::rig::*;

/// A service that can read its configuration again.
struct Reloaded {
    rig: Rig,
    door: ConfigurationServiceClient<Channel>,
    config: ReplicaConfig,
    file: PathBuf,
    _dir: TempDir,
}

impl Reloaded {
    async fn start(stack: &mainstay_devstack::Devstack, tweak: impl FnOnce(&mut ReplicaConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("replica-service.toml");
        let mut config = patient_config(stack, Way::Direct);
        tweak(&mut config);
        write(&file, &config);
        let rig = Rig::launch_from(config.clone(), file.clone()).await;
        let door = ConfigurationServiceClient::new(channel(&rig));
        let n_nodes = config.nodes.len();
        rig.wait("all nodes to take reads", |topology| {
            topology.nodes.iter().filter(|node| node.reads).count() == n_nodes
        })
        .await;
        Self { rig, door, config, file, _dir: dir }
    }

    /// Writes another configuration and has it read.
    async fn change(&mut self, change: impl FnOnce(&mut ReplicaConfig)) -> Result<Configuration, Failure> {
        change(&mut self.config);
        write(&self.file, &self.config);
        self.reload("admin").await
    }

    async fn reload(&self, role: &str) -> Result<Configuration, Failure> {
        let mut request = tonic::Request::new(ReloadRequest {});
        request.metadata_mut().insert("x-mainstay-subject", "operator".parse().unwrap());
        request.metadata_mut().insert("x-mainstay-role", role.parse().unwrap());
        Ok(self.door.clone().reload(request).await.map_err(Failure::from)?.into_inner())
    }

    async fn configuration(&self) -> Configuration {
        self.door.clone().get_configuration(GetConfigurationRequest {}).await.unwrap().into_inner()
    }

    fn metric(&self, series: &str) -> Option<f64> {
        let text = self.rig.cx.openmetrics();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("mainstay_replica_{series} ")));
        line.map(|value| value.parse().unwrap())
    }

    /// Returns health and detail of a component of the service.
    fn component(&self, name: &str) -> Option<(Health, String)> {
        let found = self.rig.cx.component_list().into_iter().find(|component| component.name == name);
        found.map(|component| (component.health(), component.detail))
    }
}

fn channel(rig: &Rig) -> Channel {
    Endpoint::from_shared(format!("http://{}", rig.cx.listening()[0].address)).unwrap().connect_lazy()
}

/// As an operator would write it, secrets included.
fn write(file: &Path, config: &ReplicaConfig) {
    let mut tree = toml::Table::try_from(config).unwrap();
    for (section, secret) in [("postgres", &config.postgres.password), ("health", &config.health.password)] {
        tree[section]["password"] = secret.expose().into();
    }
    std::fs::write(file, toml::to_string(&tree).unwrap()).unwrap();
}

fn in_zone(zone: &str, sql: &str) -> QueryRequest {
    QueryRequest { sql: sql.to_owned(), zone: zone.to_owned(), ..QueryRequest::default() }
}

/// Held by a superuser until the statement that waits for it may end.
const HELD: &str = "SELECT pg_advisory_lock(77)";
const WAITS: &str = "SELECT pg_advisory_xact_lock(77)::text AS held";

#[tokio::test(flavor = "multi_thread")]
async fn nodes_come_and_go_under_reads_of_which_none_fails() {
    let stack = start_stack(false).await;
    let mut replica2 = None;
    let mut service = Reloaded::start(&stack, |config| {
        replica2 = config.nodes.remove("replica2").map(|node| NodeConfig { zone: "far".to_owned(), ..node });
    })
    .await;
    let replica2 = replica2.unwrap();
    let (client, over) = (service.rig.client.clone(), AtomicBool::new(false));
    let reads = async {
        let mut n_reads = 0;
        while !over.load(Ordering::Relaxed) {
            let read = QueryRequest { sql: "SELECT 1".to_owned(), ..QueryRequest::default() };
            client
                .clone()
                .query(read)
                .await
                .unwrap_or_else(|error| panic!("read {n_reads} failed: {error:?}"));
            n_reads += 1;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        n_reads
    };
    let changes = async {
        let asked = |node: &Node| node.traffic.as_ref().map_or(0, |traffic| traffic.queries);
        let before = service.rig.wait("replica1 to have answered", |topology| {
            topology.nodes.iter().any(|node| node.name == "replica1" && asked(node) > 0)
        });
        let before = before.await.nodes.into_iter().find(|node| node.name == "replica1").unwrap();
        let added = service
            .change(|config| drop(config.nodes.insert("replica2".to_owned(), replica2)))
            .await
            .unwrap();
        assert_eq!(added.generation, 2);
        assert_eq!(added.last_reload.unwrap().applied, ["nodes.replica2"]);
        // What stayed is the same node.
        let after = service.rig.node("replica1").await;
        assert!(asked(&after) >= asked(&before), "{before:?} {after:?}");
        assert!(after.lag.is_some() && after.reads, "{after:?}");
        assert!(
            after.read_pool.unwrap().created >= before.read_pool.unwrap().created,
            "{before:?} {after:?}"
        );
        wait_until("replica2 to answer", EVERY, SOON, || async {
            let node = served_by(&service.rig.query("SELECT 1").await).0;
            if node == "replica2" { Ok(()) } else { Err(node) }
        })
        .await
        .unwrap();

        // A statement that runs on it when it is taken out ends there.
        let server = stack.postgres().unwrap().node("replica2").unwrap();
        let holder = superuser(&service.rig, &stack, server).await;
        holder.batch_execute(HELD).await.unwrap();
        let n_of = async |which: &str| {
            let count = format!(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'mainstay-replica' \
                 AND usename = '{SERVICE_ROLE}' AND {which}"
            );
            holder.query_one(&count, &[]).await.unwrap().get::<_, i64>(0)
        };
        let mut asker = service.rig.client.clone();
        let held = async move { asker.query(in_zone("far", WAITS)).await.unwrap().into_inner() };
        let taking_out = async {
            wait_until("the statement to wait", EVERY, SOON, || async {
                if n_of("wait_event = 'advisory'").await == 1 { Ok(()) } else { Err(String::new()) }
            })
            .await
            .unwrap();
            let removed = service.change(|config| drop(config.nodes.remove("replica2"))).await.unwrap();
            assert_eq!(
                (removed.generation, &*removed.last_reload.unwrap().applied),
                (3, &["nodes.replica2".to_owned()][..])
            );
            let topology = service.rig.topology().await;
            assert!(topology.nodes.iter().all(|node| node.name != "replica2"), "{topology:?}");
            assert_eq!(service.component("postgres.replica2"), None);
            assert_eq!(service.metric("node_up{node=\"replica2\"}"), None);
            assert_eq!(service.metric("node_up{node=\"replica1\"}"), Some(1.0));
            assert_eq!(n_of("wait_event = 'advisory'").await, 1, "it still runs");
            holder.batch_execute("SELECT pg_advisory_unlock(77)").await.unwrap();
        };
        let (answer, ()) = tokio::join!(held, taking_out);
        assert_eq!(served_by(&answer).0, "replica2");
        wait_until("all connections to replica2 to be closed", EVERY, SOON, || async {
            match n_of("true").await {
                0 => Ok(()),
                n => Err(format!("{n} are open")),
            }
        })
        .await
        .unwrap();
        over.store(true, Ordering::Relaxed);
    };
    let (n_reads, ()) = tokio::join!(reads, changes);
    assert!(n_reads > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn pools_routing_and_ways_change_and_their_figures_say_so() {
    let stack = shared().await;
    let mut service = Reloaded::start(stack, |_| {}).await;
    service.rig.query("SELECT 1").await;
    assert_eq!(service.rig.node("replica1").await.read_pool.unwrap().max_size, 16);
    let mut nodes = NodeServiceClient::new(channel(&service.rig));
    nodes.drain_node(DrainNodeRequest { node: "replica1".to_owned() }).await.unwrap();

    let bouncer = stack.postgres().unwrap().node("replica1").unwrap().bouncer().unwrap().public_address();
    let changed = service
        .change(|config| {
            config.pool.max_size = 3;
            config.routing.strategy = replica_service::Strategy::LeastInFlight;
            config.breaker.consecutive_failures = 1;
            config.nodes.get_mut("replica1").unwrap().pgbouncer = bouncer.to_string();
            config.nodes.get_mut("replica2").unwrap().zone = "near".to_owned();
            config.limits.max_rows = 7_777;
        })
        .await
        .unwrap();
    assert_eq!(changed.needs_restart, ["limits.max_rows"]);
    let applied = [
        "breaker.consecutive_failures",
        "nodes.replica1.pgbouncer",
        "nodes.replica2.zone",
        "pool.max_size",
        "routing.strategy",
    ];
    assert_eq!(changed.last_reload.unwrap().applied, applied);
    let (health, detail) = service.component("configuration").unwrap();
    assert_eq!((health, &*detail), (Health::Degraded, "generation 2, needs restart: limits.max_rows"));
    assert_eq!(service.metric("config_needs_restart"), Some(1.0));
    let topology = service.rig.wait("replica1 to be found behind its PgBouncer", |topology| {
        topology.nodes.iter().all(|node| node.health() == Health::Healthy)
    });
    let topology = topology.await;
    assert_eq!(topology.strategy, "least_in_flight");
    for node in &topology.nodes {
        // Behind a PgBouncer there is a second pool, for writes that go past it.
        let n_pools = if node.name == "replica1" { 2 } else { 1 };
        assert_eq!(node.read_pool.unwrap().max_size, 3, "{node:?}");
        assert_eq!(node.write_pool.unwrap().max_size, 3 * n_pools, "{node:?}");
        assert_eq!((node.pgbouncer, node.drained), (n_pools == 2, n_pools == 2), "{node:?}");
    }
    let served = service.rig.ask(in_zone("near", "SELECT 1")).await.unwrap();
    assert_eq!(served_by(&served).0, "replica2");
    service.rig.execute("SELECT 1").await.unwrap();
    // Read again it is what it was: there is nothing to follow, and the restart is still missing.
    let again = service.reload("admin").await.unwrap();
    assert_eq!((again.generation, again.needs_restart), (2, vec!["limits.max_rows".to_owned()]));
    assert_eq!(again.last_reload.unwrap().outcome, "unchanged");
    assert_eq!(service.metric("config_reloads_total{outcome=\"unchanged\"}"), Some(1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_with_a_mistake_is_refused_whole() {
    let mut service = Reloaded::start(shared().await, |_| {}).await;
    let before = (service.rig.topology().await.nodes.len(), service.configuration().await);
    let viewer = service.reload("viewer").await.unwrap_err();
    assert_eq!((viewer.code(), viewer.reason()), (ErrorCode::PermissionDenied, "ROLE_TOO_LOW"));
    assert_eq!(service.configuration().await, before.1);

    let refused = service
        .change(|config| {
            config.nodes.remove("replica1");
            config.pool.max_size = 0;
            config.health.down_after = 0;
        })
        .await
        .unwrap_err();
    assert_eq!((refused.code(), refused.reason()), (ErrorCode::FailedPrecondition, "CONFIGURATION_REFUSED"));
    for key in ["pool.max_size", "health.down_after"] {
        assert!(refused.message().contains(key), "{}", refused.message());
    }
    std::fs::write(&service.file, "[nodes").unwrap();
    let torn = service.reload("admin").await.unwrap_err();
    assert_eq!(torn.reason(), "CONFIGURATION_REFUSED", "{torn:?}");

    let topology = service.rig.topology().await;
    assert_eq!(topology.nodes.len(), before.0);
    assert!(topology.nodes.iter().all(|node| node.read_pool.unwrap().max_size == 16), "{topology:?}");
    let after = service.configuration().await;
    assert_eq!((after.generation, after.since), (1, before.1.since));
    let last = after.last_reload.unwrap();
    assert_eq!((&*last.outcome, &*last.by), ("refused", "operator"), "{last:?}");
    assert!(last.problems[0].contains("unclosed table"), "{last:?}");
    assert_eq!(service.metric("config_reloads_total{outcome=\"refused\"}"), Some(2.0));
    let (health, detail) = service.component("configuration").unwrap();
    assert!(health == Health::Degraded && detail.contains("the last reload was refused"), "{detail}");
    assert_eq!(first(&service.rig.query("SELECT 1").await), Kind::Int(1));

    // The next one that is right makes it well again.
    service.change(|config| (config.pool.max_size, config.health.down_after) = (2, 2)).await.unwrap();
    assert_eq!(service.component("configuration").unwrap(), (Health::Healthy, "generation 2".to_owned()));
    assert_eq!(service.metric("config_generation"), Some(2.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_lag_and_failover_work_after_a_reload() {
    let stack = start_stack(false).await;
    let (postgres, table) = (stack.postgres().unwrap(), table(&stack, "n int").await);
    let mut service = Reloaded::start(&stack, |_| {}).await;
    service.rig.execute(&format!("INSERT INTO {table} VALUES (1)")).await.unwrap();
    // Other periods make other probes; the zone of a node is no other node.
    let changed = service.change(|config| {
        config.health.probe_every = Duration::from_millis(100);
        config.health.down_after = 3;
        config.nodes.get_mut("primary").unwrap().zone = "home".to_owned();
    });
    changed.await.unwrap();
    let topology = service.rig.topology().await;
    assert_eq!(topology.primary, "primary", "what is known of a node that stays is kept");

    postgres.node("replica2").unwrap().hold_replay().await.unwrap();
    service.rig.execute(&format!("INSERT INTO {table} VALUES (2)")).await.unwrap();
    service
        .rig
        .wait("replica2 to lag", |topology| {
            let lag = |node: &Node| node.lag.as_ref().map_or(0, |lag| lag.bytes);
            topology.nodes.iter().any(|node| node.name == "replica2" && lag(node) > 0)
        })
        .await;
    postgres.node("replica2").unwrap().release_replay().await.unwrap();
    postgres.wait_caught_up(primary(&stack)).await.unwrap();

    // The old primary is taken out before another one is promoted: it fences all the same, and nobody asks it.
    service.change(|config| drop(config.nodes.remove("primary"))).await.unwrap();
    let failure = service.rig.execute(&format!("INSERT INTO {table} VALUES (3)")).await.unwrap_err();
    assert_eq!(failure.reason(), "NO_PRIMARY", "{failure:?}");
    postgres.node("replica1").unwrap().promote().await.unwrap();
    service.rig.wait("replica1 to be the primary", |topology| topology.primary == "replica1").await;
    let written = service.rig.execute(&format!("INSERT INTO {table} VALUES (4)")).await.unwrap();
    assert_eq!(written.served.unwrap().node, "replica1");
    let old = stack.postgres().unwrap().first_primary().public_address().to_string();
    let back = NodeConfig { address: old, ..NodeConfig::default() };
    service.change(|config| drop(config.nodes.insert("primary".to_owned(), back))).await.unwrap();
    service
        .rig
        .wait("the old primary to be fenced", |topology| {
            topology.primary == "replica1" && topology.nodes.iter().any(|node| node.detail.contains("fenced"))
        })
        .await;
}
