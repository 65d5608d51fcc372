use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use super::Problems;
use super::layers::Merged;
use super::path::{Path, Step, dotted, get, remove, set, without_index};

/// Turns the merged tree into a config struct, and finds everything that is wrong on the way.
///
/// serde stops at the first error. So each error is noted, the value mended (made another type if it is a text from a
/// variable, else replaced by its default), and the tree is read again.
pub(super) struct Reader<'a> {
    tree: Json,
    defaults: &'a Json,
    origins: BTreeMap<String, String>,
    problems: &'a mut Problems,
    /// Values of variables that did not fit as texts: what else they may be.
    attempts: BTreeMap<String, Attempt>,
    /// Keys filled from a file, each with the key that named the file.
    from_files: BTreeMap<String, Path>,
}

/// The texts a variable's value may be read as, tried in turn.
struct Attempt {
    first: Fault,
    text: Json,
    left: VecDeque<Json>,
}

/// What serde said, and where.
#[derive(Clone, Debug)]
struct Fault {
    path: Path,
    message: String,
}

/// More faults than anybody reads; bounds the work a hopeless file can cause.
const MAX_ROUNDS: usize = 300;

/// Stands for a secret that could not be read, so that its absence is not told as a second problem.
const UNREADABLE: &str = "unreadable";

impl<'a> Reader<'a> {
    pub(super) fn new(merged: Merged, defaults: &'a Json, problems: &'a mut Problems) -> Self {
        let Merged { tree, origins } = merged;
        Self { tree, defaults, origins, problems, attempts: BTreeMap::new(), from_files: BTreeMap::new() }
    }

    /// Reads the tree; `None` when nothing usable is left. Returns where the values came from as well.
    pub(super) fn read<C: DeserializeOwned + Serialize>(mut self) -> (Option<C>, BTreeMap<String, String>) {
        for _ in 0..MAX_ROUNDS {
            let mut unknown = Vec::new();
            match deserialize::<C>(&self.tree, &mut unknown) {
                Ok(config) if unknown.is_empty() => {
                    self.refuse_files_for_plain_values(&config);
                    return (Some(config), self.origins);
                }
                Ok(_) => unknown.into_iter().for_each(|path| self.unknown_key(&path, "")),
                Err(fault) => {
                    if !self.mend(fault) {
                        break;
                    }
                }
            }
        }
        (None, self.origins)
    }

    /// Notes a fault and changes the tree so that the next reading gets further; tells whether it could.
    fn mend(&mut self, fault: Fault) -> bool {
        if let Some(path) = path_of_unknown_field(&fault) {
            self.unknown_key(&path, &fault.message);
            return true;
        }
        let Some(fault) = self.try_another_type(fault) else { return true };
        if !self.is_told(&fault) {
            let text = self.describe(&fault);
            self.problems.add(dotted(&fault.path), text);
        }
        self.put_default(&fault.path)
    }

    /// Gives a text from a variable its next possible type; returns the first fault when all were tried.
    fn try_another_type(&mut self, fault: Fault) -> Option<Fault> {
        let key = dotted(&fault.path);
        if !self.attempts.contains_key(&key) {
            let from_variable =
                self.origin_of(&fault.path).is_some_and(|o| o.starts_with("environment variable"));
            let Some(Json::String(text)) = get(&self.tree, &fault.path).filter(|_| from_variable) else {
                return Some(fault);
            };
            let is_item = matches!(fault.path.last(), Some(Step::Index(_)));
            let (text, left) = (text.clone().into(), readings(text, is_item));
            self.attempts.insert(key.clone(), Attempt { first: fault.clone(), text, left });
        }
        let attempt = self.attempts.get_mut(&key).expect("inserted above when missing");
        let next = attempt.left.pop_front();
        let exhausted = next.is_none();
        set(&mut self.tree, &fault.path, next.unwrap_or_else(|| attempt.text.clone()));
        exhausted.then(|| attempt.first.clone())
    }

    /// A bad value without a default was removed, so its absence is no news.
    fn is_told(&self, fault: &Fault) -> bool {
        let missing = fault.message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`'));
        missing.is_some_and(|field| self.problems.concerns(&format!("{}.{field}", dotted(&fault.path))))
    }

    fn put_default(&mut self, path: &[Step]) -> bool {
        let mut path = without_index(path);
        if let Some(default) = get(self.defaults, path)
            && get(&self.tree, path) != Some(default)
        {
            return set(&mut self.tree, path, default.clone());
        }
        // Without a default (an entry of a map) the entry goes, or else whatever it is part of.
        while !path.is_empty() {
            if remove(&mut self.tree, path) {
                return true;
            }
            path = &path[..path.len() - 1];
        }
        false
    }

    fn unknown_key(&mut self, path: &[Step], serde_message: &str) {
        let key = dotted(path);
        let value = get(&self.tree, path).cloned();
        remove(&mut self.tree, path);
        let named = if let Some(file_key) = self.from_files.remove(&key) {
            file_key
        } else if let (Some(secret), Some(Json::String(file))) = (without_file_suffix(path), value) {
            return self.read_secret(path, &secret, &file);
        } else {
            path.to_vec()
        };
        self.report_unknown(&named, serde_message);
    }

    fn report_unknown(&mut self, path: &[Step], serde_message: &str) {
        let mut known = expected_names(serde_message);
        if known.is_empty() {
            let parent = get(self.defaults, &path[..path.len().saturating_sub(1)]);
            known = parent
                .and_then(Json::as_object)
                .map(|table| table.keys().cloned().collect())
                .unwrap_or_default();
        }
        let hint =
            if known.is_empty() { String::new() } else { format!(", known here: {}", known.join(", ")) };
        self.problems.add(dotted(path), format!("unknown key{hint}"));
    }

    /// Fills `secret` from the file that `path` (`.._file`) names.
    fn read_secret(&mut self, path: &[Step], secret: &[Step], file: &str) {
        let (key, secret_key) = (dotted(path), dotted(secret));
        if file.is_empty() {
            return;
        }
        // An empty secret is not a given one: the shipped files write `token = ""`.
        let is_given = get(&self.tree, secret).and_then(Json::as_str).is_some_and(|given| !given.is_empty());
        if is_given && self.origins.contains_key(&secret_key) {
            return self.problems.add(key, format!("give this or {secret_key}, not both"));
        }
        let content = match std::fs::read_to_string(file) {
            Ok(text) => {
                text.strip_suffix('\n').map(|t| t.strip_suffix('\r').unwrap_or(t)).unwrap_or(&text).to_owned()
            }
            Err(error) => {
                self.problems.add(&key, format!("cannot read {file}: {error}"));
                UNREADABLE.to_owned()
            }
        };
        if content.is_empty() {
            self.problems.add(&key, format!("{file} is empty"));
        }
        let content = if content.is_empty() { UNREADABLE.to_owned() } else { content };
        if let Some(origin) = self.origins.get(&key).cloned() {
            self.origins.insert(secret_key.clone(), origin);
        }
        set(&mut self.tree, secret, content.into());
        self.from_files.insert(secret_key, path.to_vec());
    }

    /// Only secrets may come from files: a value that is printed in the clear is not one.
    fn refuse_files_for_plain_values<C: Serialize>(&mut self, config: &C) {
        let shown = serde_json::to_value(config).unwrap_or_default();
        for (secret, file_key) in std::mem::take(&mut self.from_files) {
            let place = without_file_suffix(&file_key).unwrap_or_default();
            if get(&shown, &place).and_then(Json::as_str) != Some("[redacted]") {
                self.origins.remove(&secret);
                self.report_unknown(&file_key, "");
            }
        }
    }

    fn origin_of(&self, path: &[Step]) -> Option<&str> {
        self.origins.get(&dotted(without_index(path))).map(String::as_str)
    }

    fn describe(&self, fault: &Fault) -> String {
        let message = &fault.message;
        if is_sensitive(&fault.path) {
            let expected =
                message.split_once(", expected ").map(|(_, expected)| format!(", expected {expected}"));
            return format!("has the wrong type{}", expected.unwrap_or_default());
        }
        match get(&self.tree, &fault.path) {
            Some(Json::String(text)) if !message.contains(text.as_str()) => format!("{message}, is {text:?}"),
            _ => message.clone(),
        }
    }
}

fn deserialize<C: DeserializeOwned>(tree: &Json, unknown: &mut Vec<Path>) -> Result<C, Fault> {
    let mut track = serde_path_to_error::Track::new();
    let deserializer = serde_path_to_error::Deserializer::new(tree, &mut track);
    let result = serde_ignored::deserialize(deserializer, |path| unknown.push(Step::from_ignored(&path)));
    result.map_err(|error: serde_json::Error| Fault {
        message: error.to_string(),
        path: Step::from_tracked(&track.path()),
    })
}

/// Returns what a text may be besides a text: a number or truth value, then a list.
fn readings(text: &str, is_item: bool) -> VecDeque<Json> {
    let text = text.trim();
    let mut readings = VecDeque::new();
    if let Ok(scalar @ (Json::Number(_) | Json::Bool(_))) = serde_json::from_str(text) {
        readings.push_back(scalar);
    }
    if !is_item {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        readings.push_back(items.map(Json::from).collect());
    }
    readings
}

/// Returns the place of the key that a struct with `deny_unknown_fields` refused.
fn path_of_unknown_field(fault: &Fault) -> Option<Path> {
    let name = fault.message.strip_prefix("unknown field `")?.split('`').next()?;
    let mut path = fault.path.clone();
    let step = Step::Key(name.to_owned());
    if path.last() != Some(&step) {
        path.push(step);
    }
    Some(path)
}

/// Reads the names out of serde's "expected one of `a`, `b`".
fn expected_names(message: &str) -> Vec<String> {
    let expected = message.split_once(", expected ").map_or("", |(_, expected)| expected);
    expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn without_file_suffix(path: &[Step]) -> Option<Path> {
    let Some((Step::Key(key), parents)) = path.split_last() else { return None };
    let secret = key.strip_suffix("_file").filter(|secret| !secret.is_empty())?;
    Some(parents.iter().cloned().chain([Step::Key(secret.to_owned())]).collect())
}

fn is_sensitive(path: &[Step]) -> bool {
    let Some(Step::Key(key)) = without_index(path).last() else { return false };
    ["password", "secret", "token"].iter().any(|word| key.contains(word))
}
