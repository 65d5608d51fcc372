use std::time::Duration;

use cache_service::RedisConfig;
use futures_util::future::join_all;
use mainstay_devstack::wait_until;
use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::revoke_session_request::Which;
use mainstay_proto::cache::v1::session_service_client::SessionServiceClient;
use mainstay_rpc::{Failure, Status};
use tonic::transport::Channel;

use crate::node::{LOOK_EVERY, WITHIN, redis, single};
use crate::shared::{Node, duration};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_live_and_end_on_all_nodes_at_once() {
    let stack = redis().await;
    let nodes = [Node::start(single(&stack)).await, Node::start(single(&stack)).await];
    let clients = [Client::of(&nodes[0]), Client::of(&nodes[1])];
    a_session_lives_as_it_should(&clients[0], &clients[1]).await;
    sessions_of_a_user_are_bounded_listed_and_revoked(&clients[0], &clients[1]).await;
    times_end_a_session(&clients[0]).await;

    let id = clients[0].create("u", Duration::from_secs(60), None).await.id;
    stack.redis().unwrap().first_primary().kill().await.unwrap();
    let failing = || async {
        match clients[0].get(&id, true).await {
            Ok(reply) => Err(format!("{reply:?}")),
            Err(status) => Ok(Failure::from(status).reason().to_owned()),
        }
    };
    let reason = wait_until("a session not to be had", LOOK_EVERY, WITHIN, failing).await.unwrap();
    assert_eq!(reason, "REDIS_UNAVAILABLE");
    for node in nodes {
        node.cx.shut_down().await;
    }
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_sessions_do_the_same_in_memory() {
    let node = Node::start(RedisConfig::default()).await;
    let client = Client::of(&node);
    a_session_lives_as_it_should(&client, &client).await;
    sessions_of_a_user_are_bounded_listed_and_revoked(&client, &client).await;
    times_end_a_session(&client).await;
    node.cx.shut_down().await;
}

/// Value of a counter without labels.
fn counter(node: &Node, name: &str) -> u64 {
    let metrics = node.cx.openmetrics();
    let prefix = format!("mainstay_cache_{name}_total ");
    metrics.lines().find_map(|line| line.strip_prefix(prefix.as_str())).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn touches_are_written_together_and_those_that_wait_when_the_service_stops() {
    let stack = redis().await;
    let [node, other] = [Node::start(single(&stack)).await, Node::start(single(&stack)).await];
    let (client, there) = (Client::of(&node), Client::of(&other));
    // A touch is due after a tenth of it.
    let ttl = Duration::from_secs(30);
    let late = client.create("late", ttl, None).await;
    let gone = client.create("gone", ttl, None).await.id;
    let mut ids = Vec::new();
    for number in 0..60 {
        ids.push(client.create(&format!("user{number}"), ttl, None).await.id);
    }
    wait_until("all touches to be written", LOOK_EVERY, WITHIN, || async {
        join_all(ids.iter().map(|id| client.get(id, true))).await;
        let n_touches = counter(&node, "session_touches");
        if n_touches >= 60 { Ok(()) } else { Err(format!("{n_touches}")) }
    })
    .await
    .unwrap();
    let n_batches = counter(&node, "session_touch_batches");
    assert!(n_batches <= 30, "{n_batches} commands for 60 touches");

    // What is revoked after it was seen does not come back; what was seen last is written at the end.
    let begun = late.session.unwrap().seen_at;
    let seen = there.get(&late.id, true).await.unwrap().session.unwrap().seen_at;
    assert_ne!(seen, begun);
    there.get(&gone, true).await.unwrap();
    assert!(client.revoke(Which::Id(gone.clone())).await);
    other.cx.shut_down().await;
    let listed = client.list("late").await;
    assert_eq!((listed.len(), listed[0].seen_at), (1, seen));
    assert_eq!(not_found(client.get(&gone, false).await), "SESSION_NOT_FOUND");
    assert!(client.list("gone").await.is_empty());
    node.cx.shut_down().await;
    stack.stop().await.unwrap();
}

pub(crate) async fn a_session_lives_as_it_should(here: &Client, there: &Client) {
    let minute = Duration::from_secs(60);
    let created = here.create("ann", minute, None).await;
    let session = created.session.clone().unwrap();
    assert_eq!((created.id.len(), session.version, session.user.as_str()), (48, 1, "ann"));
    let read = there.get(&created.id, false).await.unwrap();
    assert_eq!((read.session.as_ref(), read.rotated), (Some(&session), false));

    let updated = there.update(&created.id, &[("b", "2")], &["a"], Some(1)).await.unwrap();
    let fields: Vec<_> = updated.fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!((updated.version, fields), (2, vec![("b", "2")]));
    let mismatch = Failure::from(here.update(&created.id, &[("b", "3")], &[], Some(1)).await.unwrap_err());
    assert_eq!((mismatch.reason(), mismatch.details()["version"].as_str()), ("VERSION_MISMATCH", "2"));
    let large = "x".repeat(9_000);
    let large = Failure::from(here.update(&created.id, &[("c", &large)], &[], None).await.unwrap_err());
    assert_eq!(large.reason(), "SESSION_TOO_LARGE");

    let rotated = here.rotate(&created.id, minute).await.unwrap();
    assert_ne!(rotated.id, created.id);
    let by_old = there.get(&created.id, false).await.unwrap();
    assert!(by_old.rotated, "the old id leads to the session for a while");
    assert_eq!(by_old.session, rotated.session);
    let twice = Failure::from(there.rotate(&created.id, minute).await.unwrap_err());
    assert_eq!(twice.reason(), "SESSION_ROTATED");
    let last = there.rotate(&rotated.id, Duration::ZERO).await.unwrap();
    assert_eq!(not_found(here.get(&rotated.id, false).await), "SESSION_NOT_FOUND");

    assert!(here.revoke(Which::Id(last.id.clone())).await);
    assert!(!here.revoke(Which::Id(last.id.clone())).await);
    for id in [&created.id, &rotated.id, &last.id, "no id at all"] {
        assert_eq!(not_found(there.get(id, true).await), "SESSION_NOT_FOUND");
    }
}

pub(crate) async fn sessions_of_a_user_are_bounded_listed_and_revoked(here: &Client, there: &Client) {
    let mut created = Vec::new();
    for seconds in [100, 200, 300] {
        created.push(here.create("bob", Duration::from_secs(seconds), None).await);
    }
    let fourth = there.create("bob", Duration::from_secs(400), None).await;
    assert_eq!(fourth.revoked, 1);
    assert_eq!(not_found(here.get(&created[0].id, false).await), "SESSION_NOT_FOUND");
    let listed = here.list("bob").await;
    let expected = [&created[1], &created[2], &fourth].map(|created| created.session.clone().unwrap());
    assert_eq!(listed, expected);

    assert!(there.revoke(Which::Handle(listed[0].handle.clone())).await);
    assert_eq!(here.revoke_user("bob", &listed[2].handle).await, 1);
    assert_eq!(there.list("bob").await, [listed[2].clone()]);
    assert_eq!(here.revoke_user("bob", "").await, 1);
    assert!(here.list("bob").await.is_empty());
    assert_eq!(not_found(there.get(&fourth.id, false).await), "SESSION_NOT_FOUND");
}

async fn times_end_a_session(client: &Client) {
    let second = Duration::from_secs(1);
    // A touch within a tenth of the ttl after another is not written; a later one is.
    let created = client.create("cleo", Duration::from_secs(2), None).await;
    let begun = created.session.unwrap();
    let touched = || async {
        let session = client.get(&created.id, true).await.unwrap().session.unwrap();
        let moved = session.seen_at != begun.seen_at;
        if moved { Ok(session) } else { Err(format!("{session:?}")) }
    };
    let touched = wait_until("a touch to be written", LOOK_EVERY, WITHIN, touched).await.unwrap();
    let ms = |session: &pb::Session| {
        let at = session.seen_at.unwrap();
        at.seconds * 1_000 + i64::from(at.nanos) / 1_000_000
    };
    assert!(ms(&touched) - ms(&begun) >= 200, "{touched:?} after {begun:?}");

    // However often it is seen, it ends at its greatest age; and unseen, after its ttl.
    let aged = client.create("dora", Duration::from_secs(60), Some(second)).await.id;
    let unseen = client.create("dora", second, None).await.id;
    for (id, touch) in [(&aged, true), (&unseen, false)] {
        let ended = || async {
            let reply = client.get(id, touch).await;
            reply.map_or(Ok(()), |reply| Err(format!("{reply:?}")))
        };
        wait_until("the session to end", LOOK_EVERY, WITHIN, ended).await.unwrap();
        assert_eq!(not_found(client.get(id, true).await), "SESSION_NOT_FOUND");
    }
}

fn not_found(reply: Result<pb::GetSessionResponse, Status>) -> String {
    Failure::from(reply.unwrap_err()).reason().to_owned()
}

pub(crate) struct Client(SessionServiceClient<Channel>);

impl Client {
    pub(crate) fn of(node: &Node) -> Self {
        Self(SessionServiceClient::new(node.channel.clone()))
    }

    async fn create(
        &self,
        user: &str,
        ttl: Duration,
        max_age: Option<Duration>,
    ) -> pb::CreateSessionResponse {
        let request = pb::CreateSessionRequest {
            user: user.to_owned(),
            fields: [("a".to_owned(), "1".to_owned())].into(),
            ttl: duration(ttl),
            max_age: max_age.and_then(duration),
        };
        self.0.clone().create(request).await.unwrap().into_inner()
    }

    async fn get(&self, id: &str, touch: bool) -> Result<pb::GetSessionResponse, Status> {
        let request = pb::GetSessionRequest { id: id.to_owned(), touch };
        self.0.clone().get(request).await.map(tonic::Response::into_inner)
    }

    async fn update(
        &self,
        id: &str,
        set: &[(&str, &str)],
        remove: &[&str],
        if_version: Option<u64>,
    ) -> Result<pb::Session, Status> {
        let set = set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let remove = remove.iter().map(|name| (*name).to_owned()).collect();
        let request = pb::UpdateSessionRequest { id: id.to_owned(), set, remove, if_version };
        self.0.clone().update(request).await.map(|reply| reply.into_inner().session.unwrap())
    }

    async fn rotate(&self, id: &str, grace: Duration) -> Result<pb::RotateSessionResponse, Status> {
        let request = pb::RotateSessionRequest { id: id.to_owned(), grace: duration(grace) };
        self.0.clone().rotate(request).await.map(tonic::Response::into_inner)
    }

    async fn revoke(&self, which: Which) -> bool {
        let request = pb::RevokeSessionRequest { which: Some(which) };
        self.0.clone().revoke(request).await.unwrap().into_inner().revoked
    }

    async fn list(&self, user: &str) -> Vec<pb::Session> {
        let request = pb::ListUserSessionsRequest { user: user.to_owned() };
        self.0.clone().list_by_user(request).await.unwrap().into_inner().sessions
    }

    async fn revoke_user(&self, user: &str, except_handle: &str) -> u32 {
        let request =
            pb::RevokeUserSessionsRequest { user: user.to_owned(), except_handle: except_handle.to_owned() };
        self.0.clone().revoke_user(request).await.unwrap().into_inner().revoked
    }
}
