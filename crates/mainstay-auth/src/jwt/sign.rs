use jsonwebtoken::{Algorithm, EncodingKey, Header};

use super::{Claims, SHORTEST_SECRET_BYTES};

/// Makes a token signed with HMAC-SHA-256; the secret must have at least 32 bytes.
pub fn sign_hs256(claims: &Claims, secret: &[u8]) -> Result<String, SignError> {
    if secret.len() < SHORTEST_SECRET_BYTES {
        return Err(SignError::ShortSecret { len_bytes: secret.len() });
    }
    let header = Header::new(Algorithm::HS256);
    jsonwebtoken::encode(&header, claims, &EncodingKey::from_secret(secret)).map_err(SignError::Encode)
}

/// Says why no token could be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// No verifier of ours would accept it.
    #[error("hs256 secret has {len_bytes} bytes, at least 32 are needed")]
    ShortSecret {
        /// Its length.
        len_bytes: usize,
    },
    /// The claims could not be written as JSON.
    #[error("cannot encode token")]
    Encode(#[source] jsonwebtoken::errors::Error),
}
