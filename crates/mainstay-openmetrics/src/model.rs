/// Everything a source tells at one time.
///
/// Built by hand, it must keep to the names and suffixes of the format: rendering writes what it finds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Exposition {
    /// Each name once.
    pub families: Vec<Family>,
}

/// All samples of one metric.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    /// The name without the suffixes of its samples.
    pub name: String,
    /// What the samples mean.
    pub kind: crate::Kind,
    /// What it is, for people; may be empty.
    pub help: String,
    /// The unit its name ends with; may be empty.
    pub unit: String,
    /// The figures, in the order in which they came.
    pub samples: Vec<Sample>,
}

/// Label names and values; no name occurs twice.
pub type Labels = Vec<(String, String)>;

/// One figure.
///
/// Two samples are equal if a reader of them could not tell them apart; so NaN equals NaN.
#[derive(Debug, Clone)]
pub struct Sample {
    /// The full name, suffix included.
    pub name: String,
    /// What tells it from other samples of its name.
    pub labels: Labels,
    /// The figure; counts are whole, but all are floats on the wire.
    pub value: f64,
    /// When it was taken, in seconds since the Unix epoch.
    pub timestamp: Option<f64>,
    /// One observation that went into it.
    pub exemplar: Option<Exemplar>,
}

/// One observation, as an example, usually with the id of its trace.
#[derive(Debug, Clone)]
pub struct Exemplar {
    /// What tells it from others, such as `trace_id`.
    pub labels: Labels,
    /// The observed figure.
    pub value: f64,
    /// When it was observed, in seconds since the Unix epoch.
    pub timestamp: Option<f64>,
}

impl Exposition {
    /// Puts labels in front of those of every sample.
    ///
    /// A label of that name which is there already is kept as `exported_<name>` (as often as needed to be unique).
    #[must_use]
    pub fn with_labels(mut self, labels: &[(&str, &str)]) -> Self {
        for sample in self.families.iter_mut().flat_map(|family| &mut family.samples) {
            for (name, _) in labels {
                give_way(&mut sample.labels, name);
            }
            let added = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            sample.labels.splice(0..0, added);
        }
        self
    }

    /// Counts the samples of all families.
    pub fn n_samples(&self) -> usize {
        self.families.iter().map(|family| family.samples.len()).sum()
    }
}

impl Sample {
    /// Returns the value of a label.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(held, _)| held == name).map(|(_, value)| value.as_str())
    }
}

fn give_way(labels: &mut Labels, name: &str) {
    let Some(position) = labels.iter().position(|(held, _)| held == name) else {
        return;
    };
    let mut free = format!("exported_{name}");
    while labels.iter().any(|(held, _)| *held == free) {
        free.insert_str(0, "exported_");
    }
    labels[position].0 = free;
}

impl PartialEq for Sample {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
            && self.labels == other.labels
            && same(self.value, other.value)
            && self.timestamp == other.timestamp
            && self.exemplar == other.exemplar
    }
}

impl PartialEq for Exemplar {
    fn eq(&self, other: &Self) -> bool {
        self.labels == other.labels && same(self.value, other.value) && self.timestamp == other.timestamp
    }
}

fn same(a: f64, b: f64) -> bool {
    a == b || (a.is_nan() && b.is_nan())
}

#[cfg(test)]
mod tests {
    use crate::{Limits, parse};

    #[test]
    fn labels_are_put_in_front_of_every_sample() {
        let text = "a{x=\"1\"} 1\nb 2\n";
        let labelled =
            parse(text, Limits::default()).unwrap().with_labels(&[("service", "s"), ("instance", "i")]);
        assert_eq!(
            labelled.render_prometheus(),
            "# TYPE a untyped\na{service=\"s\",instance=\"i\",x=\"1\"} 1\n\
             # TYPE b untyped\nb{service=\"s\",instance=\"i\"} 2\n"
        );
        assert_eq!(labelled.n_samples(), 2);
    }

    #[test]
    fn labels_that_are_there_already_are_kept_under_another_name() {
        let text = "a{job=\"x\",exported_job=\"y\"} 1\n";
        let labelled = parse(text, Limits::default()).unwrap().with_labels(&[("job", "new")]);
        let sample = &labelled.families[0].samples[0];
        assert_eq!(sample.label("job"), Some("new"));
        assert_eq!(sample.label("exported_job"), Some("y"));
        assert_eq!(sample.label("exported_exported_job"), Some("x"));
        assert_eq!(sample.label("absent"), None);
    }
}
