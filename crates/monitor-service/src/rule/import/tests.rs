use super::*;
use crate::rule::definition::Comparison;

const KEEP: Duration = Duration::from_hours(1);

fn import(text: &str) -> Result<Vec<Rule>, Vec<String>> {
    let mut import = Import::new(KEEP);
    let taken = import.take(text);
    taken.map_err(|problems| problems.iter().map(Problem::to_string).collect::<Vec<_>>())?;
    Ok(import.into_rules())
}

/// Puts a condition into a file of one rule, on its line 5.
fn condition(expression: &str) -> Result<RuleSpec, String> {
    let text = format!("groups:\n- name: g\n  rules:\n  - alert: A\n    expr: '{expression}'\n");
    let rules = import(&text).map_err(|problems| problems.join("\n"))?;
    Ok(rules.into_iter().next().expect("there is one").spec)
}

#[test]
fn what_is_understood_becomes_rules_of_ours() {
    let text = r#"
# Two levels of one thing, and a rate.
groups:
  - name: queues
    interval: 30s
    rules:
      - alert: QueueTooLong
        expr: |
          # since the last release
          queue_length{queue="mail", region='eu'}
            > 1e3
        for: 1m30s
        keep_firing_for: 5m
        labels: {severity: warning, team: mail}
        annotations:
          summary: "{{ $labels.queue }} of {{ $labels.service }} has {{ $value | humanize }} entries"
          runbook: queues.md
      - alert: QueueTooLong
        expr: queue_length{queue="mail"} >= 5000
        labels: {severity: critical}
      - alert: HTTPErrors5xx
        expr: (rate(http_errors_total{code="500"}[5m])) > 0.5
        annotations: {summary: '{{ printf "%.2f" $value }} errors per second'}
  - name: empty
    rules: []
"#;
    let rules = import(text).unwrap();
    let names: Vec<&str> = rules.iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(names, ["queue_too_long", "queue_too_long_critical", "http_errors5xx"]);
    let labels = |all: &[(&str, &str)]| {
        all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let first = RuleSpec {
        metric: "queue_length".to_owned(),
        labels: labels(&[("queue", "mail"), ("region", "eu")]),
        warning: Some(1000.0),
        fires_after: Some(Duration::from_secs(90)),
        clears_after: Some(Duration::from_mins(5)),
        summary: "{label.queue} of {label.service} has {value} entries".to_owned(),
        annotations: labels(&[("team", "mail"), ("runbook", "queues.md")]),
        ..RuleSpec::default()
    };
    assert_eq!(rules[0].spec, first);
    let second = &rules[1].spec;
    assert_eq!((second.judge(5000.0, None).is_some(), second.judge(4999.9, None)), (true, None));
    assert_eq!(second.fires_after, Some(Duration::ZERO), "without `for` it fires at once");
    let third = &rules[2].spec;
    assert_eq!((third.kind, third.window), (RuleKind::Rate, Duration::from_mins(5)));
    assert_eq!(third.summary, "{value} errors per second");
}

#[test]
fn every_comparison_means_what_it_means_there() {
    let cases: [(&str, [bool; 3]); 6] = [
        ("m > 2", [false, false, true]),
        ("m >= 2", [false, true, true]),
        ("m < 2", [true, false, false]),
        ("m <= 2", [true, true, false]),
        ("m == 2", [false, true, false]),
        ("m != 2", [true, false, true]),
    ];
    for (expression, expected) in cases {
        let spec = condition(expression).unwrap();
        let found = [1.0, 2.0, 3.0].map(|value| spec.judge(value, None).is_some());
        assert_eq!(found, expected, "{expression}");
        assert_eq!(
            spec.judge(f64::NAN, None).is_some(),
            spec.comparison == Comparison::Unequal,
            "{expression}"
        );
    }
    let increase = condition("increase(m[5m]) > 30").unwrap();
    assert_eq!((increase.kind, increase.warning), (RuleKind::Rate, Some(0.1)));
}

#[test]
fn what_is_not_understood_is_told_with_its_reason() {
    let cases = [
        ("sum by (x) (m) > 1", "\"by (x) (m) > 1\" stands where a comparison should"),
        ("sum(m) > 1", "sum() is not understood"),
        ("m > 1 and n > 2", "\"and n > 2\" follows the number"),
        ("m > n", "\"n\" stands where a number should"),
        ("m{a=~\"b\"} > 1", "of labels only `=` is understood; a has another"),
        ("m{a!=\"b\"} > 1", "of labels only `=` is understood; a has another"),
        ("m{a=\"b*\"} > 1", "must not be empty nor end with *"),
        ("m{a=\"b\", a=\"c\"} > 1", "a must not be there, or only once"),
        ("rate(m[5m:1m]) > 1", "[5m:1m] must be one time like [5m]"),
        ("rate(m) > 1", "\") > 1\" stands where `[` should"),
        ("m offset 5m > 1", "\"offset 5m > 1\" stands where a comparison should"),
        ("m > +Inf", "\"+Inf\" stands where a number should"),
        ("absent(m)", "absent() is not understood"),
        ("m", "the end stands where a comparison should"),
        ("5 < m", "\"5 < m\" stands where a metric should"),
        ("rate(m[2h]) > 1", "window must be 1s to history.keep"),
        ("m{a=\"b} > 1", "a text has no end"),
    ];
    for (expression, reason) in cases {
        let problem = condition(expression).expect_err(expression);
        assert!(problem.starts_with("line 5: ") && problem.contains(reason), "{expression}: {problem}");
    }
}

#[test]
fn everything_wrong_with_a_file_is_told_at_once_and_by_line() {
    let text = r#"groups:
  - rules:
      - record: a:b
        expr: sum(a)
      - alert: X
        expr: a > 1
        for: long
        labels:
          severity: page
          where: "{{ $labels.x }}"
        annotations:
          summary: "{{ query `up` }}"
          description: "{{ $value }}"
      - alert: Y
        expression: a > 1
      - alert: Z
        expr: increase(a[1m]) > 1
        annotations: {summary: "{{ $value }} more"}
    limit: 5
extra: true
"#;
    let problems = import(text).unwrap_err();
    let lines: Vec<&str> = problems.iter().filter_map(|problem| problem.split(':').next()).collect();
    let expected = [
        "line 2", "line 3", "line 4", "line 7", "line 9", "line 10", "line 12", "line 13", "line 14",
        "line 15", "line 18", "line 19", "line 20",
    ];
    assert_eq!(lines, expected, "{problems:#?}");
}

#[test]
fn files_that_are_none_are_refused_and_the_good_ones_before_them_stay() {
    let mut import = Import::new(KEEP);
    let good = "groups: [{name: g, rules: [{alert: InstanceDown, expr: up == 0}]}]";
    import.take(good).unwrap();
    for bad in [
        "",
        "groups: [",
        "groups: {a: 1}",
        "a: &x 1\nb: *x",
        "groups: []\ngroups: []",
        "groups: []\n---\ngroups: []",
        "- 1",
        &"[".repeat(100),
        &"x".repeat(LENGTH_MAX + 1),
    ] {
        let problems = import.take(bad).expect_err(bad);
        assert!(!problems.is_empty());
    }
    import.take(good).unwrap();
    let names: Vec<String> = import.into_rules().into_iter().map(|rule| rule.name).collect();
    assert_eq!(names, ["instance_down_2", "instance_down_3"], "the name of a built-in rule stays its own");
}

#[test]
fn names_are_written_as_ours_are() {
    let cases = [
        ("HighErrorRate", "high_error_rate"),
        ("HTTPErrors", "http_errors"),
        ("already_fine", "already_fine"),
        ("Disk full: 90 %", "disk_full_90"),
        ("日本", ""),
    ];
    for (name, expected) in cases {
        assert_eq!(snake(name), expected);
    }
    assert!(snake(&"LongName".repeat(20)).len() <= 55);
}
