use std::path::PathBuf;

use mainstay_runtime::Problems;
use serde::{Deserialize, Serialize};
use tokio_postgres::config::SslMode;

/// Says how connections to PostgreSQL are protected.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PostgresTls {
    pub mode: TlsMode,
    /// Authorities whose servers are believed, PEM; without it those that the host trusts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// Certificate chain of this client, PEM; needs `ca`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    /// Private key of this client, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// Name expected in the certificates of all servers; empty means the host of each address.
    pub domain: String,
    /// Whether the way to a `PgBouncer` is protected too.
    pub pgbouncer: bool,
}

/// How much a connection is protected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TlsMode {
    /// Not at all.
    #[default]
    Off,
    /// Encrypted, and only to a server that proves its name.
    VerifyFull,
}

impl PostgresTls {
    pub(super) fn check(&self, problems: &mut Problems) {
        let files = self.ca.is_some() || self.cert.is_some() || self.key.is_some();
        let used = self.mode == TlsMode::VerifyFull;
        problems.ensure(used || !files, "postgres.tls.mode", "must be \"verify-full\" where files are given");
        let pair = self.cert.is_some() == self.key.is_some();
        problems.ensure(pair, "postgres.tls", "cert and key are needed together");
        let known = self.cert.is_none() || self.ca.is_some();
        problems.ensure(known, "postgres.tls.ca", "is needed where cert is given");
    }

    /// What a log-in asks of the driver.
    pub(crate) fn ssl_mode(&self, pgbouncer: bool) -> SslMode {
        match self.mode {
            TlsMode::VerifyFull if !pgbouncer || self.pgbouncer => SslMode::Require,
            TlsMode::VerifyFull | TlsMode::Off => SslMode::Disable,
        }
    }
}

impl Default for PostgresTls {
    fn default() -> Self {
        Self { mode: TlsMode::Off, ca: None, cert: None, key: None, domain: String::new(), pgbouncer: true }
    }
}
