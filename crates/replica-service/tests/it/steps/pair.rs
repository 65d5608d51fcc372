use std::{collections::BTreeMap, time::Duration};

use mainstay_devstack::{DATABASE, Devstack, SERVICE_ROLE, wait_until};
use mainstay_proto::replica::v1::{
    GetSwitchoverRequest, Parity, ParityVerdict, PartitionMetricsRequest, PartitionPair, Prefer,
    QueryRequest, QueryResponse, RunStatementRequest, RunStepRequest, SwitchoverState, SwitchoverStep,
    partition_service_client::PartitionServiceClient, run_statement_response::Answer,
    statement_service_client::StatementServiceClient, switchover_service_client::SwitchoverServiceClient,
    value::Kind,
};
use mainstay_rpc::Failure;
use replica_service::{NamedConfig, PairConfig, ReplicaConfig};
use tokio_postgres::{Client, NoTls};
use tonic::transport::{Channel, Endpoint};

use crate::rig::*;

/// A pair of the service's own, with monthly partitions up to three months ahead and no row in them.
const SETUP: &str = "\
    SET ROLE OWNER; \
    CREATE TABLE NAME (id bigint PRIMARY KEY, at timestamptz NOT NULL, note text); \
    CREATE TABLE NAME_p (id bigint NOT NULL, at timestamptz NOT NULL, note text, PRIMARY KEY (id, at)) \
      PARTITION BY RANGE (at); \
    DO $$ DECLARE month date := date_trunc('month', now()) - interval '4 months'; BEGIN \
      WHILE month <= now() + interval '3 months' LOOP \
        EXECUTE format('CREATE TABLE NAME_p%s PARTITION OF NAME_p FOR VALUES FROM (%L) TO (%L)', \
          to_char(month, 'YYYYMM'), month, month + interval '1 month'); \
        month := month + interval '1 month'; END LOOP; END $$; \
    INSERT INTO NAME SELECT n, now() - (n % 60) * interval '1 day', 'note ' || n FROM generate_series(1, ROWS) AS n; \
    ANALYZE NAME; ANALYZE NAME_p; RESET ROLE";

/// A service with one pair.
pub(super) struct Switched {
    pub rig: Rig,
    pub name: String,
    switchover: SwitchoverServiceClient<Channel>,
    partitions: PartitionServiceClient<Channel>,
}

const ASK_AGAIN: Duration = Duration::from_millis(250);

/// What is in a table, by key; every row must be there once.
pub(super) type Rows = BTreeMap<i64, (i64, String)>;

impl Switched {
    pub(super) async fn start(name: &str, n_rows: u32, tweak: impl FnOnce(&mut ReplicaConfig)) -> Self {
        Self::start_on(shared().await, name, n_rows, tweak).await
    }

    /// Starts it on a stack of its own.
    pub(super) async fn start_on(
        stack: &Devstack,
        name: &str,
        n_rows: u32,
        tweak: impl FnOnce(&mut ReplicaConfig),
    ) -> Self {
        let setup = SETUP.replace("OWNER", SERVICE_ROLE).replace("ROWS", &n_rows.to_string());
        let setup = setup.replace("NAME", name);
        sql(primary(stack), &setup).await;
        stack.postgres().unwrap().wait_caught_up(primary(stack)).await.unwrap();
        let rig = Rig::start(stack, Way::PgBouncer, |config| {
            let pair = PairConfig {
                legacy: name.to_owned(),
                partitioned: format!("{name}_p"),
                key: "id".to_owned(),
                time_column: "at".to_owned(),
            };
            config.switchover.insert(name.to_owned(), pair);
            let sql = "SELECT count(*) FROM {table}".to_owned();
            let count = NamedConfig { sql, table: name.to_owned(), ..NamedConfig::default() };
            config.statements.named.insert("count".to_owned(), count);
            config.parity.check_every = Duration::from_millis(200);
            config.parity.duty_cycle = 0.5;
            config.parity.bucket_rows = 500;
            config.steps.batch_rows = 100;
            config.advance.min_reads = 2;
            config.advance.hold = Duration::ZERO;
            // On a busy machine a read may take any time.
            config.advance.max_latency_ratio = 1e9;
            config.steps.statement_within = SOON;
            config.parity.statement_within = SOON;
            tweak(config);
        })
        .await;
        let address = rig.cx.listening()[0].address;
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        Self {
            rig,
            name: name.to_owned(),
            switchover: SwitchoverServiceClient::new(channel.clone()),
            partitions: PartitionServiceClient::new(channel),
        }
    }

    pub(super) async fn try_take(&self, step: SwitchoverStep) -> Result<SwitchoverState, Failure> {
        let request = RunStepRequest { pair: self.name.clone(), step: step.into(), percent: None };
        Ok(self.switchover.clone().run_step(request).await.map_err(Failure::from)?.into_inner())
    }

    /// Takes a step that nothing stands in the way of.
    ///
    /// What the watch knows of rows is published in the background, and new rows are unknown to it for a moment: as an
    /// operator does, it asks again while the answer is no.
    pub(super) async fn take(&self, step: SwitchoverStep) -> SwitchoverState {
        wait_until(&format!("{step:?}"), ASK_AGAIN, SOON, || async {
            match self.try_take(step).await {
                Ok(state) => Ok(state),
                Err(failure) if matches!(failure.reason(), "STEP_REFUSED" | "TABLES_BUSY") => {
                    Err(format!("{failure:?}"))
                }
                Err(failure) => panic!("{step:?}: {failure:?}"),
            }
        })
        .await
        .unwrap()
    }

    pub(super) async fn state(&self) -> SwitchoverState {
        let request = GetSwitchoverRequest { pair: self.name.clone() };
        self.switchover.clone().get_switchover(request).await.unwrap().into_inner()
    }

    pub(super) async fn wait(
        &self,
        what: &str,
        wanted: impl Fn(&SwitchoverState) -> bool,
    ) -> SwitchoverState {
        wait_until(what, EVERY, SOON, || async {
            let state = self.state().await;
            if wanted(&state) { Ok(state) } else { Err(format!("{state:?}")) }
        })
        .await
        .unwrap()
    }

    pub(super) async fn wait_pair(
        &self,
        what: &str,
        wanted: impl Fn(&PartitionPair) -> bool,
    ) -> PartitionPair {
        wait_until(what, EVERY, SOON, || async {
            let request = PartitionMetricsRequest { pair: self.name.clone() };
            let pair = self
                .partitions
                .clone()
                .partition_metrics(request)
                .await
                .unwrap()
                .into_inner()
                .pairs
                .remove(0);
            if wanted(&pair) { Ok(pair) } else { Err(format!("{pair:?}")) }
        })
        .await
        .unwrap()
    }

    pub(super) async fn wait_ready(&self) {
        self.wait_pair("the pair to be ready", |pair| pair.ready).await;
    }

    pub(super) async fn wait_parity(&self, verdict: ParityVerdict) -> Parity {
        let pair =
            self.wait_pair("the verdict", |pair| pair.parity.as_ref().unwrap().verdict() == verdict).await;
        pair.parity.unwrap()
    }

    pub(super) async fn read(&self, sql: &str) -> QueryResponse {
        let request =
            QueryRequest { sql: sql.to_owned(), table: self.name.clone(), ..QueryRequest::default() };
        self.rig.ask(request).await.unwrap()
    }

    /// Counts the rows by a statement of the configuration that names the pair.
    pub(super) async fn count_by_name(&self) -> i64 {
        let request = RunStatementRequest {
            name: "count".to_owned(),
            prefer: Prefer::Primary.into(),
            ..RunStatementRequest::default()
        };
        let mut client = StatementServiceClient::new(self.rig.channel());
        match client.run_statement(request).await.unwrap().into_inner().answer {
            Some(Answer::Query(answer)) => match first(&answer) {
                Kind::Int(n) => n,
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    /// Takes all steps before the first read of the twin.
    pub(super) async fn to_the_first_read(&self) {
        self.take(SwitchoverStep::InstallTriggers).await;
        self.take(SwitchoverStep::Backfill).await;
        self.wait("the backfill to end", |state| state.backfilled).await;
        self.take(SwitchoverStep::Verify).await;
        self.wait("the verification to end", |state| state.verified_at.is_some()).await;
        self.wait_ready().await;
    }

    /// Takes all steps before the swap, with reads that prove each share.
    pub(super) async fn to_the_swap(&self) {
        self.to_the_first_read().await;
        self.take_up_again().await;
    }

    /// Moves reads to the twin from wherever they are.
    pub(super) async fn take_up_again(&self) {
        for percent in [1, 5, 10, 25, 50, 100] {
            if self.state().await.read_percent >= percent {
                continue;
            }
            let state = self.take(SwitchoverStep::Advance).await;
            assert_eq!(state.read_percent, percent);
            wait_until("reads enough", EVERY, SOON, || async {
                for _ in 0..100 {
                    self.read("SELECT count(*) FROM {table} WHERE id = 1").await;
                }
                let state = self.state().await;
                let calls = state.partitioned_reads.as_ref().unwrap().calls;
                if calls >= 2 { Ok(()) } else { Err(format!("{state:?}")) }
            })
            .await
            .unwrap();
        }
        self.wait_ready().await;
    }

    /// Opens a connection as an application has one.
    pub(super) async fn connect(&self) -> Client {
        let stack = shared().await;
        let mut config = tokio_postgres::Config::new();
        let address = primary(stack).public_address();
        config.host(address.ip().to_string()).port(address.port()).dbname(DATABASE).user(SERVICE_ROLE);
        config.password(&stack.credentials().postgres_password);
        let (client, connection) = config.connect(NoTls).await.unwrap();
        self.rig.cx.spawn_work(async move {
            // The test sees it by its own statement.
            let _ = connection.await;
        });
        client
    }

    /// Reads a whole table from the primary.
    pub(super) async fn rows(&self, table: &str) -> Rows {
        let sql = format!("SELECT id, (EXTRACT(EPOCH FROM at) * 1000000)::int8, note FROM {table}");
        let rows = self.connect().await.query(&sql, &[]).await.unwrap();
        let n_rows = rows.len();
        let rows: Rows = rows.into_iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect();
        assert_eq!(rows.len(), n_rows, "doubled rows in {table}");
        rows
    }
}
