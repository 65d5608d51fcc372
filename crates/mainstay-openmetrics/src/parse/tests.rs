use super::*;
use crate::{Exemplar, Family, Sample};

fn read(text: &str) -> Result<Exposition, ParseError> {
    parse(text, Limits::default())
}

/// Lists families as `kind name: samples`.
fn outline(text: &str) -> Vec<String> {
    let samples = |family: &Family| -> Vec<_> { family.samples.iter().map(|s| s.name.clone()).collect() };
    let read = read(text).unwrap();
    read.families.iter().map(|f| format!("{} {}: {}", f.kind, f.name, samples(f).join(" "))).collect()
}

#[test]
fn every_part_of_a_sample_is_read() {
    let text = "# HELP a_seconds What \\\"it\\\" is\\n\\\\o/\n# TYPE a_seconds counter\n# UNIT a_seconds seconds\n\
                a_seconds_total{x=\"1\",y=\"\\\"\\\\\\n\\t\"} +4.5e1 1.5 # {trace_id=\"t\"} .5 2\n# EOF\n";
    let sample = Sample {
        name: "a_seconds_total".into(),
        labels: vec![("x".into(), "1".into()), ("y".into(), "\"\\\n\\t".into())],
        value: 45.0,
        timestamp: Some(1.5),
        exemplar: Some(Exemplar {
            labels: vec![("trace_id".into(), "t".into())],
            value: 0.5,
            timestamp: Some(2.0),
        }),
    };
    let family = Family {
        name: "a_seconds".into(),
        kind: Kind::Counter,
        help: "What \"it\" is\n\\o/".into(),
        unit: "seconds".into(),
        samples: vec![sample],
    };
    assert_eq!(read(text), Ok(Exposition { families: vec![family] }));
}

#[test]
fn blanks_are_free_between_the_parts() {
    let text = "  \n#\tTYPE  a   gauge  \n  a  {  x = \"1\" , } \t 2   3000  \n# a comment\n#\n#HELP a h\n";
    let read = read(text).unwrap();
    assert_eq!(read.render_prometheus(), "# HELP a h\n# TYPE a gauge\na{x=\"1\"} 2 3000\n");
}

#[test]
fn the_two_formats_count_time_differently() {
    let time = |text| read(text).unwrap().families[0].samples[0].timestamp;
    assert_eq!(time("a 1 1500\n"), Some(1.5));
    assert_eq!(time("a 1 1500\n# EOF\n"), Some(1_500.0));
    assert_eq!(time("a 1 1500\n# EOF"), Some(1_500.0));
    assert_eq!(time("a 1 -1500\n"), Some(-1.5));
}

#[test]
fn special_values_are_read() {
    for (text, expected) in
        [("+Inf", f64::INFINITY), ("-Inf", f64::NEG_INFINITY), ("Inf", f64::INFINITY), ("1e-3", 0.001)]
    {
        assert_eq!(read(&format!("a {text}")).unwrap().value("a", &[]), Some(expected));
    }
    assert!(read("a NaN").unwrap().value("a", &[]).unwrap().is_nan());
}

#[test]
fn samples_find_their_families() {
    let table: [(&str, &[&str]); 13] = [
        (
            "# TYPE a counter\na_total 1\na_created 2\na_other 3\n# EOF",
            &["counter a: a_total a_created", "unknown a_other: a_other"],
        ),
        ("# TYPE a_total counter\na_total 1\n", &["counter a: a_total"]),
        ("# HELP a_total h\n# TYPE a_total counter\na_total 1\n", &["counter a: a_total"]),
        ("# TYPE a counter\na 1\n", &["counter a: a_total"]),
        (
            "# TYPE a histogram\na_bucket{le=\"1\"} 1\na_sum 1\na_count 1\n",
            &["histogram a: a_bucket a_sum a_count"],
        ),
        ("# TYPE a summary\na{quantile=\"1\"} 1\na_sum 1\na_count 1\n", &["summary a: a a_sum a_count"]),
        ("# TYPE a gauge\na 1\na_count 1\n", &["gauge a: a", "unknown a_count: a_count"]),
        ("# TYPE a info\na_info 1\n# EOF", &["info a: a_info"]),
        ("# TYPE a untyped\na 1\nb 2\na 3\n", &["unknown a: a a", "unknown b: b"]),
        (
            "# TYPE a_total counter\n# TYPE a_created gauge\na_total 1\na_created 1\n",
            &["counter a: a_total", "gauge a_created: a_created"],
        ),
        // In 0.0.4 these are two metrics, in whatever order they come.
        (
            "# TYPE a gauge\na 1\n# TYPE a_total counter\na_total 2\n",
            &["gauge a: a", "unknown a_total: a_total"],
        ),
        (
            "# TYPE a_total counter\na_total 2\n# TYPE a gauge\na 1\n",
            &["unknown a_total: a_total", "gauge a: a"],
        ),
        (
            "# TYPE a_total counter\na_total 2\na 1\na_total 3\n",
            &["unknown a_total: a_total a_total", "unknown a: a"],
        ),
    ];
    for (text, expected) in table {
        assert_eq!(outline(text), expected, "{text}");
    }
}

#[test]
fn help_finds_its_family_under_either_name() {
    for text in ["# HELP a_total h\n# TYPE a_total counter\n", "# TYPE a_total counter\n# HELP a_total h\n"] {
        assert_eq!(read(text).unwrap().families[0].help, "h", "{text}");
    }
    assert_eq!(read("# HELP a says \\\"h\\\"\na 1\n").unwrap().families[0].help, "says \\\"h\\\"");
    assert_eq!(read("# HELP a nothing else\n"), Ok(Exposition::default()));
}

#[test]
fn units_and_exemplars_in_wrong_places_are_dropped() {
    let text = "# TYPE a gauge\n# UNIT a seconds\na 1 # {t=\"1\"} 1\n# TYPE _s gauge\n# UNIT _s s\n# EOF";
    let read = read(text).unwrap();
    assert_eq!((read.families[0].unit.as_str(), &read.families[0].samples[0].exemplar), ("", &None));
    assert_eq!(read.families[1].unit, "s");
}

#[test]
fn errors_name_the_line_and_the_reason() {
    let found = |found: &str| found.to_owned();
    let two_kinds = Reason::TwoKinds { family: found("a"), first: Kind::Gauge, second: Kind::Counter };
    let table = [
        ("a 1\n=\n", 2, Reason::MetricName),
        ("9a 1", 1, Reason::MetricName),
        ("# TYPE a-b gauge", 1, Reason::MetricName),
        ("# HELP", 1, Reason::MetricName),
        ("{a=\"b\"} 1", 1, Reason::MetricName),
        ("a{9=\"1\"} 1", 1, Reason::LabelName),
        ("a{x:y=\"1\"} 1", 1, Reason::LabelValue),
        ("a{,} 1", 1, Reason::LabelName),
        ("a{x=\"1\"", 1, Reason::LabelEnd),
        ("a{x=\"1\" y=\"2\"} 1", 1, Reason::LabelEnd),
        ("a{x=1} 1", 1, Reason::LabelValue),
        ("a{x=\"1\\\"} 1", 1, Reason::LabelValue),
        ("a{x=\"1\",x=\"1\"} 1", 1, Reason::LabelTwice { name: found("x") }),
        ("a", 1, Reason::Value { found: found("") }),
        ("a one", 1, Reason::Value { found: found("one") }),
        ("a 1 soon", 1, Reason::Timestamp { found: found("soon") }),
        ("a 1 1.5", 1, Reason::Timestamp { found: found("1.5") }),
        ("a 1 NaN\n# EOF", 1, Reason::Timestamp { found: found("NaN") }),
        ("a 1 2 3", 1, Reason::LineEnd { found: found("3") }),
        ("a 1 # b", 1, Reason::LineEnd { found: found("b") }),
        ("\n\n# TYPE a number", 3, Reason::Kind { found: found("number") }),
        ("# TYPE a", 1, Reason::Kind { found: found("") }),
        ("# TYPE a gauge\n# TYPE a counter", 2, two_kinds),
        ("# TYPE a histogram\na 1", 2, Reason::Misfit { family: found("a"), kind: Kind::Histogram }),
        ("# EOF\na 1\n# EOF\n", 2, Reason::AfterEof),
    ];
    for (text, line, reason) in table {
        assert_eq!(read(text), Err(ParseError { line, reason }), "{text}");
    }
    let message = read("a 1\n# TYPE b number").unwrap_err().to_string();
    assert_eq!(message, "line 2: unknown kind \"number\"");
}

#[test]
fn text_that_was_cut_off_is_noticed_where_the_format_is_known() {
    let cut = parse_as("a 1\n", Dialect::OpenMetrics, Limits::default());
    assert_eq!(cut.unwrap_err().reason, Reason::NoEof);
    assert!(parse_as("a 1\n# EOF\n", Dialect::Prometheus, Limits::default()).is_ok());
}

#[test]
fn limits_hold() {
    let limits = Limits { max_samples: 2, max_bytes: 12 };
    assert!(parse("a 1\nb 2\n", limits).is_ok());
    let many = parse("a 1\nb 2\nc 3\n", limits).unwrap_err();
    assert_eq!(many, ParseError { line: 3, reason: Reason::TooManySamples { max: 2 } });
    let long = parse("a 1\n# comment\n", limits).unwrap_err();
    assert_eq!(long, ParseError { line: 0, reason: Reason::TooManyBytes { max: 12 } });
}

#[test]
fn a_sample_has_a_bounded_number_of_labels() {
    let with = |n: usize| format!("a{{{}}} 1", (0..n).map(|n| format!("l{n}=\"\",")).collect::<String>());
    assert!(read(&with(128)).is_ok());
    assert_eq!(read(&with(129)).unwrap_err().reason, Reason::TooManyLabels { max: 128 });
}

#[test]
fn nothing_is_an_empty_exposition() {
    for text in ["", "\n", "# EOF\n", "# EOF", "# just talk"] {
        assert_eq!(read(text), Ok(Exposition::default()), "{text:?}");
    }
}
