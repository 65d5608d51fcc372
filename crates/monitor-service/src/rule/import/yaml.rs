//! The part of YAML that rule files are written in: texts, lists and maps, each with its line.

use std::collections::BTreeSet;

use saphyr_parser::{Event, Parser, ScalarStyle, StrInput};

use super::Problem;

/// Holds a value, and the line of the name that it has, or else of its beginning.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) line: usize,
    pub(super) value: Value,
}

#[derive(Debug)]
pub(super) enum Value {
    Nothing,
    /// Numbers and truths too, as they are written.
    Text(String),
    List(Vec<Node>),
    /// In the order of the file; no name twice.
    Map(Vec<(String, Node)>),
}

type Events<'t> = Parser<'t, StrInput<'t>>;

/// Lists within lists: rule files have five.
const DEPTH_MAX: usize = 16;

impl Node {
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            Value::Nothing | Value::List(_) | Value::Map(_) => None,
        }
    }
}

/// Reads one document.
pub(super) fn parse(text: &str) -> Result<Node, Problem> {
    let mut events = Parser::new_from_str(text);
    let mut root = None;
    loop {
        let (event, line) = next(&mut events)?;
        match event {
            Event::StreamEnd => return root.ok_or_else(|| Problem::new(1, "the file is empty")),
            Event::Nothing | Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd => {}
            event if root.is_none() => root = Some(node(&mut events, event, line, 0)?),
            _ => return Err(Problem::new(line, "there is a second document")),
        }
    }
}

fn next<'t>(events: &mut Events<'t>) -> Result<(Event<'t>, usize), Problem> {
    match events.next() {
        Some(Ok((event, span))) => Ok((event, span.start.line())),
        Some(Err(error)) => {
            Err(Problem::new(error.marker().line(), format!("this is no YAML: {}", error.info())))
        }
        None => Ok((Event::StreamEnd, 1)),
    }
}

fn node(events: &mut Events<'_>, event: Event<'_>, line: usize, depth: usize) -> Result<Node, Problem> {
    if depth > DEPTH_MAX {
        return Err(Problem::new(line, "this is nested too deep"));
    }
    let value = match event {
        Event::Scalar(text, ScalarStyle::Plain, 0, _) if matches!(&*text, "" | "~" | "null") => {
            Value::Nothing
        }
        Event::Scalar(text, _, 0, _) => Value::Text(text.into_owned()),
        Event::SequenceStart(0, _) => list(events, depth)?,
        Event::MappingStart(0, _) => map(events, depth)?,
        Event::StreamEnd => return Err(Problem::new(line, "the file ends in the middle")),
        _ => return Err(Problem::new(line, "anchors and aliases are not understood")),
    };
    Ok(Node { line, value })
}

fn list(events: &mut Events<'_>, depth: usize) -> Result<Value, Problem> {
    let mut list = Vec::new();
    loop {
        let (event, line) = next(events)?;
        if matches!(event, Event::SequenceEnd) {
            return Ok(Value::List(list));
        }
        list.push(node(events, event, line, depth + 1)?);
    }
}

fn map(events: &mut Events<'_>, depth: usize) -> Result<Value, Problem> {
    let (mut map, mut names) = (Vec::new(), BTreeSet::new());
    loop {
        let (event, line) = next(events)?;
        if matches!(event, Event::MappingEnd) {
            return Ok(Value::Map(map));
        }
        let name = node(events, event, line, depth + 1)?;
        let name = name.text().ok_or_else(|| Problem::new(line, "a name must be a text"))?.to_owned();
        let (event, begins) = next(events)?;
        let value = node(events, event, begins, depth + 1)?;
        if !names.insert(name.clone()) {
            return Err(Problem::new(line, format!("`{name}` is there twice")));
        }
        map.push((name, Node { line, ..value }));
    }
}
