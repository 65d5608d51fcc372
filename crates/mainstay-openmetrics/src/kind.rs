use std::fmt;

/// Says what the samples of a family mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Only goes up, until its process starts anew.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts observations by upper bounds.
    Histogram,
    /// A histogram whose buckets go up and down.
    GaugeHistogram,
    /// Gives quantiles of observations.
    Summary,
    /// Facts as labels, the value is 1.
    Info,
    /// One sample per state, 1 for those that hold.
    StateSet,
    /// Anything.
    Unknown,
}

impl Kind {
    /// Every suffix that a sample name may have after the family name.
    pub(crate) const SUFFIXES: [&'static str; 8] =
        ["_total", "_created", "_bucket", "_count", "_sum", "_info", "_gcount", "_gsum"];

    const ALL: [Self; 8] = [
        Self::Counter,
        Self::Gauge,
        Self::Histogram,
        Self::GaugeHistogram,
        Self::Summary,
        Self::Info,
        Self::StateSet,
        Self::Unknown,
    ];

    /// Returns the word OpenMetrics has for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::GaugeHistogram => "gaugehistogram",
            Self::Summary => "summary",
            Self::Info => "info",
            Self::StateSet => "stateset",
            Self::Unknown => "unknown",
        }
    }

    /// Reads the word of either format.
    pub(crate) fn from_word(word: &str) -> Option<Self> {
        if word == "untyped" {
            return Some(Self::Unknown);
        }
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }

    /// Lists what may follow the family name in a sample name; an empty suffix is the family name itself.
    pub(crate) const fn suffixes(self) -> &'static [&'static str] {
        match self {
            Self::Counter => &["_total", "_created"],
            Self::Gauge | Self::StateSet | Self::Unknown => &[""],
            Self::Histogram => &["_bucket", "_count", "_sum", "_created"],
            Self::GaugeHistogram => &["_bucket", "_gcount", "_gsum"],
            Self::Summary => &["", "_count", "_sum", "_created"],
            Self::Info => &["_info"],
        }
    }

    pub(crate) fn accepts(self, suffix: &str) -> bool {
        self.suffixes().contains(&suffix)
    }

    /// Returns the suffix of the sample that stands for the whole family, if there is one.
    pub(crate) const fn main_suffix(self) -> Option<&'static str> {
        match self {
            Self::Counter => Some("_total"),
            Self::Info => Some("_info"),
            Self::Gauge | Self::StateSet | Self::Unknown | Self::Summary => Some(""),
            Self::Histogram | Self::GaugeHistogram => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
