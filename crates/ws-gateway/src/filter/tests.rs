use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn parsed(node: Value) -> Result<Filter, InvalidFilter> {
    Filter::parse(&serde_json::from_value(node).unwrap())
}

fn tags(of: &[(&str, &str)]) -> Tags {
    of.iter().map(|&(key, value)| (key.into(), value.into())).collect()
}

#[test]
fn comparisons_look_at_one_tag() {
    for (cmp, val, value, expected) in [
        ("eq", "a", Some("a"), true),
        ("eq", "a", Some("b"), false),
        ("eq", "", None, false),
        ("neq", "a", Some("b"), true),
        ("neq", "a", Some("a"), false),
        ("neq", "a", None, true),
        ("ex", "", Some(""), true),
        ("ex", "", None, false),
        ("nex", "", None, true),
        ("nex", "", Some(""), false),
        ("sw", "ab", Some("abc"), true),
        ("sw", "bc", Some("abc"), false),
        ("ew", "bc", Some("abc"), true),
        ("ct", "b", Some("abc"), true),
        ("ct", "b", None, false),
        ("gt", "9", Some("10"), true),
        ("gt", "10", Some("10.0"), false),
        ("gte", "10", Some("010.00"), true),
        ("gt", "-2", Some("-1.5"), true),
        ("lt", "-2", Some("-1.5"), false),
        ("lt", "0.10", Some("0.09"), true),
        ("lte", "9007199254740993", Some("9007199254740994"), false),
        ("gte", "0", Some("-0"), true),
        ("lt", "5", Some("four"), false),
        ("gt", "5", Some("four"), false),
        ("gt", "5", Some(""), false),
        ("gt", "5", None, false),
    ] {
        let filter = parsed(json!({"key": "k", "cmp": cmp, "val": val})).unwrap();
        let tags = value.map(|value| tags(&[("k", value)])).unwrap_or_default();
        assert_eq!(filter.wants(&tags), expected, "{value:?} {cmp} {val}");
    }
    for (cmp, value, expected) in [
        ("in", Some("b"), true),
        ("in", Some("c"), false),
        ("in", None, false),
        ("nin", Some("c"), true),
        ("nin", Some("a"), false),
        ("nin", None, true),
    ] {
        let filter = parsed(json!({"key": "k", "cmp": cmp, "vals": ["a", "b"]})).unwrap();
        let tags = value.map(|value| tags(&[("k", value)])).unwrap_or_default();
        assert_eq!(filter.wants(&tags), expected, "{value:?} {cmp}");
    }
}

#[test]
fn comparisons_are_joined_by_operators() {
    let is = |key: &str| json!({"key": key, "cmp": "ex"});
    let filter = parsed(json!({"op": "and", "nodes": [
        is("a"),
        {"op": "or", "nodes": [is("b"), is("c")]},
        {"op": "not", "nodes": [is("d")]},
    ]}))
    .unwrap();
    for (keys, expected) in
        [("ab", true), ("ac", true), ("abc", true), ("a", false), ("bc", false), ("abd", false), ("", false)]
    {
        let tags = keys.chars().map(|key| (key.to_string().into(), "".into())).collect();
        assert_eq!(filter.wants(&tags), expected, "{keys}");
    }
}

#[test]
fn filters_without_a_meaning_or_without_an_end_are_refused() {
    let leaf = json!({"key": "k", "cmp": "ex"});
    let deep = (0..8).fold(leaf.clone(), |node, _| json!({"op": "not", "nodes": [node]}));
    let long = "x".repeat(4_097);
    for node in [
        json!({}),
        json!({"key": "k"}),
        json!({"cmp": "eq", "val": "v"}),
        json!({"key": "k", "cmp": "equals", "val": "v"}),
        json!({"key": "k", "cmp": "in", "val": "v"}),
        json!({"key": "k", "cmp": "eq", "vals": ["v"]}),
        json!({"key": "k", "cmp": "gt", "val": "v"}),
        json!({"key": "k", "cmp": "gt", "val": "1."}),
        json!({"key": "k", "cmp": "ex", "nodes": [leaf]}),
        json!({"key": long, "cmp": "ex"}),
        json!({"op": "and"}),
        json!({"op": "xor", "nodes": [leaf]}),
        json!({"op": "not", "nodes": [leaf, leaf]}),
        json!({"op": "and", "key": "k", "nodes": [leaf]}),
        json!({"op": "and", "nodes": [{}]}),
        json!({"op": "or", "nodes": vec![leaf.clone(); 64]}),
        deep,
    ] {
        assert_eq!(parsed(node.clone()), Err(InvalidFilter), "{node}");
    }
    assert!(parsed(json!({"op": "or", "nodes": vec![leaf; 63]})).is_ok());
}

proptest! {
    #[test]
    fn numbers_compare_as_numbers(a in -10_000_000_i64..10_000_000, b in -10_000_000_i64..10_000_000) {
        let text = |n: i64| {
            format!("{}{}.{:03}", if n < 0 { "-" } else { "" }, n.abs() / 1_000, n.abs() % 1_000)
        };
        let (left, right) = (Number::parse(&text(a)).unwrap(), Number::parse(&text(b)).unwrap());
        prop_assert_eq!(left.cmp(&right), a.cmp(&b));
        prop_assert_eq!(left == right, a == b);
    }

    #[test]
    fn not_turns_every_verdict_around(
        cmp in "eq|neq|ex|nex|sw|ew|ct", val in "[ab]{0,2}", value in proptest::option::of("[ab]{0,3}"),
    ) {
        let leaf = json!({"key": "k", "cmp": cmp, "val": val});
        let tags: Tags = value.into_iter().map(|value| ("k".into(), value.into())).collect();
        let (plain, not) = (parsed(leaf.clone()).unwrap(), parsed(json!({"op": "not", "nodes": [leaf]})).unwrap());
        prop_assert_ne!(plain.wants(&tags), not.wants(&tags));
    }
}
