use std::collections::{BTreeMap, HashMap, HashSet};

use crate::{Exposition, Family, Kind};

impl Exposition {
    /// Makes one exposition of many; a family that several have becomes one.
    ///
    /// The crate's documentation says what happens to families of one name and different kinds.
    pub fn merge(parts: Vec<Self>) -> Self {
        let mut merged = Merged::default();
        let families = parts.into_iter().flat_map(|part| part.families);
        let (unknown, known): (Vec<_>, Vec<_>) = families.partition(|family| family.kind == Kind::Unknown);
        known.into_iter().for_each(|family| merged.add(family));
        unknown.into_iter().for_each(|family| merged.add_unknown(family));
        Self { families: merged.families.into_values().collect() }
    }
}

#[derive(Default)]
struct Merged {
    families: BTreeMap<String, Family>,
    /// Says which family uses a name, for itself or for its samples.
    owners: HashMap<String, String>,
}

impl Merged {
    /// Adds a family under its own name, or else under one that tells its kind.
    fn add(&mut self, mut family: Family) {
        while !self.fits(&family) {
            rename(&mut family);
        }
        self.insert(family);
    }

    /// Adds samples of unknown kind to the family that has such samples, or else as a family of their own.
    fn add_unknown(&mut self, family: Family) {
        let owner =
            self.owners.get(&family.name).filter(|owner| **owner != family.name || self.accepts(owner));
        match owner.and_then(|owner| self.families.get_mut(owner)) {
            Some(known) => known.samples.extend(family.samples),
            None => self.add(family),
        }
    }

    fn accepts(&self, name: &str) -> bool {
        self.families.get(name).is_some_and(|family| family.kind.accepts(""))
    }

    fn fits(&self, family: &Family) -> bool {
        let same_kind = self.families.get(&family.name).is_none_or(|held| held.kind == family.kind);
        same_kind
            && names(family)
                .iter()
                .all(|name| self.owners.get(*name).is_none_or(|owner| *owner == family.name))
    }

    fn insert(&mut self, family: Family) {
        for name in names(&family) {
            if !self.owners.contains_key(name) {
                self.owners.insert(name.to_owned(), family.name.clone());
            }
        }
        match self.families.get_mut(&family.name) {
            None => {
                self.families.insert(family.name.clone(), family);
            }
            Some(held) => {
                if held.help.is_empty() {
                    held.help = family.help;
                }
                if held.unit.is_empty() {
                    held.unit = family.unit;
                }
                held.samples.extend(family.samples);
            }
        }
    }
}

fn names(family: &Family) -> HashSet<&str> {
    let mut names: HashSet<_> = family.samples.iter().map(|sample| sample.name.as_str()).collect();
    names.insert(&family.name);
    names
}

fn rename(family: &mut Family) {
    let renamed = format!("{}_{}", family.name, family.kind);
    for sample in &mut family.samples {
        let suffix = sample.name.strip_prefix(&family.name).unwrap_or_default();
        sample.name = format!("{renamed}{suffix}");
    }
    family.name = renamed;
    // The new name no longer ends with the unit.
    family.unit.clear();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Limits, parse};

    fn merge(texts: &[&str]) -> Exposition {
        Exposition::merge(texts.iter().map(|text| parse(text, Limits::default()).unwrap()).collect())
    }

    fn outline(exposition: &Exposition) -> Vec<(&str, Kind, Vec<&str>)> {
        exposition
            .families
            .iter()
            .map(|f| (f.name.as_str(), f.kind, f.samples.iter().map(|s| s.name.as_str()).collect()))
            .collect()
    }

    #[test]
    fn one_family_from_many_sources_is_contiguous() {
        let merged = merge(&[
            "# HELP b first\n# TYPE b gauge\nb{s=\"1\"} 1\n# TYPE a counter\na_total{s=\"1\"} 2\n# EOF\n",
            "# TYPE a counter\n# HELP a late\na_total{s=\"2\"} 3\n# HELP b second\n# TYPE b gauge\nb{s=\"2\"} 4\n# EOF\n",
        ]);
        assert_eq!(
            merged.render_openmetrics(),
            "# HELP a late\n# TYPE a counter\na_total{s=\"1\"} 2\na_total{s=\"2\"} 3\n\
             # HELP b first\n# TYPE b gauge\nb{s=\"1\"} 1\nb{s=\"2\"} 4\n# EOF\n"
        );
    }

    #[test]
    fn a_later_family_of_another_kind_is_renamed() {
        let merged = merge(&[
            "# TYPE queue counter\nqueue_total 1\n# EOF\n",
            "# TYPE queue gauge\nqueue 2\n",
            "# TYPE queue gauge\nqueue 3\n",
            "# TYPE queue histogram\nqueue_sum 4\nqueue_count 1\n",
        ]);
        let expected = [
            ("queue", Kind::Counter, vec!["queue_total"]),
            ("queue_gauge", Kind::Gauge, vec!["queue_gauge", "queue_gauge"]),
            ("queue_histogram", Kind::Histogram, vec!["queue_histogram_sum", "queue_histogram_count"]),
        ];
        assert_eq!(outline(&merged), expected);
    }

    #[test]
    fn a_sample_name_in_use_by_another_family_is_left_alone() {
        let merged = merge(&["# TYPE q summary\nq_count 1\nq_sum 2\n", "# TYPE q_count gauge\nq_count 5\n"]);
        let expected = [
            ("q", Kind::Summary, vec!["q_count", "q_sum"]),
            ("q_count_gauge", Kind::Gauge, vec!["q_count_gauge"]),
        ];
        assert_eq!(outline(&merged), expected);
    }

    #[test]
    fn unknown_samples_join_the_family_that_has_their_name() {
        let merged =
            merge(&["a_total 1\nb 2\nc 3\n", "# TYPE a counter\na_total 4\n# TYPE b gauge\nb 5\n# EOF\n"]);
        let expected = [
            ("a", Kind::Counter, vec!["a_total", "a_total"]),
            ("b", Kind::Gauge, vec!["b", "b"]),
            ("c", Kind::Unknown, vec!["c"]),
        ];
        assert_eq!(outline(&merged), expected);
    }

    #[test]
    fn unknown_samples_that_fit_no_family_of_their_name_are_renamed() {
        let merged = merge(&["a 1\n", "# TYPE a counter\na_total 4\n# EOF\n"]);
        let expected =
            [("a", Kind::Counter, vec!["a_total"]), ("a_unknown", Kind::Unknown, vec!["a_unknown"])];
        assert_eq!(outline(&merged), expected);
    }

    #[test]
    fn nothing_merged_is_nothing() {
        assert_eq!(Exposition::merge(vec![]), Exposition::default());
        assert_eq!(Exposition::default().render_openmetrics(), "# EOF\n");
    }
}
