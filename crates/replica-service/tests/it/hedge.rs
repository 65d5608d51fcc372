use mainstay_devstack::wait_until;
use mainstay_proto::replica::v1::QueryResponse;

use crate::rig::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_replica_is_not_waited_for_and_its_statement_is_given_up() {
    let stack = start_stack(false).await;
    let rig = Rig::start(&stack, Way::Direct, |config| config.hedge.max_ratio = 0.5).await;
    // What it usually takes is known after these.
    for _ in 0..60 {
        rig.query("SELECT 1 AS hedged").await;
    }
    // It stands still, and is not known to be down for the next twenty seconds.
    let replica = stack.postgres().unwrap().node("replica1").unwrap();
    replica.pause().await.unwrap();
    let saved = |response: &QueryResponse| {
        let served = response.served.as_ref().unwrap();
        assert_ne!(served.node, "replica1", "it stands still");
        served.hedged && served.node == "replica2" && served.attempts == 1
    };
    wait_until("the other replica to be asked too", EVERY, SOON, || async {
        let response = rig.query("SELECT 1 AS hedged").await;
        if saved(&response) { Ok(()) } else { Err(format!("{:?}", response.served)) }
    })
    .await
    .unwrap();
    assert!(rig.metric("mainstay_replica_hedges_total{won=\"second\"}").await.is_some_and(|won| won >= 1.0));
    wait_until("the slow statement to be given up", EVERY, SOON, || async {
        let in_flight = rig.node("replica1").await.traffic.unwrap().in_flight;
        if in_flight == 0 { Ok(()) } else { Err(in_flight.to_string()) }
    })
    .await
    .unwrap();
    replica.resume().await.unwrap();
    let write = rig.execute("SELECT pg_sleep(0.2)").await.unwrap();
    assert!(!write.served.unwrap().hedged);
}

#[tokio::test(flavor = "multi_thread")]
async fn second_questions_stay_below_their_share_of_the_reads() {
    let rig = Rig::start(shared().await, Way::Direct, |config| config.hedge.max_ratio = 0.1).await;
    // One of five takes long, so the 95th percentile is soon that of the long ones: nothing is unusual then.
    let mut n_hedged = 0;
    for n in 0..100 {
        let sleep_s = if n >= 30 && n % 5 == 0 { 0.05 } else { 0.0 };
        let response = rig.query(&format!("SELECT pg_sleep({sleep_s}) AS shared")).await;
        n_hedged += u32::from(response.served.unwrap().hedged);
    }
    assert!(n_hedged <= 10, "{n_hedged} of 100");
}
