//! Where the checked stack is, and what may be done to it: `deploy/environments.toml`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, bail};
use serde::Deserialize;

/// One stack to check.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Environment {
    #[serde(skip)]
    pub(crate) name: String,
    /// The edge: `http://host:port` or `https://host[:port]`.
    pub(crate) edge: String,
    /// Certificate authority of the edge (PEM), beside those of the system.
    #[serde(default)]
    pub(crate) ca: Option<std::path::PathBuf>,
    /// Whether checks may write: a cache key of their own, a rule of their own that fires and is taken away.
    #[serde(default)]
    pub(crate) changes: bool,
    /// Median time of an answer, in ms, above which a check warns, and above which it fails.
    pub(crate) slow_ms: f64,
    pub(crate) too_slow_ms: f64,
}

impl Environment {
    /// Reads the environment called `name`; `EDGE` in the process's environment replaces its address.
    pub(crate) fn read(path: &Path, name: &str) -> anyhow::Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut all: BTreeMap<String, Self> =
            toml::from_str(&text).with_context(|| format!("{} is not as it should be", path.display()))?;
        let Some(mut found) = all.remove(name) else {
            let known: Vec<_> = all.into_keys().collect();
            bail!("no environment {name} in {}; there are: {}", path.display(), known.join(", "));
        };
        if let Ok(edge) = std::env::var("EDGE") {
            found.edge = edge;
        }
        name.clone_into(&mut found.name);
        Ok(found)
    }
}
