//! A replica-service that stood still while somebody else became the primary, as a paused virtual machine does.

use std::time::Duration;

use mainstay_proto::replica::v1::replica_service_client::ReplicaServiceClient;
use mainstay_proto::replica::v1::{ExecuteRequest, Prefer, QueryRequest};
use mainstay_tests::{Devstack, House, Service, eventually};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tonic::transport::Channel;

type Client = ReplicaServiceClient<Channel>;

/// Of one probe; the first that is not answered takes a node down.
const PROBE_WITHIN: Duration = Duration::from_secs(8);
/// Longer than what was known before counts: two rounds of probes, and two probes that are not answered.
const AWAY: Duration = Duration::from_secs(18);
const WRITES: u32 = 20;
const READS: u32 = 5;

async fn write(mut client: Client, sql: &str) -> Result<String, String> {
    let request = ExecuteRequest { sql: sql.to_owned(), ..ExecuteRequest::default() };
    let answer = client.execute(request).await.map_err(|status| format!("{status:?}"))?.into_inner();
    Ok(answer.served.unwrap_or_default().node)
}

async fn read(mut client: Client, sql: &str) -> Result<String, String> {
    let prefer = Prefer::Primary.into();
    let request = QueryRequest { sql: sql.to_owned(), prefer, ..QueryRequest::default() };
    let answer = client.query(request).await.map_err(|status| format!("{status:?}"))?.into_inner();
    Ok(answer.served.unwrap_or_default().node)
}

#[tokio::test]
async fn nothing_is_written_to_or_read_from_a_primary_of_the_time_before() {
    let mut builder = Devstack::builder().postgres(true).services([Service::ReplicaService]);
    for (key, value) in [
        ("SERVER__TOKEN", ""),
        ("HEALTH__PROBE_EVERY", "200ms"),
        ("HEALTH__PROBE_WITHIN", &*format!("{}s", PROBE_WITHIN.as_secs())),
        ("HEALTH__DOWN_AFTER", "1"),
        ("ROUTING__WRITE_WAIT_WITHIN", "1m"),
        ("ROUTING__TOKEN_WAIT_WITHIN", "1m"),
        ("POSTGRES__STATEMENT_WITHIN", "2m"),
    ] {
        builder = builder.env(Service::ReplicaService, format!("MAINSTAY__{key}"), value);
    }
    let house = House::start(builder).await;
    let stack = house.stack();
    let service = stack.service(Service::ReplicaService).unwrap();
    let channel = Channel::from_shared(format!("http://{}", service.address())).unwrap().connect_lazy();
    let client = ReplicaServiceClient::new(channel);
    eventually("a first write", || write(client.clone(), "create table if not exists moved (n int8)")).await;
    // Its connections to the first primary are open from now on.
    write(client.clone(), "insert into moved values (0)").await.unwrap();
    read(client.clone(), "select count(*) from moved").await.unwrap();
    let postgres = stack.postgres().unwrap();
    let (old, new) = (postgres.first_primary(), postgres.node("replica1").unwrap());
    postgres.wait_caught_up(old).await.unwrap();

    service.pause().await.unwrap();
    let paused_at = Instant::now();
    new.promote().await.unwrap();
    new.pause().await.unwrap();
    let mut calls = JoinSet::new();
    for n in 1..=WRITES {
        let client = client.clone();
        calls.spawn(async move { write(client, &format!("insert into moved values ({n})")).await });
    }
    for _ in 0..READS {
        let client = client.clone();
        calls.spawn(async move { read(client, "select count(*) from moved").await });
    }
    sleep_until(paused_at + AWAY).await;
    // All that was asked meanwhile is there at once. The old primary says at once that it is one; the new one is slow to.
    service.resume().await.unwrap();
    sleep(PROBE_WITHIN / 8).await;
    assert!(calls.try_join_next().is_none(), "it was answered before all nodes were asked");
    new.resume().await.unwrap();
    while let Some(node) = calls.join_next().await {
        assert_eq!(node.unwrap().as_deref(), Ok("replica1"));
    }
    let count = "select count(*)::text from moved";
    assert_eq!(old.query_text(count).await.unwrap().as_deref(), Some("1"), "the old primary was written to");
    assert_eq!(new.query_text(count).await.unwrap(), Some((1 + WRITES).to_string()));
}
