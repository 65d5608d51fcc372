//! Connections for reads: much in both directions at once, types that must be looked up, servers that hang up.

use std::time::Duration;

use bytesize::ByteSize;
use mainstay_devstack::{SERVICE_ROLE, wait_until};
use mainstay_proto::replica::v1::{
    BatchedQuery, Prefer, QueryBatch, QueryRequest, batched_query::Read,
    query_batch_service_client::QueryBatchServiceClient, query_outcome::Result as Outcome, value::Kind,
};

use crate::rig::*;

fn on_primary(sql: &str) -> QueryRequest {
    QueryRequest { sql: sql.to_owned(), prefer: Prefer::Primary.into(), ..QueryRequest::default() }
}

/// Asks all of them in one message.
async fn together(rig: &Rig, requests: Vec<QueryRequest>) -> Vec<Outcome> {
    let mut client = QueryBatchServiceClient::new(rig.channel()).max_decoding_message_size(64 << 20);
    let queries = requests.into_iter().map(|request| BatchedQuery { read: Some(Read::Query(request)) });
    let message = QueryBatch { id: 1, queries: queries.collect(), within: None };
    let mut answers = client.query_batches(futures_util::stream::iter([message])).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    answer.outcomes.into_iter().map(|outcome| outcome.result.unwrap()).collect()
}

/// Both ends would wait for each other if we read only when all is written: neither what is asked nor what is answered
/// fits into the buffers between them.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_and_what_is_answered_may_both_be_large() {
    const QUERIES: usize = 12;
    const BYTES: usize = 1 << 20;
    let rig = Rig::start(shared().await, Way::Direct, |config| {
        config.limits.max_result_size = ByteSize::mib(64);
    })
    .await;
    let text = "x".repeat(BYTES);
    let request = QueryRequest {
        params: vec![value(Kind::Text(text.clone()))],
        ..on_primary("SELECT $1::text || $1::text AS twice")
    };
    for outcome in together(&rig, vec![request; QUERIES]).await {
        let Outcome::Answer(answer) = outcome else { panic!("{outcome:?}") };
        let Kind::Text(twice) = first(&answer) else { panic!("no text") };
        assert_eq!(twice.len(), 2 * BYTES);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_type_that_is_not_known_yet_is_read_however_its_rows_come() {
    let stack = shared().await;
    sql(
        primary(stack),
        "CREATE TYPE wire_mood AS ENUM ('glad', 'sad'); \
         CREATE DOMAIN wire_year AS int CHECK (VALUE > 0)",
    )
    .await;
    let some = "SELECT 'glad'::wire_mood AS m, ARRAY['sad', NULL]::wire_mood[] AS ms, 7::wire_year AS y \
                FROM generate_series(1, 3)";
    let endless = [
        "SELECT 'glad'::wire_mood AS m, pg_sleep(0.00001)::text AS slept FROM generate_series(1, 100000000)",
        "SELECT 'glad'::wire_mood AS m, repeat('x', 200000) AS long FROM generate_series(1, 100000000)",
    ];
    for way in [Way::Direct, Way::PgBouncer] {
        // One connection each time, which knows no type yet.
        let start = async || Rig::start(stack, way, |config| config.pool.max_size = 1).await;

        let rig = start().await;
        for _ in 0..3 {
            let answer = rig.ask(on_primary(some)).await.unwrap();
            let types: Vec<_> = answer.columns.iter().map(|column| &*column.r#type).collect();
            // Of a domain the server itself names the type that it stands on.
            assert_eq!((types, answer.rows.len()), (vec!["wire_mood", "wire_mood[]", "int4"], 3));
            assert_eq!(first(&answer), Kind::Text("glad".to_owned()));
            assert_eq!(answer.rows[2].values[2].kind, Some(Kind::Int(7)));
        }

        // The rest is still on its way when the types are asked for: it must be stopped, and soon.
        for endless in endless {
            let rig = start().await;
            for n in 0..2 {
                let answer = rig.ask(QueryRequest { max_rows: 5, ..on_primary(endless) }).await.unwrap();
                assert_eq!((answer.rows.len(), answer.truncated), (5, true), "{way:?}, {n}, {endless}");
                assert_eq!(first(&answer), Kind::Text("glad".to_owned()));
            }
            assert_eq!(first(&rig.ask(on_primary("SELECT 1")).await.unwrap()), Kind::Int(1), "{way:?}");
        }

        let rig = start().await;
        let requests = vec![on_primary("SELECT 1"), on_primary(some), on_primary("SELECT 1 / 0")];
        let outcomes = together(&rig, requests).await;
        let Outcome::Answer(answer) = &outcomes[1] else { panic!("{way:?}: {outcomes:?}") };
        assert_eq!(first(answer), Kind::Text("glad".to_owned()));
        assert!(matches!(&outcomes[2], Outcome::Failure(failure) if failure.reason == "INVALID_STATEMENT"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_the_server_has_ended_fail_no_read() {
    let stack = start_stack(false).await;
    let rig = Rig::start(&stack, Way::Direct, |_| {}).await;
    let ours = format!("usename = '{SERVICE_ROLE}' AND application_name = 'mainstay-replica'");
    let observer = superuser(&rig, &stack, primary(&stack)).await;
    for _ in 0..20 {
        rig.ask(on_primary("SELECT 1")).await.unwrap();
        let ended = observer
            .query(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {ours}"), &[])
            .await
            .unwrap();
        assert!(!ended.is_empty());
    }
    wait_until("its connections to be new ones that stay", EVERY, SOON, || async {
        let answer = rig.ask(on_primary("SELECT pg_backend_pid()")).await.unwrap();
        let again = rig.ask(on_primary("SELECT pg_backend_pid()")).await.unwrap();
        if first(&answer) == first(&again) { Ok(()) } else { Err(format!("{answer:?}, {again:?}")) }
    })
    .await
    .unwrap();
}

/// The usual time is said once, at the log-in; any other with each read.
#[tokio::test(flavor = "multi_thread")]
async fn the_server_knows_how_long_each_read_may_take() {
    let stack = shared().await;
    for (way, usual) in [(Way::Direct, "7980ms"), (Way::PgBouncer, "")] {
        let rig = Rig::start(stack, way, |config| {
            config.postgres.statement_within = Duration::from_secs(8);
        })
        .await;
        let shown = async |within: Option<Duration>| {
            let mut request = tonic::Request::new(on_primary("SHOW statement_timeout"));
            if let Some(within) = within {
                request.set_timeout(within);
            }
            match first(&rig.client.clone().query(request).await.unwrap().into_inner()) {
                Kind::Text(shown) => shown,
                other => panic!("{other:?}"),
            }
        };
        // What it took to get here is not left any more, so behind a pooler it is a little less.
        let said = wait_until("the usual time", EVERY, SOON, || async {
            let said = shown(None).await;
            if usual.is_empty() || said == usual { Ok(said) } else { Err(said) }
        });
        let (said, short) = (said.await.unwrap(), shown(Some(Duration::from_secs(4))).await);
        let ms = |text: &str| match text.strip_suffix("ms") {
            Some(ms) => ms.parse::<u64>().unwrap(),
            None => 1_000 * text.strip_suffix('s').unwrap().parse::<u64>().unwrap(),
        };
        assert!(ms(&said) > 4_000 && ms(&said) <= 7_980, "{way:?}: {said}");
        assert!(ms(&short) < 4_000, "{way:?}: {short}");
    }
}
