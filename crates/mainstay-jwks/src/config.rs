use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use http::Uri;
use mainstay_auth::jwt::KeySet;
use mainstay_runtime::Problems;
use serde::{Deserialize, Serialize};

/// Where a JSON Web Key Set comes from, and how old it may get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JwksConfig {
    /// A file, or an `https` URL; `http` only on this machine. Empty means none.
    pub source: String,
    /// How often it is read again; a token with an unknown key has it read sooner.
    #[serde(with = "humantime_serde")]
    pub refresh_every: Duration,
    /// How long keys are trusted while the source cannot be read.
    #[serde(with = "humantime_serde")]
    pub max_stale: Duration,
    /// Time one look at the source may take.
    #[serde(with = "humantime_serde")]
    pub fetch_within: Duration,
    /// Authorities that the source's server is believed by, PEM; those of the machine without it.
    pub ca: Option<PathBuf>,
}

/// A source as it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    File(PathBuf),
    Url(Uri),
}

impl Default for JwksConfig {
    fn default() -> Self {
        Self {
            source: String::new(),
            refresh_every: Duration::from_secs(300),
            max_stale: Duration::from_secs(3_600),
            fetch_within: Duration::from_secs(5),
            ca: None,
        }
    }
}

impl JwksConfig {
    /// Tells whether there is a source.
    pub fn is_configured(&self) -> bool {
        !self.source.is_empty()
    }

    /// Reports what is wrong; `section` is where the configuration has it. `audience` is the demanded `aud`: an issuer
    /// signs for many, so a set of its keys alone does not say that a token is for us (RFC 8725, section 3.9).
    pub fn check(&self, problems: &mut Problems, section: &str, audience: &str) {
        if !self.is_configured() {
            return;
        }
        let key = |name: &str| format!("{section}.{name}");
        if let Err(message) = self.source() {
            problems.add(key("source"), message);
        }
        problems.ensure(
            !audience.is_empty(),
            &key("source"),
            "needs a demanded audience beside it: the issuer signs tokens for others too",
        );
        let (second, day) = (Duration::from_secs(1), Duration::from_secs(24 * 3_600));
        problems.duration(&key("refresh_every"), self.refresh_every, second..=day);
        problems.duration(&key("max_stale"), self.max_stale, self.refresh_every.min(day)..=30 * day);
        problems.duration(
            &key("fetch_within"),
            self.fetch_within,
            Duration::from_millis(100)..=Duration::from_secs(60),
        );
    }

    pub(crate) fn source(&self) -> Result<Source, String> {
        let Some((scheme, _)) = self.source.split_once("://") else {
            return Ok(Source::File(self.source.clone().into()));
        };
        let uri: Uri = self.source.parse().map_err(|_| format!("is no URL: {:?}", self.source))?;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let here = host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
        match scheme {
            "https" if !host.is_empty() => Ok(Source::Url(uri)),
            "http" if here => Ok(Source::Url(uri)),
            "http" => {
                Err("must be https: whoever can change the answer on its way could sign tokens".to_owned())
            }
            _ => Err("must be a file or an https URL".to_owned()),
        }
    }
}

/// Reads public keys from PEM files, each with one key or more.
///
/// # Errors
/// Names the file that cannot be read or has no usable key.
pub fn public_keys(files: &[impl AsRef<Path>]) -> anyhow::Result<KeySet> {
    let mut keys = KeySet::default();
    for file in files.iter().map(AsRef::as_ref) {
        let pem = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
        keys.extend(KeySet::from_pem(&pem).with_context(|| format!("reading {}", file.display()))?);
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(config: &JwksConfig, audience: &str) -> String {
        let mut problems = Problems::default();
        config.check(&mut problems, "auth.jwks", audience);
        problems.lines().join("\n")
    }

    #[test]
    fn only_files_and_safe_urls_are_sources() {
        for (source, good) in [
            ("/etc/mainstay/jwks.json", true),
            ("https://id.example.org/jwks", true),
            ("http://127.0.0.1:8080/jwks", true),
            ("http://[::1]/jwks", true),
            ("http://localhost/jwks", true),
            ("http://id.example.org/jwks", false),
            ("ftp://id.example.org/jwks", false),
            ("https://", false),
            ("https:///jwks", false),
        ] {
            let config = JwksConfig { source: source.to_owned(), ..JwksConfig::default() };
            let told = problems(&config, "mainstay");
            assert_eq!(told.is_empty(), good, "{source}: {told}");
        }
    }

    #[test]
    fn every_problem_names_its_key() {
        let config = JwksConfig {
            source: "https://id.example.org/jwks".to_owned(),
            refresh_every: Duration::from_millis(1),
            max_stale: Duration::ZERO,
            fetch_within: Duration::ZERO,
            ca: None,
        };
        let told = problems(&config, "");
        for key in ["source", "refresh_every", "max_stale", "fetch_within"] {
            assert!(told.contains(&format!("auth.jwks.{key}")), "{key} is missing from\n{told}");
        }
        assert_eq!(problems(&JwksConfig::default(), ""), "", "nothing is demanded without a source");
    }
}
