use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::Role;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const OTHER: &[u8] = b"another secret with enough bytes in it";
const NOW: u64 = 1_000_000;

fn config() -> VerifierConfig {
    VerifierConfig {
        hs256_secrets: vec![SECRET.to_vec()],
        issuer: Some("accounts".into()),
        audience: Some("mainstay".into()),
        leeway: Duration::from_secs(5),
        require_exp: true,
        ..VerifierConfig::default()
    }
}

fn verifier() -> Verifier {
    Verifier::try_new(config()).unwrap()
}

fn claims() -> Claims {
    Claims {
        sub: "ann".into(),
        exp: Some(NOW + 60),
        iss: Some("accounts".into()),
        aud: vec!["mainstay".into()],
        role: Some(Role::Viewer),
        ..Claims::default()
    }
}

/// Signs any header and payload with HMAC-SHA-256, whatever the header says.
fn forge(header: &Value, payload: &[u8], secret: &[u8]) -> String {
    let message = format!("{}.{}", encode(header.to_string().as_bytes()), encode(payload));
    let key = jsonwebtoken::EncodingKey::from_secret(secret);
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
    format!("{message}.{signature}")
}

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn payload() -> Vec<u8> {
    serde_json::to_vec(&claims()).unwrap()
}

#[test]
fn a_genuine_token_gives_its_claims_back() {
    let token = sign_hs256(&claims(), SECRET).unwrap();
    assert_eq!(verifier().verify(&token, NOW), Ok(claims()));
}

#[test]
fn a_token_of_the_specification_is_verified() {
    // RFC 7515, appendix A.1.
    let key = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
    let token = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.\
                 eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.\
                 dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    let secrets = vec![URL_SAFE_NO_PAD.decode(key).unwrap()];
    let verifier =
        Verifier::try_new(VerifierConfig { hs256_secrets: secrets, ..VerifierConfig::default() }).unwrap();
    let claims = verifier.verify(token, 1_300_819_379).unwrap();
    assert_eq!((claims.iss.as_deref(), claims.exp), (Some("joe"), Some(1_300_819_380)));
    assert_eq!(verifier.verify(token, 1_300_819_385), Err(TokenError::Expired));
}

#[test]
fn forged_headers_and_signatures_are_refused() {
    let hs256 = json!({"alg": "HS256", "typ": "JWT"});
    let good = forge(&hs256, &payload(), SECRET);
    assert!(verifier().verify(&good, NOW).is_ok());
    let (message, signature) = good.rsplit_once('.').unwrap();
    let unsigned = |alg: &str| forge(&json!({"alg": alg}), &payload(), SECRET);
    let none = encode(br#"{"alg":"none"}"#);
    let table = [
        (forge(&hs256, &payload(), OTHER), TokenError::BadSignature),
        (format!("{message}."), TokenError::BadSignature),
        (format!("{message}.{}", encode(b"short")), TokenError::BadSignature),
        (format!("{message}.{signature}="), TokenError::Malformed),
        (format!("{none}.{}.", encode(&payload())), TokenError::UnsupportedAlgorithm),
        (format!("{none}.{}.{signature}", encode(&payload())), TokenError::UnsupportedAlgorithm),
        (unsigned("None"), TokenError::UnsupportedAlgorithm),
        (unsigned("hs256"), TokenError::UnsupportedAlgorithm),
        (unsigned("HS384"), TokenError::UnsupportedAlgorithm),
        (unsigned("RS256"), TokenError::UnsupportedAlgorithm),
        (unsigned("EdDSA"), TokenError::UnsupportedAlgorithm),
        (forge(&json!({"alg": ["HS256"]}), &payload(), SECRET), TokenError::Malformed),
        (forge(&json!({"typ": "JWT"}), &payload(), SECRET), TokenError::Malformed),
        (
            forge(&json!({"alg": "HS256", "crit": ["b64"], "b64": false}), &payload(), SECRET),
            TokenError::Malformed,
        ),
    ];
    for (token, expected) in table {
        assert_eq!(verifier().verify(&token, NOW), Err(expected), "{token}");
    }
}

#[test]
fn garbage_is_malformed() {
    let hs256 = json!({"alg": "HS256"});
    let table = [
        String::new(),
        ".".into(),
        "..".into(),
        "...".into(),
        "a.b".into(),
        "not a token at all".into(),
        "ä.ö.ü".into(),
        format!("{}.x", sign_hs256(&claims(), SECRET).unwrap()),
        forge(&hs256, b"not json", SECRET),
        forge(&hs256, b"[]", SECRET),
        forge(&hs256, br#"["ann",9999999999]"#, SECRET),
        forge(&hs256, br#"{"exp":1,"exp":9999999999}"#, SECRET),
        forge(&hs256, br#"{"exp":"9999999999"}"#, SECRET),
        forge(&hs256, br#"{"exp":9999999999,"role":"root"}"#, SECRET),
        format!("{}.e.e", "a".repeat(20_000)),
    ];
    for token in table {
        assert_eq!(verifier().verify(&token, NOW), Err(TokenError::Malformed), "{token}");
    }
}

#[test]
fn times_are_checked_against_the_given_now() {
    let table = [
        (Claims { exp: Some(NOW + 1), ..claims() }, None),
        (Claims { exp: Some(NOW - 4), ..claims() }, None),
        (Claims { exp: Some(NOW - 5), ..claims() }, Some(TokenError::Expired)),
        (Claims { exp: Some(0), ..claims() }, Some(TokenError::Expired)),
        (Claims { exp: Some(u64::MAX), ..claims() }, None),
        (Claims { exp: None, ..claims() }, Some(TokenError::MissingExpiry)),
        (Claims { nbf: Some(NOW + 5), ..claims() }, None),
        (Claims { nbf: Some(NOW + 6), ..claims() }, Some(TokenError::NotYetValid)),
    ];
    for (claims, expected) in table {
        let token = sign_hs256(&claims, SECRET).unwrap();
        assert_eq!(verifier().verify(&token, NOW).err(), expected, "{claims:?}");
    }
    let lenient = Verifier::try_new(VerifierConfig { require_exp: false, ..config() }).unwrap();
    let endless = sign_hs256(&Claims { exp: None, ..claims() }, SECRET).unwrap();
    assert!(lenient.verify(&endless, NOW).is_ok());
}

#[test]
fn issuer_and_audience_must_match_where_they_are_configured() {
    let table = [
        (Claims { iss: None, ..claims() }, Some(TokenError::WrongIssuer)),
        (Claims { iss: Some("Accounts".into()), ..claims() }, Some(TokenError::WrongIssuer)),
        (Claims { aud: vec![], ..claims() }, Some(TokenError::WrongAudience)),
        (Claims { aud: vec!["other".into()], ..claims() }, Some(TokenError::WrongAudience)),
        (Claims { aud: vec!["other".into(), "mainstay".into()], ..claims() }, None),
    ];
    for (claims, expected) in table {
        let token = sign_hs256(&claims, SECRET).unwrap();
        assert_eq!(verifier().verify(&token, NOW).err(), expected, "{claims:?}");
    }
    let open = Verifier::try_new(VerifierConfig { issuer: None, audience: None, ..config() }).unwrap();
    let token = sign_hs256(&Claims { iss: None, aud: vec![], ..claims() }, SECRET).unwrap();
    assert!(open.verify(&token, NOW).is_ok());
}

#[test]
fn both_secrets_count_while_they_are_rotated() {
    let secrets = vec![SECRET.to_vec(), OTHER.to_vec()];
    let verifier = Verifier::try_new(VerifierConfig { hs256_secrets: secrets, ..config() }).unwrap();
    for secret in [SECRET, OTHER] {
        assert!(verifier.verify(&sign_hs256(&claims(), secret).unwrap(), NOW).is_ok());
    }
    let unknown = sign_hs256(&claims(), b"a third secret that nobody knows of").unwrap();
    assert_eq!(verifier.verify(&unknown, NOW), Err(TokenError::BadSignature));
}

#[test]
fn weak_secrets_are_refused_with_a_clear_message() {
    let with = |hs256_secrets| Verifier::try_new(VerifierConfig { hs256_secrets, ..config() }).unwrap_err();
    assert_eq!(with(vec![]), InvalidKey::None);
    let short = with(vec![SECRET.to_vec(), b"hunter2".to_vec()]);
    assert_eq!(short.to_string(), "hs256 secret number 2 has 7 bytes, at least 32 are needed");
    assert_eq!(sign_hs256(&claims(), &[1; 31]), Err(SignError::ShortSecret { len_bytes: 31 }));
}

#[test]
fn debug_output_shows_no_secret() {
    let shown = format!("{:?} {:?}", config(), verifier());
    let as_numbers = format!("{SECRET:?}");
    for hidden in ["0123456789abcdef", as_numbers.trim_matches(['[', ']'])] {
        assert!(!shown.contains(hidden), "{shown}");
    }
}

proptest! {
    #[test]
    fn a_token_with_any_byte_changed_never_verifies(position in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let token = sign_hs256(&claims(), SECRET).unwrap();
        let mut bytes = token.into_bytes();
        let position = position.index(bytes.len());
        prop_assume!(bytes[position] != byte);
        bytes[position] = byte;
        prop_assert!(verifier().verify(&String::from_utf8_lossy(&bytes), NOW).is_err());
    }

    #[test]
    fn a_shortened_or_lengthened_token_never_verifies(cut in 1_usize..200, extra in "[A-Za-z0-9_.=-]{1,20}") {
        let token = sign_hs256(&claims(), SECRET).unwrap();
        let (shorter, longer) = (&token[..token.len().saturating_sub(cut)], format!("{token}{extra}"));
        prop_assert!(verifier().verify(shorter, NOW).is_err());
        prop_assert!(verifier().verify(&longer, NOW).is_err());
    }

    #[test]
    fn arbitrary_text_never_verifies(text in ".{0,200}") {
        prop_assert!(verifier().verify(&text, NOW).is_err());
    }

    #[test]
    fn arbitrary_signed_payloads_never_panic(payload in prop::collection::vec(any::<u8>(), 0..200)) {
        let token = forge(&json!({"alg": "HS256"}), &payload, SECRET);
        prop_assert!(verifier().verify(&token, NOW).is_err());
    }

    #[test]
    fn claims_survive_signing(
        sub in ".{0,20}", exp in NOW + 1..u64::MAX, scopes in prop::collection::vec("[a-z:]{1,9}", 0..4),
        channels in prop::collection::vec(".{0,9}", 0..4), channel in prop::option::of(".{0,9}"),
    ) {
        let claims = Claims { sub, exp: Some(exp), scopes, channels, channel, ..claims() };
        let token = sign_hs256(&claims, SECRET).unwrap();
        prop_assert_eq!(verifier().verify(&token, NOW), Ok(claims));
    }
}
