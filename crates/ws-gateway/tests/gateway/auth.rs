use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey};
use mainstay_auth::jwt::Claims;
use mainstay_jwks::JwksConfig;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use ws_gateway::{AuthConfig, ChannelsConfig, GatewayConfig, NamespaceConfig, Recovery};

use crate::client::Client;
use crate::node::{Node, PATIENCE, config, token, user};

/// A key that an issuer signs with.
struct Key {
    algorithm: Algorithm,
    private: EncodingKey,
    public_pem: String,
    jwk: Value,
}

impl Key {
    fn es256(kid: &str) -> Self {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let (x, y) = pair.public_key_raw()[1..].split_at(32);
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        Self {
            algorithm: Algorithm::ES256,
            private: EncodingKey::from_ec_der(pair.serialized_der()),
            public_pem: pair.public_key_pem(),
            jwk: json!({"kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": kid}),
        }
    }

    fn eddsa(kid: &str) -> Self {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let x = URL_SAFE_NO_PAD.encode(pair.public_key_raw());
        Self {
            algorithm: Algorithm::EdDSA,
            private: EncodingKey::from_ed_der(pair.serialized_der()),
            public_pem: pair.public_key_pem(),
            jwk: json!({"kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid}),
        }
    }

    fn sign(&self, claims: &Claims) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let header = json!({"alg": self.algorithm, "typ": "JWT", "kid": self.jwk["kid"]});
        let message = format!("{}.{}", part(&header), part(&serde_json::to_value(claims).unwrap()));
        let signature =
            jsonwebtoken::crypto::sign(message.as_bytes(), &self.private, self.algorithm).unwrap();
        format!("{message}.{signature}")
    }
}

fn of_issuer(sub: &str) -> Claims {
    Claims { aud: vec!["clients".to_owned()], ..user(sub) }
}

/// Connects once, and tells whether that went well.
async fn lets_in(node: &Node, token: &str) -> bool {
    let mut client = Client::open(node).await;
    client.text(&json!({"id": 1, "connect": {"token": token}}).to_string()).await;
    client.answer_or_end().await.is_some_and(|line| line["connect"].is_object())
}

#[tokio::test]
async fn tokens_of_public_keys_open_connections_and_subscriptions() {
    let (es256, eddsa, foreign) = (Key::es256("a"), Key::eddsa("b"), Key::eddsa("b"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.pem");
    std::fs::write(&path, [es256.public_pem.as_str(), &eddsa.public_pem].concat()).unwrap();
    let auth = AuthConfig { jwt_public_keys: vec![path], audience: "clients".to_owned(), ..config().auth };
    let node = Node::start(GatewayConfig { auth, ..config() }).await;
    for key in [&es256, &eddsa] {
        assert!(lets_in(&node, &key.sign(&of_issuer("42"))).await, "{:?}", key.algorithm);
        assert!(!lets_in(&node, &key.sign(&user("42"))).await, "a token for somebody else");
    }
    assert!(!lets_in(&node, &foreign.sign(&of_issuer("42"))).await);
    assert!(lets_in(&node, &token(&of_issuer("42"))).await, "the secret is good too");
    let mut client = Client::connected(&node, &eddsa.sign(&of_issuer("42"))).await;
    let permit = Claims { channel: Some("$deals".to_owned()), ..of_issuer("42") };
    for (token, expected) in [(foreign.sign(&permit), false), (es256.sign(&permit), true)] {
        let answer = client.call("subscribe", json!({"channel": "$deals", "token": token})).await;
        assert_eq!(answer["subscribe"].is_object(), expected, "{answer}");
    }
}

#[tokio::test]
async fn keys_that_the_issuer_rotates_are_followed() {
    let (old, new) = (Key::eddsa("2026-1"), Key::es256("2026-2"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jwks.json");
    let publish = |keys: &[&Key]| {
        let keys: Vec<_> = keys.iter().map(|key| &key.jwk).collect();
        std::fs::write(&path, json!({ "keys": keys }).to_string()).unwrap();
    };
    publish(&[&old]);
    let jwks = JwksConfig {
        source: path.to_str().unwrap().to_owned(),
        refresh_every: Duration::from_secs(1),
        ..JwksConfig::default()
    };
    let auth = AuthConfig { jwks, audience: "clients".to_owned(), ..AuthConfig::default() };
    let node = Node::start(GatewayConfig { auth, ..config() }).await;
    let (old_token, new_token) = (old.sign(&of_issuer("42")), new.sign(&of_issuer("42")));
    let until = async |token: &str, wanted: bool| {
        let deadline = Instant::now() + PATIENCE;
        while lets_in(&node, token).await != wanted {
            assert!(Instant::now() < deadline, "the keys were not followed");
            sleep(Duration::from_millis(50)).await;
        }
    };
    until(&old_token, true).await;
    assert!(!lets_in(&node, &new_token).await);
    publish(&[&new]);
    until(&new_token, true).await;
    until(&old_token, false).await;
}

#[tokio::test]
async fn a_token_says_how_each_of_its_channels_begins() {
    let kept = NamespaceConfig {
        history_size: 5,
        recovery: Recovery::Stream,
        presence: true,
        join_leave: true,
        force_join_leave: true,
        ..NamespaceConfig::default()
    };
    let channels = ChannelsConfig { default: kept, ..ChannelsConfig::default() };
    let node = Node::start(GatewayConfig { channels, ..config() }).await;
    let claims: Claims = serde_json::from_value(json!({
        "sub": "42", "exp": 4_000_000_000_u64,
        "b64info": STANDARD.encode(r#"{"name":"Ann"}"#),
        "meta": {"plan": "pro"},
        "subs": {"deals": {"info": {"seat": 1}, "override": {"force_push_join_leave": {"value": false}}}},
    }))
    .unwrap();
    let mut client = Client::connected(&node, &token(&claims)).await;
    let presence = client.call("presence", json!({"channel": "deals"})).await;
    let shown = presence["presence"]["presence"].as_object().unwrap().values().next().unwrap().clone();
    assert_eq!((&shown["conn_info"], &shown["chan_info"]), (&json!({"name": "Ann"}), &json!({"seat": 1})));
    let connection = node.connections("42", "").await.connections.remove(0);
    assert_eq!(connection.meta, r#"{"plan":"pro"}"#);

    let permit: Claims = serde_json::from_value(json!({
        "sub": "42", "exp": 4_000_000_000_u64, "channel": "plain",
        "override": {"force_recovery": {"value": true}},
    }))
    .unwrap();
    let answer = client.call("subscribe", json!({"channel": "plain", "token": token(&permit)})).await;
    assert_eq!(answer["subscribe"]["recoverable"], json!(true), "{answer}");
    let answer = client.call("subscribe", json!({"channel": "other"})).await;
    assert!(answer["subscribe"]["recoverable"].is_null(), "{answer}");

    let bad = Claims { b64info: Some(STANDARD.encode("not JSON")), ..user("42") };
    let mut client = Client::open(&node).await;
    client.text(&json!({"id": 1, "connect": {"token": token(&bad)}}).to_string()).await;
    assert_eq!(client.end().await.0, 3500);
}
