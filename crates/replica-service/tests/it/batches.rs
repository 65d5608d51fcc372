//! Reads over one lasting stream: order, faults of single ones, who leaves and who does not read, deadlines, rights.

use std::{collections::BTreeMap, time::Duration};

use bytesize::ByteSize;
use mainstay_auth::Role;
use mainstay_devstack::wait_until;
use mainstay_proto::replica::v1::{
    BatchedQuery, Prefer, QueryBatch, QueryBatchAnswer, QueryFailure, QueryRequest, QueryResponse,
    RunStatementRequest, StatementsRequest, Value, batched_query::Read,
    query_batch_service_client::QueryBatchServiceClient, query_outcome::Result as Outcome, value::Kind,
};
use mainstay_rpc::{ErrorCode, Failure};
use replica_service::{NamedConfig, NamedKind};
use tokio::sync::mpsc;
use tonic::{Request, Streaming};

use crate::rig::*;

/// One stream of reads.
struct Batches {
    messages_tx: mpsc::Sender<QueryBatch>,
    answers: Streaming<QueryBatchAnswer>,
}

impl Batches {
    async fn open(rig: &Rig) -> Result<Self, Failure> {
        Self::open_with(rig, &[]).await
    }

    async fn open_with(rig: &Rig, headers: &[(&'static str, &str)]) -> Result<Self, Failure> {
        let (messages_tx, mut messages_rx) = mpsc::channel(1_000);
        let messages = futures_util::stream::poll_fn(move |cx| messages_rx.poll_recv(cx));
        let mut client = QueryBatchServiceClient::new(rig.channel()).max_decoding_message_size(64 << 20);
        let mut request = Request::new(messages);
        for (name, value) in headers {
            request.metadata_mut().insert(*name, value.parse().unwrap());
        }
        let answers = client.query_batches(request).await.map_err(Failure::from)?.into_inner();
        Ok(Self { messages_tx, answers })
    }

    async fn send(&self, id: u64, queries: Vec<BatchedQuery>) {
        self.messages_tx.send(QueryBatch { id, queries, within: None }).await.unwrap();
    }

    async fn answer(&mut self) -> QueryBatchAnswer {
        self.answers.message().await.unwrap().unwrap()
    }

    async fn ask(&mut self, queries: Vec<BatchedQuery>) -> Vec<Result<QueryResponse, QueryFailure>> {
        self.send(1, queries).await;
        let answer = self.answer().await;
        assert_eq!(answer.failure, None);
        results(answer)
    }
}

fn results(answer: QueryBatchAnswer) -> Vec<Result<QueryResponse, QueryFailure>> {
    let result = |outcome| match outcome {
        Outcome::Answer(answer) => Ok(answer),
        Outcome::Failure(failure) => Err(failure),
    };
    answer.outcomes.into_iter().map(|outcome| result(outcome.result.unwrap())).collect()
}

fn request(request: QueryRequest) -> BatchedQuery {
    BatchedQuery { read: Some(Read::Query(request)) }
}

fn on_primary(sql: &str, params: Vec<Value>) -> BatchedQuery {
    let prefer = Prefer::Primary.into();
    request(QueryRequest { sql: sql.to_owned(), params, prefer, ..QueryRequest::default() })
}

fn query(sql: &str) -> BatchedQuery {
    on_primary(sql, Vec::new())
}

fn named(name: &str) -> BatchedQuery {
    let statement = RunStatementRequest { name: name.to_owned(), ..RunStatementRequest::default() };
    BatchedQuery { read: Some(Read::Statement(statement)) }
}

fn reasons(results: &[Result<QueryResponse, QueryFailure>]) -> Vec<&str> {
    results.iter().map(|result| result.as_ref().err().map_or("", |failure| &*failure.reason)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_query_is_answered_in_its_place_and_a_bad_one_harms_no_other() {
    let stack = shared().await;
    for way in [Way::Direct, Way::PgBouncer] {
        let rig = Rig::start(stack, way, |_| {}).await;
        let mut batches = Batches::open(&rig).await.unwrap();
        // More than once: by kept statements too.
        for _ in 0..4 {
            let results = batches
                .ask(vec![
                    on_primary("SELECT $1 + 1 AS n", vec![value(Kind::Int(1))]),
                    query("SELEC 1"),
                    on_primary("SELECT $1 + 1 AS n", vec![value(Kind::Int(2))]),
                    query("SELECT 1 / 0"),
                    query("CREATE TABLE smuggled (id int)"),
                    query(""),
                    request(QueryRequest { sql: "SELECT 5".to_owned(), ..QueryRequest::default() }),
                    BatchedQuery { read: None },
                    query("SELECT 6 AS none WHERE false"),
                    query("SELECT 7"),
                ])
                .await;
            assert_eq!(results.len(), 10);
            for (index, wanted) in [(0, 2), (2, 3), (6, 5), (9, 7)] {
                assert_eq!(first(results[index].as_ref().unwrap()), Kind::Int(wanted), "{way:?} {index}");
            }
            let none = results[8].as_ref().unwrap();
            assert_eq!((none.rows.len(), none.columns[0].name.as_str()), (0, "none"), "{way:?}");
            for index in [1, 3, 4, 5, 7] {
                assert!(results[index].is_err(), "{way:?} {index}");
            }
            let state = |index: usize| results[index].as_ref().unwrap_err().details.get("sqlState").cloned();
            assert_eq!(
                [1, 3, 4].map(state),
                ["42601", "22012", "25006"].map(|state| Some(state.to_owned())),
                "{way:?}"
            );
        }
        for (figure, wanted) in [("streams", 1.0), ("messages_total", 4.0), ("queries_total", 40.0)] {
            assert_eq!(
                rig.metric(&format!("mainstay_replica_batch_{figure}")).await,
                Some(wanted),
                "{figure}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_answered_as_they_are_done_and_the_end_waits_for_all() {
    let stack = shared().await;
    let rig = Rig::start(stack, Way::Direct, |_| {}).await;
    let table = table(stack, "id int").await;
    let locker = superuser(&rig, stack, primary(stack)).await;
    locker.batch_execute(&format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")).await.unwrap();
    let mut batches = Batches::open(&rig).await.unwrap();
    batches.send(1, vec![query(&format!("SELECT count(*) FROM {table}"))]).await;
    for id in 2..30 {
        batches.send(id, vec![query("SELECT 1")]).await;
    }
    let mut seen = Vec::new();
    while seen.len() < 28 {
        seen.push(batches.answer().await.id);
    }
    seen.sort_unstable();
    assert_eq!(seen, (2..30).collect::<Vec<_>>(), "the first one waits for a lock");
    let Batches { messages_tx, mut answers } = batches;
    drop(messages_tx);
    locker.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(answers.message().await.unwrap().unwrap().id, 1);
    assert!(answers.message().await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_of_a_message_share_one_transaction_that_leaves_nothing() {
    let stack = shared().await;
    for way in [Way::Direct, Way::PgBouncer] {
        let rig = Rig::start(stack, way, |config| config.pool.max_size = 1).await;
        let mut batches = Batches::open(&rig).await.unwrap();
        for _ in 0..3 {
            let results = batches
                .ask(vec![
                    query("SELECT pg_backend_pid(), now()::text"),
                    query("SELECT set_config('work_mem', '77MB', false)"),
                    query("SELECT pg_advisory_lock(4713)"),
                    query("PREPARE leaked_by_batch AS SELECT 1"),
                    query("SELECT pg_backend_pid(), now()::text"),
                ])
                .await;
            assert_eq!(reasons(&results), [""; 5]);
            assert_eq!(results[0].as_ref().unwrap().rows, results[4].as_ref().unwrap().rows, "{way:?}");
        }
        let left = "SELECT current_setting('work_mem') = '77MB' \
                    OR EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 4713) \
                    OR EXISTS (SELECT FROM pg_prepared_statements WHERE name = 'leaked_by_batch')";
        let left = first(batches.ask(vec![query(left)]).await[0].as_ref().unwrap());
        assert_eq!(left, Kind::Bool(false), "{way:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_cannot_leave_its_transaction_to_write() {
    let stack = shared().await;
    for way in [Way::Direct, Way::PgBouncer] {
        let rig = Rig::start(stack, way, |_| {}).await;
        let table = table(stack, "id int").await;
        let mut batches = Batches::open(&rig).await.unwrap();
        for escape in ["COMMIT", "/* */ rollback", "END", "SET TRANSACTION READ WRITE"] {
            let insert = format!("INSERT INTO {table} VALUES (1)");
            let modify =
                format!("WITH new AS (INSERT INTO {table} VALUES (2) RETURNING id) SELECT * FROM new");
            let results = batches
                .ask(vec![
                    query("SELECT 1"),
                    query(escape),
                    query("SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE"),
                    query("BEGIN READ WRITE"),
                    query(&insert),
                    query(&modify),
                    query("COMMIT"),
                    query("SELECT 2"),
                ])
                .await;
            for index in [4, 5] {
                let details = &results[index].as_ref().unwrap_err().details;
                assert_eq!(details["sqlState"], "25006", "{way:?} {escape} {index}");
            }
            assert_eq!(first(results[7].as_ref().unwrap()), Kind::Int(2), "{way:?} {escape}");
        }
        let rows = rig.query_primary(&format!("SELECT count(*) FROM {table}")).await.unwrap();
        assert_eq!(first(&rows), Kind::Int(0), "{way:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_is_cut_or_too_large_takes_nothing_from_the_others() {
    let stack = shared().await;
    for way in [Way::Direct, Way::PgBouncer] {
        let rig = Rig::start(stack, way, |config| config.limits.max_result_size = ByteSize::mib(1)).await;
        let mut batches = Batches::open(&rig).await.unwrap();
        let long = BatchedQuery {
            read: Some(Read::Query(QueryRequest {
                sql: "SELECT n, repeat('x', 100) FROM generate_series(1, 1000000) AS n".to_owned(),
                max_rows: 3,
                prefer: Prefer::Primary.into(),
                ..QueryRequest::default()
            })),
        };
        let none = query("SELECT 1 AS none WHERE false");
        let half = query("SELECT repeat('x', 600000)");
        let results = batches
            .ask(vec![
                none.clone(),
                long,
                none,
                query("SELECT repeat('x', 2000000)"),
                half.clone(),
                half,
                query("SELECT 7"),
            ])
            .await;
        let ok = |index: usize| results[index].as_ref().unwrap();
        for index in [0, 2] {
            assert_eq!((ok(index).rows.len(), ok(index).columns[0].name.as_str()), (0, "none"), "{way:?}");
        }
        assert_eq!((ok(1).rows.len(), ok(1).truncated), (3, true), "{way:?}");
        assert_eq!(results[3].as_ref().unwrap_err().reason, "RESULT_TOO_LARGE", "{way:?}");
        // There is room for one of the two.
        let mut halves = reasons(&results[4..6]);
        halves.sort_unstable();
        assert_eq!(halves, ["", "RESULT_TOO_LARGE"], "{way:?}");
        assert_eq!(first(ok(6)), Kind::Int(7), "{way:?}");
        assert_eq!(reasons(&batches.ask(vec![query("SELECT repeat('x', 600000)")]).await), [""], "{way:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_with_a_token_see_the_write_that_it_is_of() {
    let stack = shared().await;
    let rig = Rig::start(stack, Way::Direct, |_| {}).await;
    let table = table(stack, "id int").await;
    let mut batches = Batches::open(&rig).await.unwrap();
    for n in 1..=20 {
        let after = rig.execute(&format!("INSERT INTO {table} VALUES ({n})")).await.unwrap().token;
        let count =
            QueryRequest { sql: format!("SELECT count(*) FROM {table}"), after, ..QueryRequest::default() };
        let wrong = QueryRequest { after: "no token".to_owned(), ..count.clone() };
        let results = batches.ask(vec![request(count.clone()), request(wrong), request(count)]).await;
        assert_eq!(reasons(&results), ["", "TOKEN_INVALID", ""]);
        for index in [0, 2] {
            assert_eq!(first(results[index].as_ref().unwrap()), Kind::Int(n), "{results:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_statement_in_a_batch_follows_a_change_of_its_table_at_once() {
    let stack = shared().await;
    let rig = Rig::start(stack, Way::Direct, |config| config.pool.max_size = 1).await;
    let table = table(stack, "id int").await;
    let mut batches = Batches::open(&rig).await.unwrap();
    let all = format!("SELECT * FROM {table}");
    let ask = || vec![query("SELECT 1"), query(&all), query(&all), query("SELECT 2")];
    for (change, n_columns) in [("SELECT 1", 1), ("ADD COLUMN more int", 2), ("DROP COLUMN more", 1)] {
        if change != "SELECT 1" {
            sql(primary(stack), &format!("ALTER TABLE {table} {change}")).await;
        }
        for _ in 0..3 {
            let results = batches.ask(ask()).await;
            assert_eq!(reasons(&results), [""; 4], "after {change}");
            let n = results.iter().map(|result| result.as_ref().unwrap().columns.len());
            assert_eq!(n.collect::<Vec<_>>(), [1, n_columns, n_columns, 1], "after {change}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_that_leaves_has_asked_is_cancelled_in_the_database() {
    let stack = shared().await;
    let rig = Rig::start(stack, Way::Direct, |config| {
        config.postgres.statement_within = Duration::from_secs(300);
    })
    .await;
    let observer = superuser(&rig, stack, primary(stack)).await;
    let mark = "left by who asked a batch";
    let running = async |wanted: i64| {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%{mark}%' AND pid <> pg_backend_pid()"
        );
        wait_until("as many to run", EVERY, SOON, || async {
            let n: i64 = observer.query_one(&sql, &[]).await.unwrap().get(0);
            if n == wanted { Ok(()) } else { Err(n.to_string()) }
        })
        .await
        .unwrap();
    };
    let batches = Batches::open(&rig).await.unwrap();
    let sleep = format!("SELECT pg_sleep(280) /* {mark} */");
    batches.send(1, vec![query(&sleep)]).await;
    batches.send(2, vec![query("SELECT 1"), query(&sleep), query(&sleep)]).await;
    running(2).await;
    drop(batches);
    running(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn time_is_bounded_for_each_message() {
    let rig = Rig::start(shared().await, Way::Direct, |_| {}).await;
    let mut batches = Batches::open(&rig).await.unwrap();
    let within = |millis: i32| Some(prost_types::Duration { seconds: 0, nanos: millis * 1_000_000 });
    let sleep = vec![query("SELECT pg_sleep(50)"), query("SELECT pg_sleep(50)")];
    let message = QueryBatch { id: 1, queries: sleep, within: within(300) };
    batches.messages_tx.send(message).await.unwrap();
    let late = batches.answer().await;
    for outcome in late.outcomes {
        let Some(Outcome::Failure(failure)) = outcome.result else { panic!("{outcome:?}") };
        assert_eq!(failure.code, ErrorCode::DeadlineExceeded.as_str(), "{failure:?}");
    }
    for (queries, within, field) in [
        (vec![], None, "queries"),
        (vec![query("SELECT 1"); 257], None, "queries"),
        (vec![query("SELECT 1")], within(0), "within"),
    ] {
        batches.messages_tx.send(QueryBatch { id: 7, queries, within }).await.unwrap();
        let refused = batches.answer().await;
        let failure = refused.failure.unwrap();
        assert_eq!((refused.id, refused.outcomes.len()), (7, 0));
        assert_eq!(failure.code, ErrorCode::InvalidArgument.as_str());
        assert!(failure.message.contains("must be") || failure.message.contains(field), "{failure:?}");
    }
    assert_eq!(reasons(&batches.ask(vec![query("SELECT 1")]).await), [""]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_before_the_time_is_over_stays_answered() {
    let rig = Rig::start(shared().await, Way::Direct, |_| {}).await;
    let mut batches = Batches::open(&rig).await.unwrap();
    let within = Some(prost_types::Duration { seconds: 8, nanos: 0 });
    let queries = vec![query("SELECT 1"), query("SELECT pg_sleep(60)"), query("SELECT pg_sleep(60)")];
    batches.messages_tx.send(QueryBatch { id: 1, queries, within }).await.unwrap();
    let results = results(batches.answer().await);
    assert_eq!(first(results[0].as_ref().unwrap()), Kind::Int(1));
    for late in &results[1..] {
        assert_eq!(late.as_ref().unwrap_err().code, ErrorCode::DeadlineExceeded.as_str());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_cannot_be_read_ends_the_stream_with_an_error_after_the_answers() {
    let rig = Rig::start(shared().await, Way::Direct, |_| {}).await;
    let mut batches = Batches::open(&rig).await.unwrap();
    batches.send(1, vec![query("SELECT 1")]).await;
    batches.send(2, vec![query(&"x".repeat(40 << 20))]).await;
    assert_eq!(batches.answer().await.id, 1);
    let failure = Failure::from(batches.answers.message().await.unwrap_err());
    assert_eq!(failure.code(), ErrorCode::InvalidArgument, "{failure:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_is_not_read_from_and_loses_nothing() {
    let stack = shared().await;
    let rig = Rig::start(stack, Way::Direct, |config| config.batches.max_in_flight = 2).await;
    let mut batches = Batches::open(&rig).await.unwrap();
    // Each answer is larger than what a connection takes without being read.
    let large = "SELECT repeat('x', 1000000) AS slowly_read";
    let n_messages = 40;
    for id in 0..n_messages {
        batches.send(id, vec![query(large)]).await;
    }
    let calls = async || {
        let mut client = rig.client.clone();
        let statements =
            client.statements(StatementsRequest::default()).await.unwrap().into_inner().statements;
        statements.iter().find(|entry| entry.sql.contains("slowly_read")).map_or(0, |entry| entry.calls)
    };
    wait_until("some to be run", EVERY, SOON, || async {
        let n = calls().await;
        if n >= 1 { Ok(()) } else { Err(n.to_string()) }
    })
    .await
    .unwrap();
    // Others are served meanwhile, and nothing more is begun for this one.
    for _ in 0..50 {
        rig.query("SELECT 1").await;
    }
    assert!(calls().await <= 8, "{} were run for who does not read", calls().await);
    let mut seen = Vec::new();
    while seen.len() < n_messages as usize {
        seen.push(batches.answer().await.id);
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..n_messages).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_stops_asking_does_not_keep_the_service_from_stopping() {
    let rig = Rig::start(shared().await, Way::Direct, |_| {}).await;
    let Batches { messages_tx, mut answers } = Batches::open(&rig).await.unwrap();
    let asking = async {
        let mut id = 0;
        while messages_tx
            .send(QueryBatch { id, queries: vec![query("SELECT 1")], within: None })
            .await
            .is_ok()
        {
            id += 1;
        }
    };
    let (mut n_answers, enough) = (0, tokio::sync::Notify::new());
    let reading = async {
        while let Some(answer) = answers.message().await.unwrap() {
            assert_eq!(reasons(&results(answer)), [""]);
            n_answers += 1;
            if n_answers == 100 {
                enough.notify_one();
            }
        }
    };
    let stopping = async {
        enough.notified().await;
        rig.cx.shut_down().await;
    };
    // Who asks ends only when nobody takes what he sends.
    let all = async { tokio::join!(asking, reading, stopping) };
    tokio::time::timeout(SOON, all).await.expect("the stream ends with the service");
    assert!(n_answers >= 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_many_streams_are_open_and_only_legal_statements_are_run() {
    let statement = |kind| NamedConfig { sql: "SELECT 42".to_owned(), kind, ..NamedConfig::default() };
    let rig = Rig::start(shared().await, Way::Direct, |config| {
        config.batches.max_open = 1;
        config.statements.only_named = true;
        config.statements.named = BTreeMap::from([
            ("answer".to_owned(), statement(NamedKind::Query)),
            ("change".to_owned(), statement(NamedKind::Execute)),
        ]);
    })
    .await;
    let mut batches = Batches::open(&rig).await.unwrap();
    let queries =
        vec![named("answer"), query("SELECT 1"), named("change"), named("nothing"), named("answer")];
    let results = batches.ask(queries).await;
    assert_eq!(reasons(&results), ["", "STATEMENT_NOT_ALLOWED", "NOT_A_QUERY", "UNKNOWN_STATEMENT", ""]);
    assert_eq!(first(results[0].as_ref().unwrap()), Kind::Int(42));
    let refused = Batches::open(&rig).await.err().unwrap();
    assert_eq!((refused.code(), refused.reason()), (ErrorCode::ResourceExhausted, "OVERLOADED"));
    drop(batches);
    wait_until("the place to be free", EVERY, SOON, || async {
        Batches::open(&rig).await.map(drop).map_err(|failure| format!("{failure:?}"))
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_caller_of_the_stream_decides_what_its_messages_may_run() {
    let rig = Rig::start(shared().await, Way::Direct, |config| {
        config.statements.only_named_for = vec!["bound".to_owned()];
        let sql = "SELECT 42".to_owned();
        let statement = NamedConfig { sql, role: Some(Role::Operator), ..NamedConfig::default() };
        config.statements.named = BTreeMap::from([("answer".to_owned(), statement)]);
    })
    .await;
    let ask = async |subject, role| {
        let headers = [("x-mainstay-subject", subject), ("x-mainstay-role", role)];
        let mut batches = Batches::open_with(&rig, &headers).await.unwrap();
        let results = batches.ask(vec![query("SELECT 1"), named("answer"), query("SELECT 2")]).await;
        reasons(&results).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let refused = "STATEMENT_NOT_ALLOWED";
    assert_eq!(ask("free", "viewer").await, ["", refused, ""]);
    assert_eq!(ask("free", "operator").await, ["", "", ""]);
    assert_eq!(ask("bound", "operator").await, [refused, "", refused]);
}
