use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use mainstay_auth::Role;
use mainstay_auth::jwt::Claims;
use mainstay_tests::{Answer, Devstack, House, Service, eventually, unix_s};
use serde_json::{Value, json};

/// An issuer's key pair.
struct Issuer {
    id: &'static str,
    pair: rcgen::KeyPair,
}

impl Issuer {
    fn new(id: &'static str) -> Self {
        Self { id, pair: rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key pair") }
    }

    fn key_set(&self) -> Value {
        let point = self.pair.public_key_raw();
        let [x, y] = [&point[1..33], &point[33..]].map(|bytes| URL_SAFE_NO_PAD.encode(bytes));
        json!({ "keys": [{ "kty": "EC", "crv": "P-256", "use": "sig", "kid": self.id, "x": x, "y": y }] })
    }

    fn token(&self, claims: &Claims) -> String {
        let header = Header { kid: Some(self.id.to_owned()), ..Header::new(Algorithm::ES256) };
        jsonwebtoken::encode(&header, claims, &EncodingKey::from_ec_der(self.pair.serialized_der()))
            .expect("claims can be signed")
    }
}

fn claims() -> Claims {
    Claims {
        sub: "ann".to_owned(),
        exp: Some(unix_s() + 600),
        iss: Some("https://id.example.org".to_owned()),
        aud: vec!["mainstay".to_owned()],
        role: Some(Role::Viewer),
        ..Claims::default()
    }
}

async fn house(key_set: &std::path::Path) -> House {
    let edge = Service::EdgeGateway;
    let builder = Devstack::builder()
        .services([edge])
        .env(edge, "MAINSTAY__AUTH__JWKS__SOURCE", key_set.to_str().expect("temporary paths are text"))
        .env(edge, "MAINSTAY__AUTH__JWKS__REFRESH_EVERY", "1s")
        .env(edge, "MAINSTAY__AUTH__ISSUER", "https://id.example.org")
        .env(edge, "MAINSTAY__AUTH__AUDIENCE", "mainstay");
    House::start(builder).await
}

async fn shown(house: &House, token: &str) -> Answer {
    let bearer = house.anonymous().with_header("authorization", &format!("Bearer {token}"));
    bearer.get("/monitoring/unified/metrics").await
}

async fn accepted(house: &House, token: &str) {
    eventually("the edge to know the issuer's key", || async {
        let answer = shown(house, token).await;
        if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
    })
    .await;
}

#[tokio::test]
async fn keys_of_the_issuer_may_rotate_while_the_edge_runs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jwks.json");
    let (old, new) = (Issuer::new("one"), Issuer::new("two"));
    std::fs::write(&path, old.key_set().to_string()).unwrap();
    let house = house(&path).await;
    accepted(&house, &old.token(&claims())).await;

    std::fs::write(&path, new.key_set().to_string()).unwrap();
    accepted(&house, &new.token(&claims())).await;
    let refused = shown(&house, &old.token(&claims())).await;
    assert_eq!(refused.problem(401, "CREDENTIALS_REFUSED")["detail"], "bearer token is refused");
}

#[tokio::test]
async fn forged_and_misused_tokens_are_refused_and_never_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jwks.json");
    let (issuer, stranger) = (Issuer::new("one"), Issuer::new("one"));
    std::fs::write(&path, issuer.key_set().to_string()).unwrap();
    let house = house(&path).await;
    let good = issuer.token(&claims());
    accepted(&house, &good).await;

    let unsigned = |header: Value| {
        let parts = [header, serde_json::to_value(claims()).unwrap()];
        parts.map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".")
    };
    let of_public_key = {
        let secret = EncodingKey::from_secret(issuer.pair.public_key_pem().as_bytes());
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims(), &secret).unwrap()
    };
    let table = [
        ("no signature", format!("{}.", unsigned(json!({"alg": "none"})))),
        (
            "a signature taken over",
            format!("{}.{}", unsigned(json!({"alg": "ES256"})), good.rsplit('.').next().unwrap()),
        ),
        ("signed with the public key as a secret", of_public_key),
        ("somebody else's key under the same id", stranger.token(&claims())),
        ("expired", issuer.token(&Claims { exp: Some(unix_s() - 60), ..claims() })),
        ("never expires", issuer.token(&Claims { exp: None, ..claims() })),
        ("for somebody else", issuer.token(&Claims { aud: vec!["shop".to_owned()], ..claims() })),
        (
            "from somebody else",
            issuer.token(&Claims { iss: Some("https://evil.example".to_owned()), ..claims() }),
        ),
        ("without a role", issuer.token(&Claims { role: None, ..claims() })),
        ("for one channel", issuer.token(&Claims { channel: Some("news".to_owned()), ..claims() })),
    ];
    for (what, token) in table {
        let answer = shown(&house, &token).await;
        answer.problem(401, "CREDENTIALS_REFUSED");
        assert!(!answer.text().contains(&token), "{what}: {}", answer.text());
        let log = house.stack().service(Service::EdgeGateway).unwrap().log_tail(200);
        assert!(!log.contains(&token), "{what}: {log}");
    }
}
