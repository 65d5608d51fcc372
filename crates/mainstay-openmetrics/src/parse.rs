use std::collections::HashMap;

use crate::{Exposition, Kind};

mod families;
mod line;
#[cfg(test)]
mod tests;

use families::Families;
use line::Cursor;

/// Reads either format; text that ends with `# EOF` is OpenMetrics.
pub fn parse(text: &str, limits: Limits) -> Result<Exposition, ParseError> {
    let last = text.rsplit('\n').find(|line| !is_blank(line));
    let dialect = if last == Some(EOF) { Dialect::OpenMetrics } else { Dialect::Prometheus };
    parse_as(text, dialect, limits)
}

/// Reads one format, as named by the content type of a source; OpenMetrics without `# EOF` is cut off, an error.
pub fn parse_as(text: &str, dialect: Dialect, limits: Limits) -> Result<Exposition, ParseError> {
    if text.len() > limits.max_bytes {
        return Err(ParseError { line: 0, reason: Reason::TooManyBytes { max: limits.max_bytes } });
    }
    let mut parser = Parser { dialect, limits, ..Parser::default() };
    let mut n_lines = 0;
    for line in text.split('\n') {
        n_lines += 1;
        parser.line(line).map_err(|reason| ParseError { line: n_lines, reason })?;
    }
    if dialect == Dialect::OpenMetrics && !parser.ended {
        return Err(ParseError { line: n_lines, reason: Reason::NoEof });
    }
    Ok(parser.families.finish(&mut parser.helps, &mut parser.units))
}

const EOF: &str = "# EOF";

/// Names the two text formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dialect {
    /// OpenMetrics 1.0: timestamps in seconds, `# EOF` at the end.
    OpenMetrics,
    /// Prometheus text 0.0.4: timestamps in milliseconds.
    #[default]
    Prometheus,
}

impl Dialect {
    /// Returns the content type of the format.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Bounds what a source may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Samples in all families together.
    pub max_samples: usize,
    /// Length of the text.
    pub max_bytes: usize,
}

impl Default for Limits {
    /// Allows 100,000 samples in 16 MiB.
    fn default() -> Self {
        Self { max_samples: 100_000, max_bytes: 16 * 1_024 * 1_024 }
    }
}

/// Says where and why a text cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct ParseError {
    /// The line, counted from 1; 0 is the text as a whole.
    pub line: usize,
    /// What is wrong with it.
    pub reason: Reason,
}

/// Says what is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Longer than [`Limits::max_bytes`].
    #[error("text is longer than {max} bytes")]
    TooManyBytes {
        /// The limit.
        max: usize,
    },
    /// More than [`Limits::max_samples`].
    #[error("text has more than {max} samples")]
    TooManySamples {
        /// The limit.
        max: usize,
    },
    /// OpenMetrics that was cut off.
    #[error("text does not end with # EOF")]
    NoEof,
    /// OpenMetrics that goes on.
    #[error("text goes on after # EOF")]
    AfterEof,
    /// Not a metric name where one must be.
    #[error("metric name expected")]
    MetricName,
    /// Not a label name where one must be.
    #[error("label name expected")]
    LabelName,
    /// Not `="value"` after a label name, or no closing quote.
    #[error("label value in quotes expected")]
    LabelValue,
    /// Neither `,` nor `}` after a label.
    #[error("comma or closing brace expected after label")]
    LabelEnd,
    /// One name, two values.
    #[error("label {name:?} occurs twice")]
    LabelTwice {
        /// The label's name.
        name: String,
    },
    /// Nobody tells things apart by so many labels.
    #[error("more than {max} labels")]
    TooManyLabels {
        /// The limit.
        max: usize,
    },
    /// Not a number.
    #[error("value expected, found {found:?}")]
    Value {
        /// What stands there instead.
        found: String,
    },
    /// Not a time.
    #[error("timestamp expected, found {found:?}")]
    Timestamp {
        /// What stands there instead.
        found: String,
    },
    /// Neither an exemplar nor the end of the line.
    #[error("end of line expected, found {found:?}")]
    LineEnd {
        /// What stands there instead.
        found: String,
    },
    /// Not a kind of either format.
    #[error("unknown kind {found:?}")]
    Kind {
        /// What stands there instead.
        found: String,
    },
    /// Two kinds for one family.
    #[error("{family} is {first} and cannot be {second} as well")]
    TwoKinds {
        /// The family.
        family: String,
        /// Its kind until here.
        first: Kind,
        /// Its kind from here on.
        second: Kind,
    },
    /// A sample name that its family's kind does not have.
    #[error("{kind} {family} cannot have a sample of its own name")]
    Misfit {
        /// The family.
        family: String,
        /// Its kind.
        kind: Kind,
    },
}

#[derive(Default)]
struct Parser {
    dialect: Dialect,
    limits: Limits,
    families: Families,
    /// Help and units by the name they were given for; that may be a sample's name (0.0.4).
    helps: HashMap<String, String>,
    units: HashMap<String, String>,
    n_samples: usize,
    ended: bool,
}

impl Parser {
    fn line(&mut self, line: &str) -> Result<(), Reason> {
        if is_blank(line) {
            Ok(())
        } else if self.ended {
            Err(Reason::AfterEof)
        } else if line == EOF && self.dialect == Dialect::OpenMetrics {
            self.ended = true;
            Ok(())
        } else if let Some(comment) = line.strip_prefix('#') {
            self.comment(comment)
        } else {
            self.sample(line)
        }
    }

    fn comment(&mut self, comment: &str) -> Result<(), Reason> {
        let mut cursor = Cursor::new(comment);
        match cursor.word() {
            "HELP" => {
                let (name, text) = cursor.described()?;
                let text = line::unescape(text, self.dialect == Dialect::OpenMetrics);
                self.helps.entry(name.to_owned()).or_insert(text);
            }
            "UNIT" => {
                let (name, unit) = cursor.described()?;
                self.units
                    .entry(name.to_owned())
                    .or_insert_with(|| unit.trim_matches(line::BLANKS).to_owned());
            }
            "TYPE" => {
                let (name, word) = cursor.described()?;
                let word = word.trim_matches(line::BLANKS);
                let kind = Kind::from_word(word).ok_or_else(|| Reason::Kind { found: word.to_owned() })?;
                self.families.declare(name, kind, self.dialect)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn sample(&mut self, line: &str) -> Result<(), Reason> {
        if self.n_samples >= self.limits.max_samples {
            return Err(Reason::TooManySamples { max: self.limits.max_samples });
        }
        self.n_samples += 1;
        self.families.add(line::sample(line, self.dialect)?)
    }
}

fn is_blank(line: &str) -> bool {
    line.trim_matches(line::BLANKS).is_empty()
}
