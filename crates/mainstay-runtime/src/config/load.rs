use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value as Json;

pub(crate) use super::layers::Sources;
use super::problems::Problem;
use super::reader::Reader;
use super::{Problems, ServiceConfig, environment, layers};
use crate::fingerprint::Fingerprint;

/// Reads the configuration, or returns everything that is wrong with it, one line each.
pub(crate) fn load<C: ServiceConfig>(sources: &Sources) -> Result<C, Vec<String>> {
    let mut problems = Problems::default();
    let defaults =
        serde_json::to_value(C::default()).expect("a config struct is made of tables, lists and scalars");
    let merged = layers::merge(&defaults, sources, &mut problems);
    let (config, origins) = Reader::new(merged, &defaults, &mut problems).read::<C>();

    let mut ranges = Problems::default();
    if let Some(config) = &config {
        check(config, &mut ranges);
    }
    // A value that could not be read was replaced by its default: whatever is said of that one is no news.
    let told: Vec<_> =
        ranges.into_sorted().into_iter().filter(|range| !problems.concerns(&range.key)).collect();
    told.into_iter().for_each(|Problem { key, message }| problems.add(key, message));

    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(lines(problems, &origins)),
    }
}

impl Sources {
    /// Returns the sources of this process: `file`, or `deploy/config/<service>.toml` if there is one, and the
    /// variables `MAINSTAY__..`.
    pub(crate) fn of_process(service: &str, file: Option<PathBuf>) -> Self {
        let usual = Path::new("deploy/config").join(format!("{service}.toml"));
        let file = file.or_else(|| usual.is_file().then_some(usual));
        Self { file, variables: environment::variables() }
    }
}

/// Hashes what makes instances of one service behave alike or not: everything but secrets, name and address.
pub(crate) fn fingerprint<C: Serialize>(config: &C) -> String {
    let mut tree = serde_json::to_value(config).unwrap_or_default();
    if let Some(server) = tree.get_mut("server").and_then(Json::as_object_mut) {
        server.remove("listen");
        server.remove("instance");
    }
    add_sorted(Fingerprint::new(), &tree).hex()
}

/// Adds a tree with its keys in order: whether `serde_json` sorts them hangs on features that other crates choose.
fn add_sorted(fingerprint: Fingerprint, tree: &Json) -> Fingerprint {
    let Json::Object(table) = tree else { return fingerprint.part(tree.to_string().as_bytes()) };
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| *key);
    let opened = fingerprint.part(b"{");
    let filled =
        entries.into_iter().fold(opened, |f, (key, value)| add_sorted(f.part(key.as_bytes()), value));
    filled.part(b"}")
}

fn check<C: ServiceConfig>(config: &C, problems: &mut Problems) {
    let server = config.server();
    problems.under("server", |report| server.check(report));
    config.telemetry().check(problems);
    config.check(problems);
}

fn lines(problems: Problems, origins: &BTreeMap<String, String>) -> Vec<String> {
    let line =
        |Problem { key, message }: Problem| match origins.get(key.split('[').next().unwrap_or_default()) {
            Some(origin) => format!("{key}: {message} ({origin})"),
            None => format!("{key}: {message}"),
        };
    problems.into_sorted().into_iter().map(line).collect()
}
