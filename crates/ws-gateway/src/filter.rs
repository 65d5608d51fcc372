//! Which publications a subscriber wants, by their tags.

use std::collections::BTreeMap;

use serde::Deserialize;

mod filters;

pub(crate) use filters::Filters;

/// The tags of a publication.
pub(crate) type Tags = BTreeMap<Box<str>, Box<str>>;

/// Nodes of one filter; more would let a client make every publication of a channel slow.
const MAX_NODES: usize = 64;
const MAX_DEPTH: usize = 8;
const MAX_TEXT_BYTES: usize = 4_096;

/// A node as clients send it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct FilterNode {
    /// Empty for a comparison, else `and`, `or` or `not`.
    pub(crate) op: String,
    pub(crate) key: String,
    pub(crate) cmp: String,
    pub(crate) val: String,
    pub(crate) vals: Vec<String>,
    pub(crate) nodes: Vec<FilterNode>,
}

/// A checked filter.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Filter {
    All(Box<[Filter]>),
    Any(Box<[Filter]>),
    Not(Box<Filter>),
    Tag { key: Box<str>, test: Test },
}

/// What is asked of one tag.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Test {
    Equal(Box<str>),
    NotEqual(Box<str>),
    In(Box<[Box<str>]>),
    NotIn(Box<[Box<str>]>),
    Exists,
    Absent,
    StartsWith(Box<str>),
    EndsWith(Box<str>),
    Contains(Box<str>),
    Less(Number),
    LessOrEqual(Number),
    Greater(Number),
    GreaterOrEqual(Number),
}

/// A decimal number, compared digit by digit: tags carry prices and ids that no float holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Number {
    negative: bool,
    /// Without leading zeros.
    whole: Box<str>,
    /// Without trailing zeros.
    fraction: Box<str>,
}

/// Says that a filter makes no sense, or is too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InvalidFilter;

impl Filter {
    pub(crate) fn parse(node: &FilterNode) -> Result<Self, InvalidFilter> {
        let mut budget = Budget { nodes: MAX_NODES, text_bytes: MAX_TEXT_BYTES };
        budget.parse(node, MAX_DEPTH)
    }

    /// Tells whether the subscriber wants a publication with these tags.
    pub(crate) fn wants(&self, tags: &Tags) -> bool {
        match self {
            Self::All(filters) => filters.iter().all(|filter| filter.wants(tags)),
            Self::Any(filters) => filters.iter().any(|filter| filter.wants(tags)),
            Self::Not(filter) => !filter.wants(tags),
            Self::Tag { key, test } => test.passes(tags.get(key).map(|value| &**value)),
        }
    }
}

impl Test {
    fn passes(&self, value: Option<&str>) -> bool {
        let Some(value) = value else {
            return matches!(self, Self::Absent | Self::NotEqual(_) | Self::NotIn(_));
        };
        let number = || Number::parse(value);
        match self {
            Self::Equal(wanted) => value == &**wanted,
            Self::NotEqual(unwanted) => value != &**unwanted,
            Self::In(wanted) => wanted.iter().any(|one| **one == *value),
            Self::NotIn(unwanted) => unwanted.iter().all(|one| **one != *value),
            Self::Exists => true,
            Self::Absent => false,
            Self::StartsWith(part) => value.starts_with(&**part),
            Self::EndsWith(part) => value.ends_with(&**part),
            Self::Contains(part) => value.contains(&**part),
            Self::Less(limit) => number().is_some_and(|number| number < *limit),
            Self::LessOrEqual(limit) => number().is_some_and(|number| number <= *limit),
            Self::Greater(limit) => number().is_some_and(|number| number > *limit),
            Self::GreaterOrEqual(limit) => number().is_some_and(|number| number >= *limit),
        }
    }
}

impl Number {
    fn parse(text: &str) -> Option<Self> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, text),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) || digits.ends_with('.') {
            return None;
        }
        let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
        let is_zero = whole.is_empty() && fraction.is_empty();
        Some(Self { negative: negative && !is_zero, whole: whole.into(), fraction: fraction.into() })
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let size = |number: &Self| (number.whole.len(), number.whole.clone(), number.fraction.clone());
        match (self.negative, other.negative) {
            (false, false) => size(self).cmp(&size(other)),
            (true, true) => size(other).cmp(&size(self)),
            (negative, _) => {
                if negative {
                    std::cmp::Ordering::Less
                } else {
                    std::cmp::Ordering::Greater
                }
            }
        }
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// What is left of the limits.
struct Budget {
    nodes: usize,
    text_bytes: usize,
}

impl Budget {
    fn parse(&mut self, node: &FilterNode, depth: usize) -> Result<Filter, InvalidFilter> {
        let text_bytes =
            node.key.len() + node.val.len() + node.vals.iter().map(|val| val.len() + 8).sum::<usize>();
        self.nodes = self.nodes.checked_sub(1).ok_or(InvalidFilter)?;
        self.text_bytes = self.text_bytes.checked_sub(text_bytes).ok_or(InvalidFilter)?;
        let depth = depth.checked_sub(1).ok_or(InvalidFilter)?;
        let is_leaf = node.op.is_empty();
        let is_tidy = if is_leaf {
            node.nodes.is_empty()
        } else {
            node.key.is_empty() && node.cmp.is_empty() && node.val.is_empty() && node.vals.is_empty()
        };
        if !is_tidy || (!is_leaf && node.nodes.is_empty()) {
            return Err(InvalidFilter);
        }
        let mut nodes = || node.nodes.iter().map(|node| self.parse(node, depth)).collect::<Result<_, _>>();
        match node.op.as_str() {
            "" => comparison(node),
            "and" => Ok(Filter::All(nodes()?)),
            "or" => Ok(Filter::Any(nodes()?)),
            "not" if node.nodes.len() == 1 => {
                let filter = self.parse(&node.nodes[0], depth)?;
                Ok(Filter::Not(Box::new(filter)))
            }
            _ => Err(InvalidFilter),
        }
    }
}

fn comparison(node: &FilterNode) -> Result<Filter, InvalidFilter> {
    if node.key.is_empty() {
        return Err(InvalidFilter);
    }
    let val = || -> Box<str> { node.val.as_str().into() };
    let vals = || -> Box<[Box<str>]> { node.vals.iter().map(|val| val.as_str().into()).collect() };
    let number = || Number::parse(&node.val).ok_or(InvalidFilter);
    let takes_list = matches!(node.cmp.as_str(), "in" | "nin");
    if takes_list == node.vals.is_empty() {
        return Err(InvalidFilter);
    }
    let test = match node.cmp.as_str() {
        "eq" => Test::Equal(val()),
        "neq" => Test::NotEqual(val()),
        "in" => Test::In(vals()),
        "nin" => Test::NotIn(vals()),
        "ex" => Test::Exists,
        "nex" => Test::Absent,
        "sw" => Test::StartsWith(val()),
        "ew" => Test::EndsWith(val()),
        "ct" => Test::Contains(val()),
        "lt" => Test::Less(number()?),
        "lte" => Test::LessOrEqual(number()?),
        "gt" => Test::Greater(number()?),
        "gte" => Test::GreaterOrEqual(number()?),
        _ => return Err(InvalidFilter),
    };
    Ok(Filter::Tag { key: node.key.as_str().into(), test })
}

#[cfg(test)]
mod tests;
