use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use config::builder::DefaultState;
use config::{Config, ConfigBuilder, ConfigError, File, FileFormat, Map, Source, Value, ValueKind};
use serde_json::Value as Json;

use super::Problems;
use super::environment::EnvironmentLayer;

/// Where a configuration comes from, lowest layer first; below both lie the defaults in code.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    /// The TOML file to read, if any.
    pub(crate) file: Option<PathBuf>,
    /// The variables `MAINSTAY__..`.
    pub(crate) variables: BTreeMap<String, String>,
}

/// All layers laid over each other, and where each value that is not a default came from.
#[derive(Debug)]
pub(super) struct Merged {
    pub(super) tree: Json,
    pub(super) origins: BTreeMap<String, String>,
}

/// Lays file and variables over the defaults. A file that cannot be read is a problem, and is left out.
pub(super) fn merge(defaults: &Json, sources: &Sources, problems: &mut Problems) -> Merged {
    let mut builder = Config::builder().add_source(Defaults(from_json(defaults)));
    if let Some(path) = &sources.file {
        match add_file(builder.clone(), path) {
            Ok(with_file) => builder = with_file,
            Err(message) => problems.add(path.display().to_string(), message),
        }
    }
    let below = build(builder.clone());
    let environment = EnvironmentLayer::new(&sources.variables, &below, problems);
    let merged = build(builder.add_source(environment));

    let mut origins = BTreeMap::new();
    note_origins(&merged, &mut String::new(), &mut origins);
    Merged { tree: to_json(merged), origins }
}

type Builder = ConfigBuilder<DefaultState>;

fn add_file(builder: Builder, path: &Path) -> Result<Builder, String> {
    // Asked first, because the library would also try the name with `.toml` added.
    std::fs::File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
    let source = File::from(path).format(FileFormat::Toml);
    source.collect().map_err(|error| match error {
        ConfigError::FileParse { cause, .. } => in_one_line(&cause.to_string()),
        other => other.to_string(),
    })?;
    Ok(builder.add_source(source))
}

/// Drops the excerpt from a TOML error, which has several lines and may show a secret.
fn in_one_line(error: &str) -> String {
    let mut lines = error.lines().filter(|line| !line.trim().is_empty());
    let first = lines.next().unwrap_or("is not TOML");
    match lines.next_back() {
        Some(last) => format!("{first}: {last}"),
        None => first.to_owned(),
    }
}

fn build(builder: Builder) -> Value {
    builder.build().expect("sources in memory do not fail, and the file was read before").cache
}

fn note_origins(value: &Value, path: &mut String, origins: &mut BTreeMap<String, String>) {
    let ValueKind::Table(table) = &value.kind else {
        if let Some(origin) = value.origin() {
            let is_variable = origin.starts_with("environment variable ");
            let origin = if is_variable { origin.to_owned() } else { format!("file {origin}") };
            origins.insert(path.clone(), origin);
        }
        return;
    };
    for (key, value) in table {
        let length = path.len();
        if length > 0 {
            path.push('.');
        }
        path.push_str(key);
        note_origins(value, path, origins);
        path.truncate(length);
    }
}

/// The lowest layer.
#[derive(Clone, Debug)]
struct Defaults(Value);

impl Source for Defaults {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        self.0.clone().into_table()
    }
}

fn from_json(json: &Json) -> Value {
    let kind = match json {
        Json::Null => ValueKind::Nil,
        Json::Bool(value) => ValueKind::Boolean(*value),
        Json::Number(number) => number_from_json(number),
        Json::String(text) => ValueKind::String(text.clone()),
        Json::Array(items) => ValueKind::Array(items.iter().map(from_json).collect()),
        Json::Object(table) => {
            ValueKind::Table(table.iter().map(|(key, value)| (key.clone(), from_json(value))).collect())
        }
    };
    Value::new(None, kind)
}

fn number_from_json(number: &serde_json::Number) -> ValueKind {
    let integer = number.as_i64().map(ValueKind::I64).or_else(|| number.as_u64().map(ValueKind::U64));
    integer.unwrap_or_else(|| ValueKind::Float(number.as_f64().unwrap_or(f64::NAN)))
}

fn to_json(value: Value) -> Json {
    match value.kind {
        ValueKind::Nil => Json::Null,
        ValueKind::Boolean(value) => value.into(),
        ValueKind::I64(value) => value.into(),
        ValueKind::U64(value) => value.into(),
        ValueKind::I128(value) => value.to_string().into(),
        ValueKind::U128(value) => value.to_string().into(),
        // JSON knows no infinity; as a text it fails where a number is asked for.
        ValueKind::Float(value) => {
            serde_json::Number::from_f64(value).map_or_else(|| value.to_string().into(), Json::Number)
        }
        ValueKind::String(text) => text.into(),
        ValueKind::Array(items) => items.into_iter().map(to_json).collect(),
        ValueKind::Table(table) => table.into_iter().map(|(key, value)| (key, to_json(value))).collect(),
    }
}
