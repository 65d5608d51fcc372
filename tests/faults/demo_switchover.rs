//! The demo tables, switched over whole under a write load that never stops: one forward, one forth and back.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]
#![expect(clippy::disallowed_methods, reason = "the connection ends with its client")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use mainstay_auth::Role;
use mainstay_devstack::{DATABASE, SERVICE_ROLE, wait_until};
use mainstay_tests::{Devstack, House, Rest, Service};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_postgres::{Client, NoTls};

/// For what two hundred thousand rows take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);
const OFTEN: Duration = Duration::from_millis(200);
const N_ROWS: i64 = 200_000;
const N_WRITERS: i64 = 3;

/// What a row that a writer has touched must say, by its id; `None` where it must be gone.
type Rows = BTreeMap<i64, Option<String>>;

struct Writers {
    all: JoinSet<Rows>,
    stop: Arc<AtomicBool>,
    n_writes: Arc<AtomicU64>,
}

impl Writers {
    async fn start(house: &House, table: &str) -> Self {
        let (stop, n_writes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut all = JoinSet::new();
        for writer in 0..N_WRITERS {
            let (client, table) = (connect(house).await, table.to_owned());
            let (stop, n_writes) = (Arc::clone(&stop), Arc::clone(&n_writes));
            all.spawn(async move { write(&client, &table, writer, &stop, &n_writes).await });
        }
        Self { all, stop, n_writes }
    }

    /// Waits for so many writes more: they go on.
    async fn go_on(&self, n: u64) {
        let from = self.n_writes.load(Ordering::Relaxed);
        wait_until("writes to go on", OFTEN, PATIENCE, || async {
            let done = self.n_writes.load(Ordering::Relaxed) - from;
            if done >= n { Ok(()) } else { Err(format!("{done} of {n}")) }
        })
        .await
        .unwrap();
    }

    async fn stop(mut self) -> Rows {
        self.stop.store(true, Ordering::Relaxed);
        let mut rows = Rows::new();
        while let Some(of_one) = self.all.join_next().await {
            rows.extend(of_one.unwrap());
        }
        rows
    }
}

/// Inserts rows, changes those and old ones, moves some to another month, and deletes some; each row has one writer.
async fn write(client: &Client, table: &str, writer: i64, stop: &AtomicBool, n_writes: &AtomicU64) -> Rows {
    let mut rows = Rows::new();
    let mut turn = 0_i64;
    while !stop.load(Ordering::Relaxed) {
        turn += 1;
        let text = format!("by {writer} in turn {turn}");
        let sql = format!(
            "insert into {table} (organization_id, amount, currency, category, description, occurred_at) \
             values (1, 1.25, 'EUR', 'support', $1, now() - $2 * interval '1 day') returning id"
        );
        let row = client.query_one(&sql, &[&text, &((turn % 200) as f64)]).await.unwrap();
        let id: i64 = row.get(0);
        assert_eq!(rows.insert(id, Some(text.clone())), None, "row {id} is there twice");
        let old = (turn * 7_919 * N_WRITERS + writer) % N_ROWS + 1;
        let old = if old % N_WRITERS == writer { Some(old) } else { None };
        let mine = old.filter(|old| rows.get(old).is_none_or(Option::is_some)).unwrap_or(id);
        let (change, gone) = match turn % 4 {
            0 => (format!("delete from {table} where id = $1 and $2 <> ''"), true),
            1 => (
                format!(
                    "update {table} set description = $2, occurred_at = occurred_at - interval '35 days' where id = $1 and occurred_at > now() - interval '400 days'"
                ),
                false,
            ),
            _ => (format!("update {table} set description = $2 where id = $1"), false),
        };
        let text = format!("{text}, changed");
        let n = client.execute(&change, &[&mine, &text]).await.unwrap();
        match (n, turn % 4) {
            (1, _) => {
                rows.insert(mine, (!gone).then_some(text));
            }
            // Too old to be moved to the month before.
            (0, 1) => {}
            (n, _) => panic!("row {mine} was met {n} times"),
        }
        n_writes.fetch_add(2, Ordering::Relaxed);
        // Others share the machine.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    rows
}

async fn connect(house: &House) -> Client {
    let mut config = tokio_postgres::Config::new();
    let address = house.stack().postgres().unwrap().first_primary().public_address();
    config.host(address.ip().to_string()).port(address.port()).dbname(DATABASE).user(SERVICE_ROLE);
    config.password(&house.stack().credentials().postgres_password);
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(async move {
        // Whoever uses the client sees its end.
        let _ = connection.await;
    });
    client
}

/// One pair on its way.
struct Pair<'a> {
    admin: &'a Rest,
    name: &'static str,
}

impl Pair<'_> {
    fn path(&self, step: &str) -> String {
        format!("/monitoring/partitions/{}/{step}", self.name)
    }

    /// Asks for a step until nothing stands in its way: what is known of new rows comes a moment after them.
    async fn take(&self, step: &str) -> Value {
        wait_until(format!("{step} of {}", self.name), OFTEN, PATIENCE, || async {
            let answer = self.admin.post(&self.path(step), &json!({})).await;
            if answer.status == 200 { Ok(answer.json()) } else { Err(answer.text()) }
        })
        .await
        .unwrap()
    }

    async fn wait(&self, what: &str, wanted: impl Fn(&Value) -> bool) {
        wait_until(format!("{what} of {}", self.name), OFTEN, PATIENCE, || async {
            let answer = self.admin.get(&self.path("switchover")).await;
            if answer.status == 200 && wanted(&answer.json()) { Ok(()) } else { Err(answer.text()) }
        })
        .await
        .unwrap();
    }

    async fn to_the_swap(&self) {
        self.take("install-triggers").await;
        self.take("backfill").await;
        self.wait("the backfill", |state| state["backfilled"] == true).await;
        self.take("verify").await;
        self.wait("the verification", |state| state["verifiedAt"].is_string()).await;
        let read = json!({ "sql": "select count(*) from {table} where id = 1", "table": self.name });
        wait_until(format!("all reads of {}", self.name), OFTEN, PATIENCE, || async {
            let answer = self.admin.post(&self.path("advance"), &json!({})).await;
            if answer.status == 200 && answer.json()["readPercent"] == 100 {
                return Ok(());
            }
            // Each share must be read before the next one is given.
            join_all((0..40).map(|_| self.admin.post("/database/query", &read))).await;
            Err(answer.text())
        })
        .await
        .unwrap();
        self.take("swap").await;
    }
}

/// Both tables must hold each row once, as its last writer left it.
async fn assert_whole(client: &Client, tables: [&str; 2], rows: &Rows) {
    for table in tables {
        let sql = format!(
            "select count(*), count(distinct id), count(*) filter (where id > {N_ROWS}) from {table}"
        );
        let counts = client.query_one(&sql, &[]).await.unwrap();
        let counts: [i64; 3] = [counts.get(0), counts.get(1), counts.get(2)];
        let gone = rows.iter().filter(|(id, text)| **id <= N_ROWS && text.is_none()).count() as i64;
        let new = rows.iter().filter(|(id, text)| **id > N_ROWS && text.is_some()).count() as i64;
        let n_rows = N_ROWS - gone + new;
        assert_eq!(counts, [n_rows, n_rows, new], "rows, ids and new rows of {table}");
        let ids: Vec<i64> = rows.keys().copied().collect();
        let sql = format!("select id, description from {table} where id = any($1)");
        let found = client.query(&sql, &[&ids]).await.unwrap();
        let found: BTreeMap<i64, String> = found.iter().map(|row| (row.get(0), row.get(1))).collect();
        let wanted: BTreeMap<i64, String> =
            rows.iter().filter_map(|(id, text)| Some((*id, text.clone()?))).collect();
        assert!(found == wanted, "rows of {table} are not as they were left");
    }
    let [one, other] = tables;
    let sql = format!(
        "select count(*) from ((table {one} except all table {other}) union all (table {other} except all table {one})) as d"
    );
    assert_eq!(client.query_one(&sql, &[]).await.unwrap().get::<_, i64>(0), 0, "{one} and {other} differ");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_tables_are_switched_over_and_back_under_writes_and_no_row_is_lost_or_doubled() {
    let services = [Service::ReplicaService, Service::EdgeGateway];
    let mut builder = Devstack::builder().postgres(true).demo_data(true).services(services);
    for (key, value) in [
        ("ADVANCE__HOLD", "0s"),
        ("ADVANCE__MIN_READS", "1"),
        ("ADVANCE__MAX_LATENCY_RATIO", "100"),
        ("STEPS__DUTY_CYCLE", "1"),
        ("STEPS__BATCH_ROWS", "20000"),
        ("STEPS__BATCH_WITHIN", "1s"),
        ("PARITY__DUTY_CYCLE", "0.5"),
    ] {
        builder = builder.env(Service::ReplicaService, format!("MAINSTAY__{key}"), value);
    }
    let house = House::start(builder).await;
    let (admin, client) = (house.rest(Role::Admin), connect(&house).await);
    for name in ["revenue", "expense"] {
        client.batch_execute(&format!("truncate {name}_transactions_partitioned")).await.unwrap();
    }
    let revenue = Writers::start(&house, "revenue_transactions").await;
    let expense = Writers::start(&house, "expense_transactions").await;
    let (forward, back) = (Pair { admin: &admin, name: "revenue" }, Pair { admin: &admin, name: "expense" });
    tokio::join!(forward.to_the_swap(), back.to_the_swap());
    tokio::join!(revenue.go_on(200), expense.go_on(200));
    let state = back.take("rollback").await;
    assert_eq!((&state["stage"], &state["readPercent"]), (&json!("dual-write"), &json!(0)), "{state}");
    tokio::join!(revenue.go_on(100), expense.go_on(200));

    let (revenue, expense) = (revenue.stop().await, expense.stop().await);
    assert_whole(&client, ["revenue_transactions", "revenue_transactions_archived"], &revenue).await;
    assert_whole(&client, ["expense_transactions", "expense_transactions_partitioned"], &expense).await;
    let kind = "select relkind::text from pg_class where oid = $1::text::regclass";
    for (table, wanted) in [("revenue_transactions", "p"), ("expense_transactions", "r")] {
        assert_eq!(client.query_one(kind, &[&table]).await.unwrap().get::<_, &str>(0), wanted, "{table}");
    }
}
