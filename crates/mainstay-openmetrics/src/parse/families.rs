use std::collections::HashMap;

use super::{Dialect, Reason};
use crate::{Exposition, Family, Kind, Sample};

const TOTAL: &str = "_total";

/// Finds the family of each sample.
#[derive(Default)]
pub(super) struct Families {
    entries: Vec<Entry>,
    by_name: HashMap<String, usize>,
}

struct Entry {
    family: Family,
    /// A counter that was declared with `_total` in its name, the way of 0.0.4; the bare name may be another metric.
    declared_as_total: bool,
}

impl Families {
    /// Takes a TYPE line.
    pub(super) fn declare(&mut self, name: &str, kind: Kind, dialect: Dialect) -> Result<(), Reason> {
        let bare = name.strip_suffix(TOTAL).filter(|bare| kind == Kind::Counter && !bare.is_empty());
        let declared_as_total = bare.is_some() && dialect == Dialect::Prometheus;
        let bare_name = bare.unwrap_or(name);
        let taken = self.kind_of(bare_name).is_some_and(|held| held != kind) || self.kind_of(name).is_some();
        // Stripped of one `_total` it would be stripped of the next when it is read again.
        let doubled = bare.is_some_and(|bare| bare.ends_with(TOTAL));
        if doubled || (declared_as_total && taken) {
            return self.declare_exactly(name, Kind::Unknown, false);
        }
        self.declare_exactly(bare_name, kind, declared_as_total)
    }

    /// Puts a sample into its family.
    pub(super) fn add(&mut self, mut sample: Sample) -> Result<(), Reason> {
        self.make_room(&sample.name);
        if self.kind_of(&sample.name) == Some(Kind::Counter) {
            sample.name.push_str(TOTAL);
        }
        let position = match self.by_name.get(&sample.name) {
            Some(position) => {
                let Family { name, kind, .. } = &self.entries[*position].family;
                if !kind.accepts("") {
                    return Err(Reason::Misfit { family: name.clone(), kind: *kind });
                }
                *position
            }
            None => match self.parent(&sample.name) {
                Some(position) => position,
                None => self.insert(&sample.name, Kind::Unknown, false),
            },
        };
        self.entries[position].family.samples.push(sample);
        Ok(())
    }

    /// Gives families their help and units and lets them go.
    pub(super) fn finish(
        self,
        helps: &mut HashMap<String, String>,
        units: &mut HashMap<String, String>,
    ) -> Exposition {
        let by_name = self.by_name;
        let mut families: Vec<_> = self.entries.into_iter().map(|entry| entry.family).collect();
        for family in &mut families {
            let full = format!("{}{TOTAL}", family.name);
            let goes_by_both = family.kind == Kind::Counter && !by_name.contains_key(&full);
            let find = |from: &mut HashMap<String, String>| {
                let under_full =
                    |from: &mut HashMap<_, _>| if goes_by_both { from.remove(&full) } else { None };
                from.remove(&family.name).or_else(|| under_full(from)).unwrap_or_default()
            };
            family.help = find(helps);
            family.unit = find(units);
            let ends_with_unit =
                family.name.strip_suffix(&family.unit).is_some_and(|stem| stem.ends_with('_'));
            if !ends_with_unit {
                family.unit.clear();
            }
        }
        Exposition { families }
    }

    fn declare_exactly(&mut self, name: &str, kind: Kind, declared_as_total: bool) -> Result<(), Reason> {
        if kind != Kind::Counter {
            self.make_room(name);
        }
        match self.kind_of(name) {
            None => {
                self.insert(name, kind, declared_as_total);
                Ok(())
            }
            Some(held) if held == kind => {
                let position = self.by_name[name];
                self.entries[position].declared_as_total &= declared_as_total;
                Ok(())
            }
            Some(first) => Err(Reason::TwoKinds { family: name.to_owned(), first, second: kind }),
        }
    }

    fn kind_of(&self, name: &str) -> Option<Kind> {
        self.by_name.get(name).map(|position| self.entries[*position].family.kind)
    }

    /// Moves a counter declared as `x_total` out of the way of another metric `x`.
    fn make_room(&mut self, name: &str) {
        let Some(position) = self.by_name.get(name).copied() else {
            return;
        };
        let entry = &mut self.entries[position];
        if entry.declared_as_total {
            self.by_name.remove(name);
            entry.declared_as_total = false;
            entry.family.kind = Kind::Unknown;
            entry.family.name.push_str(TOTAL);
            self.by_name.insert(entry.family.name.clone(), position);
        }
    }

    /// Finds the family whose kind has samples with the suffix of this name.
    fn parent(&self, sample_name: &str) -> Option<usize> {
        Kind::SUFFIXES.iter().find_map(|suffix| {
            let position = *self.by_name.get(sample_name.strip_suffix(suffix)?)?;
            let Entry { family, declared_as_total } = &self.entries[position];
            let accepts = family.kind.accepts(suffix) && (!declared_as_total || *suffix == TOTAL);
            accepts.then_some(position)
        })
    }

    fn insert(&mut self, name: &str, kind: Kind, declared_as_total: bool) -> usize {
        let (help, unit) = (String::new(), String::new());
        let family = Family { name: name.to_owned(), kind, help, unit, samples: Vec::new() };
        self.entries.push(Entry { family, declared_as_total });
        self.by_name.insert(name.to_owned(), self.entries.len() - 1);
        self.entries.len() - 1
    }
}
