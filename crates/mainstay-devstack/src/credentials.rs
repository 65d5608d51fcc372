//! Secrets of one run, never used twice.

use rand::Rng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Holds every secret that the stack makes for itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// What the services show to each other.
    pub service_token: String,
    /// The HS256 key of all tokens.
    pub jwt_secret: String,
    pub api_keys: ApiKeys,
    pub redis_password: String,
    pub postgres_superuser_password: String,
    /// Of the role `mainstay`, which the services use.
    pub postgres_password: String,
    /// Of the role `mainstay_monitor`.
    pub postgres_monitor_password: String,
    pub postgres_replicator_password: String,
}

/// Holds one API key per role of the edge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKeys {
    pub admin: String,
    pub operator: String,
    pub viewer: String,
}

impl Credentials {
    pub(crate) fn random() -> Self {
        Self {
            service_token: random_hex(24),
            jwt_secret: random_hex(32),
            api_keys: ApiKeys { admin: random_hex(24), operator: random_hex(24), viewer: random_hex(24) },
            redis_password: random_hex(16),
            postgres_superuser_password: random_hex(16),
            postgres_password: random_hex(16),
            postgres_monitor_password: random_hex(16),
            postgres_replicator_password: random_hex(16),
        }
    }
}

impl ApiKeys {
    /// Lists role and key.
    pub fn by_role(&self) -> [(&'static str, &str); 3] {
        [("admin", &self.admin), ("operator", &self.operator), ("viewer", &self.viewer)]
    }
}

/// Makes so many random bytes, as hex.
pub(crate) fn random_hex(n_bytes: usize) -> String {
    let mut bytes = vec![0; n_bytes];
    rand::rng().fill_bytes(&mut bytes);
    hex::encode(bytes)
}

/// Hashes an API key the way the edge stores it.
pub(crate) fn sha256_hex(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()))
}
