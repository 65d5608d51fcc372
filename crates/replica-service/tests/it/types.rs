use mainstay_proto::replica::v1::{
    Array, QueryResponse, QueryStreamRequest, SqlStatement, TransactionRequest, Value, value::Kind,
};
use mainstay_rpc::{ErrorCode, Failure};
use proptest::{
    prelude::*,
    strategy::ValueTree as _,
    test_runner::{Config, TestRunner},
};

use crate::rig::*;

/// Writes a value as PostgreSQL's own text, where it has one form only.
fn text(kind: &Kind) -> Option<String> {
    Some(match kind {
        Kind::Null(_) => "NULL".to_owned(),
        Kind::Bool(value) => value.to_string(),
        Kind::Int(value) => value.to_string(),
        Kind::Text(value) | Kind::Numeric(value) | Kind::Uuid(value) | Kind::Json(value) => value.clone(),
        Kind::Bytes(value) => value.iter().fold("\\x".to_owned(), |text, byte| format!("{text}{byte:02x}")),
        Kind::Float(_) | Kind::Timestamp(_) | Kind::Array(_) => return None,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_value_reads_as_the_database_prints_it() {
    let rig = Rig::start(shared().await, Way::Direct, |_| {}).await;
    let cases: &[(&str, &[&str])] = &[
        ("int2", &["-32768", "0", "32767"]),
        ("int4", &["-2147483648", "2147483647"]),
        ("int8", &["-9223372036854775808", "9223372036854775807"]),
        ("oid", &["4294967295"]),
        (
            "numeric",
            &[
                "0",
                "0.000",
                "-1",
                "10000",
                "123456789.987654321",
                "1e-20",
                "1e50",
                "-0.00000001",
                "NaN",
                "Infinity",
                "-Infinity",
                "1000000000000000000000000000000.5",
            ],
        ),
        ("text", &["", "ä€😀", "a\nb\\c\"d'"]),
        ("varchar", &["x"]),
        ("bpchar", &["x  "]),
        ("name", &["x"]),
        ("bytea", &["", "\\x00ff7f"]),
        ("uuid", &["6f9619ff-8b86-d011-b42d-00c04fc964ff"]),
        ("json", &["{\"b\": 1,   \"a\": [null]}", "null"]),
        ("jsonb", &["{\"b\":1,\"a\":[null]}", "\"x\""]),
        (
            "date",
            &[
                "2026-02-28",
                "0001-01-01",
                "0044-03-15 BC",
                "infinity",
                "-infinity",
                "5874897-12-31",
                "4713-01-01 BC",
            ],
        ),
        ("time", &["00:00", "24:00", "12:34:56.789", "23:59:59.999999"]),
        ("timetz", &["12:34:56+02", "01:02:03-03:30", "04:05:06+01:02:03", "00:00+00"]),
        (
            "timestamp",
            &[
                "2026-01-02 03:04:05.6",
                "1969-12-31 23:59:59.999999",
                "0001-01-01 00:00 BC",
                "294276-12-31 23:59:59",
                "infinity",
            ],
        ),
        (
            "interval",
            &[
                "0",
                "1 year 2 months 3 days 04:05:06.789",
                "-1 year -2 days",
                "-1 month 3 days -0.000001 seconds",
                "1 mon -1 day",
                "25:00",
                "-3 days 4 hours",
                "13 months",
                "-13 months 1 day",
            ],
        ),
        (
            "inet",
            &[
                "127.0.0.1",
                "10.0.0.0/8",
                "::1",
                "2001:db8::/32",
                "::ffff:1.2.3.4",
                "::1.2.3.4",
                "fe80::1:0:0:1",
            ],
        ),
        ("cidr", &["10.0.0.0/8", "192.168.1.1/32", "::/0"]),
        ("macaddr", &["08:00:2b:01:02:03"]),
        ("pg_lsn", &["16/B374D848"]),
        ("varbit", &["", "1", "101010101"]),
        ("xml", &["<a/>"]),
    ];
    for (ty, literals) in cases {
        for literal in *literals {
            let params = vec![typed(Kind::Text((*literal).to_owned()), ty)];
            let response = rig.query_with(PRINT, params.clone()).await.unwrap();
            for (door, values) in by_other_doors(&rig, PRINT, params).await {
                assert_eq!(values, response.rows[0].values, "{door}: {ty} {literal:?}");
            }
            let [value, printed] = &response.rows[0].values[..] else { panic!("{response:?}") };
            let read = text(value.kind.as_ref().unwrap());
            let printed = text(printed.kind.as_ref().unwrap());
            assert_eq!(read, printed, "{ty} {literal:?}");
            assert_eq!(response.columns[0].r#type, *ty);
        }
        // NULL of each type, alone and in an array.
        let (sql, params) =
            (format!("SELECT NULL::{ty}, $1, ARRAY[$1, NULL]"), vec![typed(Kind::Null(true), ty)]);
        let null = value(Kind::Null(true));
        let nulls =
            [null.clone(), null.clone(), value(Kind::Array(Array { values: vec![null.clone(), null] }))];
        let response = rig.query_with(&sql, params.clone()).await.unwrap();
        assert_eq!(response.rows[0].values, nulls, "{ty}");
        for (door, values) in by_other_doors(&rig, &sql, params).await {
            assert_eq!(values, nulls, "{door}: {ty}");
        }
    }
}

const PRINT: &str = "SELECT $1, format('%s', $1)";

/// Asks for one row by a write, by a transaction and by a stream: each reads values in a way of its own.
async fn by_other_doors(rig: &Rig, sql: &str, params: Vec<Value>) -> [(&'static str, Vec<Value>); 3] {
    let executed = rig.execute_with(sql, params.clone()).await.unwrap().rows.remove(0);
    let statements = vec![SqlStatement { sql: sql.to_owned(), params: params.clone() }];
    let request = TransactionRequest { statements, ..TransactionRequest::default() };
    let done = rig.client.clone().transaction(request).await.unwrap().into_inner().results.remove(0);
    let request = QueryStreamRequest { sql: sql.to_owned(), params, ..QueryStreamRequest::default() };
    let mut chunks = rig.client.clone().query_stream(request).await.unwrap().into_inner();
    let streamed = chunks.message().await.unwrap().unwrap().rows.remove(0);
    [("execute", executed.values), ("transaction", done.rows[0].values.clone()), ("stream", streamed.values)]
}

#[tokio::test(flavor = "multi_thread")]
async fn random_values_come_back_as_they_went() {
    let rig = Rig::start(shared().await, Way::Direct, |_| {}).await;
    let numeric = "-?[1-9][0-9]{0,30}(\\.[0-9]{1,20})?";
    let scalars = || {
        prop_oneof![
            any::<bool>().prop_map(Kind::Bool),
            any::<i64>().prop_map(Kind::Int),
            any::<i32>().prop_map(|value| Kind::Int(value.into())),
            any::<f64>().prop_filter("NaN equals nothing", |value| !value.is_nan()).prop_map(Kind::Float),
            numeric.prop_map(Kind::Numeric),
            any::<[u8; 16]>().prop_map(|raw| Kind::Uuid(uuid::Uuid::from_bytes(raw).to_string())),
            prop::collection::vec(any::<u8>(), 0..200).prop_map(|bytes| Kind::Bytes(bytes.into())),
            (-62_135_596_800_i64..253_402_300_799, 0_i32..1_000_000).prop_map(|(seconds, us)| {
                Kind::Timestamp(prost_types::Timestamp { seconds, nanos: us * 1_000 })
            }),
        ]
    };
    let of_text = "[^\\x00]{0,40}".prop_map(|value| typed(Kind::Text(value), "text"));
    let array = |element: BoxedStrategy<Kind>| {
        prop::collection::vec(element, 1..6)
            .prop_map(|kinds| value(Kind::Array(Array { values: kinds.into_iter().map(value).collect() })))
    };
    let texts = prop::collection::vec(
        prop_oneof!["[^\\x00]{0,9}".prop_map(Kind::Text), Just(Kind::Null(true))],
        0..5,
    )
    .prop_map(|kinds| typed(Kind::Array(Array { values: kinds.into_iter().map(value).collect() }), "text[]"));
    let any_value = prop_oneof![
        8 => scalars().prop_map(value),
        2 => of_text,
        1 => texts,
        1 => array(any::<i64>().prop_map(Kind::Int).boxed()),
        1 => array(any::<f64>().prop_filter("NaN", |value| !value.is_nan()).prop_map(Kind::Float).boxed()),
        1 => array(prop::collection::vec(any::<u8>(), 0..9).prop_map(|bytes| Kind::Bytes(bytes.into())).boxed()),
        1 => array(numeric.prop_map(Kind::Numeric).boxed()),
    ];
    let mut runner = TestRunner::new_with_rng(
        Config::default(),
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    for _ in 0..60 {
        let values: Vec<Value> =
            (0..20).map(|_| any_value.new_tree(&mut runner).unwrap().current()).collect();
        let sql = format!("SELECT {}", (1..=20).map(|n| format!("${n}")).collect::<Vec<_>>().join(", "));
        let response = rig.query_with(&sql, values.clone()).await.unwrap();
        for (sent, got) in values.into_iter().zip(&response.rows[0].values) {
            assert_eq!(sent.kind, got.kind);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn arrays_nulls_and_inferred_types_work_as_in_sql() {
    let rig = Rig::start(shared().await, Way::Direct, |_| {}).await;
    let ints =
        |values: &[i64]| Kind::Array(Array { values: values.iter().map(|n| value(Kind::Int(*n))).collect() });
    let nested = Kind::Array(Array { values: vec![value(ints(&[1, 2])), value(ints(&[3, 4]))] });
    let null = || value(Kind::Null(true));
    for (sql, params, wanted) in [
        ("SELECT 3 = ANY($1)", vec![value(ints(&[1, 3]))], Kind::Bool(true)),
        ("SELECT $1", vec![value(nested.clone())], nested),
        ("SELECT $1::int4[]", vec![value(ints(&[]))], ints(&[])),
        ("SELECT $1 IS NULL", vec![typed(Kind::Null(true), "int8")], Kind::Bool(true)),
        ("SELECT coalesce($1, 7)", vec![null()], Kind::Int(7)),
        ("SELECT $1", vec![null()], Kind::Null(true)),
        ("SELECT date '2026-03-01' > $1", vec![value(Kind::Text("2026-02-28".to_owned()))], Kind::Bool(true)),
        (
            "SELECT $1::interval = '36 hours'",
            vec![value(Kind::Text("1 day 12 hours".to_owned()))],
            Kind::Bool(true),
        ),
        (
            "SELECT inet '10.0.0.1' << $1",
            vec![typed(Kind::Text("10.0.0.0/8".to_owned()), "inet")],
            Kind::Bool(true),
        ),
        ("SELECT ($1->>'a')::int", vec![value(Kind::Json("{\"a\": 5}".to_owned()))], Kind::Int(5)),
        ("SELECT date '2026-01-31' + $1", vec![value(Kind::Int(1))], Kind::Text("2026-02-01".to_owned())),
        ("SELECT $1 + 0.1", vec![value(Kind::Numeric("0.2".to_owned()))], Kind::Numeric("0.3".to_owned())),
        ("SELECT 0.1::float4", vec![], Kind::Float(0.1)),
        ("SELECT 'infinity'::timestamptz", vec![], Kind::Text("infinity".to_owned())),
        ("SELECT pg_sleep(0)", vec![], Kind::Text(String::new())),
    ] {
        let response = rig.query_with(sql, params).await.unwrap();
        assert_eq!(first(&response), wanted, "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_cannot_be_are_refused_with_the_reason() {
    let rig = Rig::start(shared().await, Way::Direct, |_| {}).await;
    for (sql, params, reason, part) in [
        ("SELECT point(1, 2) AS p", vec![], "UNSUPPORTED_TYPE", "column p has type point"),
        ("SELECT ROW(1, 2) AS r", vec![], "UNSUPPORTED_TYPE", "column r has type record"),
        ("SELECT $1::uuid", vec![value(Kind::Uuid("no".to_owned()))], "INVALID_STATEMENT", "uuid"),
        ("SELECT $1", vec![value(Kind::Json("{".to_owned()))], "INVALID_STATEMENT", "json"),
        ("SELECT $1", vec![typed(Kind::Int(70_000), "int2")], "INVALID_STATEMENT", "out of range"),
        (
            "SELECT $1::text",
            vec![value(Kind::Text("a\0b".to_owned()))],
            "INVALID_STATEMENT",
            "invalid byte sequence",
        ),
        (
            "SELECT jsonb_build_object('a', $1)",
            vec![value(Kind::Text("x".to_owned()))],
            "INDETERMINATE_TYPE",
            "give the parameter a type",
        ),
        ("SELECT $1", vec![Value::default()], "INVALID_FIELD", "has no kind"),
    ] {
        let failure = rig.query_with(sql, params).await.unwrap_err();
        assert_eq!((failure.code(), failure.reason()), (ErrorCode::InvalidArgument, reason), "{sql}");
        assert!(failure.message().contains(part), "{sql}: {}", failure.message());
    }
}

/// Is a query as a client sends it whose texts are any bytes.
#[derive(Clone, PartialEq, prost::Message)]
struct RawQuery {
    #[prost(bytes = "vec", tag = "1")]
    sql: Vec<u8>,
}

#[tokio::test(flavor = "multi_thread")]
async fn text_that_is_not_utf_8_is_the_caller_s_mistake() {
    let rig = Rig::start(shared().await, Way::Direct, |_| {}).await;
    let mut client = tonic::client::Grpc::new(rig.channel());
    let path =
        tonic::codegen::http::uri::PathAndQuery::from_static("/mainstay.replica.v1.ReplicaService/Query");
    for (sql, wanted) in [(b"SELECT 'a\xffb'".to_vec(), false), (b"SELECT 'a'".to_vec(), true)] {
        client.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<RawQuery, QueryResponse>::default();
        let answer = client.unary(tonic::Request::new(RawQuery { sql }), path.clone(), codec).await;
        match answer {
            Ok(answer) => assert!(wanted && first(answer.get_ref()) == Kind::Text("a".to_owned())),
            Err(status) => {
                assert!(!wanted);
                let failure = Failure::from(status);
                assert_eq!((failure.code(), failure.reason()), (ErrorCode::InvalidArgument, "INVALID_FIELD"));
                assert_eq!(failure.fields()[0].field, "sql", "{failure:?}");
            }
        }
    }
}
