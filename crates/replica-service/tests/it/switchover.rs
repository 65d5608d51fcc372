use std::time::Duration;

use mainstay_devstack::{Devstack, SERVICE_ROLE, wait_until};
use mainstay_proto::replica::v1::{
    CheckState, ParityVerdict, PartitionMetricsRequest, PartitionPair, PartitionTableStatsRequest,
    TableWrites, partition_service_client::PartitionServiceClient,
};
use mainstay_rpc::{ErrorCode, Failure};
use replica_service::PairConfig;
use tonic::transport::{Channel, Endpoint};

use crate::rig::*;

/// A pair of 5,000 rows with dual-write triggers and monthly partitions up to three months ahead.
const SETUP: &str = "\
    CREATE TABLE NAME (id bigint PRIMARY KEY, at timestamptz NOT NULL, note text, doc json); \
    CREATE TABLE NAME_p (id bigint NOT NULL, at timestamptz NOT NULL, note text, doc json, PRIMARY KEY (id, at)) \
      PARTITION BY RANGE (at); \
    DO $$ DECLARE month date := date_trunc('month', now()) - interval '2 months'; BEGIN \
      WHILE month <= now() + interval '3 months' LOOP \
        EXECUTE format('CREATE TABLE NAME_p%s PARTITION OF NAME_p FOR VALUES FROM (%L) TO (%L)', \
          to_char(month, 'YYYYMM'), month, month + interval '1 month'); \
        month := month + interval '1 month'; END LOOP; END $$; \
    CREATE FUNCTION NAME_both() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
      IF TG_OP <> 'INSERT' THEN DELETE FROM NAME_p WHERE id = OLD.id AND at = OLD.at; END IF; \
      IF TG_OP <> 'DELETE' THEN INSERT INTO NAME_p VALUES (NEW.*); END IF; RETURN NULL; END $$; \
    CREATE TRIGGER NAME_both AFTER INSERT OR UPDATE OR DELETE ON NAME FOR EACH ROW EXECUTE FUNCTION NAME_both(); \
    INSERT INTO NAME SELECT n, now() - n * interval '10 minutes', 'note ' || n, '{\"n\": 1}' \
      FROM generate_series(1, 5000) AS n; \
    ANALYZE NAME; ANALYZE NAME_p; \
    GRANT SELECT, INSERT, UPDATE, DELETE ON NAME, NAME_p TO ROLE;";

struct Watched {
    rig: Rig,
    partitions: PartitionServiceClient<Channel>,
    table: String,
}

impl Watched {
    async fn start(stack: &Devstack, name: &str) -> Self {
        sql(primary(stack), &SETUP.replace("NAME", name).replace("ROLE", SERVICE_ROLE)).await;
        stack.postgres().unwrap().wait_caught_up(primary(stack)).await.unwrap();
        let rig = Rig::start(stack, Way::Direct, |config| {
            let pair = PairConfig {
                legacy: name.to_owned(),
                partitioned: format!("{name}_p"),
                key: "id".to_owned(),
                time_column: "at".to_owned(),
            };
            config.switchover.insert("pair".to_owned(), pair);
            config.parity.check_every = Duration::from_millis(200);
            config.parity.duty_cycle = 0.5;
            config.parity.bucket_rows = 500;
            config.parity.statement_within = SOON;
        })
        .await;
        let address = rig.cx.listening()[0].address;
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        Self { rig, partitions: PartitionServiceClient::new(channel), table: name.to_owned() }
    }

    async fn pair(&self) -> PartitionPair {
        let request = PartitionMetricsRequest { pair: "pair".to_owned() };
        self.partitions.clone().partition_metrics(request).await.unwrap().into_inner().pairs.remove(0)
    }

    async fn wait(&self, what: &str, wanted: impl Fn(&PartitionPair) -> bool) -> PartitionPair {
        wait_until(what, EVERY, SOON, || async {
            let pair = self.pair().await;
            if wanted(&pair) { Ok(pair) } else { Err(format!("{pair:?}")) }
        })
        .await
        .unwrap()
    }

    async fn wait_equal(&self) -> PartitionPair {
        self.wait("all rows to be equal", |pair| {
            pair.parity.as_ref().unwrap().verdict() == ParityVerdict::ParityEqual
        })
        .await
    }

    async fn break_it(&self, statement: &str, key: i64, kind: &str, delta: i64) {
        let statement = statement.replace("NAME", &self.table);
        self.rig.execute(&statement).await.unwrap();
        // A replica that is a moment behind may show the row before; this is what it comes to.
        self.wait(&format!("{statement} to be told"), |pair| {
            let parity = pair.parity.as_ref().unwrap();
            let named: Vec<_> =
                parity.differences.iter().map(|found| (found.key, found.kind.as_str())).collect();
            let told = |name: &str| {
                pair.checks.iter().any(|check| check.name == "parity" && check.reason.contains(name))
            };
            named == [(key, kind)]
                && (parity.buckets_mismatched, pair.ready) == (1, false)
                && (pair.delta, pair.counts_exact) == (delta, true)
                && told(&format!("{key} {kind}"))
        })
        .await;
    }
}

fn failing(pair: &PartitionPair) -> Vec<&str> {
    let failing = pair.checks.iter().filter(|check| check.state() != CheckState::CheckPass);
    failing.map(|check| check.name.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_a_missing_an_extra_and_a_doubled_row_are_found_and_named() {
    let stack = shared().await;
    let watched = Watched::start(stack, "parity").await;
    let pair = watched
        .wait("all rows to be counted", |pair| {
            let equal = pair.parity.as_ref().unwrap().verdict() == ParityVerdict::ParityEqual;
            equal && (pair.legacy_rows, pair.partitioned_rows, pair.ready) == (5_000, 5_000, true)
        })
        .await;
    for series in ["ready", "buckets_verified", "oldest_seconds"] {
        let series = format!("mainstay_replica_switchover_{series}{{pair=\"pair\"}}");
        watched.rig.wait_metric(&series, |value| value > 0.0).await;
    }
    let parity = pair.parity.unwrap();
    assert!(parity.buckets >= 5 && parity.node.starts_with("replica"), "{parity:?}");
    for (break_it, mend, key, kind, delta) in [
        (
            "UPDATE NAME_p SET note = 'other' WHERE id = 2500",
            "UPDATE NAME SET note = 'same' WHERE id = 2500",
            2_500,
            "changed",
            0,
        ),
        (
            "UPDATE NAME_p SET doc = '{\"n\":1}' WHERE id = 7",
            "UPDATE NAME SET note = 'same' WHERE id = 7",
            7,
            "changed",
            0,
        ),
        ("DELETE FROM NAME_p WHERE id = 1", "UPDATE NAME SET note = 'same' WHERE id = 1", 1, "missing", 1),
        (
            "INSERT INTO NAME_p VALUES (9999, now(), 'extra', null)",
            "DELETE FROM NAME_p WHERE id = 9999",
            9_999,
            "extra",
            -1,
        ),
        (
            "INSERT INTO NAME_p SELECT id, at + interval '1 second', note, doc FROM NAME WHERE id = 3000",
            "UPDATE NAME_p SET id = -1 WHERE id = 3000 AND at NOT IN (SELECT at FROM NAME WHERE id = 3000)",
            3_000,
            "duplicated",
            -1,
        ),
    ] {
        watched.break_it(break_it, key, kind, delta).await;
        watched.rig.execute(&mend.replace("NAME", &watched.table)).await.unwrap();
        if kind != "duplicated" {
            watched.wait_equal().await;
        }
    }
    // The mend has made an extra row of the doubled one, below all keys.
    watched
        .wait("the extra row to be named", |pair| {
            let parity = pair.parity.as_ref().unwrap();
            parity.differences.iter().any(|found| found.key == -1 && found.kind == "extra")
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_stay_equal_while_both_are_written_and_new_rows_are_counted() {
    let stack = shared().await;
    let watched = Watched::start(stack, "dual").await;
    watched.wait_equal().await;
    let compared = watched.pair().await.parity.unwrap().rows_compared;
    for n in 0..150 {
        let insert = format!(
            "INSERT INTO dual SELECT 5001 + {n} * 10 + i, now(), 'new', null FROM generate_series(0, 9) AS i"
        );
        watched.rig.execute(&insert).await.unwrap();
        watched
            .rig
            .execute(&format!("UPDATE dual SET note = 'n{n}' WHERE id % 50 = {}", n % 50))
            .await
            .unwrap();
        watched.rig.execute(&format!("DELETE FROM dual WHERE id = {}", 1 + n * 7)).await.unwrap();
        let parity = watched.pair().await.parity.unwrap();
        assert_eq!(parity.buckets_mismatched, 0, "{:?}", parity.differences);
    }
    let pair =
        watched.wait("all rows to be counted", |pair| pair.counts_exact && pair.legacy_rows == 6_350).await;
    assert_eq!((pair.delta, pair.parity.unwrap().rows_compared > compared), (0, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_in_the_way_of_a_switchover_is_told_by_name() {
    let stack = shared().await;
    let watched = Watched::start(stack, "ready").await;
    watched.wait("the pair to be ready", |pair| pair.ready && !pair.triggers.is_empty()).await;
    for (spoil, mend, check) in [
        (
            "ALTER TABLE ready DISABLE TRIGGER ready_both",
            "ALTER TABLE ready ENABLE TRIGGER ready_both",
            "triggers",
        ),
        (
            "CREATE MATERIALIZED VIEW ready_view AS SELECT id FROM ready",
            "DROP MATERIALIZED VIEW ready_view",
            "dependents",
        ),
        ("CREATE TABLE ready_child (id bigint REFERENCES ready)", "DROP TABLE ready_child", "dependents"),
        (
            "ALTER TABLE ready_p ALTER note SET NOT NULL",
            "ALTER TABLE ready_p ALTER note DROP NOT NULL",
            "columns",
        ),
    ] {
        sql(primary(stack), spoil).await;
        watched.wait(&format!("{spoil} to be told"), |pair| failing(pair) == [check]).await;
        sql(primary(stack), mend).await;
        watched.wait("the pair to be ready again", |pair| pair.ready).await;
    }
    let drop_last = "DO $$ BEGIN EXECUTE 'DROP TABLE ready_p' || to_char(now() + interval '3 months', 'YYYYMM'); \
                     EXECUTE 'DROP TABLE ready_p' || to_char(now() + interval '1 month', 'YYYYMM'); END $$";
    sql(primary(stack), drop_last).await;
    watched
        .wait("a gap", |pair| {
            failing(pair) == ["partitions"] && (pair.gaps.len(), pair.missing_future.len()) == (1, 0)
        })
        .await;
    let drop_next =
        "DO $$ BEGIN EXECUTE 'DROP TABLE ready_p' || to_char(now() + interval '2 months', 'YYYYMM'); END $$";
    sql(primary(stack), drop_next).await;
    let pair = watched
        .wait("months ahead to be missing", |pair| {
            failing(pair) == ["future_partitions"] && pair.missing_future.len() == 2
        })
        .await;
    let months = &pair.missing_future;
    assert_eq!(months[0].to, months[1].from);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_told_partition_by_partition_and_unknown_pairs_are_refused() {
    let stack = shared().await;
    let watched = Watched::start(stack, "sizes").await;
    watched.wait_equal().await;
    let pairs = wait_until("the tables to be told", EVERY, SOON, || async {
        let request = PartitionTableStatsRequest::default();
        let told = watched.partitions.clone().partition_table_stats(request).await.unwrap().into_inner();
        let legacy = told.pairs[0].legacy.as_ref();
        let known = legacy.is_some_and(|table| table.rows == Some(5_000) && table.dead_rows.is_some());
        if known { Ok(told.pairs) } else { Err(format!("{legacy:?}")) }
    })
    .await
    .unwrap();
    let (legacy, partitions) = (pairs[0].legacy.as_ref().unwrap(), &pairs[0].partitions);
    assert_eq!(legacy.name, "sizes");
    assert_eq!(partitions.iter().map(|table| table.rows.unwrap()).sum::<u64>(), 5_000);
    assert!(
        partitions.windows(2).all(|pair| pair[0].to == pair[1].from && pair[0].bytes > 0),
        "{partitions:?}"
    );
    let request = PartitionMetricsRequest { pair: "nobody".to_owned() };
    let failure = Failure::from(watched.partitions.clone().partition_metrics(request).await.unwrap_err());
    assert_eq!((failure.code(), failure.reason()), (ErrorCode::NotFound, "PAIR_UNKNOWN"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_to_both_tables_of_late_is_told_of_each() {
    let stack = shared().await;
    let watched = Watched::start(stack, "written").await;
    let known = |pair: &PartitionPair| pair.legacy_writes.is_some() && pair.partitioned_writes.is_some();
    let idle = watched.wait("both to be known", known).await;
    for statement in [
        "INSERT INTO written SELECT 6000 + n, now(), 'new', null FROM generate_series(1, 30) AS n",
        "UPDATE written SET note = 'changed' WHERE id <= 20",
        "DELETE FROM written WHERE id > 6020",
        // Past the triggers: one of them alone.
        "DELETE FROM written_p WHERE id <= 5",
    ] {
        watched.rig.execute(statement).await.unwrap();
    }
    let counts = |writes: &Option<TableWrites>| {
        let writes = writes.as_ref().unwrap();
        (writes.inserted, writes.updated, writes.deleted)
    };
    // The trigger of these tables writes an update as a delete and an insert.
    let (legacy, partitioned) = (counts(&idle.legacy_writes), counts(&idle.partitioned_writes));
    let more = |now: (u64, u64, u64), before: (u64, u64, u64)| {
        [now.0 - before.0, now.1 - before.1, now.2 - before.2]
    };
    let is_counted =
        |now, before, least: [u64; 3]| more(now, before).iter().zip(least).all(|(n, least)| *n >= least);
    let after = watched
        .wait("all of it to be counted", |pair| {
            is_counted(counts(&pair.legacy_writes), legacy, [30, 20, 10])
                && is_counted(counts(&pair.partitioned_writes), partitioned, [50, 0, 35])
        })
        .await;
    assert_eq!(more(counts(&after.legacy_writes), legacy), [30, 20, 10], "{idle:?} {after:?}");
    assert_eq!(more(counts(&after.partitioned_writes), partitioned), [50, 0, 35], "{idle:?} {after:?}");
    for writes in [&after.legacy_writes, &after.partitioned_writes] {
        assert!(writes.as_ref().unwrap().per_second > 0.0, "{after:?}");
    }
    for (table, op, least) in
        [("legacy", "update", 20.0), ("legacy", "delete", 10.0), ("partitioned", "insert", 50.0)]
    {
        let series = format!(
            "mainstay_replica_switchover_rows_written_total{{pair=\"pair\",table=\"{table}\",op=\"{op}\"}}"
        );
        watched.rig.wait_metric(&series, |n| n >= least).await;
    }
    watched
        .rig
        .wait_metric("mainstay_replica_switchover_triggers_enabled{pair=\"pair\"}", |n| n == 1.0)
        .await;
}
