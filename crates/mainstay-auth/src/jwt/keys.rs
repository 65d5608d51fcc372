use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Deserialize;
use spki::{ObjectIdentifier, SubjectPublicKeyInfoRef};

use super::{InvalidKey, SHORTEST_SECRET_BYTES};

/// Keys of one set: a token without a key id is tried against each of its algorithm.
const MOST_KEYS: usize = 32;
/// 2,048 bits (RFC 7518, section 3.3), and what the library computes with at most.
const RSA_MODULUS_BYTES: std::ops::RangeInclusive<usize> = 256..=512;

const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// Public keys that tokens may be signed with, each pinned to one algorithm: RSA to RS256, P-256 to ES256, Ed25519 to
/// EdDSA.
#[derive(Debug, Clone, Default)]
pub struct KeySet {
    keys: Vec<Key>,
}

/// One verification key; `jsonwebtoken` keeps its bytes out of `Debug`.
#[derive(Debug, Clone)]
pub(super) struct Key {
    algorithm: Algorithm,
    id: Option<String>,
    key: DecodingKey,
}

impl KeySet {
    /// Reads every `PUBLIC KEY` of a PEM text; a key of another kind is an error.
    pub fn from_pem(pem: &[u8]) -> Result<Self, InvalidKey> {
        let mut keys = Vec::new();
        for (index, found) in SubjectPublicKeyInfoDer::pem_slice_iter(pem).enumerate() {
            let key = found.ok().and_then(|der| Key::from_spki(der.as_ref()));
            keys.push(key.ok_or(InvalidKey::PublicKey { index })?);
        }
        Self::of(keys)
    }

    /// Reads a JSON Web Key Set (RFC 7517). Keys that are not for checking signatures, or of a kind that is not used
    /// here, are passed over, as section 5 asks; a set without any usable key is an error. Symmetric keys are not used:
    /// a secret has no place in a document that others read.
    pub fn from_jwks(json: &[u8]) -> Result<Self, InvalidKey> {
        let set: Jwks = serde_json::from_slice(json).map_err(|_| InvalidKey::Jwks)?;
        let read = |key| serde_json::from_value::<Jwk>(key).ok().and_then(Key::from_jwk);
        Self::of(set.keys.into_iter().filter_map(read).collect())
    }

    /// Returns how many keys there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Tells whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Adds the keys of another set.
    pub fn extend(&mut self, other: Self) {
        self.keys.extend(other.keys);
    }

    pub(super) fn keys(&self) -> &[Key] {
        &self.keys
    }

    pub(super) fn push_secret(&mut self, index: usize, secret: &[u8]) -> Result<(), InvalidKey> {
        if secret.len() < SHORTEST_SECRET_BYTES {
            return Err(InvalidKey::ShortSecret { index, len_bytes: secret.len() });
        }
        let key = DecodingKey::from_secret(secret);
        self.keys.push(Key { algorithm: Algorithm::HS256, id: None, key });
        Ok(())
    }

    fn of(keys: Vec<Key>) -> Result<Self, InvalidKey> {
        match keys.len() {
            0 => Err(InvalidKey::NoUsableKey),
            1..=MOST_KEYS => Ok(Self { keys }),
            n_keys => Err(InvalidKey::TooManyKeys { n_keys, most: MOST_KEYS }),
        }
    }
}

impl Key {
    /// Tells whether a token of this algorithm and key id may have been signed with this key.
    pub(super) fn fits(&self, algorithm: Algorithm, id: Option<&str>) -> bool {
        let same_id = match (self.id.as_deref(), id) {
            (Some(own), Some(named)) => own == named,
            _ => true,
        };
        self.algorithm == algorithm && same_id
    }

    /// Checks a signature; an error where it cannot be one at all.
    pub(super) fn signed(&self, signature: &str, message: &str) -> Result<bool, jsonwebtoken::errors::Error> {
        jsonwebtoken::crypto::verify(signature, message.as_bytes(), &self.key, self.algorithm)
    }

    fn from_spki(der: &[u8]) -> Option<Self> {
        let info = SubjectPublicKeyInfoRef::try_from(der).ok()?;
        let bytes = info.subject_public_key.as_bytes()?;
        match info.algorithm.oid {
            RSA => {
                let key = pkcs1::RsaPublicKey::try_from(bytes).ok()?;
                Self::rsa(key.modulus.as_bytes(), key.public_exponent.as_bytes())
            }
            EC if info.algorithm.parameters_oid().ok()? == P256 => Self::p256(bytes),
            ED25519 => Self::ed25519(bytes),
            _ => None,
        }
    }

    fn from_jwk(jwk: Jwk) -> Option<Self> {
        let for_signatures = jwk.usage.as_deref().is_none_or(|usage| usage == "sig")
            && jwk.key_ops.is_none_or(|ops| ops.iter().any(|op| op == "verify"));
        if !for_signatures {
            return None;
        }
        let bytes = |text: Option<String>| URL_SAFE_NO_PAD.decode(text?).ok();
        let key = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("RSA", _) => Self::rsa(&bytes(jwk.n)?, &bytes(jwk.e)?),
            ("EC", Some("P-256")) => {
                let (x, y) = (bytes(jwk.x)?, bytes(jwk.y)?);
                (x.len() == 32 && y.len() == 32)
                    .then(|| [&[4][..], &x, &y].concat())
                    .and_then(|point| Self::p256(&point))
            }
            ("OKP", Some("Ed25519")) => Self::ed25519(&bytes(jwk.x)?),
            _ => None,
        }?;
        let named: Option<Algorithm> = jwk.alg.map(|name| name.parse()).transpose().ok()?;
        named.is_none_or(|named| named == key.algorithm).then_some(Self { id: jwk.kid, ..key })
    }

    fn rsa(modulus: &[u8], exponent: &[u8]) -> Option<Self> {
        let modulus = without_zeros(modulus);
        let exponent = without_zeros(exponent);
        // An exponent of 1 would make every message its own signature; one above 32 bits is only there to be slow.
        let sound = RSA_MODULUS_BYTES.contains(&modulus.len())
            && (1..=4).contains(&exponent.len())
            && exponent.last().is_some_and(|last| last % 2 == 1)
            && exponent != [1];
        sound.then(|| Self::new(Algorithm::RS256, DecodingKey::from_rsa_raw_components(modulus, exponent)))
    }

    fn p256(point: &[u8]) -> Option<Self> {
        Self::new(Algorithm::ES256, DecodingKey::from_ec_der(point)).usable()
    }

    fn ed25519(bytes: &[u8]) -> Option<Self> {
        // The library takes the length for granted.
        (bytes.len() == 32).then(|| Self::new(Algorithm::EdDSA, DecodingKey::from_ed_der(bytes)))?.usable()
    }

    fn new(algorithm: Algorithm, key: DecodingKey) -> Self {
        Self { algorithm, id: None, key }
    }

    /// Keeps a key that the library accepts: one whose point lies on its curve.
    fn usable(self) -> Option<Self> {
        self.signed("", "").is_ok().then_some(self)
    }
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}
