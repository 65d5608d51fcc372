use std::time::{Duration, SystemTime};

use bytesize::ByteSize;
use mainstay_proto::realtime::v1::realtime_journey_service_client::RealtimeJourneyServiceClient;
use mainstay_proto::realtime::v1::{
    FollowRequest, FollowResponse, JourneyEvent, JourneyPosition, JourneyStep, JourneysRequest,
    JourneysResponse,
};
use mainstay_rpc::{Call, ErrorCode, Failure};
use mainstay_runtime::Clock;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};
use ws_gateway::{GatewayConfig, JourneysConfig, Who};

use crate::client::Client;
use crate::cluster::{redis, single, subscribe};
use crate::node::{Node, PATIENCE, config, token, user};
use crate::peers::short_leased;

fn open() -> GatewayConfig {
    let mut config = config();
    config.channels.default.publish = Who::Everyone;
    config
}

async fn journeys(node: &Node, request: JourneysRequest) -> Result<JourneysResponse, Failure> {
    let call = Call::read("mainstay.realtime.v1.RealtimeJourneyService/Journeys");
    let send = async |lane, request| RealtimeJourneyServiceClient::new(lane).journeys(request).await;
    node.upstream.call(call, |lane| send(lane, request.clone())).await
}

/// Asks until so many events fit: ends of connections are noted after the client has gone.
async fn journeys_of(node: &Node, request: JourneysRequest, n_events: usize) -> JourneysResponse {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = journeys(node, request.clone()).await.unwrap();
        if answer.events.len() >= n_events {
            return answer;
        }
        assert!(Instant::now() < deadline, "{answer:?}");
        sleep(Duration::from_millis(10)).await;
    }
}

struct Follower(tonic::Streaming<FollowResponse>);

impl Follower {
    async fn begin(node: &Node, request: FollowRequest) -> Result<Self, Failure> {
        let call = Call::read("mainstay.realtime.v1.RealtimeJourneyService/Follow");
        let send = async |lane, request| RealtimeJourneyServiceClient::new(lane).follow(request).await;
        node.upstream.call(call, |lane| send(lane, request.clone())).await.map(Self)
    }

    async fn next(&mut self) -> FollowResponse {
        timeout(PATIENCE, self.0.message()).await.expect("news in time").unwrap().expect("one more")
    }

    /// Reads so many events; returns them, where it is then, and how many it missed.
    async fn events(&mut self, n_events: usize) -> (Vec<JourneyEvent>, JourneyPosition, u64) {
        let (mut events, mut missed, mut position) = (Vec::new(), 0, None);
        while events.len() < n_events {
            let news = self.next().await;
            events.extend(news.events);
            (missed, position) = (missed + news.missed, news.position);
        }
        (events, position.expect("every response tells it"), missed)
    }
}

fn steps(events: &[JourneyEvent]) -> Vec<(JourneyStep, &str)> {
    events.iter().map(|event| (event.step(), event.channel.as_str())).collect()
}

#[tokio::test]
async fn the_way_of_a_user_is_remembered_step_by_step() {
    let node = Node::start(open()).await;
    let clock = Clock::system();
    let before = clock.now();
    let mut ann = Client::subscribed(&node, &token(&user("ann")), "lobby").await;
    let mut bob = Client::subscribed(&node, &token(&user("bob")), "lobby").await;
    ann.call("publish", json!({"channel": "lobby", "data": 1})).await;
    bob.call("publish", json!({"channel": "lobby", "data": 1})).await;
    node.publish("lobby", "2").await.unwrap();
    ann.call("unsubscribe", json!({"channel": "lobby"})).await;
    ann.call("subscribe", json!({"channel": "game"})).await;
    // What fails is no step.
    ann.call("subscribe", json!({"channel": "no:where"})).await;
    drop(ann);
    let of_ann = JourneysRequest { user: "ann".to_owned(), ..JourneysRequest::default() };
    let answer = journeys_of(&node, of_ann.clone(), 7).await;
    let expected = [
        (JourneyStep::Connected, ""),
        (JourneyStep::Subscribed, "lobby"),
        (JourneyStep::Published, "lobby"),
        (JourneyStep::Unsubscribed, "lobby"),
        (JourneyStep::Subscribed, "game"),
        (JourneyStep::Unsubscribed, "game"),
        (JourneyStep::Disconnected, ""),
    ];
    assert_eq!(steps(&answer.events), expected);
    assert!(!answer.truncated && answer.missing_nodes.is_empty());
    let (first, last) = (&answer.events[0], &answer.events[6]);
    assert_eq!((first.user.as_str(), &first.node), ("ann", &node.state().await.id));
    assert_eq!((&first.client, last.code), (&last.client, 3000));

    let in_lobby = JourneysRequest { channel: "lobby".to_owned(), ..JourneysRequest::default() };
    let lobby = journeys(&node, in_lobby).await.unwrap();
    assert_eq!(lobby.events.len(), 5, "{lobby:?}");
    let two = journeys(&node, JourneysRequest { limit: 2, ..of_ann.clone() }).await.unwrap();
    assert_eq!((steps(&two.events), two.truncated), (expected[5..].to_vec(), true));
    let since = |at: SystemTime| JourneysRequest { since: Some(at.into()), ..of_ann.clone() };
    assert_eq!(journeys(&node, since(before)).await.unwrap().events.len(), 7);
    let later = clock.now() + Duration::from_secs(3_600);
    assert_eq!(journeys(&node, since(later)).await.unwrap().events.len(), 0);
    let metrics = node.metrics();
    assert!(metrics.contains("mainstay_ws_journey_events_total 10\n"), "{metrics}");
}

#[tokio::test]
async fn who_follows_goes_on_where_it_was_and_is_told_what_it_missed() {
    let memory = ByteSize::kib(64);
    let node = Node::start(GatewayConfig { journeys: JourneysConfig { memory }, ..open() }).await;
    let mut follower = Follower::begin(&node, FollowRequest::default()).await.unwrap();
    let begun = follower.next().await;
    assert_eq!((begun.events.len(), begun.missed, begun.began_anew), (0, 0, false));
    let mut client = Client::subscribed(&node, &token(&user("ann")), "lobby").await;
    let (events, position, missed) = follower.events(2).await;
    assert_eq!(steps(&events), [(JourneyStep::Connected, ""), (JourneyStep::Subscribed, "lobby")]);
    assert_eq!((position.number, missed), (2, 0));
    drop(follower);

    // Few enough to be kept, and nobody watches.
    for n in 0..20 {
        client.call("publish", json!({"channel": "lobby", "data": n})).await;
    }
    let resume = |number, process: &str| FollowRequest {
        after: Some(JourneyPosition { process: process.to_owned(), number }),
        ..FollowRequest::default()
    };
    let mut resumed = Follower::begin(&node, resume(2, &position.process)).await.unwrap();
    let (events, _, missed) = resumed.events(20).await;
    assert!(events.iter().all(|event| event.step() == JourneyStep::Published) && missed == 0, "{events:?}");

    // More than 32 KiB of publications: the first are forgotten, who came is not.
    for n in 0..600 {
        client.call("publish", json!({"channel": "lobby", "data": n})).await;
    }
    let mut late = Follower::begin(&node, resume(2, &position.process)).await.unwrap();
    let first = late.next().await;
    assert!(first.missed > 100 && first.missed < 620 && first.events.len() == 256, "{}", first.missed);
    let mut from_the_start = Follower::begin(&node, resume(0, "")).await.unwrap();
    let (events, _, missed) = from_the_start.events(3).await;
    assert_eq!((steps(&events[..2])[1], missed > 0), ((JourneyStep::Subscribed, "lobby"), true));
    let mut anew = Follower::begin(&node, resume(9_999, "another process")).await.unwrap();
    assert!(anew.next().await.began_anew);
    let refused = Follower::begin(&node, resume(9_999, &position.process)).await.err().unwrap();
    assert_eq!((refused.code(), refused.reason()), (ErrorCode::InvalidArgument, "POSITION_INVALID"));

    drop((resumed, late, from_the_start, anew));
    node.wait_for_metric("mainstay_ws_journey_followers 0").await;
    let mut all = Vec::new();
    for _ in 0..16 {
        all.push(Follower::begin(&node, FollowRequest::default()).await.unwrap());
    }
    let refused = Follower::begin(&node, FollowRequest::default()).await.err().unwrap();
    assert_eq!((refused.code(), refused.reason()), (ErrorCode::ResourceExhausted, "TOO_MANY_WATCHERS"));
    drop(client);
    // The end of the process ends the streams.
    node.cx.shut_down().await;
}

#[tokio::test]
async fn a_node_that_may_remember_nothing_says_so() {
    let node =
        Node::start(GatewayConfig { journeys: JourneysConfig { memory: ByteSize::b(0) }, ..open() }).await;
    let refused = journeys(&node, JourneysRequest::default()).await.unwrap_err();
    assert_eq!((refused.code(), refused.reason()), (ErrorCode::FailedPrecondition, "JOURNEYS_OFF"));
    let refused = Follower::begin(&node, FollowRequest::default()).await.err().unwrap();
    assert_eq!(refused.reason(), "JOURNEYS_OFF");
}

#[tokio::test]
async fn a_way_over_several_nodes_is_told_by_any_and_a_node_that_does_not_tell_is_named() {
    let stack = redis().await;
    let with_publishing = || {
        let mut config = short_leased(single(&stack));
        config.channels.default.publish = Who::Everyone;
        config
    };
    let [one, two] = [Node::joined(with_publishing()).await, Node::joined(with_publishing()).await];
    for node in [&one, &two] {
        node.knows(2).await;
    }
    let mut first = Client::connected(&one, &token(&user("ann"))).await;
    subscribe(&mut first, json!({"channel": "lobby"})).await;
    let mut other = Client::connected(&two, &token(&user("bob"))).await;
    subscribe(&mut other, json!({"channel": "lobby"})).await;
    first.call("publish", json!({"channel": "lobby", "data": 1})).await;
    drop(first);
    let of_ann = JourneysRequest { user: "ann".to_owned(), ..JourneysRequest::default() };
    journeys_of(&one, of_ann.clone(), 5).await;
    let mut second = Client::connected(&two, &token(&user("ann"))).await;
    subscribe(&mut second, json!({"channel": "game"})).await;

    let [id_one, id_two] = [one.state().await.id, two.state().await.id];
    for node in [&one, &two] {
        // A node that stalls is missing in one answer.
        let events = journeys_of(node, of_ann.clone(), 7).await.events;
        // The publication is a step of who made it, and only where it was made.
        let nodes: Vec<_> = events.iter().map(|event| &event.node).collect();
        assert_eq!(nodes, [&id_one, &id_one, &id_one, &id_one, &id_one, &id_two, &id_two], "{events:?}");
        assert_eq!(steps(&events)[5..], [(JourneyStep::Connected, ""), (JourneyStep::Subscribed, "game")]);
    }

    let silent = Node::joined(GatewayConfig {
        journeys: JourneysConfig { memory: ByteSize::b(0) },
        ..with_publishing()
    })
    .await;
    one.knows(3).await;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let partial = journeys(&one, of_ann.clone()).await.unwrap();
        if partial.events.len() == 7 && partial.missing_nodes == [silent.state().await.id] {
            break;
        }
        assert!(Instant::now() < deadline, "{partial:?}");
        sleep(Duration::from_millis(20)).await;
    }
    drop((second, other));
    for node in [&one, &two, &silent] {
        node.wait_until_empty().await;
        node.cx.shut_down().await;
    }
    stack.stop().await.unwrap();
}
