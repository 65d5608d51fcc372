//! All filters of one subscription: what its client asked for, and what it may see at all.

use std::sync::Arc;

use serde::Deserialize;

use super::{Filter, FilterNode, InvalidFilter, Tags};

/// The filters of a subscription; a publication has to pass all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filters {
    /// The client's own.
    pub(crate) asked: Option<Arc<Filter>>,
    /// Of the namespace of the channel.
    pub(crate) namespace: Option<Arc<Filter>>,
    /// Of the token, or of the application, that let the client in.
    pub(crate) granted: Option<Arc<Filter>>,
}

/// A node of a filter that a client cannot remove. What it does not know it refuses: a slip of the pen must not let through
/// what was to be held back.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ForcedNode {
    op: String,
    key: String,
    cmp: String,
    val: String,
    vals: Vec<String>,
    nodes: Vec<ForcedNode>,
}

impl Filters {
    /// Tells whether the subscriber is given a publication with these tags.
    pub(crate) fn want(&self, tags: &Tags) -> bool {
        passes(&self.asked, tags) && self.let_see(tags)
    }

    /// Tells whether the subscriber may see a publication with these tags in any way.
    pub(crate) fn let_see(&self, tags: &Tags) -> bool {
        passes(&self.namespace, tags) && passes(&self.granted, tags)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.asked.is_none() && self.namespace.is_none() && self.granted.is_none()
    }
}

impl Filter {
    /// Lets nothing through.
    pub(crate) fn nothing() -> Self {
        Self::Any(Box::default())
    }

    /// Reads a filter that a client cannot remove: a JSON object in the form of the client protocol.
    pub(crate) fn forced(json: &str) -> Result<Self, InvalidFilter> {
        // Fields could be read from an array by position.
        if !json.trim_ascii_start().starts_with('{') {
            return Err(InvalidFilter);
        }
        let node: ForcedNode = serde_json::from_str(json).map_err(|_| InvalidFilter)?;
        Self::parse(&node.into())
    }
}

fn passes(filter: &Option<Arc<Filter>>, tags: &Tags) -> bool {
    filter.as_ref().is_none_or(|filter| filter.wants(tags))
}

impl From<ForcedNode> for FilterNode {
    fn from(node: ForcedNode) -> Self {
        let ForcedNode { op, key, cmp, val, vals, nodes } = node;
        Self { op, key, cmp, val, vals, nodes: nodes.into_iter().map(Self::from).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(tags: &[(&str, &str)]) -> Tags {
        tags.iter().map(|&(key, value)| (key.into(), value.into())).collect()
    }

    #[test]
    fn a_publication_has_to_pass_every_filter() {
        let filter = |key: &str| {
            let json = format!(r#"{{"key": "{key}", "cmp": "eq", "val": "1"}}"#);
            Some(Arc::new(Filter::forced(&json).unwrap()))
        };
        let all = Filters { asked: filter("a"), namespace: filter("n"), granted: filter("g") };
        assert!(Filters::default().is_empty() && !all.is_empty());
        let whole = [("a", "1"), ("n", "1"), ("g", "1")];
        assert!(all.want(&tags(&whole)) && Filters::default().want(&tags(&[])));
        for (missing, may_see) in [(0, true), (1, false), (2, false)] {
            let mut some = whole.to_vec();
            some.remove(missing);
            assert!(!all.want(&tags(&some)), "without {}", whole[missing].0);
            assert_eq!(all.let_see(&tags(&some)), may_see, "without {}", whole[missing].0);
        }
    }

    #[test]
    fn a_forced_filter_is_read_to_the_letter() {
        for good in [
            r#" {"key": "a", "cmp": "ex"}"#,
            r#"{"op": "not", "nodes": [{"key": "a", "cmp": "in", "vals": ["1", "2"]}]}"#,
        ] {
            assert!(Filter::forced(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "null",
            "{}",
            r#"["", "a", "ex"]"#,
            r#"{"key": "a", "cmp": "neq", "value": "secret"}"#,
            r#"{"op": "and", "nodes": [{"key": "a", "cmp": "ex", "not": true}]}"#,
            r#"{"op": "and", "nodes": []}"#,
            r#"{"key": "a", "cmp": "ex"} x"#,
        ] {
            assert_eq!(Filter::forced(bad), Err(InvalidFilter), "{bad}");
        }
    }

    #[test]
    fn nothing_passes_nothing() {
        assert!(!Filter::nothing().wants(&tags(&[])) && !Filter::nothing().wants(&tags(&[("a", "1")])));
    }
}
