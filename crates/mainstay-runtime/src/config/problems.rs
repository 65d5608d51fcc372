use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

/// Collects what is wrong with a configuration, so that all of it can be told at once.
#[derive(Debug, Default)]
pub struct Problems {
    found: Vec<Problem>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Problem {
    pub(crate) key: String,
    pub(crate) message: String,
}

impl Problems {
    /// Adds a problem of the value at `key`, e.g. `redis.address`.
    pub fn add(&mut self, key: impl Into<String>, message: impl Into<String>) {
        self.found.push(Problem { key: key.into(), message: message.into() });
    }

    /// Adds a problem unless `ok`.
    pub fn ensure(&mut self, ok: bool, key: &str, message: impl Into<String>) {
        if !ok {
            self.add(key, message);
        }
    }

    /// Adds a problem unless `value` lies in `range`.
    #[expect(clippy::needless_pass_by_value, reason = "callers write numbers and literals of ranges")]
    pub fn range<T: PartialOrd + Display>(&mut self, key: &str, value: T, range: RangeInclusive<T>) {
        if !range.contains(&value) {
            let (low, high) = (range.start(), range.end());
            self.add(key, format!("must be between {low} and {high}, is {value}"));
        }
    }

    /// Adds a problem unless `value` lies in `range`.
    pub fn duration(&mut self, key: &str, value: Duration, range: RangeInclusive<Duration>) {
        if !range.contains(&value) {
            let [low, high, value] = [*range.start(), *range.end(), value]
                .map(|duration| humantime::format_duration(duration).to_string());
            self.add(key, format!("must be between {low} and {high}, is {value}"));
        }
    }

    /// Runs the check of a shared section, whose keys are relative, under `section`:
    /// `problems.under("upstreams.cache", |report| self.cache.check(report))`.
    pub fn under(&mut self, section: &str, check: impl FnOnce(&mut dyn FnMut(&str, String))) {
        check(&mut |key, message| {
            let key = if key.is_empty() { section.to_owned() } else { format!("{section}.{key}") };
            self.add(key, message);
        });
    }

    /// Tells whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Returns each problem as key and message, in the order in which they were found.
    pub fn each(&self) -> impl Iterator<Item = (&str, &str)> {
        self.found.iter().map(|problem| (problem.key.as_str(), problem.message.as_str()))
    }

    /// Returns each problem as `key: message`, in the order of the keys: for tests of `check`.
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<_> = self.found.iter().map(|p| format!("{}: {}", p.key, p.message)).collect();
        lines.sort();
        lines
    }

    pub(crate) fn concerns(&self, key: &str) -> bool {
        self.found.iter().any(|problem| problem.key == key)
    }

    pub(crate) fn into_sorted(mut self) -> Vec<Problem> {
        self.found.sort();
        self.found.dedup();
        self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_tell_key_range_and_value() {
        let mut problems = Problems::default();
        problems.duration(
            "server.grace",
            Duration::from_secs(3 * 3600),
            Duration::ZERO..=Duration::from_secs(600),
        );
        problems.range("pool.max_size", 0, 1..=500);
        problems.range("pool.fine", 7, 1..=500);
        problems.ensure(false, "auth.jwt_secret", "must have at least 32 bytes");
        problems.under("upstreams.cache", |report| {
            report("deadline", "must not be 0s".to_owned());
            report("", "is needed".to_owned());
        });
        assert_eq!(
            problems.lines(),
            [
                "auth.jwt_secret: must have at least 32 bytes",
                "pool.max_size: must be between 1 and 500, is 0",
                "server.grace: must be between 0s and 10m, is 3h",
                "upstreams.cache.deadline: must not be 0s",
                "upstreams.cache: is needed",
            ]
        );
    }
}
