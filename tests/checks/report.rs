//! What the checks found, for people, for CI (JUnit) and for programs (JSON).

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::check::{Check, Verdict};
use crate::target::Target;

pub(crate) struct Report {
    verbose: bool,
    coloured: bool,
    begun: Instant,
    suite: &'static str,
    group: &'static str,
    rows: Vec<Row>,
}

struct Row {
    suite: &'static str,
    group: &'static str,
    name: &'static str,
    verdict: Verdict,
    took: Duration,
}

impl Report {
    pub(crate) fn new(verbose: bool, coloured: bool) -> Self {
        Self { verbose, coloured, begun: Instant::now(), suite: "", group: "", rows: Vec::new() }
    }

    pub(crate) fn begin(&mut self, suite: &'static str, target: &Target, n_checks: usize) {
        self.suite = suite;
        self.group = "";
        println!(
            "\n{suite}: {n_checks} checks of {} at {}",
            target.environment.name, target.environment.edge
        );
    }

    pub(crate) fn add(&mut self, check: &Check, verdict: Verdict, took: Duration) {
        if self.group != check.group {
            self.group = check.group;
            println!("\n  {}", check.group);
        }
        let (colour, word) = verdict.word();
        let word = if self.coloured { format!("\x1b[{colour}m{word}\x1b[0m") } else { word.to_owned() };
        let detail = match &verdict {
            Verdict::Pass(detail) if self.verbose && !detail.is_empty() => format!("  {detail}"),
            Verdict::Pass(_) => String::new(),
            Verdict::Warn(why) | Verdict::Fail(why) => format!("  {why}"),
        };
        println!("    {word}  {:<52} {:>6.0} ms{detail}", check.name, took.as_secs_f64() * 1e3);
        self.rows.push(Row { suite: self.suite, group: check.group, name: check.name, verdict, took });
    }

    pub(crate) fn end(&self) {
        let [passed, warned, failed] = self.counts();
        let took = self.begun.elapsed().as_secs_f64();
        println!(
            "\n{} checks in {took:.1} s: {passed} passed, {warned} warned, {failed} failed",
            self.rows.len()
        );
    }

    pub(crate) fn failed(&self) -> bool {
        self.counts()[2] > 0
    }

    fn counts(&self) -> [usize; 3] {
        let count = |wanted| self.rows.iter().filter(|row| row.verdict.word().1 == wanted).count();
        [count("PASS"), count("WARN"), count("FAIL")]
    }

    pub(crate) fn junit(&self) -> String {
        let [_, warned, failed] = self.counts();
        let mut text = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites tests=\"{}\" failures=\"{failed}\" skipped=\"{warned}\">\n",
            self.rows.len()
        );
        for suite in ["smoke", "observability", "load"] {
            let rows: Vec<_> = self.rows.iter().filter(|row| row.suite == suite).collect();
            if rows.is_empty() {
                continue;
            }
            let _ = writeln!(text, "<testsuite name=\"{suite}\" tests=\"{}\">", rows.len());
            for row in rows {
                row.write_junit(&mut text);
            }
            text.push_str("</testsuite>\n");
        }
        text.push_str("</testsuites>\n");
        text
    }

    pub(crate) fn json(&self) -> Value {
        let [passed, warned, failed] = self.counts();
        let checks: Vec<_> = self.rows.iter().map(Row::json).collect();
        json!({ "passed": passed, "warned": warned, "failed": failed, "checks": checks })
    }
}

impl Row {
    fn write_junit(&self, text: &mut String) {
        let _ = write!(
            text,
            "<testcase classname=\"{}.{}\" name=\"{}\" time=\"{:.3}\">",
            self.suite,
            escaped(self.group),
            escaped(self.name),
            self.took.as_secs_f64()
        );
        match &self.verdict {
            Verdict::Pass(_) => {}
            Verdict::Warn(why) => {
                let _ = write!(text, "<skipped message=\"{}\"/>", escaped(why));
            }
            Verdict::Fail(why) => {
                let _ = write!(text, "<failure message=\"{}\"/>", escaped(why));
            }
        }
        text.push_str("</testcase>\n");
    }

    fn json(&self) -> Value {
        let (Verdict::Pass(detail) | Verdict::Warn(detail) | Verdict::Fail(detail)) = &self.verdict;
        json!({
            "suite": self.suite, "group": self.group, "name": self.name, "verdict": self.verdict.word().1,
            "detail": detail, "seconds": self.took.as_secs_f64(),
        })
    }
}

impl Verdict {
    /// The colour of a terminal, and the word.
    const fn word(&self) -> (u8, &'static str) {
        match self {
            Self::Pass(_) => (32, "PASS"),
            Self::Warn(_) => (33, "WARN"),
            Self::Fail(_) => (31, "FAIL"),
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
