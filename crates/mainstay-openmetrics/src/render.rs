use std::fmt::Write as _;

use crate::{Exposition, Family, Kind, Labels, Sample};

impl Exposition {
    /// Writes OpenMetrics 1.0, with `# EOF` at the end.
    pub fn render_openmetrics(&self) -> String {
        let mut page = Page::default();
        for family in &self.families {
            page.metadata("HELP", &family.name, &escape(&family.help, true));
            page.metadata("TYPE", &family.name, family.kind.as_str());
            page.metadata("UNIT", &family.name, &family.unit);
            for sample in &family.samples {
                page.sample(sample, sample.timestamp.map(number));
                page.exemplar(sample);
                page.text.push('\n');
            }
        }
        page.text.push_str("# EOF\n");
        page.text
    }

    /// Writes Prometheus text 0.0.4; the crate's documentation says what that format cannot hold.
    pub fn render_prometheus(&self) -> String {
        let mut page = Page::default();
        for family in &self.families {
            for (name, word, samples) in prometheus_groups(family) {
                page.metadata("HELP", &name, &escape(&family.help, false));
                page.metadata("TYPE", &name, word);
                for sample in samples {
                    let milliseconds = |seconds: f64| format!("{:.0}", seconds * 1_000.0);
                    page.sample(sample, sample.timestamp.map(milliseconds));
                    page.text.push('\n');
                }
            }
        }
        page.text
    }
}

/// Splits a family into what are families in 0.0.4: each with its name, its kind and its samples.
fn prometheus_groups(family: &Family) -> Vec<(String, &'static str, Vec<&Sample>)> {
    let all = || family.samples.iter();
    let named = |suffix: &str| format!("{}{suffix}", family.name);
    let of = |name: &str| all().filter(|sample| sample.name == name).collect::<Vec<_>>();
    let whole = |word| vec![(family.name.clone(), word, all().collect())];
    let (main, word) = match family.kind {
        Kind::Gauge | Kind::StateSet => return whole("gauge"),
        Kind::Unknown => return whole("untyped"),
        Kind::Counter => (vec![(named("_total"), "counter", of(&named("_total")))], "gauge"),
        Kind::Info => (vec![(named("_info"), "gauge", all().collect())], "gauge"),
        Kind::GaugeHistogram => (vec![], "gauge"),
        Kind::Histogram | Kind::Summary => {
            let created = named("_created");
            let main = all().filter(|sample| sample.name != created).collect();
            (vec![(family.name.clone(), family.kind.as_str(), main)], "gauge")
        }
    };
    let rest = match family.kind {
        Kind::GaugeHistogram => family.kind.suffixes(),
        Kind::Counter | Kind::Histogram | Kind::Summary => &["_created"],
        _ => &[],
    };
    let rest = rest.iter().map(|suffix| (named(suffix), word, of(&named(suffix))));
    main.into_iter().chain(rest.filter(|(_, _, samples)| !samples.is_empty())).collect()
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn metadata(&mut self, keyword: &str, name: &str, text: &str) {
        if !text.is_empty() {
            self.write(format_args!("# {keyword} {name} {text}\n"));
        }
    }

    fn sample(&mut self, sample: &Sample, timestamp: Option<String>) {
        self.text.push_str(&sample.name);
        if !sample.labels.is_empty() {
            self.labels(&sample.labels);
        }
        self.write(format_args!(" {}", number(sample.value)));
        if let Some(timestamp) = timestamp {
            self.write(format_args!(" {timestamp}"));
        }
    }

    fn exemplar(&mut self, sample: &Sample) {
        if let Some(exemplar) = &sample.exemplar {
            self.text.push_str(" # ");
            self.labels(&exemplar.labels);
            self.write(format_args!(" {}", number(exemplar.value)));
            if let Some(timestamp) = exemplar.timestamp {
                self.write(format_args!(" {}", number(timestamp)));
            }
        }
    }

    fn labels(&mut self, labels: &Labels) {
        for (position, (name, value)) in labels.iter().enumerate() {
            let before = if position == 0 { '{' } else { ',' };
            self.write(format_args!("{before}{name}=\"{}\"", escape(value, true)));
        }
        self.text.push_str(if labels.is_empty() { "{}" } else { "}" });
    }

    fn write(&mut self, arguments: std::fmt::Arguments<'_>) {
        self.text.write_fmt(arguments).expect("writing to a string cannot fail");
    }
}

/// Writes the shortest text that reads back as the same number.
fn number(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "+Inf".to_owned() } else { "-Inf".to_owned() }
    } else if value.fract() == 0.0 && value.abs() < 1e15 {
        format!("{value}")
    } else {
        // The debug form turns to exponents where the plain one would fill the line with zeros.
        format!("{value:?}")
    }
}

fn escape(text: &str, quotes: bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\\' => escaped.push_str("\\\\"),
            '\n' => escaped.push_str("\\n"),
            '"' if quotes => escaped.push_str("\\\""),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Limits, parse};

    #[test]
    fn numbers_are_short_and_exact() {
        for (value, text) in [
            (0.0, "0"),
            (42.0, "42"),
            (-1.5, "-1.5"),
            (0.1, "0.1"),
            (1e300, "1e300"),
            (1e-9, "1e-9"),
            (9_007_199_254_740_993.0, "9007199254740992.0"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    const OPENMETRICS: &str = r#"# HELP jobs Jobs \"done\" in C:\\work\nand elsewhere
# TYPE jobs counter
jobs_total{queue="a\"b\\c\nd"} 17 1700000000.25 # {trace_id="abc"} 1 1700000000.5
jobs_created{queue="a\"b\\c\nd"} 1690000000
# TYPE wait_seconds histogram
# UNIT wait_seconds seconds
wait_seconds_bucket{le="0.1"} 3 # {} 0.05
wait_seconds_bucket{le="+Inf"} 4
wait_seconds_count 4
wait_seconds_sum 1.25
# TYPE temperature gauge
temperature{place="out"} -Inf
# TYPE latency summary
latency{quantile="0.99"} NaN
latency_count 0
latency_sum 0
# TYPE build info
build_info{version="1.2"} 1
# TYPE mode stateset
mode{mode="on"} 1
mode{mode="off"} 0
# TYPE backlog gaugehistogram
backlog_bucket{le="+Inf"} 5
backlog_gcount 5
backlog_gsum 9
# TYPE other unknown
other 1e300
# EOF
"#;

    #[test]
    fn openmetrics_is_written_as_it_was_read() {
        assert_eq!(parse(OPENMETRICS, Limits::default()).unwrap().render_openmetrics(), OPENMETRICS);
    }

    #[test]
    fn prometheus_text_uses_its_own_kinds_names_and_times() {
        let expected = r#"# HELP jobs_total Jobs "done" in C:\\work\nand elsewhere
# TYPE jobs_total counter
jobs_total{queue="a\"b\\c\nd"} 17 1700000000250
# HELP jobs_created Jobs "done" in C:\\work\nand elsewhere
# TYPE jobs_created gauge
jobs_created{queue="a\"b\\c\nd"} 1690000000
# TYPE wait_seconds histogram
wait_seconds_bucket{le="0.1"} 3
wait_seconds_bucket{le="+Inf"} 4
wait_seconds_count 4
wait_seconds_sum 1.25
# TYPE temperature gauge
temperature{place="out"} -Inf
# TYPE latency summary
latency{quantile="0.99"} NaN
latency_count 0
latency_sum 0
# TYPE build_info gauge
build_info{version="1.2"} 1
# TYPE mode gauge
mode{mode="on"} 1
mode{mode="off"} 0
# TYPE backlog_bucket gauge
backlog_bucket{le="+Inf"} 5
# TYPE backlog_gcount gauge
backlog_gcount 5
# TYPE backlog_gsum gauge
backlog_gsum 9
# TYPE other untyped
other 1e300
"#;
        assert_eq!(parse(OPENMETRICS, Limits::default()).unwrap().render_prometheus(), expected);
    }
}
