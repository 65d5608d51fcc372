use std::sync::LazyLock;

use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::EncodingKey;
use serde_json::json;

use super::*;

const NOW: u64 = 1_000_000;

/// A key pair of one kind.
struct Pair {
    algorithm: Algorithm,
    private: EncodingKey,
    /// As PEM.
    public: String,
    /// As JSON Web Key, without id.
    jwk: serde_json::Value,
}

/// Made for these tests and used nowhere else.
static RSA: LazyLock<Pair> = LazyLock::new(|| {
    let text: String = include_str!("rsa_test_key.b64").split_whitespace().collect();
    let der = STANDARD.decode(text).unwrap();
    let private = pkcs1::RsaPrivateKey::try_from(&*der).unwrap();
    let (n, e) = (private.modulus, private.public_exponent);
    let public = pkcs1::RsaPublicKey { modulus: n, public_exponent: e };
    let spki = [
        &[
            0x30, 0x82, 0x01, 0x22, 0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01,
            0x01,
        ][..],
        &[0x05, 0x00, 0x03, 0x82, 0x01, 0x0f, 0x00],
        &rsa_der(public.modulus.as_bytes(), public.public_exponent.as_bytes()),
    ]
    .concat();
    Pair {
        algorithm: Algorithm::RS256,
        private: EncodingKey::from_rsa_der(&der),
        public: pem("PUBLIC KEY", &spki),
        jwk: json!({"kty": "RSA", "n": text_of(n.as_bytes()), "e": text_of(e.as_bytes())}),
    }
});

fn rsa_der(n: &[u8], e: &[u8]) -> Vec<u8> {
    let integer =
        |bytes: &[u8], head: &[u8]| [head, &[0][..1 - usize::from(bytes[0] < 0x80)], bytes].concat();
    let (n, e) = (integer(n, &[0x02, 0x82, 0x01, 0x01]), integer(e, &[0x02, 0x03]));
    [&[0x30, 0x82, 0x01, 0x0a][..], &n, &e].concat()
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}

fn text_of(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn p256() -> Pair {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let point = pair.public_key_raw().to_vec();
    Pair {
        algorithm: Algorithm::ES256,
        private: EncodingKey::from_ec_der(pair.serialized_der()),
        public: pair.public_key_pem(),
        jwk: json!({"kty": "EC", "crv": "P-256", "x": text_of(&point[1..33]), "y": text_of(&point[33..])}),
    }
}

fn ed25519() -> Pair {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    Pair {
        algorithm: Algorithm::EdDSA,
        private: EncodingKey::from_ed_der(pair.serialized_der()),
        public: pair.public_key_pem(),
        jwk: json!({"kty": "OKP", "crv": "Ed25519", "x": text_of(pair.public_key_raw())}),
    }
}

impl Pair {
    fn token(&self, more: &serde_json::Value) -> String {
        let mut header = json!({"alg": self.algorithm, "typ": "JWT"});
        header.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let claims = Claims { sub: "ann".into(), exp: Some(NOW + 60), ..Claims::default() };
        let message = format!(
            "{}.{}",
            text_of(header.to_string().as_bytes()),
            text_of(&serde_json::to_vec(&claims).unwrap())
        );
        let signature =
            jsonwebtoken::crypto::sign(message.as_bytes(), &self.private, self.algorithm).unwrap();
        format!("{message}.{signature}")
    }

    fn jwk(&self, more: &serde_json::Value) -> serde_json::Value {
        let mut jwk = self.jwk.clone();
        jwk.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        jwk
    }
}

fn jwks(keys: &[serde_json::Value]) -> Result<KeySet, InvalidKey> {
    KeySet::from_jwks(json!({ "keys": keys }).to_string().as_bytes())
}

fn with_keys(public_keys: KeySet) -> Verifier {
    Verifier::try_new(VerifierConfig { public_keys, ..VerifierConfig::default() }).unwrap()
}

#[test]
fn each_kind_of_key_checks_its_own_tokens_and_no_others() {
    let (ec, ed, other_ec) = (p256(), ed25519(), p256());
    for pair in [&*RSA, &ec, &ed] {
        for keys in [KeySet::from_pem(pair.public.as_bytes()), jwks(&[pair.jwk(&json!({}))])] {
            let verifier = with_keys(keys.unwrap());
            assert!(verifier.verify(&pair.token(&json!({})), NOW).is_ok(), "{:?}", pair.algorithm);
            let mut forged = pair.token(&json!({}));
            let at = forged.rfind('.').unwrap() + 9;
            let changed = if forged.as_bytes()[at] == b'A' { "B" } else { "A" };
            forged.replace_range(at..=at, changed);
            assert_eq!(verifier.verify(&forged, NOW), Err(TokenError::BadSignature));
            for other in [&*RSA, &ec, &ed].into_iter().filter(|other| other.algorithm != pair.algorithm) {
                let refused = verifier.verify(&other.token(&json!({})), NOW);
                assert_eq!(refused, Err(TokenError::UnsupportedAlgorithm));
            }
        }
    }
    let verifier = with_keys(KeySet::from_pem(ec.public.as_bytes()).unwrap());
    assert_eq!(verifier.verify(&other_ec.token(&json!({})), NOW), Err(TokenError::BadSignature));
}

#[test]
fn a_public_key_is_never_taken_for_a_secret() {
    // The classic confusion: an HMAC made with the text of the public key.
    let verifier = with_keys(KeySet::from_pem(RSA.public.as_bytes()).unwrap());
    let message =
        format!("{}.{}", text_of(br#"{"alg":"HS256"}"#), text_of(br#"{"sub":"eve","exp":9999999999}"#));
    let key = EncodingKey::from_secret(RSA.public.as_bytes());
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
    let refused = verifier.verify(&format!("{message}.{signature}"), NOW);
    assert_eq!(refused, Err(TokenError::UnsupportedAlgorithm));
}

#[test]
fn tokens_made_for_other_purposes_are_refused_by_their_type() {
    let pair = ed25519();
    let verifier = with_keys(KeySet::from_pem(pair.public.as_bytes()).unwrap());
    for (typ, good) in [
        ("JWT", true),
        ("at+jwt", true),
        ("application/at+JWT", true),
        ("logout+jwt", false),
        ("dpop+jwt", false),
    ] {
        let verdict = verifier.verify(&pair.token(&json!({"typ": typ})), NOW);
        assert_eq!(verdict.is_ok(), good, "{typ}: {verdict:?}");
    }
}

#[test]
fn of_a_key_set_only_sound_keys_for_signatures_are_used() {
    let ec = p256();
    let (short_n, n) = (text_of(&[0xff; 128]), RSA.jwk["n"].clone());
    let table = [
        (ec.jwk(&json!({"use": "sig", "alg": "ES256", "kid": "a"})), true),
        (ec.jwk(&json!({"key_ops": ["verify"]})), true),
        (ec.jwk(&json!({"use": "enc"})), false),
        (ec.jwk(&json!({"key_ops": ["encrypt"]})), false),
        (ec.jwk(&json!({"alg": "RS256"})), false),
        (ec.jwk(&json!({"alg": "none"})), false),
        (ec.jwk(&json!({"x": text_of(&[1; 32])})), false),
        (ec.jwk(&json!({"crv": "P-384"})), false),
        (json!({"kty": "oct", "k": text_of(&[7; 64])}), false),
        (json!({"kty": "RSA", "n": short_n, "e": "AQAB"}), false),
        (json!({"kty": "RSA", "n": n, "e": "AQ"}), false),
        (json!({"kty": "RSA", "n": n}), false),
        (json!({"kty": "OKP", "crv": "Ed25519", "x": "AQAB"}), false),
        (json!("a key"), false),
    ];
    for (jwk, used) in table {
        assert_eq!(jwks(std::slice::from_ref(&jwk)).is_ok(), used, "{jwk}");
        let beside_a_good_one = jwks(&[jwk, ed25519().jwk(&json!({}))]).unwrap();
        assert_eq!(beside_a_good_one.len(), 1 + usize::from(used));
    }
    assert_eq!(jwks(&[]).unwrap_err(), InvalidKey::NoUsableKey);
    assert_eq!(KeySet::from_jwks(b"<html>").unwrap_err(), InvalidKey::Jwks);
    let many: Vec<_> = (0..33).map(|_| ec.jwk(&json!({}))).collect();
    assert_eq!(jwks(&many).unwrap_err(), InvalidKey::TooManyKeys { n_keys: 33, most: 32 });
}

#[test]
fn unusable_pem_files_are_named() {
    let certificate = pem("CERTIFICATE", b"no key");
    assert_eq!(KeySet::from_pem(certificate.as_bytes()).unwrap_err(), InvalidKey::NoUsableKey);
    assert_eq!(KeySet::from_pem(b"").unwrap_err(), InvalidKey::NoUsableKey);
    let both = format!("{}{}", RSA.public, pem("PUBLIC KEY", b"garbage"));
    assert_eq!(KeySet::from_pem(both.as_bytes()).unwrap_err(), InvalidKey::PublicKey { index: 1 });
}

#[test]
fn rotated_keys_count_at_once_and_a_missing_one_is_told() {
    let (old, new, rotating) = (p256(), p256(), RotatingKeys::default());
    let config = VerifierConfig { rotating_keys: Some(rotating.clone()), ..VerifierConfig::default() };
    let verifier = Verifier::try_new(config).unwrap();
    let (old_token, new_token) = (old.token(&json!({"kid": "1"})), new.token(&json!({"kid": "2"})));
    assert_eq!(verifier.verify(&old_token, NOW), Err(TokenError::UnknownKey), "nothing was fetched yet");
    assert!(rotating.take_missed() && !rotating.take_missed());

    rotating.replace(jwks(&[old.jwk(&json!({"kid": "1"}))]).unwrap());
    assert!(verifier.verify(&old_token, NOW).is_ok());
    assert!(!rotating.take_missed());
    assert_eq!(verifier.verify(&new_token, NOW), Err(TokenError::UnknownKey));
    assert!(rotating.take_missed());

    rotating.replace(jwks(&[new.jwk(&json!({"kid": "2"}))]).unwrap());
    assert!(verifier.verify(&new_token, NOW).is_ok());
    assert_eq!(verifier.verify(&old_token, NOW), Err(TokenError::UnknownKey));
    let unnamed = old.token(&json!({}));
    assert_eq!(verifier.verify(&unnamed, NOW), Err(TokenError::BadSignature));
    assert!(rotating.take_missed());

    rotating.forget();
    assert_eq!(verifier.verify(&new_token, NOW), Err(TokenError::UnknownKey));
}
