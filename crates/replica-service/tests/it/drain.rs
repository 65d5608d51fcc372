use mainstay_proto::replica::v1::{
    DrainNodeRequest, Node, ResumeNodeRequest, node_service_client::NodeServiceClient,
};
use mainstay_rpc::{ErrorCode, Failure};
use tonic::transport::{Channel, Endpoint};

use crate::rig::*;

fn nodes(rig: &Rig) -> NodeServiceClient<Channel> {
    let address = rig.cx.listening()[0].address;
    NodeServiceClient::new(Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy())
}

async fn drain(rig: &Rig, node: &str) -> Result<Node, Failure> {
    let request = DrainNodeRequest { node: node.to_owned() };
    Ok(nodes(rig).drain_node(request).await.map_err(Failure::from)?.into_inner().node.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_node_gets_no_read_until_it_is_resumed_and_a_drained_primary_still_writes() {
    let rig = Rig::start(shared().await, Way::Direct, |_| {}).await;
    for _ in 0..2 {
        let node = drain(&rig, "replica1").await.unwrap();
        assert!(node.drained && !node.reads, "{node:?}");
    }
    rig.wait_metric("mainstay_replica_node_drained{node=\"replica1\"}", |drained| drained == 1.0).await;
    for _ in 0..20 {
        assert_eq!(served_by(&rig.query("SELECT 1").await).0, "replica2");
    }
    drain(&rig, "replica2").await.unwrap();
    assert_eq!(served_by(&rig.query("SELECT 1").await), ("primary".to_owned(), "no_fit_replica".to_owned()));
    drain(&rig, "primary").await.unwrap();
    rig.execute("SELECT 1").await.unwrap();
    let failure = rig.ask(request("SELECT 1")).await.unwrap_err();
    assert_eq!((failure.reason(), failure.details()["node.replica1"].as_str()), ("NO_FIT_NODE", "drained"));

    let resumed = nodes(&rig).resume_node(ResumeNodeRequest { node: "replica1".to_owned() }).await.unwrap();
    assert!(!resumed.into_inner().node.unwrap().drained);
    assert_eq!(served_by(&rig.query("SELECT 1").await).0, "replica1");
    let unknown = drain(&rig, "nobody").await.unwrap_err();
    assert_eq!((unknown.code(), unknown.reason()), (ErrorCode::NotFound, "NODE_UNKNOWN"));
}

fn request(sql: &str) -> mainstay_proto::replica::v1::QueryRequest {
    mainstay_proto::replica::v1::QueryRequest { sql: sql.to_owned(), ..Default::default() }
}
