use super::{Dialect, Reason};
use crate::{Exemplar, Labels, Sample};

/// What separates the parts of a line.
pub(super) const BLANKS: [char; 2] = [' ', '\t'];

/// Finding names that occur twice compares each with each.
const MAX_LABELS: usize = 128;

/// Reads a sample line: `name{labels} value [timestamp] [# {labels} value [timestamp]]`.
pub(super) fn sample(line: &str, dialect: Dialect) -> Result<Sample, Reason> {
    let mut cursor = Cursor::new(line);
    let name = cursor.metric_name()?.to_owned();
    let labels = if cursor.eat('{') { cursor.labels()? } else { Labels::new() };
    let value = cursor.value()?;
    let timestamp = match dialect {
        Dialect::OpenMetrics => cursor.seconds()?,
        Dialect::Prometheus => cursor.milliseconds()?,
    };
    let exemplar = if cursor.eat('#') { Some(cursor.exemplar()?) } else { None };
    cursor.end()?;
    let may_have_one = name.ends_with("_total") || name.ends_with("_bucket");
    Ok(Sample { labels, value, timestamp, exemplar: exemplar.filter(|_| may_have_one), name })
}

/// Replaces `\\`, `\n` and, where quotes are escaped, `\"`; any other backslash stands for itself.
pub(super) fn unescape(text: &str, quotes: bool) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(position) = rest.find('\\') {
        plain.push_str(&rest[..position]);
        let (character, length) = match rest.as_bytes().get(position + 1) {
            Some(b'\\') => ('\\', 2),
            Some(b'n') => ('\n', 2),
            Some(b'"') if quotes => ('"', 2),
            _ => ('\\', 1),
        };
        plain.push(character);
        rest = &rest[position + length..];
    }
    plain.push_str(rest);
    plain
}

/// Walks along a line; each method first skips blanks.
pub(super) struct Cursor<'a> {
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(rest: &'a str) -> Self {
        Self { rest }
    }

    /// Takes everything up to the next blank.
    pub(super) fn word(&mut self) -> &'a str {
        self.skip_blanks();
        let end = self.rest.find(BLANKS).unwrap_or(self.rest.len());
        self.take(end)
    }

    /// Takes a metric name and what follows it after one blank.
    pub(super) fn described(&mut self) -> Result<(&'a str, &'a str), Reason> {
        let name = self.metric_name()?;
        match self.rest.strip_prefix(BLANKS) {
            Some(text) => Ok((name, text)),
            None if self.rest.is_empty() => Ok((name, "")),
            None => Err(Reason::MetricName),
        }
    }

    fn metric_name(&mut self) -> Result<&'a str, Reason> {
        self.name(|byte| byte == b':').ok_or(Reason::MetricName)
    }

    /// Takes letters, digits, underscores and what else is allowed; a digit cannot be first.
    fn name(&mut self, also: impl Fn(u8) -> bool) -> Option<&'a str> {
        self.skip_blanks();
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || also(byte);
        let bytes = self.rest.as_bytes();
        let end = bytes.iter().position(|byte| !is_part(*byte)).unwrap_or(bytes.len());
        let starts_well = bytes.first().is_some_and(|first| !first.is_ascii_digit());
        (end > 0 && starts_well).then(|| self.take(end))
    }

    /// Takes labels up to the closing brace; a comma before it is allowed.
    fn labels(&mut self) -> Result<Labels, Reason> {
        let mut labels = Labels::new();
        while !self.eat('}') {
            let name = self.name(|_| false).ok_or(Reason::LabelName)?;
            if labels.iter().any(|(held, _)| held == name) {
                return Err(Reason::LabelTwice { name: name.to_owned() });
            }
            if labels.len() == MAX_LABELS {
                return Err(Reason::TooManyLabels { max: MAX_LABELS });
            }
            labels.push((name.to_owned(), self.label_value()?));
            if !self.eat(',') && !self.rest.starts_with('}') {
                return Err(Reason::LabelEnd);
            }
        }
        Ok(labels)
    }

    fn label_value(&mut self) -> Result<String, Reason> {
        if !self.eat('=') || !self.eat('"') {
            return Err(Reason::LabelValue);
        }
        let mut escaped = false;
        let closing = self.rest.bytes().position(|byte| {
            let closes = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            closes
        });
        let value = unescape(self.take(closing.ok_or(Reason::LabelValue)?), true);
        self.take(1);
        Ok(value)
    }

    fn value(&mut self) -> Result<f64, Reason> {
        let word = self.word();
        word.parse().map_err(|_| Reason::Value { found: word.to_owned() })
    }

    /// Takes a timestamp of OpenMetrics, if one follows.
    fn seconds(&mut self) -> Result<Option<f64>, Reason> {
        self.timestamp(|word| word.parse().ok().filter(|seconds: &f64| seconds.is_finite()))
    }

    /// Takes a timestamp of 0.0.4, if one follows.
    fn milliseconds(&mut self) -> Result<Option<f64>, Reason> {
        self.timestamp(|word| word.parse().ok().map(|milliseconds: i64| milliseconds as f64 / 1_000.0))
    }

    fn timestamp(&mut self, read: impl Fn(&str) -> Option<f64>) -> Result<Option<f64>, Reason> {
        self.skip_blanks();
        if self.rest.is_empty() || self.rest.starts_with('#') {
            return Ok(None);
        }
        let word = self.word();
        read(word).map(Some).ok_or_else(|| Reason::Timestamp { found: word.to_owned() })
    }

    fn exemplar(&mut self) -> Result<Exemplar, Reason> {
        if !self.eat('{') {
            return Err(Reason::LineEnd { found: self.rest.to_owned() });
        }
        Ok(Exemplar { labels: self.labels()?, value: self.value()?, timestamp: self.seconds()? })
    }

    fn end(&mut self) -> Result<(), Reason> {
        self.skip_blanks();
        if self.rest.is_empty() { Ok(()) } else { Err(Reason::LineEnd { found: self.rest.to_owned() }) }
    }

    fn eat(&mut self, expected: char) -> bool {
        self.skip_blanks();
        match self.rest.strip_prefix(expected) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_start_matches(BLANKS);
    }

    fn take(&mut self, length: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        taken
    }
}
