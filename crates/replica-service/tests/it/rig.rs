//! Starts stacks and services, and asks the service over gRPC.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use mainstay_devstack::{
    DATABASE, Devstack, MONITOR_ROLE, PostgresNode, SERVICE_ROLE, SUPERUSER, wait_until,
};
use mainstay_proto::replica::v1::{
    ExecuteRequest, ExecuteResponse, Node, Prefer, QueryRequest, QueryResponse, TopologyRequest,
    TopologyResponse, Value, replica_service_client::ReplicaServiceClient, value::Kind,
};
use mainstay_rpc::Failure;
use mainstay_runtime::Context;
use replica_service::{NodeConfig, ReplicaConfig};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::OnceCell,
};
use tonic::transport::{Channel, Endpoint};

/// Polling of conditions, and how long they may take on a busy machine.
pub(crate) const EVERY: Duration = Duration::from_millis(20);
pub(crate) const SOON: Duration = Duration::from_secs(180);
/// What the service may take itself where a test is not about that.
const PATIENT: Duration = Duration::from_secs(60);

/// A stack that all tests share; none of them may stop a server of it.
pub(crate) async fn shared() -> &'static Devstack {
    static STACK: OnceCell<Devstack> = OnceCell::const_new();
    STACK.get_or_init(|| async { start_stack(true).await }).await
}

pub(crate) async fn start_stack(pgbouncer: bool) -> Devstack {
    Devstack::builder().postgres(true).pgbouncer(pgbouncer).start().await.unwrap()
}

/// Which address the service uses for queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Direct,
    PgBouncer,
}

/// A service with a client.
pub(crate) struct Rig {
    pub(crate) cx: Context,
    pub(crate) client: ReplicaServiceClient<Channel>,
}

impl Rig {
    /// Starts a service on all nodes of the stack, and waits until it can read and write.
    pub(crate) async fn start(stack: &Devstack, way: Way, tweak: impl FnOnce(&mut ReplicaConfig)) -> Self {
        let mut config = patient_config(stack, way);
        tweak(&mut config);
        let n_nodes = config.nodes.len();
        let rig = Self::launch(config).await;
        rig.wait("all nodes to take reads", |topology| {
            !topology.primary.is_empty() && topology.nodes.iter().filter(|node| node.reads).count() == n_nodes
        })
        .await;
        rig
    }

    pub(crate) async fn launch(config: ReplicaConfig) -> Self {
        Self::launch_in(Context::for_test("replica-service"), config).await
    }

    /// Starts a service that reads its configuration again from `file`.
    pub(crate) async fn launch_from(config: ReplicaConfig, file: PathBuf) -> Self {
        Self::launch_in(Context::for_test_from("replica-service", file), config).await
    }

    async fn launch_in(cx: Context, config: ReplicaConfig) -> Self {
        replica_service::start(cx.clone(), config).await.unwrap();
        let address = cx.listening()[0].address;
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        Self { cx, client: ReplicaServiceClient::new(channel).max_decoding_message_size(64 << 20) }
    }

    /// Gives the connection to the service, for other clients.
    pub(crate) fn channel(&self) -> Channel {
        let address = self.cx.listening()[0].address;
        Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy()
    }

    pub(crate) async fn query(&self, sql: &str) -> QueryResponse {
        self.ask(QueryRequest { sql: sql.to_owned(), ..QueryRequest::default() }).await.unwrap()
    }

    pub(crate) async fn query_primary(&self, sql: &str) -> Result<QueryResponse, Failure> {
        self.ask(QueryRequest {
            sql: sql.to_owned(),
            prefer: Prefer::Primary.into(),
            ..QueryRequest::default()
        })
        .await
    }

    pub(crate) async fn query_with(&self, sql: &str, params: Vec<Value>) -> Result<QueryResponse, Failure> {
        self.ask(QueryRequest { sql: sql.to_owned(), params, ..QueryRequest::default() }).await
    }

    pub(crate) async fn ask(&self, request: QueryRequest) -> Result<QueryResponse, Failure> {
        Ok(self.client.clone().query(request).await.map_err(Failure::from)?.into_inner())
    }

    pub(crate) async fn execute(&self, sql: &str) -> Result<ExecuteResponse, Failure> {
        self.execute_with(sql, Vec::new()).await
    }

    pub(crate) async fn execute_with(
        &self,
        sql: &str,
        params: Vec<Value>,
    ) -> Result<ExecuteResponse, Failure> {
        let request = ExecuteRequest { sql: sql.to_owned(), params, ..ExecuteRequest::default() };
        Ok(self.client.clone().execute(request).await.map_err(Failure::from)?.into_inner())
    }

    pub(crate) async fn topology(&self) -> TopologyResponse {
        self.client.clone().topology(TopologyRequest {}).await.unwrap().into_inner()
    }

    pub(crate) async fn node(&self, name: &str) -> Node {
        let topology = self.topology().await;
        topology.nodes.into_iter().find(|node| node.name == name).unwrap()
    }

    /// Reads one series from `/metrics`, such as `mainstay_ready` or `mainstay_replica_node_up{node="primary"}`; `None` where
    /// it is not told.
    pub(crate) async fn metric(&self, series: &str) -> Option<f64> {
        let mut stream = TcpStream::connect(self.cx.listening()[0].address).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: it\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let value = |line: &str| line.strip_prefix(series)?.strip_prefix(' ').map(str::to_owned);
        text.lines().find_map(value).map(|value| value.parse().unwrap())
    }

    /// Waits until a series is as wanted: what is told of nodes is as of their last probes.
    pub(crate) async fn wait_metric(&self, series: &str, wanted: impl Fn(f64) -> bool) {
        wait_until(format!("{series} to be as wanted"), EVERY, SOON, || async {
            let value = self.metric(series).await;
            if value.is_some_and(&wanted) { Ok(()) } else { Err(format!("{value:?}")) }
        })
        .await
        .unwrap();
    }

    /// Waits until the service sees the nodes as wanted.
    pub(crate) async fn wait(
        &self,
        what: &str,
        wanted: impl Fn(&TopologyResponse) -> bool,
    ) -> TopologyResponse {
        wait_until(what, EVERY, SOON, || async {
            let topology = self.topology().await;
            if wanted(&topology) { Ok(topology) } else { Err(format!("{topology:?}")) }
        })
        .await
        .unwrap()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // The runtime of the test ends with the test; what the service spawned ends with it.
        self.cx.stopping().cancel();
        self.cx.aborting().cancel();
    }
}

pub(crate) fn config(stack: &Devstack, way: Way) -> ReplicaConfig {
    let mut config = ReplicaConfig::default();
    config.postgres.database = DATABASE.to_owned();
    config.postgres.user = SERVICE_ROLE.to_owned();
    config.postgres.password = stack.credentials().postgres_password.as_str().into();
    config.health.user = MONITOR_ROLE.to_owned();
    config.health.password = stack.credentials().postgres_monitor_password.as_str().into();
    for node in stack.postgres().unwrap().nodes() {
        let pgbouncer = match way {
            Way::Direct => String::new(),
            Way::PgBouncer => node.bouncer().unwrap().public_address().to_string(),
        };
        let address = node.public_address().to_string();
        config
            .nodes
            .insert(node.short_name().to_owned(), NodeConfig { address, pgbouncer, ..NodeConfig::default() });
    }
    config
}

pub(crate) fn patient_config(stack: &Devstack, way: Way) -> ReplicaConfig {
    let mut config = config(stack, way);
    config.health.probe_every = Duration::from_millis(200);
    patient(&mut config);
    config
}

/// Opens a connection to one server as a superuser, which ends with the test.
pub(crate) async fn superuser(rig: &Rig, stack: &Devstack, server: &PostgresNode) -> tokio_postgres::Client {
    let mut config = tokio_postgres::Config::new();
    let address = server.public_address();
    config.host(address.ip().to_string()).port(address.port()).dbname(DATABASE).user(SUPERUSER);
    config.password(&stack.credentials().postgres_superuser_password);
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    rig.cx.spawn_work(async move {
        // The test sees it by its own statement.
        let _ = connection.await;
    });
    client
}

/// A machine may stand still for seconds; a test that is about one of these bounds sets its own.
fn patient(config: &mut ReplicaConfig) {
    config.health.probe_within = Duration::from_secs(10);
    config.postgres.connect_within = PATIENT;
    config.postgres.statement_within = PATIENT;
    config.pool.wait_within = PATIENT;
    config.routing.max_staleness = PATIENT;
    config.routing.token_wait_within = Duration::from_secs(20);
}

pub(crate) fn primary(stack: &Devstack) -> &PostgresNode {
    stack.postgres().unwrap().first_primary()
}

/// Has a server read these rules of `pg_hba.conf` before all others.
pub(crate) async fn prepend_hba(server: &PostgresNode, rules: &str) {
    let program = "(base64 -d; cat pg_hba.conf) > pg_hba.new; mv pg_hba.new pg_hba.conf";
    sql(server, &format!("COPY (SELECT '{}') TO PROGRAM '{program}'", STANDARD.encode(rules))).await;
    sql(server, "SELECT pg_reload_conf()").await;
}

/// Takes the first rule away again.
pub(crate) async fn drop_first_hba(server: &PostgresNode) {
    sql(server, "COPY (SELECT '') TO PROGRAM 'cat; sed -i 1d pg_hba.conf'").await;
    sql(server, "SELECT pg_reload_conf()").await;
}

pub(crate) async fn sql(node: &PostgresNode, statements: &str) {
    node.batch(statements, SOON).await.unwrap();
}

/// Makes a table of its own for one test, and waits until the replicas have it.
pub(crate) async fn table(stack: &Devstack, columns: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let owner = format!("ALTER TABLE {name} OWNER TO {SERVICE_ROLE}");
    sql(primary(stack), &format!("CREATE TABLE {name} ({columns}); {owner}")).await;
    stack.postgres().unwrap().wait_caught_up(primary(stack)).await.unwrap();
    name
}

pub(crate) fn value(kind: Kind) -> Value {
    Value { kind: Some(kind), r#type: String::new() }
}

pub(crate) fn typed(kind: Kind, ty: &str) -> Value {
    Value { kind: Some(kind), r#type: ty.to_owned() }
}

/// Returns the first value of the first row.
pub(crate) fn first(response: &QueryResponse) -> Kind {
    response.rows[0].values[0].kind.clone().unwrap()
}

pub(crate) fn served_by(response: &QueryResponse) -> (String, String) {
    let served = response.served.as_ref().unwrap();
    (served.node.clone(), served.reason.clone())
}

/// An address on which nobody listens.
pub(crate) fn nobody() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
