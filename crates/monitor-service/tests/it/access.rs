//! API keys and recorded changes: kept once answered, and as they were answered.

use mainstay_proto::monitor::v1 as pb;
use mainstay_proto::monitor::v1::access_service_client::AccessServiceClient;
use mainstay_rpc::{Failure, Status};
use tonic::transport::{Channel, Endpoint};

use crate::harness::{Watcher, quick};

type Client = AccessServiceClient<Channel>;

fn client(watcher: &Watcher) -> Client {
    let endpoint = format!("http://{}", watcher.cx.listening()[0].address);
    AccessServiceClient::new(Endpoint::new(endpoint).expect("the endpoint is legal").connect_lazy())
}

fn new_key(name: &str, secret: u8) -> pb::CreateApiKeyRequest {
    pb::CreateApiKeyRequest {
        name: name.to_owned(),
        role: "operator".to_owned(),
        scopes: vec!["cache:orders".to_owned()],
        sha256: vec![secret; 32].into(),
        expires_in: Some(prost_types::Duration { seconds: 3_600, nanos: 0 }),
    }
}

async fn keys(client: &mut Client) -> (Vec<pb::ApiKey>, u64) {
    let request = pb::ListApiKeysRequest::default();
    let answer = client.list_api_keys(request).await.expect("the monitor answers").into_inner();
    (answer.keys, answer.revision)
}

fn reason<T>(answer: Result<T, Status>) -> Option<String> {
    answer.err().map(|status| Failure::from(status).reason().to_owned())
}

#[tokio::test]
async fn api_keys_are_made_rotated_and_revoked_and_survive_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = quick(&[]);
    config.store.path = folder.path().join("monitor.db");
    let watcher = Watcher::start(config.clone()).await;
    let mut door = client(&watcher);
    let (none, first) = keys(&mut door).await;
    assert_eq!(none, []);
    door.create_api_key(new_key("ci", 1)).await.expect("it is legal");
    door.create_api_key(new_key("gone", 2)).await.expect("it is legal");
    let again = door.create_api_key(new_key("ci", 3)).await;
    assert_eq!(reason(again).as_deref(), Some("API_KEY_EXISTS"));
    let bad = pb::CreateApiKeyRequest { role: "root".to_owned(), ..new_key("bad", 4) };
    assert_eq!(reason(door.create_api_key(bad).await).as_deref(), Some("INVALID_FIELD"));
    let grace = Some(prost_types::Duration { seconds: 60, nanos: 0 });
    let rotation = pb::RotateApiKeyRequest { name: "ci".to_owned(), sha256: vec![9; 32].into(), grace };
    let rotated = door.rotate_api_key(rotation).await.expect("it is there").into_inner().key;
    door.revoke_api_key(pb::RevokeApiKeyRequest { name: "gone".to_owned() }).await.expect("it is there");
    let twice = door.revoke_api_key(pb::RevokeApiKeyRequest { name: "gone".to_owned() }).await;
    assert_eq!(reason(twice).as_deref(), Some("API_KEY_NOT_FOUND"));
    let (_, revision) = keys(&mut door).await;
    assert!(revision > first);
    let request = pb::ListApiKeysRequest { known_revision: revision };
    let known = door.list_api_keys(request).await.expect("the monitor answers").into_inner();
    assert!(known.unchanged && known.keys.is_empty());
    watcher.cx.shut_down().await;

    let watcher = Watcher::start(config).await;
    let (restored, later) = keys(&mut client(&watcher)).await;
    assert_eq!(restored, [rotated.expect("a rotation answers with the key")]);
    assert_eq!((&restored[0].sha256[..1], &restored[0].previous_sha256[..1]), (&[9][..], &[1][..]));
    assert_ne!(later, revision);
    watcher.cx.shut_down().await;
}

#[tokio::test]
async fn recorded_changes_survive_a_restart_and_are_kept_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = quick(&[]);
    config.store.path = folder.path().join("monitor.db");
    let watcher = Watcher::start(config.clone()).await;
    let change = pb::RecordedChange {
        id: "8e03978e-40d5-43dd-bc93-6894a57f9324".to_owned(),
        at: Some(prost_types::Timestamp { seconds: 1_790_000_000, nanos: 0 }),
        kind: pb::ChangeKind::Control.into(),
        subject: "ann".to_owned(),
        route: "/api-keys".to_owned(),
        status: 200,
        ..pb::RecordedChange::default()
    };
    let request = pb::RecordChangesRequest { changes: vec![change.clone()] };
    let mut door = client(&watcher);
    door.record_changes(request.clone()).await.expect("it is legal");
    door.record_changes(request).await.expect("telling it again does no harm");
    let nobody = pb::RecordedChange { id: "x".to_owned(), ..change.clone() };
    let refused = door.record_changes(pb::RecordChangesRequest { changes: vec![nobody] }).await;
    assert_eq!(reason(refused).as_deref(), Some("INVALID_FIELD"));
    watcher.cx.shut_down().await;

    let watcher = Watcher::start(config).await;
    let request = pb::ListChangesRequest { subject: "ann".to_owned(), ..pb::ListChangesRequest::default() };
    let listed = client(&watcher).list_changes(request).await.expect("the monitor answers").into_inner();
    let seen: Vec<(&str, u32)> =
        listed.changes.iter().map(|change| (change.route.as_str(), change.status)).collect();
    assert_eq!(seen, [("/api-keys", 200)]);
    watcher.cx.shut_down().await;
}
