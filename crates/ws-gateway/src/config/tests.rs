use std::collections::BTreeSet;
use std::time::Duration;

use bytesize::ByteSize;
use mainstay_auth::jwt::RotatingKeys;
use mainstay_redis::RedisMode;
use mainstay_runtime::{Problems, Secret, ServiceConfig as _};
use serde_json::Value;

use super::{
    AuthConfig, ChannelsConfig, GatewayConfig, JourneysConfig, NamespaceConfig, Recovery, WebSocketConfig,
    Who,
};

const SHIPPED: &str = include_str!("../../../../deploy/config/ws-gateway.toml");

fn problems(config: &GatewayConfig) -> Vec<String> {
    let mut problems = Problems::default();
    config.check(&mut problems);
    problems.lines()
}

/// Paths of all values that are not null.
fn keys(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                keys(value, &format!("{path}.{key}"), found);
            }
        }
        Value::Null => {}
        _ => assert!(found.insert(path.to_owned())),
    }
}

#[test]
fn the_shipped_file_names_every_key_with_its_default() {
    let read: GatewayConfig = toml::from_str(SHIPPED).unwrap();
    let (read, default) =
        (serde_json::to_value(read).unwrap(), serde_json::to_value(GatewayConfig::default()).unwrap());
    assert_eq!(read, default);
    let written: Value = toml::from_str(SHIPPED).unwrap();
    let (mut in_file, mut in_code) = (BTreeSet::new(), BTreeSet::new());
    keys(&written, "", &mut in_file);
    keys(&default, "", &mut in_code);
    assert_eq!(in_file, in_code);
}

#[test]
fn the_defaults_are_legal_and_let_nobody_in() {
    let config = GatewayConfig::default();
    assert_eq!(problems(&config), [""; 0]);
    assert!(
        config.auth.verifier(&RotatingKeys::default()).unwrap().is_none() && !config.auth.allow_anonymous
    );
}

#[test]
fn a_cluster_is_legal_and_named_by_some_of_its_nodes() {
    let mut config = GatewayConfig::default();
    config.redis.mode = RedisMode::Cluster;
    let found = problems(&config);
    assert!(found.len() == 1 && found[0].starts_with("redis.nodes: "), "{found:?}");
    config.redis.nodes = vec!["10.0.0.1:6379".to_owned()];
    assert_eq!(problems(&config), [""; 0]);
}

#[test]
fn every_impossible_value_is_told() {
    let config = GatewayConfig {
        websocket: WebSocketConfig {
            public_url: "http://example.org".to_owned(),
            allowed_origins: vec!["https://ok.example.org".to_owned(), "example.org".to_owned()],
            ping_every: Duration::from_millis(10),
            pong_within: Duration::from_secs(8),
            connect_within: Duration::ZERO,
            header_within: Duration::ZERO,
            refresh_within: Duration::from_secs(7_200),
            max_connections: 0,
            max_message_size: ByteSize::b(1),
            outbox_size: ByteSize::b(1),
            max_channels_per_client: 0,
            ..WebSocketConfig::default()
        },
        auth: AuthConfig { jwt_secret: Secret::from("short"), ..AuthConfig::default() },
        channels: ChannelsConfig { max_length: 256, ..ChannelsConfig::default() },
        journeys: JourneysConfig { memory: ByteSize::b(1) },
        ..GatewayConfig::default()
    };
    let lines = problems(&config);
    let found: Vec<_> = lines.iter().map(|line| line.split(':').next().unwrap()).collect();
    assert_eq!(
        found,
        [
            "auth.jwt_secret",
            "channels.max_length",
            "journeys.memory",
            "websocket.allowed_origins",
            "websocket.connect_within",
            "websocket.header_within",
            "websocket.max_channels_per_client",
            "websocket.max_connections",
            "websocket.max_message_size",
            "websocket.outbox_size",
            "websocket.ping_every",
            "websocket.pong_within",
            "websocket.public_url",
            "websocket.refresh_within",
        ]
    );
}

#[test]
fn options_of_namespaces_that_contradict_each_other_are_told() {
    let wrong = NamespaceConfig {
        subscribe: Who::Subscribers,
        recovery: Recovery::Stream,
        force_positioning: true,
        force_join_leave: true,
        filter: r#"{"key": "a", "cmp": "is"}"#.to_owned(),
        delta: true,
        history_ttl: Duration::ZERO,
        ..NamespaceConfig::default()
    };
    let forced = NamespaceConfig { force_recovery: true, ..NamespaceConfig::default() };
    let channels = ChannelsConfig {
        history_limit: 0,
        namespaces: [("a".to_owned(), wrong), ("b:c".to_owned(), forced)].into(),
        ..ChannelsConfig::default()
    };
    let found = problems(&GatewayConfig { channels, ..GatewayConfig::default() });
    let keys: Vec<_> = found.iter().map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(
        keys,
        [
            "channels.history_limit",
            "channels.namespaces.a.filter",
            "channels.namespaces.a.filter",
            "channels.namespaces.a.force_join_leave",
            "channels.namespaces.a.force_positioning",
            "channels.namespaces.a.history_ttl",
            "channels.namespaces.a.recovery",
            "channels.namespaces.a.subscribe",
            "channels.namespaces.b:c.force_recovery",
            "channels.namespaces.b:c",
        ]
    );
}
