//! Whether a JSON Web Token is genuine and valid now, and what it claims.

use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde::Deserialize;
use serde::de::DeserializeOwned;

#[cfg(test)]
mod asymmetric_tests;
mod claims;
mod keys;
mod rotating;
mod sign;
#[cfg(test)]
mod tests;

pub use claims::{Claims, Overrides, SubscriptionClaims};
pub use keys::KeySet;
pub use rotating::RotatingKeys;
pub use sign::{SignError, sign_hs256};

/// HMAC keys must be at least as long as the hash (RFC 7518, section 3.2).
const SHORTEST_SECRET_BYTES: usize = 32;

/// Longer texts are refused unread.
const LONGEST_TOKEN_BYTES: usize = 16 * 1_024;

/// What a token may call itself (RFC 8725, section 3.11): tokens made for another purpose by the same issuer, like
/// `logout+jwt`, are not taken.
const TYPES: [&str; 4] = ["jwt", "at+jwt", "application/jwt", "application/at+jwt"];

/// Checks tokens against keys, each pinned to one algorithm (RFC 8725, section 3.1).
#[derive(Debug, Clone)]
pub struct Verifier {
    keys: KeySet,
    rotating: Option<RotatingKeys>,
    issuer: Option<String>,
    audience: Option<String>,
    leeway_s: u64,
    require_exp: bool,
}

/// Says which keys a verifier trusts and what it demands of a token.
#[derive(Clone)]
pub struct VerifierConfig {
    /// Secrets of at least 32 bytes, all valid at the same time, so that they can be rotated.
    pub hs256_secrets: Vec<Vec<u8>>,
    /// Public keys that do not change while the process runs.
    pub public_keys: KeySet,
    /// Public keys that somebody keeps fresh.
    pub rotating_keys: Option<RotatingKeys>,
    /// The `iss` a token must have.
    pub issuer: Option<String>,
    /// A value a token must have in its `aud`.
    pub audience: Option<String>,
    /// How far clocks may be apart, applied to `exp` and `nbf`; whole seconds.
    pub leeway: Duration,
    /// Refuses tokens that never expire.
    pub require_exp: bool,
}

impl Verifier {
    /// Refuses to work without keys or with weak ones.
    pub fn try_new(config: VerifierConfig) -> Result<Self, InvalidKey> {
        let mut keys = config.public_keys;
        for (index, secret) in config.hs256_secrets.iter().enumerate() {
            keys.push_secret(index, secret)?;
        }
        if keys.is_empty() && config.rotating_keys.is_none() {
            return Err(InvalidKey::None);
        }
        Ok(Self {
            keys,
            rotating: config.rotating_keys,
            issuer: config.issuer,
            audience: config.audience,
            leeway_s: config.leeway.as_secs(),
            require_exp: config.require_exp,
        })
    }

    /// Returns the claims of a token that is genuine and valid at `now_unix_s`, in seconds since the Unix epoch.
    ///
    /// Nothing of the payload is looked at before the signature was found good.
    pub fn verify(&self, token: &str, now_unix_s: u64) -> Result<Claims, TokenError> {
        if token.len() > LONGEST_TOKEN_BYTES {
            return Err(TokenError::Malformed);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, payload) = message.split_once('.').ok_or(TokenError::Malformed)?;
        self.check_signature(&decode_part::<Header>(header)?, message, signature)?;
        let claims: Claims = decode_part(payload)?;
        self.check_time(&claims, now_unix_s)?;
        self.check_addressee(&claims)?;
        Ok(claims)
    }

    fn check_signature(&self, header: &Header, message: &str, signature: &str) -> Result<(), TokenError> {
        if header.crit.is_some() {
            // RFC 7515, section 4.1.11: extensions that are not understood must not be passed over.
            return Err(TokenError::Malformed);
        }
        if header.typ.as_ref().is_some_and(|typ| !TYPES.iter().any(|known| typ.eq_ignore_ascii_case(known))) {
            return Err(TokenError::WrongType);
        }
        // Parsing fails for `none` and for everything the library does not know.
        let algorithm: Algorithm = header.alg.parse().map_err(|_| TokenError::UnsupportedAlgorithm)?;
        let rotating = self.rotating.as_ref().map(RotatingKeys::current);
        let rotating_keys = rotating.iter().flat_map(|set| set.keys());
        let mut verdict = None;
        for key in self.keys.keys().iter().chain(rotating_keys) {
            if !key.fits(algorithm, header.kid.as_deref()) {
                continue;
            }
            match key.signed(signature, message) {
                Ok(true) => return Ok(()),
                Ok(false) => verdict = Some(TokenError::BadSignature),
                Err(_) => return Err(TokenError::Malformed),
            }
        }
        Err(self.why_nobody_signed(algorithm, verdict, header.kid.is_some()))
    }

    /// Tells why no key fits; a rotated key looks like that, so whoever keeps the rotating keys is told.
    fn why_nobody_signed(
        &self,
        algorithm: Algorithm,
        verdict: Option<TokenError>,
        named_its_key: bool,
    ) -> TokenError {
        let rotates = matches!(algorithm, Algorithm::RS256 | Algorithm::ES256 | Algorithm::EdDSA);
        match (&self.rotating, verdict) {
            (Some(rotating), None) if rotates => {
                rotating.missed();
                TokenError::UnknownKey
            }
            (Some(rotating), Some(verdict)) if rotates && !named_its_key => {
                rotating.missed();
                verdict
            }
            (_, verdict) => verdict.unwrap_or(TokenError::UnsupportedAlgorithm),
        }
    }

    fn check_time(&self, claims: &Claims, now_unix_s: u64) -> Result<(), TokenError> {
        match claims.exp {
            None if self.require_exp => return Err(TokenError::MissingExpiry),
            Some(exp) if now_unix_s >= exp.saturating_add(self.leeway_s) => return Err(TokenError::Expired),
            _ => {}
        }
        match claims.nbf {
            Some(nbf) if now_unix_s.saturating_add(self.leeway_s) < nbf => Err(TokenError::NotYetValid),
            _ => Ok(()),
        }
    }

    fn check_addressee(&self, claims: &Claims) -> Result<(), TokenError> {
        if self.issuer.is_some() && claims.iss != self.issuer {
            return Err(TokenError::WrongIssuer);
        }
        match &self.audience {
            Some(wanted) if !claims.aud.contains(wanted) => Err(TokenError::WrongAudience),
            _ => Ok(()),
        }
    }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    crit: Option<serde_json::Value>,
}

fn decode_part<T: DeserializeOwned>(part: &str) -> Result<T, TokenError> {
    let json = URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed)?;
    // Serde would also read the fields of a struct from an array, by position.
    if json.trim_ascii_start().first() != Some(&b'{') {
        return Err(TokenError::Malformed);
    }
    serde_json::from_slice(&json).map_err(|_| TokenError::Malformed)
}

impl Default for VerifierConfig {
    /// Has no keys yet, demands `exp`, and lets clocks be five seconds apart.
    fn default() -> Self {
        Self {
            hs256_secrets: Vec::new(),
            public_keys: KeySet::default(),
            rotating_keys: None,
            issuer: None,
            audience: None,
            leeway: Duration::from_secs(5),
            require_exp: true,
        }
    }
}

impl fmt::Debug for VerifierConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifierConfig")
            .field("n_hs256_secrets", &self.hs256_secrets.len())
            .field("n_public_keys", &self.public_keys.len())
            .field("rotating", &self.rotating_keys.is_some())
            .field("issuer", &self.issuer)
            .field("audience", &self.audience)
            .field("leeway", &self.leeway)
            .field("require_exp", &self.require_exp)
            .finish()
    }
}

/// Says why a token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum TokenError {
    /// Not three parts of base64url, not JSON, a claim of the wrong type, or far too long.
    #[error("token is malformed")]
    Malformed,
    /// No key made this signature.
    #[error("token signature does not match")]
    BadSignature,
    /// Its `exp` has passed.
    #[error("token has expired")]
    Expired,
    /// It never expires, and that is not allowed here.
    #[error("token has no expiry")]
    MissingExpiry,
    /// Its `nbf` has not come.
    #[error("token is not valid yet")]
    NotYetValid,
    /// Made by somebody else, or it does not say by whom.
    #[error("token has the wrong issuer")]
    WrongIssuer,
    /// Made for somebody else, or it does not say for whom.
    #[error("token has the wrong audience")]
    WrongAudience,
    /// There is no key for its algorithm; `none` always ends here.
    #[error("token algorithm is not supported")]
    UnsupportedAlgorithm,
    /// It names a key that is not known, or not yet: keys are fetched again soon.
    #[error("token was signed with an unknown key")]
    UnknownKey,
    /// Its `typ` says that it was made for another purpose.
    #[error("token is of the wrong type")]
    WrongType,
}

impl TokenError {
    /// Returns a short name for metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::BadSignature => "bad_signature",
            Self::Expired => "expired",
            Self::MissingExpiry => "missing_expiry",
            Self::NotYetValid => "not_yet_valid",
            Self::WrongIssuer => "wrong_issuer",
            Self::WrongAudience => "wrong_audience",
            Self::UnsupportedAlgorithm => "unsupported_algorithm",
            Self::UnknownKey => "unknown_key",
            Self::WrongType => "wrong_type",
        }
    }
}

/// Says why a set of keys cannot be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// Every token would be refused.
    #[error("no verification key is given")]
    None,
    /// Could be guessed offline from a single token.
    #[error("hs256 secret number {} has {len_bytes} bytes, at least 32 are needed", index + 1)]
    ShortSecret {
        /// Its position in the list, from 0.
        index: usize,
        /// Its length.
        len_bytes: usize,
    },
    /// A PEM block is no public key of RSA (2,048 to 4,096 bits), P-256 or Ed25519.
    #[error("public key number {} is not RSA of 2048 to 4096 bits, P-256 or Ed25519", index + 1)]
    PublicKey {
        /// Its position in the text, from 0.
        index: usize,
    },
    /// The text is no JSON Web Key Set.
    #[error("not a JSON Web Key Set")]
    Jwks,
    /// Every token would be refused.
    #[error("no key in it can check RS256, ES256 or EdDSA signatures")]
    NoUsableKey,
    /// A token without a key id would cost too much.
    #[error("{n_keys} keys are too many, at most {most} are used")]
    TooManyKeys {
        /// How many there are.
        n_keys: usize,
        /// How many there may be.
        most: usize,
    },
}
