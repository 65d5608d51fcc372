use std::collections::BTreeMap;

use config::{ConfigError, Map, Source, Value, ValueKind};

use super::Problems;

/// What the names of our variables begin with.
const PREFIX: &str = "MAINSTAY__";

/// Reads the variables of the process that are ours.
pub(super) fn variables() -> BTreeMap<String, String> {
    let all = std::env::vars_os();
    let ours = all.filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
    ours.filter(|(name, _)| name.starts_with(PREFIX))
        .map(|(name, value)| (name, value.to_string_lossy().into_owned()))
        .collect()
}

/// The layer `MAINSTAY__SECTION__KEY`. All its values are texts; the reader gives them the type that is asked for.
#[derive(Clone, Debug)]
pub(super) struct EnvironmentLayer {
    values: Map<String, Value>,
}

impl Source for EnvironmentLayer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(self.values.clone())
    }
}

impl EnvironmentLayer {
    /// Places each variable in the tree. A part of a name means the key of `below` that reads the same in upper case
    /// with `-` written `_`, else itself in lower case.
    pub(super) fn new(variables: &BTreeMap<String, String>, below: &Value, problems: &mut Problems) -> Self {
        let mut root = Value::new(None, Map::<String, Value>::new());
        for (name, text) in variables {
            let parts: Vec<&str> = name[PREFIX.len()..].split("__").collect();
            if parts.iter().any(|part| part.is_empty()) {
                problems.add(name, "must read MAINSTAY__SECTION__KEY");
                continue;
            }
            let (path, present) = locate(&parts, below);
            // Compose files and manifests write an optional value that is not set as an empty text.
            let optional = present.is_none_or(|value| value.kind == ValueKind::Nil);
            if text.is_empty() && optional {
                continue;
            }
            let value = Value::new(Some(&format!("environment variable {name}")), text.clone());
            if !insert(&mut root, &path, value) {
                problems.add(name, "another variable sets the section itself or a key inside this one");
            }
        }
        let ValueKind::Table(values) = root.kind else { unreachable!("the root is made a table above") };
        Self { values }
    }
}

fn locate<'v>(parts: &[&str], below: &'v Value) -> (Vec<String>, Option<&'v Value>) {
    let mut present = Some(below);
    let mut path = Vec::with_capacity(parts.len());
    for part in parts {
        let table = match present.map(|value| &value.kind) {
            Some(ValueKind::Table(table)) => Some(table),
            _ => None,
        };
        let found =
            table.and_then(|table| table.iter().find(|(key, _)| spelled(key) == part.to_ascii_uppercase()));
        path.push(found.map_or_else(|| part.to_ascii_lowercase(), |(key, _)| key.clone()));
        present = found.map(|(_, value)| value);
    }
    (path, present)
}

fn spelled(key: &str) -> String {
    key.replace('-', "_").to_ascii_uppercase()
}

fn insert(root: &mut Value, path: &[String], value: Value) -> bool {
    let mut place = root;
    for key in path {
        let ValueKind::Table(table) = &mut place.kind else { return false };
        place = table.entry(key.clone()).or_insert_with(|| Value::new(None, Map::<String, Value>::new()));
    }
    let vacant = matches!(&place.kind, ValueKind::Table(table) if table.is_empty());
    if vacant {
        *place = value;
    }
    vacant
}
