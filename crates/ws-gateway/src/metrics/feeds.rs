use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// What may become of a message of a feed.
const FEED_OUTCOMES: [&str; 4] = ["published", "duplicate", "rejected", "missed"];

/// What is counted of each feed, until it is removed.
#[derive(Clone, Debug, Default)]
pub(crate) struct FeedFigures {
    messages: Family<FeedMessageLabels, Counter>,
    failures: Family<FeedLabels, Counter>,
    gaps: Family<FeedLabels, Counter>,
    live: Family<FeedLabels, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FeedMessageLabels {
    feed: String,
    /// One of [`FEED_OUTCOMES`].
    outcome: &'static str,
}

/// By its name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FeedLabels {
    feed: String,
}

impl FeedFigures {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "feed_messages",
            "Messages of a feed by what became of them",
            self.messages.clone(),
        );
        registry.register(
            "feed_failures",
            "Connections of a feed that ended or could not be made",
            self.failures.clone(),
        );
        registry.register("feed_gaps", "Times that numbers of a feed were missing", self.gaps.clone());
        registry.register("feed_live", "1 while this node reads the feed", self.live.clone());
    }

    /// Counts messages of a feed by what became of them.
    pub(crate) fn count(&self, feed: &str, outcome: &'static str, times: u64) {
        let labels = FeedMessageLabels { feed: feed.to_owned(), outcome };
        self.messages.get_or_create(&labels).inc_by(times);
    }

    /// Counts a connection of a feed that ended or could not be made.
    pub(crate) fn failed(&self, feed: &str) {
        self.failures.get_or_create(&FeedLabels { feed: feed.to_owned() }).inc();
    }

    /// Counts a gap in the numbers of a feed.
    pub(crate) fn gap(&self, feed: &str) {
        self.gaps.get_or_create(&FeedLabels { feed: feed.to_owned() }).inc();
    }

    /// Drops the figures of a feed that is no more.
    pub(crate) fn forget(&self, feed: &str) {
        let labels = FeedLabels { feed: feed.to_owned() };
        self.failures.remove(&labels);
        self.gaps.remove(&labels);
        self.live.remove(&labels);
        for outcome in FEED_OUTCOMES {
            self.messages.remove(&FeedMessageLabels { feed: feed.to_owned(), outcome });
        }
    }

    /// Notes whether this node reads a feed.
    pub(crate) fn set_live(&self, feed: &str, is_live: bool) {
        self.live.get_or_create(&FeedLabels { feed: feed.to_owned() }).set(i64::from(is_live));
    }
}
