//! Rule files in the syntax of Prometheus: alerts that compare one metric, its rate or its increase with a number.
//!
//! What is not understood is an error that names its line; nothing is left out in silence. All errors are told at once.

mod expression;
mod template;
mod yaml;

use std::collections::BTreeSet;
use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::expression::Condition;
use self::yaml::{Node, Value};
use super::definition::{self, Rule, RuleKind, RuleSpec};
use super::{BUILT_IN, stock};

/// Says what is wrong with a file, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Counted from 1.
    pub line: usize,
    /// One line for a person.
    pub message: String,
}

/// Takes rules from files, one after the other; no two get the same name.
#[derive(Debug)]
pub(crate) struct Import {
    keep: Duration,
    taken: BTreeSet<String>,
    rules: Vec<Rule>,
    problems: Vec<Problem>,
}

/// Longest file.
pub(crate) const LENGTH_MAX: usize = 1 << 20;
/// Rules in all files.
const RULES_MAX: usize = 1_000;
const SEVERITY: &str = "severity";

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

impl Problem {
    fn new(line: usize, message: impl Into<String>) -> Self {
        Self { line, message: message.into() }
    }
}

impl Import {
    /// Begins; `keep` is how far back memory reaches.
    pub(crate) fn new(keep: Duration) -> Self {
        let stock = stock::stock().into_iter().map(|rule| rule.name);
        let taken = BUILT_IN.into_iter().map(str::to_owned).chain(stock).collect();
        Self { keep, taken, rules: Vec::new(), problems: Vec::new() }
    }

    /// Takes the rules of a file on disk.
    ///
    /// # Errors
    /// Tells, in one line each, everything that is wrong with it.
    pub(crate) fn read(&mut self, path: &Path) -> Result<(), Vec<String>> {
        let mut text = String::new();
        let limit = LENGTH_MAX as u64 + 1;
        std::fs::File::open(path)
            .and_then(|file| file.take(limit).read_to_string(&mut text))
            .map_err(|error| vec![format!("cannot be read: {error}")])?;
        let problems = self.take(&text);
        problems.map_err(|problems| problems.iter().map(Problem::to_string).collect())
    }

    /// Takes the rules of a file, all or none.
    pub(crate) fn take(&mut self, text: &str) -> Result<(), Vec<Problem>> {
        let n_before = self.rules.len();
        if text.len() > LENGTH_MAX {
            return Err(vec![Problem::new(1, "the file is longer than 1 MiB")]);
        }
        match yaml::parse(text) {
            Ok(root) => self.file(&root),
            Err(problem) => self.problems.push(problem),
        }
        if self.problems.is_empty() {
            return Ok(());
        }
        self.rules.truncate(n_before);
        self.problems.sort_by_key(|problem| problem.line);
        Err(std::mem::take(&mut self.problems))
    }

    /// Returns the rules, in the order of the files.
    pub(crate) fn into_rules(self) -> Vec<Rule> {
        self.rules
    }

    fn report(&mut self, line: usize, message: impl Into<String>) {
        self.problems.push(Problem::new(line, message));
    }

    fn file(&mut self, root: &Node) {
        for (key, node) in self.entries(root, "a file of rules") {
            match key {
                "groups" => {
                    for group in self.list(node, "groups") {
                        self.group(group);
                    }
                }
                other => self.report(node.line, format!("`{other}` is not known; there is only `groups`")),
            }
        }
    }

    fn group(&mut self, group: &Node) {
        let mut is_named = false;
        for (key, node) in self.entries(group, "a group") {
            match key {
                "name" => is_named = node.text().is_some_and(|name| !name.is_empty()),
                // Rules are looked at each `collect.every`, which is never less often.
                "interval" => {
                    self.duration(node, key);
                }
                "rules" => {
                    for rule in self.list(node, "rules") {
                        self.rule(rule);
                    }
                }
                other => self.report(node.line, format!("`{other}` of a group is not understood")),
            }
        }
        if !is_named {
            self.report(group.line, "a group must have a name");
        }
    }

    fn rule(&mut self, rule: &Node) {
        let n_problems = self.problems.len();
        if self.rules.len() >= RULES_MAX {
            return self.report(rule.line, format!("there are more than {RULES_MAX} rules"));
        }
        let mut spec = RuleSpec { fires_after: Some(Duration::ZERO), ..RuleSpec::default() };
        let (mut alert, mut condition) = (None, None);
        let entries = self.entries(rule, "a rule");
        let of = |wanted: &str| entries.iter().find(|(key, _)| *key == wanted).map(|(_, node)| *node);
        for (key, node) in &entries {
            match *key {
                "alert" => alert = self.text(node, key),
                "expr" => {
                    condition = self.text(node, key).and_then(|text| {
                        let read = expression::parse(text);
                        read.map_err(|problem| self.report(node.line, format!("expr: {problem}"))).ok()
                    });
                }
                "for" => spec.fires_after = self.duration(node, key),
                "keep_firing_for" => spec.clears_after = self.duration(node, key),
                "labels" | "annotations" => {}
                "record" => {
                    self.report(node.line, "rules that record are not understood, only those that alert")
                }
                other => self.report(node.line, format!("`{other}` of a rule is not known")),
            }
        }
        let is_increase = condition.as_ref().is_some_and(|condition| condition.is_increase);
        let severity = of("labels").and_then(|labels| self.labels(labels, &mut spec));
        if let Some(annotations) = of("annotations") {
            self.annotations(annotations, &mut spec, is_increase);
        }
        if of("alert").is_none() && of("record").is_none() {
            self.report(rule.line, "a rule must have a name: `alert`");
        }
        if of("expr").is_none() {
            self.report(rule.line, "a rule must have an `expr`");
        }
        let (Some(alert), Some(condition)) = (alert, condition) else { return };
        fill(&mut spec, condition, severity.as_deref());
        let line_of = |field: &str| match field {
            "summary" | "labels" => of("annotations").or_else(|| of("labels")),
            "fires_after" => of("for"),
            "clears_after" => of("keep_firing_for"),
            _ => of("expr"),
        };
        spec.check(self.keep, &mut |field, message| {
            let line = line_of(field).map_or(rule.line, |node| node.line);
            self.problems.push(Problem::new(line, format!("{field} {message}")));
        });
        if self.problems.len() > n_problems {
            return;
        }
        match self.name(alert, severity.as_deref()) {
            Some(name) => self.rules.push(Rule { name, spec }),
            None => self.report(rule.line, "the name of an alert must have a letter a-z or a digit"),
        }
    }

    /// Takes labels, which ours adds to its alerts; returns the severity, which decides on the level.
    fn labels(&mut self, labels: &Node, spec: &mut RuleSpec) -> Option<String> {
        let mut severity = None;
        for (name, node) in self.entries(labels, "labels") {
            let Some(value) = self.text(node, name) else { continue };
            if name == SEVERITY {
                if !matches!(value, "critical" | "warning") {
                    self.report(node.line, "severity must be critical or warning");
                }
                severity = Some(value.to_owned());
            } else if value.contains("{{") {
                self.report(node.line, format!("the label {name} has a template; only `summary` may"));
            } else {
                spec.annotations.insert(name.to_owned(), value.to_owned());
            }
        }
        severity
    }

    fn annotations(&mut self, annotations: &Node, spec: &mut RuleSpec, is_increase: bool) {
        for (name, node) in self.entries(annotations, "annotations") {
            let Some(value) = self.text(node, name) else { continue };
            if name == "summary" {
                match template::convert(value, is_increase) {
                    Ok(summary) => spec.summary = summary,
                    Err(problem) => self.report(node.line, format!("summary: {problem}")),
                }
            } else if value.contains("{{") {
                self.report(node.line, format!("the annotation {name} has a template; only `summary` may"));
            } else {
                spec.annotations.insert(name.to_owned(), value.to_owned());
            }
        }
    }

    /// Makes a name of ours: `HighErrorRate` is `high_error_rate`. Alerts of one name differ in severity, or are counted.
    fn name(&mut self, alert: &str, severity: Option<&str>) -> Option<String> {
        let plain = snake(alert);
        if plain.is_empty() {
            return None;
        }
        let severe = severity.map(|severity| format!("{plain}_{severity}"));
        let counted = (2..).map(|n| format!("{plain}_{n}"));
        let mut names = [plain.clone()].into_iter().chain(severe).chain(counted);
        let name = names.find(|name| !self.taken.contains(name))?;
        self.taken.insert(name.clone());
        Some(name)
    }

    fn entries<'n>(&mut self, node: &'n Node, what: &str) -> Vec<(&'n str, &'n Node)> {
        match &node.value {
            Value::Map(entries) => entries.iter().map(|(key, node)| (key.as_str(), node)).collect(),
            Value::Nothing => Vec::new(),
            Value::Text(_) | Value::List(_) => {
                self.report(node.line, format!("{what} must be names with values"));
                Vec::new()
            }
        }
    }

    fn list<'n>(&mut self, node: &'n Node, what: &str) -> &'n [Node] {
        match &node.value {
            Value::List(list) => list,
            Value::Nothing => &[],
            Value::Text(_) | Value::Map(_) => {
                self.report(node.line, format!("{what} must be a list"));
                &[]
            }
        }
    }

    fn text<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n str> {
        let text = node.text().filter(|text| !text.is_empty());
        if text.is_none() {
            self.report(node.line, format!("{what} must be a text"));
        }
        text
    }

    fn duration(&mut self, node: &Node, what: &str) -> Option<Duration> {
        let read = node.text().and_then(expression::duration);
        if read.is_none() {
            self.report(node.line, format!("{what} must be a time like 30s or 1h30m"));
        }
        read
    }
}

/// Takes the rules of all files; the error tells of each problem which file it is in, counted from 0.
pub(crate) fn read_all(files: &[PathBuf], keep: Duration) -> Result<Vec<Rule>, Vec<(usize, String)>> {
    let (mut import, mut problems) = (Import::new(keep), Vec::new());
    for (index, file) in files.iter().enumerate() {
        let found = import.read(file).err().into_iter().flatten();
        problems.extend(found.map(|problem| (index, problem)));
    }
    if problems.is_empty() { Ok(import.into_rules()) } else { Err(problems) }
}

fn fill(spec: &mut RuleSpec, condition: Condition, severity: Option<&str>) {
    let Condition { metric, labels, window, comparison, level, .. } = condition;
    (spec.metric, spec.labels, spec.comparison) = (metric, labels, comparison);
    if let Some(window) = window {
        (spec.kind, spec.window) = (RuleKind::Rate, window);
    }
    match severity {
        Some("critical") => spec.critical = Some(level),
        _ => spec.warning = Some(level),
    }
}

/// Writes a name in small letters and digits, with one underscore between words.
fn snake(name: &str) -> String {
    let mut snake = String::new();
    let letters: Vec<char> = name.chars().collect();
    for (index, letter) in letters.iter().enumerate() {
        let before = index.checked_sub(1).and_then(|index| letters.get(index));
        let is_low = |letter: Option<&char>| letter.is_some_and(|letter| !letter.is_ascii_uppercase());
        let begins = letter.is_ascii_uppercase() && (is_low(before) || is_low(letters.get(index + 1)));
        let is_legal = letter.is_ascii_alphanumeric();
        if (begins || !is_legal) && !snake.is_empty() && !snake.ends_with('_') {
            snake.push('_');
        }
        if is_legal {
            snake.push(letter.to_ascii_lowercase());
        }
    }
    let longest = definition::NAME_MAX - "_critical".len();
    snake.chars().take(longest).collect::<String>().trim_end_matches('_').to_owned()
}

#[cfg(test)]
mod tests;
