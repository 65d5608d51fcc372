//! Paths that will go.

use std::time::SystemTime;

use mainstay_runtime::Problems;
use serde::{Deserialize, Serialize};

/// Since when a path is deprecated, and what comes after: sections `http.deprecated."/path/{as}/documented"`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeprecationConfig {
    /// A time like `2026-01-31T00:00:00Z`; it may lie ahead.
    pub since: String,
    /// When it goes; empty when nobody knows yet.
    #[serde(default)]
    pub sunset: String,
    /// Address of what replaces it, or of a page that tells; empty: none.
    #[serde(default)]
    pub successor: String,
}

impl DeprecationConfig {
    pub(crate) fn since(&self) -> Option<SystemTime> {
        humantime::parse_rfc3339_weak(&self.since).ok()
    }

    pub(crate) fn sunset(&self) -> Option<SystemTime> {
        humantime::parse_rfc3339_weak(&self.sunset).ok()
    }

    pub(super) fn check(&self, problems: &mut Problems, path: &str, is_known: bool) {
        let key = |name: &str| format!("http.deprecated.{path}.{name}");
        if !is_known {
            problems.add(format!("http.deprecated.{path}"), "must be a path as /openapi.json has it");
        }
        let time = "must be a time in UTC like 2026-01-31T00:00:00Z";
        problems.ensure(self.since().is_some(), &key("since"), time);
        problems.ensure(self.sunset.is_empty() || self.sunset().is_some(), &key("sunset"), time);
        let is_later = self.since().zip(self.sunset()).is_none_or(|(since, sunset)| since <= sunset);
        problems.ensure(is_later, &key("sunset"), "must not lie before since");
        let legal = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'<' | b'>' | b'"');
        problems.ensure(
            self.successor.len() <= 1_024 && self.successor.bytes().all(legal),
            &key("successor"),
            "must be a path or an address of at most 1024 bytes, without spaces, quotes and angle brackets",
        );
    }
}
