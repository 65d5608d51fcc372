use mainstay_devstack::wait_until;
use mainstay_proto::replica::v1::{
    Isolation, QueryRequest, SqlStatement, StatementsOrder, StatementsRequest, TransactionRequest,
    TransactionResponse, value::Kind,
};
use mainstay_rpc::{ErrorCode, Failure};

use crate::rig::*;

fn statements<const N: usize>(sql: [&str; N]) -> Vec<SqlStatement> {
    sql.map(|sql| SqlStatement { sql: sql.to_owned(), params: Vec::new() }).to_vec()
}

async fn run(rig: &Rig, request: TransactionRequest) -> Result<TransactionResponse, Failure> {
    Ok(rig.client.clone().transaction(request).await.map_err(Failure::from)?.into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn all_statements_happen_and_their_token_shows_them_or_none_does() {
    let stack = shared().await;
    for way in [Way::Direct, Way::PgBouncer] {
        let rig = Rig::start(stack, way, |_| {}).await;
        let table = table(stack, "id int PRIMARY KEY, n int").await;
        let request = TransactionRequest {
            statements: vec![
                SqlStatement {
                    sql: format!("INSERT INTO {table} VALUES ($1, 1), (2, 2) RETURNING id"),
                    params: vec![value(Kind::Int(1))],
                },
                SqlStatement { sql: format!("UPDATE {table} SET n = n + 10"), params: Vec::new() },
                SqlStatement { sql: format!("SELECT sum(n) FROM {table}"), params: Vec::new() },
            ],
            ..TransactionRequest::default()
        };
        let done = run(&rig, request).await.unwrap();
        let counts: Vec<_> =
            done.results.iter().map(|result| (result.rows_affected, result.rows.len())).collect();
        assert_eq!(counts, [(2, 2), (2, 0), (1, 1)], "{way:?}");
        assert_eq!(done.results[2].rows[0].values[0].kind, Some(Kind::Int(23)));
        let sql = format!("SELECT sum(n) FROM {table}");
        let read = QueryRequest { sql: sql.clone(), after: done.token, ..QueryRequest::default() };
        assert_eq!(first(&rig.ask(read).await.unwrap()), Kind::Int(23));

        let (update, twice) =
            (format!("UPDATE {table} SET n = 0"), format!("INSERT INTO {table} VALUES (1, 1)"));
        let request = TransactionRequest { statements: statements([&update, &twice]), ..Default::default() };
        let failure = run(&rig, request).await.unwrap_err();
        assert_eq!((failure.code(), failure.reason()), (ErrorCode::Conflict, "UNIQUE_VIOLATION"));
        assert_eq!(
            (failure.details()["statement"].as_str(), failure.details()["outcome"].as_str()),
            ("1", "not_applied")
        );
        assert_eq!(first(&rig.query_primary(&sql).await.unwrap()), Kind::Int(23));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_race_is_run_again_when_it_may_be_and_told_when_it_may_not() {
    let stack = shared().await;
    let rig = Rig::start(stack, Way::Direct, |_| {}).await;
    let table = table(stack, "n int").await;
    rig.execute(&format!("INSERT INTO {table} VALUES (0)")).await.unwrap();
    let increment = format!("UPDATE {table} SET n = (SELECT n FROM {table}) + 1");
    let request = |idempotent| TransactionRequest {
        statements: statements(["SELECT pg_sleep(0.5)", &increment]),
        isolation: Isolation::Serializable.into(),
        idempotent,
        ..TransactionRequest::default()
    };
    let race = |idempotent| {
        futures_util::future::join_all(
            (0..8).map(move |_| (idempotent, ())).map(|(idempotent, ())| run(&rig, request(idempotent))),
        )
    };
    let told = race(false).await;
    let lost: Vec<_> = told.iter().filter_map(|result| result.as_ref().err()).collect();
    assert!(!lost.is_empty() && lost.len() < 8, "{} of 8 lost", lost.len());
    for failure in &lost {
        assert_eq!(
            (failure.reason(), failure.details()["retryable"].as_str()),
            ("SERIALIZATION_FAILURE", "true")
        );
    }
    let before = 8 - lost.len() as i64;
    let won: Vec<_> = race(true).await.into_iter().collect::<Result<_, _>>().unwrap();
    assert!(won.iter().any(|done| done.served.as_ref().unwrap().attempts > 1), "nobody lost a race");
    let rows = rig.query_primary(&format!("SELECT n FROM {table}")).await.unwrap();
    assert_eq!(first(&rows), Kind::Int(before + 8));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadlock_ends_one_of_the_two_and_that_one_is_run_again_when_it_may_be() {
    let stack = shared().await;
    let rig = Rig::start(stack, Way::Direct, |_| {}).await;
    let table = table(stack, "id int PRIMARY KEY, n int").await;
    rig.execute(&format!("INSERT INTO {table} VALUES (1, 0), (2, 0)")).await.unwrap();
    let update = |id: u32| format!("UPDATE {table} SET n = n + 1 WHERE id = {id}");
    let run_both = async |idempotent: bool| {
        let request = |first: u32, second: u32| TransactionRequest {
            statements: statements([&*update(first), "SELECT pg_sleep(0.3)", &*update(second)]),
            idempotent,
            ..TransactionRequest::default()
        };
        let (one, other) = tokio::join!(run(&rig, request(1, 2)), run(&rig, request(2, 1)));
        [one, other]
    };
    let mut n_done = 0;
    // On a machine that stands still one may be over before the other begins.
    let told = loop {
        let ended = run_both(false).await;
        n_done += ended.iter().filter(|ended| ended.is_ok()).count() as i64;
        if let Some(failure) = ended.into_iter().find_map(Result::err) {
            break failure;
        }
        assert!(n_done < 100, "they never met");
    };
    assert_eq!((told.code(), told.reason()), (ErrorCode::Conflict, "DEADLOCK"));
    let details = told.details();
    assert_eq!((&*details["sqlState"], &*details["retryable"]), ("40P01", "true"));
    assert_eq!((&*details["outcome"], &*details["statement"]), ("not_applied", "2"));
    loop {
        let ended = run_both(true).await.map(Result::unwrap);
        n_done += 2;
        if ended.iter().any(|done| done.served.as_ref().unwrap().attempts > 1) {
            break;
        }
        assert!(n_done < 200, "they never met");
    }
    let rows = rig.query_primary(&format!("SELECT array_agg(n)::text FROM {table}")).await.unwrap();
    assert_eq!(first(&rows), Kind::Text(format!("{{{n_done},{n_done}}}")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_whose_caller_goes_away_is_ended_in_the_database_and_leaves_nothing() {
    let stack = shared().await;
    for (way, seconds) in [(Way::Direct, 260), (Way::PgBouncer, 261)] {
        let rig = Rig::start(stack, way, |config| config.pool.max_size = 1).await;
        let table = table(stack, "n int").await;
        let (insert, sleep) =
            (format!("INSERT INTO {table} VALUES (1)"), format!("SELECT pg_sleep({seconds})"));
        let request = TransactionRequest { statements: statements([&insert, &sleep]), ..Default::default() };
        let asleep = |wanted: &'static str| async move {
            let count = format!(
                "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg_sleep({seconds})%'"
            );
            let seen = primary(stack).query_text(&count).await.unwrap().unwrap();
            if seen == wanted { Ok(()) } else { Err(seen) }
        };
        tokio::select! {
            ended = run(&rig, request) => panic!("it ended: {ended:?}"),
            begun = wait_until("its second statement", EVERY, SOON, || asleep("1")) => begun.unwrap(),
        }
        wait_until("it to be cancelled", EVERY, SOON, || asleep("0")).await.unwrap();
        // The only connection is there for the next one, with nothing of the first in it.
        rig.execute(&insert).await.unwrap();
        let count = rig.query_primary(&format!("SELECT count(*) FROM {table}")).await.unwrap();
        assert_eq!(first(&count), Kind::Int(1), "{way:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_statements_cost_is_told_by_their_shape() {
    let stack = shared().await;
    let rig = Rig::start(stack, Way::Direct, |_| {}).await;
    for n in 0..4 {
        rig.query(&format!("SELECT {n} AS told FROM generate_series(1, 3)")).await;
    }
    rig.query_with("SELECT 1 / 0 AS told", Vec::new()).await.unwrap_err();
    let request = StatementsRequest { order: StatementsOrder::Calls.into(), ..StatementsRequest::default() };
    let response = rig.client.clone().statements(request).await.unwrap().into_inner();
    let [first, second] = &response.statements[..] else { panic!("{response:?}") };
    assert_eq!(first.sql, "SELECT ? AS told FROM generate_series(?, ?)");
    assert_eq!((first.calls, first.errors, first.rows), (4, 0, 12));
    assert_eq!(first.calls_by_node.values().sum::<u64>(), 4);
    assert!(first.calls_by_node.keys().all(|node| node.starts_with("replica")), "{first:?}");
    assert!(first.seconds_p50 > 0.0 && first.seconds_max >= first.seconds_p99, "{first:?}");
    assert_eq!((second.calls, second.errors), (1, 1));
}
