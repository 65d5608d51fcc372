//! Properties that hold across reading, writing and merging.

use proptest::prelude::*;

use crate::{Exemplar, Exposition, Family, Kind, Labels, Limits, Sample, parse};

fn value() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => any::<f64>(),
        4 => (-1_000_i32..1_000).prop_map(f64::from),
        1 => prop::sample::select(vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, 1e15, 1e16]),
    ]
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![".{0,12}", "[\"\\\\\n\t \r{}=,#n]{0,8}", "[a-z]{0,5}"]
}

fn labels() -> impl Strategy<Value = Labels> {
    prop::collection::btree_map("[a-zA-Z_][a-zA-Z0-9_]{0,4}", text(), 0..4)
        .prop_map(|map| map.into_iter().collect())
}

fn exemplar() -> impl Strategy<Value = Exemplar> {
    let timestamp = prop::option::of(-1e12_f64..1e12);
    (labels(), value(), timestamp).prop_map(|(labels, value, timestamp)| Exemplar {
        labels,
        value,
        timestamp,
    })
}

fn kind() -> impl Strategy<Value = Kind> {
    prop::sample::select(vec![
        Kind::Counter,
        Kind::Gauge,
        Kind::Histogram,
        Kind::GaugeHistogram,
        Kind::Summary,
        Kind::Info,
        Kind::StateSet,
        Kind::Unknown,
    ])
}

/// Makes a family as parsing would; its timestamps are whole milliseconds, which both formats can hold.
fn family(name: String, kind: Kind) -> impl Strategy<Value = Family> {
    let suffix = prop::sample::select(kind.suffixes());
    let timestamp = prop::option::of((-1_000_000_000_i64..1_000_000_000).prop_map(|ms| ms as f64 / 1_000.0));
    let stem = name.clone();
    let sample = (suffix, labels(), value(), timestamp, prop::option::of(exemplar())).prop_map(
        move |(suffix, labels, value, timestamp, exemplar)| {
            let exemplar = exemplar.filter(|_| ["_total", "_bucket"].contains(&suffix));
            Sample { name: format!("{stem}{suffix}"), labels, value, timestamp, exemplar }
        },
    );
    let unit = if name.ends_with("_seconds") { "seconds" } else { "" };
    (text(), prop::collection::vec(sample, 0..6)).prop_map(move |(help, samples)| Family {
        name: name.clone(),
        kind,
        help,
        unit: unit.to_owned(),
        samples,
    })
}

fn exposition() -> impl Strategy<Value = Exposition> {
    let name = ("[a-c][xyz:]{0,2}", prop::sample::select(vec!["", "_seconds"]));
    let families = prop::collection::btree_map(name.prop_map(|(a, b)| format!("{a}{b}")), kind(), 0..5);
    families
        .prop_flat_map(|families| {
            families.into_iter().map(|(name, kind)| family(name, kind)).collect::<Vec<_>>()
        })
        .prop_map(|families| Exposition { families })
}

/// Makes lines whose metrics get into each other's way.
fn line() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "# TYPE a counter",
        "# TYPE a_total counter",
        "# TYPE a_total_total counter",
        "# TYPE a gauge",
        "# TYPE a summary",
        "# TYPE a_created gauge",
        "# TYPE a_gauge counter",
        "# TYPE a_count histogram",
        "# HELP a x",
        "# HELP a_total y",
        "a 1",
        "a_total 2 5",
        "a_created 3",
        "a_sum 4",
        "a_count 5",
        "a_info 6",
        "a_gauge_total 7",
        "a_count_sum 8",
        "a_total_total 9",
    ])
}

fn read(text: &str) -> Exposition {
    parse(text, Limits::default()).unwrap_or_else(|error| panic!("{error} in\n{text}"))
}

/// Takes away what Prometheus text cannot say.
fn reduced(mut exposition: Exposition) -> Exposition {
    exposition.families.retain(|family| {
        matches!(family.kind, Kind::Counter | Kind::Gauge | Kind::Histogram | Kind::Summary | Kind::Unknown)
    });
    for family in &mut exposition.families {
        family.unit.clear();
        family.samples.retain(|sample| !sample.name.ends_with("_created"));
        family.samples.iter_mut().for_each(|sample| sample.exemplar = None);
    }
    exposition
}

proptest! {
    #[test]
    fn openmetrics_reads_back_as_it_was(exposition in exposition()) {
        prop_assert_eq!(read(&exposition.render_openmetrics()), exposition);
    }

    #[test]
    fn prometheus_text_reads_back_as_it_was(exposition in exposition()) {
        let exposition = reduced(exposition);
        prop_assert_eq!(read(&exposition.render_prometheus()), exposition);
    }

    #[test]
    fn prometheus_text_loses_no_sample(exposition in exposition()) {
        let read = read(&exposition.render_prometheus());
        prop_assert_eq!(read.n_samples(), exposition.n_samples());
    }

    #[test]
    fn whatever_is_accepted_survives_writing(text in "([ab]|a_total|a_count|# TYPE |# HELP |# UNIT |counter|gauge|info|histogram|a_s|s|[ \n{}=\"\\\\,#1]|# EOF){0,40}") {
        if let Ok(exposition) = parse(&text, Limits::default()) {
            prop_assert_eq!(read(&exposition.render_openmetrics()), exposition);
        }
    }

    #[test]
    fn lines_in_any_order_survive_writing(lines in prop::collection::vec(line(), 0..8)) {
        for end in ["", "\n# EOF"] {
            if let Ok(exposition) = parse(&(lines.join("\n") + end), Limits::default()) {
                let samples = lines.iter().filter(|line| !line.starts_with('#')).count();
                prop_assert_eq!(exposition.n_samples(), samples);
                prop_assert_eq!(&read(&exposition.render_openmetrics()), &exposition);
            }
        }
    }

    #[test]
    fn sources_that_disagree_merge_into_a_page_that_reads_back(
        parts in prop::collection::vec(prop::collection::vec(line(), 0..5), 0..4),
    ) {
        let parts: Vec<_> = parts.iter().filter_map(|part| parse(&part.join("\n"), Limits::default()).ok()).collect();
        let n_samples: usize = parts.iter().map(Exposition::n_samples).sum();
        let merged = Exposition::merge(parts);
        prop_assert_eq!(merged.n_samples(), n_samples);
        prop_assert_eq!(&read(&merged.render_openmetrics()), &merged);
    }

    #[test]
    fn arbitrary_text_never_panics(text in "(?s).{0,200}") {
        let _ = parse(&text, Limits::default());
    }

    #[test]
    fn merging_keeps_every_sample_and_stays_readable(parts in prop::collection::vec(exposition(), 0..4)) {
        let labelled: Vec<_> = parts.into_iter().zip(["x", "y", "z"])
            .map(|(part, source)| part.with_labels(&[("source", source)])).collect();
        let n_samples: usize = labelled.iter().map(Exposition::n_samples).sum();
        let values_of = |source: &str, in_: &Exposition| {
            let samples = in_.families.iter().flat_map(|family| &family.samples);
            let mut values: Vec<_> = samples.filter(|s| s.label("source") == Some(source)).map(|s| s.value).collect();
            values.sort_by(f64::total_cmp);
            values.into_iter().map(f64::to_bits).collect::<Vec<_>>()
        };
        let merged = Exposition::merge(labelled.clone());
        prop_assert_eq!(merged.n_samples(), n_samples);
        for (part, source) in labelled.iter().zip(["x", "y", "z"]) {
            prop_assert_eq!(values_of(source, part), values_of(source, &merged));
        }
        prop_assert!(merged.families.is_sorted_by(|a, b| a.name < b.name));
        prop_assert_eq!(&read(&merged.render_openmetrics()), &merged);
        prop_assert_eq!(Exposition::merge(vec![merged.clone()]), merged);
    }
}
