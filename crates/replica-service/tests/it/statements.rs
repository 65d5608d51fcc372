use mainstay_auth::Role;
use mainstay_proto::replica::v1::{
    ListStatementsRequest, QueryStreamRequest, RunStatementRequest, TransactionRequest,
    run_statement_response::Answer, statement_service_client::StatementServiceClient, value::Kind,
};
use mainstay_rpc::{ErrorCode, Failure};
use replica_service::{NamedConfig, NamedKind, ReplicaConfig};
use tonic::{
    Request,
    transport::{Channel, Endpoint},
};

use crate::rig::*;

fn client(rig: &Rig) -> StatementServiceClient<Channel> {
    let address = rig.cx.listening()[0].address;
    StatementServiceClient::new(Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy())
}

fn by<T>(message: T, subject: &str, role: &str, scopes: &str) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert("x-mainstay-subject", subject.parse().unwrap());
    metadata.insert("x-mainstay-role", role.parse().unwrap());
    if !scopes.is_empty() {
        metadata.insert("x-mainstay-scopes", scopes.parse().unwrap());
    }
    request
}

fn run(name: &str, id: i64) -> RunStatementRequest {
    RunStatementRequest { name: name.to_owned(), params: vec![value(Kind::Int(id))], ..Default::default() }
}

fn named(config: &mut ReplicaConfig, name: &str, statement: NamedConfig) {
    config.statements.named.insert(name.to_owned(), statement);
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_run_by_name_for_whom_they_are_meant() {
    let stack = shared().await;
    let table = table(stack, "id int8").await;
    let rig = Rig::start(stack, Way::Direct, |config| {
        let sql = format!("SELECT count(*) FROM {table} WHERE id = $1");
        named(config, "count", NamedConfig { sql, ..NamedConfig::default() });
        let sql = format!("INSERT INTO {table} VALUES ($1)");
        let callers = vec!["shop".to_owned()];
        named(
            config,
            "add",
            NamedConfig {
                sql,
                kind: NamedKind::Execute,
                role: Some(Role::Viewer),
                callers,
                ..NamedConfig::default()
            },
        );
    })
    .await;
    let ask = async |request: Request<RunStatementRequest>| -> Result<Answer, Failure> {
        Ok(client(&rig).run_statement(request).await.map_err(Failure::from)?.into_inner().answer.unwrap())
    };
    let Answer::Execute(added) = ask(by(run("add", 7), "shop", "viewer", "")).await.unwrap() else {
        panic!("it writes")
    };
    assert_eq!(added.rows_affected, 1);
    let count = RunStatementRequest { after: added.token, ..run("count", 7) };
    let Answer::Query(counted) =
        ask(by(count, "somebody", "viewer", "database.read:named/count")).await.unwrap()
    else {
        panic!("it reads")
    };
    assert_eq!(first(&counted), Kind::Int(1));
    for (request, code, reason) in [
        (by(run("nothing", 1), "shop", "admin", ""), ErrorCode::NotFound, "UNKNOWN_STATEMENT"),
        (by(run("add", 8), "other", "admin", ""), ErrorCode::PermissionDenied, "STATEMENT_NOT_ALLOWED"),
        (
            by(run("add", 8), "shop", "admin", "database:insert"),
            ErrorCode::PermissionDenied,
            "STATEMENT_NOT_ALLOWED",
        ),
    ] {
        let failure = ask(request).await.unwrap_err();
        assert_eq!((failure.code(), failure.reason()), (code, reason));
    }
    for statement in ["count", "add"] {
        let ran =
            format!("mainstay_replica_named_statements_total{{statement=\"{statement}\",result=\"OK\"}}");
        assert_eq!(rig.metric(&ran).await, Some(1.0), "{ran}");
    }
    let misused = RunStatementRequest { max_rows: 1, ..run("add", 8) };
    assert_eq!(ask(Request::new(misused)).await.unwrap_err().fields()[0].field, "max_rows");
    let list = by(ListStatementsRequest {}, "other", "viewer", "");
    let listed = client(&rig).list_statements(list).await.unwrap().into_inner();
    let names: Vec<_> = listed.statements.iter().map(|statement| statement.name.as_str()).collect();
    assert_eq!((names, listed.only_named), (vec!["count"], false));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_only_named_statements_are_legal_every_text_is_refused() {
    let rig = Rig::start(shared().await, Way::Direct, |config| {
        config.statements.only_named = true;
        let sql = "SELECT $1::int8 + 1".to_owned();
        named(config, "next", NamedConfig { sql, ..NamedConfig::default() });
    })
    .await;
    let mut texts = rig.client.clone();
    let stream = QueryStreamRequest { sql: "SELECT 1".to_owned(), ..Default::default() };
    let refused = [
        rig.query_with("SELECT 1", vec![]).await.unwrap_err(),
        rig.execute("SELECT 1").await.unwrap_err(),
        Failure::from(texts.query_stream(stream).await.unwrap_err()),
        Failure::from(texts.transaction(TransactionRequest::default()).await.unwrap_err()),
    ];
    for failure in refused {
        assert_eq!(
            (failure.code(), failure.reason()),
            (ErrorCode::PermissionDenied, "STATEMENT_NOT_ALLOWED")
        );
    }
    assert_eq!(rig.metric("mainstay_replica_texts_refused_total").await, Some(4.0));
    let answer = client(&rig).run_statement(run("next", 41)).await.unwrap().into_inner().answer.unwrap();
    let Answer::Query(answer) = answer else { panic!("it reads") };
    assert_eq!(first(&answer), Kind::Int(42));
}
