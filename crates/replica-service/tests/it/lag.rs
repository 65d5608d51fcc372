//! The proven bound beside the common formulas, where these mislead.

use mainstay_devstack::{Devstack, PostgresNode};
use mainstay_proto::replica::v1::{Lag, LagFormula, TopologyResponse};

use crate::rig::*;

fn lag<'a>(topology: &'a TopologyResponse, node: &str) -> Option<&'a Lag> {
    topology.nodes.iter().find(|known| known.name == node)?.lag.as_ref()
}

fn formula<'a>(lag: &'a Lag, name: &str) -> &'a LagFormula {
    lag.formulas.iter().find(|formula| formula.name == name).unwrap()
}

fn seconds(lag: &Lag, name: &str) -> Option<f64> {
    formula(lag, name).seconds
}

fn bytes(lag: &Lag, name: &str) -> Option<u64> {
    formula(lag, name).bytes
}

/// The proven bound, in seconds.
fn proven(lag: &Lag) -> Option<f64> {
    let bound = lag.staleness.as_ref()?;
    Some(bound.seconds as f64 + f64::from(bound.nanos) / 1e9)
}

fn replica<'a>(stack: &'a Devstack, name: &str) -> &'a PostgresNode {
    stack.postgres().unwrap().node(name).unwrap()
}

/// How much longer a formula says than what is true, where it does; nothing here takes so long by itself.
const MUCH_S: f64 = 5.0;

#[tokio::test(flavor = "multi_thread")]
async fn the_bound_is_right_where_each_common_formula_misleads() {
    let stack = start_stack(false).await;
    let rig = Rig::start(&stack, Way::Direct, |_| {}).await;
    let table = table(&stack, "n int").await;
    let write = format!("INSERT INTO {table} VALUES (1)");
    rig.execute(&write).await.unwrap();
    let wait = async |what: &str, node: &str, wanted: &dyn Fn(&Lag, f64) -> bool| {
        rig.wait(what, |topology| {
            let Some(lag) = lag(topology, node) else { return false };
            proven(lag).is_some_and(|proven| wanted(lag, proven))
        })
        .await;
    };

    // 1. Nobody writes: the replica shows everything, and the age of the last commit is called lag.
    for node in ["replica1", "replica2"] {
        wait("an idle primary to look like lag", node, &|lag, proven| {
            seconds(lag, "replay_timestamp").is_some_and(|said| said > proven + MUCH_S)
                && lag.bytes == 0
                && seconds(lag, "replay_timestamp_unless_received") == Some(0.0)
                && bytes(lag, "sender_replay_bytes") == Some(0)
        })
        .await;
    }

    // 2. Replay is held: the time since the commit before is still called lag, and what is flushed is called fresh.
    replica(&stack, "replica1").hold_replay().await.unwrap();
    rig.execute(&write).await.unwrap();
    wait(
        "held replay to look fresh to the primary, and older than it is to itself",
        "replica1",
        &|lag, proven| {
            lag.replay_paused
                && proven > 2.0
                && lag.bytes > 0
                && seconds(lag, "replay_timestamp").is_some_and(|said| said > proven + MUCH_S / 2.0)
                && seconds(lag, "flush_lag").is_none_or(|said| said < proven - 1.0)
                && bytes(lag, "receive_replay_bytes").is_some_and(|said| said > 0)
        },
    )
    .await;
    replica(&stack, "replica1").release_replay().await.unwrap();
    wait("replica1 to be fresh again", "replica1", &|lag, _| lag.bytes == 0).await;

    // 3. Cut off: what was received is replayed, so all is well, says the replica; the primary says nothing at all.
    let cut = "ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 port=1 user=nobody'";
    replica(&stack, "replica2").query_text(cut).await.unwrap();
    replica(&stack, "replica2").query_text("SELECT pg_reload_conf()").await.unwrap();
    rig.wait("the receiver of replica2 to be gone", |topology| {
        lag(topology, "replica2").is_some_and(|lag| lag.receiver.is_empty())
    })
    .await;
    rig.execute(&write).await.unwrap();
    wait("a replica that is cut off to look perfect", "replica2", &|lag, proven| {
        proven > 2.0
            && lag.bytes > 0
            && seconds(lag, "replay_timestamp_unless_received") == Some(0.0)
            && bytes(lag, "receive_replay_bytes") == Some(0)
            && seconds(lag, "replay_lag").is_none()
            && bytes(lag, "sender_replay_bytes").is_none()
    })
    .await;
}
