//! `deploy/docs/configuration.md` is made of `deploy/config/*.toml`, which each service's own tests keep equal to its code:
//! every key, with the default that the code has.

use std::fmt::Write as _;
use std::fs;

use crate::{SERVICES, root};

const FILE: &str = "deploy/docs/configuration.md";
const HEAD: &str = "# Configuration reference

Every key of every service, with its default. A service reads defaults, then its file (`--config FILE`, else
`deploy/config/<service>.toml` below its working directory), then variables, the last one winning: `redis.command_within` is
`MAINSTAY__REDIS__COMMAND_WITHIN`. A secret may come from a file: `password_file = \"...\"`, or `MAINSTAY__REDIS__PASSWORD_FILE`.
An unknown key is an error. `<service> --check-config` checks all of it and names what is wrong; `--print-config` prints what
is in force, without secrets.

This page is generated: `UPDATE_DOCS=1 cargo test --workspace --test arch configuration` writes it anew.
";

#[test]
fn configuration_reference_lists_every_key_as_the_services_have_it() {
    let mut page = HEAD.to_owned();
    for service in SERVICES {
        let path = root().join("deploy/config").join(format!("{service}.toml"));
        let text = fs::read_to_string(&path).expect("each service ships a file");
        write!(page, "\n## {service}\n{}", Reference::of(&text).page()).expect("a string can be written");
    }
    let path = root().join(FILE);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &page).expect("the page can be written");
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "{FILE} is not what deploy/config says; write it anew with UPDATE_DOCS=1");
}

/// What a file of keys, comments and examples says, section by section.
#[derive(Default)]
struct Reference {
    sections: Vec<Section>,
    /// Comment lines that belong to what comes next.
    pending: Vec<String>,
}

#[derive(Default)]
struct Section {
    name: String,
    about: String,
    /// Name, default, meaning.
    keys: Vec<[String; 3]>,
    /// Commented-out lines of TOML.
    examples: Vec<String>,
}

impl Reference {
    fn of(text: &str) -> Self {
        let mut reference = Self { sections: vec![Section::default()], pending: Vec::new() };
        for line in text.lines() {
            reference.line(line.trim_end());
        }
        reference
    }

    fn line(&mut self, line: &str) {
        let (code, comment) = split_comment(line);
        let section = self.sections.last_mut().expect("there is one from the start");
        if code.is_empty() && comment.is_empty() {
            self.pending.clear();
        } else if code.is_empty() && is_example(comment) {
            section.examples.push(comment.to_owned());
        } else if code.is_empty() {
            self.pending.push(comment.to_owned());
        } else if let Some(name) = code.strip_prefix('[') {
            self.pending.push(comment.to_owned());
            let about = joined(&mut self.pending);
            let name = name.trim_end_matches(']').to_owned();
            self.sections.push(Section { name, about, ..Section::default() });
        } else if let Some((key, value)) = code.split_once(" = ") {
            self.pending.push(comment.to_owned());
            let about = joined(&mut self.pending);
            section.keys.push([key.to_owned(), value.to_owned(), about]);
        } else {
            // The rest of a list of several lines.
            let last = section.keys.last_mut().expect("a list begins with its key");
            last[1].push_str(code);
        }
    }

    fn page(&self) -> String {
        self.sections.iter().map(Section::page).collect()
    }
}

impl Section {
    fn page(&self) -> String {
        let mut page = String::new();
        if self.keys.is_empty() && self.examples.is_empty() {
            return page;
        }
        if !self.name.is_empty() {
            page.push_str(&format!("\n### `[{}]`\n", self.name));
        }
        if !self.about.is_empty() {
            page.push_str(&format!("\n{}\n", self.about));
        }
        if !self.keys.is_empty() {
            page.push_str("\n| key | default | meaning |\n|---|---|---|\n");
        }
        for [key, value, about] in &self.keys {
            page.push_str(&format!("| `{key}` | `{}` | {} |\n", value.replace('|', "\\|"), cell(about)));
        }
        if !self.examples.is_empty() {
            page.push_str(&format!("\n```toml\n{}\n```\n", self.examples.join("\n")));
        }
        page
    }
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;")
}

fn joined(lines: &mut Vec<String>) -> String {
    std::mem::take(lines).join(" ").trim().to_owned()
}

/// Splits a line into TOML and the comment behind it.
fn split_comment(line: &str) -> (&str, &str) {
    let mut is_quoted = false;
    let hash = line.char_indices().find(|&(_, character)| {
        is_quoted ^= character == '"';
        character == '#' && !is_quoted
    });
    match hash {
        Some((at, _)) => (line[..at].trim(), line[at + 1..].trim()),
        None => (line.trim(), ""),
    }
}

/// Tells whether a comment is TOML that is only not in force.
fn is_example(comment: &str) -> bool {
    let is_word = |text: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-.<>".contains(c))
    };
    let (code, _) = split_comment(comment);
    match code.split_once(" = ") {
        Some((key, _)) => is_word(key),
        None => code.strip_prefix('[').and_then(|code| code.strip_suffix(']')).is_some_and(is_word),
    }
}
