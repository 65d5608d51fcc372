//! Conditions: one metric, its rate or its increase, compared with a number.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::rule::definition::Comparison;

/// Holds a condition in the terms of ours.
#[derive(Debug, PartialEq)]
pub(super) struct Condition {
    pub(super) metric: String,
    pub(super) labels: BTreeMap<String, String>,
    /// Of a rate or an increase.
    pub(super) window: Option<Duration>,
    /// The level is that of the rate; a text must not tell the value.
    pub(super) is_increase: bool,
    pub(super) comparison: Comparison,
    pub(super) level: f64,
}

const UNDERSTOOD: &str =
    "what is understood is a metric, rate(metric[time]) or increase(metric[time]), compared with a number";

/// Reads a condition; the error is one line for a person.
pub(super) fn parse(text: &str) -> Result<Condition, String> {
    let mut reader = Reader { rest: text };
    let figure = reader.figure(0)?;
    let operator = reader.operator()?;
    let number = reader.number()?;
    reader.skip();
    if !reader.rest.is_empty() {
        return Err(format!("{:?} follows the number; {UNDERSTOOD}", head(reader.rest)));
    }
    let level = match figure.window.filter(|_| figure.is_increase) {
        Some(window) => number / window.as_secs_f64(),
        None => number,
    };
    // Ours compares strictly: at or above a number is above the one right before it.
    let (comparison, level) = match operator {
        ">" => (Comparison::Above, level),
        ">=" => (Comparison::Above, level.next_down()),
        "<" => (Comparison::Below, level),
        "<=" => (Comparison::Below, level.next_up()),
        "==" => (Comparison::Equal, level),
        _ => (Comparison::Unequal, level),
    };
    let Figure { metric, labels, window, is_increase } = figure;
    Ok(Condition { metric, labels, window, is_increase, comparison, level })
}

/// Reads a time as Prometheus writes it: `90s`, `1h30m`, `0`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut sum = Duration::ZERO;
    // Units come in this order, each once at most.
    let units = [("y", 31_536_000_000), ("w", 604_800_000), ("d", 86_400_000), ("h", 3_600_000)];
    let units = units.into_iter().chain([("m", 60_000), ("s", 1_000), ("ms", 1_u64)]);
    for (unit, unit_ms) in units {
        let digits = rest.len() - rest.trim_start_matches(|letter: char| letter.is_ascii_digit()).len();
        let (number, after) = rest.split_at(digits);
        let Some(after) = after.strip_prefix(unit) else { continue };
        if unit == "m" && after.starts_with('s') {
            continue;
        }
        let ms = number.parse::<u64>().ok()?.checked_mul(unit_ms)?;
        sum = sum.checked_add(Duration::from_millis(ms))?;
        rest = after;
    }
    (rest.is_empty() && !text.is_empty()).then_some(sum)
}

struct Figure {
    metric: String,
    labels: BTreeMap<String, String>,
    window: Option<Duration>,
    is_increase: bool,
}

struct Reader<'t> {
    rest: &'t str,
}

/// Parentheses round a figure.
const DEPTH_MAX: usize = 10;

impl<'t> Reader<'t> {
    /// Skips blanks, ends of lines and comments.
    fn skip(&mut self) {
        loop {
            self.rest = self.rest.trim_start();
            let Some(comment) = self.rest.strip_prefix('#') else { return };
            self.rest = comment.split_once('\n').map_or("", |(_, rest)| rest);
        }
    }

    fn eat(&mut self, token: &str) -> bool {
        self.skip();
        let rest = self.rest.strip_prefix(token);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn expect(&mut self, token: &str) -> Result<(), String> {
        if self.eat(token) { Ok(()) } else { Err(self.surprise(&format!("`{token}`"))) }
    }

    fn surprise(&self, wanted: &str) -> String {
        let found = head(self.rest);
        let found = if found.is_empty() { "the end".to_owned() } else { format!("{found:?}") };
        format!("{found} stands where {wanted} should; {UNDERSTOOD}")
    }

    fn word(&mut self, colons: bool) -> Option<&'t str> {
        self.skip();
        let legal =
            |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || (colons && letter == ':');
        let end = self.rest.find(|letter| !legal(letter)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        let is_word = word.starts_with(|first: char| !first.is_ascii_digit());
        is_word.then(|| {
            self.rest = rest;
            word
        })
    }

    fn figure(&mut self, depth: usize) -> Result<Figure, String> {
        if depth < DEPTH_MAX && self.eat("(") {
            let figure = self.figure(depth + 1)?;
            self.expect(")")?;
            return Ok(figure);
        }
        let name = self.word(true).ok_or_else(|| self.surprise("a metric"))?;
        if !self.eat("(") {
            let labels = self.labels()?;
            return Ok(Figure { metric: name.to_owned(), labels, window: None, is_increase: false });
        }
        if !matches!(name, "rate" | "increase") {
            return Err(format!("{name}() is not understood; {UNDERSTOOD}"));
        }
        let metric = self.word(true).ok_or_else(|| self.surprise("a metric"))?.to_owned();
        let labels = self.labels()?;
        self.expect("[")?;
        let end = self.rest.find(']').ok_or("a `[` has no `]`")?;
        let (time, rest) = self.rest.split_at(end);
        let window = duration(time.trim()).filter(|window| !window.is_zero());
        let window = window.ok_or_else(|| format!("[{time}] must be one time like [5m]"))?;
        self.rest = rest;
        self.expect("]")?;
        self.expect(")")?;
        Ok(Figure { metric, labels, window: Some(window), is_increase: name == "increase" })
    }

    fn labels(&mut self) -> Result<BTreeMap<String, String>, String> {
        let mut labels = BTreeMap::new();
        if !self.eat("{") {
            return Ok(labels);
        }
        while !self.eat("}") {
            let name = self.word(false).ok_or_else(|| self.surprise("a label"))?.to_owned();
            if self.eat("!=") || self.eat("=~") || self.eat("!~") || !self.eat("=") {
                return Err(format!("of labels only `=` is understood; {name} has another"));
            }
            let value = self.string()?;
            if value.is_empty() || value.ends_with('*') {
                return Err(format!(
                    "the value of {name} must not be empty nor end with *, which has a meaning here"
                ));
            }
            if name == "__name__" || labels.insert(name.clone(), value).is_some() {
                return Err(format!("{name} must not be there, or only once"));
            }
            if !self.eat(",") {
                self.expect("}")?;
                break;
            }
        }
        Ok(labels)
    }

    fn string(&mut self) -> Result<String, String> {
        self.skip();
        let quote = self.rest.chars().next().filter(|quote| matches!(quote, '"' | '\'' | '`'));
        let quote = quote.ok_or_else(|| self.surprise("a text in quotes"))?;
        let mut text = String::new();
        let mut letters = self.rest.char_indices().skip(1);
        while let Some((at, letter)) = letters.next() {
            match letter {
                letter if letter == quote => {
                    self.rest = &self.rest[at + 1..];
                    return Ok(text);
                }
                '\\' if quote != '`' => match letters.next() {
                    Some((_, escaped @ ('\\' | '"' | '\''))) => text.push(escaped),
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, 't')) => text.push('\t'),
                    _ => return Err("of escapes only \\\\, \\\", \\', \\n and \\t are understood".to_owned()),
                },
                letter => text.push(letter),
            }
        }
        Err("a text has no end".to_owned())
    }

    fn operator(&mut self) -> Result<&'static str, String> {
        let all = [">=", "<=", "==", "!=", ">", "<"];
        let found = all.into_iter().find(|operator| self.eat(operator));
        found.ok_or_else(|| self.surprise("a comparison"))
    }

    fn number(&mut self) -> Result<f64, String> {
        self.skip();
        let legal = |letter: char| letter.is_ascii_digit() || matches!(letter, '.' | '+' | '-' | 'e' | 'E');
        let end = self.rest.find(|letter| !legal(letter)).unwrap_or(self.rest.len());
        let (number, rest) = self.rest.split_at(end);
        let read = number.parse::<f64>().ok().filter(|number| number.is_finite());
        let read = read.ok_or_else(|| self.surprise("a number"))?;
        self.rest = rest;
        Ok(read)
    }
}

fn head(text: &str) -> String {
    let first = text.lines().next().unwrap_or_default();
    first.chars().take(30).collect()
}
