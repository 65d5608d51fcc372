//! Every metric of the gateway, once.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::codes::Disconnect;
use crate::config::Slow;
use crate::journey::JournalFigures;
use crate::protocol::Method;
use crate::watch::WatchFigures;

mod backend;
mod feeds;

pub(crate) use backend::BackendFigures;
pub(crate) use feeds::FeedFigures;

/// Upper bounds of the publish histogram, in seconds: from one subscriber to a hundred thousand.
const SECONDS: [f64; 11] =
    [0.000_01, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.25];

/// What the node counts. Clones count together.
#[derive(Clone)]
pub(crate) struct Metrics(Arc<Figures>);

pub(crate) struct Figures {
    pub(crate) connections: Gauge,
    pub(crate) subscriptions: Gauge,
    pub(crate) channels: Gauge,
    pub(crate) messages_sent: Counter,
    pub(crate) messages_received: Counter,
    pub(crate) bytes_sent: Counter,
    pub(crate) bytes_received: Counter,
    pub(crate) publications: Counter,
    pub(crate) slow_disconnects: Counter,
    pub(crate) duplicates: Counter,
    pub(crate) history_bytes: Gauge,
    pub(crate) history_evictions: Counter,
    pub(crate) publish_seconds: Histogram,
    pub(crate) delta_patches: Counter,
    pub(crate) delta_wholes: Counter,
    pub(crate) delta_saved_bytes: Counter,
    pub(crate) broker_connected: Gauge,
    pub(crate) broker_deaf_partitions: Gauge,
    pub(crate) broker_channels: Gauge,
    pub(crate) broker_messages: Counter,
    pub(crate) nodes: Gauge,
    pub(crate) namesakes: Gauge,
    pub(crate) drained: Counter,
    pub(crate) feeds: FeedFigures,
    pub(crate) backend: BackendFigures,
    passed_on: Family<OutcomeLabels, Counter>,
    pub(crate) nodes_buried: Counter,
    pub(crate) attendance_late: Counter,
    pub(crate) canary_silences: Counter,
    pub(crate) canary_gaps: Counter,
    asks: Family<AskLabels, Counter>,
    broker_gaps: Family<GapLabels, Counter>,
    reaches: Family<ReachLabels, Counter>,
    disconnects: Family<DisconnectLabels, Counter>,
    commands: Family<CommandLabels, Counter>,
    pub(crate) watch: WatchFigures,
    pub(crate) journal: JournalFigures,
    refusals: Family<RefusalLabels, Counter>,
    pub(crate) filtered: Counter,
    sheds: Family<ShedLabels, Counter>,
    recoveries: Family<RecoveryLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DisconnectLabels {
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CommandLabels {
    method: &'static str,
    /// `ok`, or the code of the error.
    result: CommandResult,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct CommandResult(u32);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ShedLabels {
    policy: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GapLabels {
    /// `yes` when the history had what was missing.
    filled: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AskLabels {
    /// `no` when a node did not answer.
    complete: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReachLabels {
    /// `every_node`, `this_node` or `unknown`.
    reach: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RecoveryLabels {
    /// `yes` when the client got all it missed.
    recovered: &'static str,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let figures = Figures {
            connections: Gauge::default(),
            subscriptions: Gauge::default(),
            channels: Gauge::default(),
            messages_sent: Counter::default(),
            messages_received: Counter::default(),
            bytes_sent: Counter::default(),
            bytes_received: Counter::default(),
            publications: Counter::default(),
            slow_disconnects: Counter::default(),
            duplicates: Counter::default(),
            history_bytes: Gauge::default(),
            history_evictions: Counter::default(),
            publish_seconds: Histogram::new(SECONDS),
            delta_patches: Counter::default(),
            delta_wholes: Counter::default(),
            delta_saved_bytes: Counter::default(),
            broker_connected: Gauge::default(),
            broker_deaf_partitions: Gauge::default(),
            broker_channels: Gauge::default(),
            broker_messages: Counter::default(),
            nodes: Gauge::default(),
            namesakes: Gauge::default(),
            drained: Counter::default(),
            feeds: FeedFigures::default(),
            backend: BackendFigures::default(),
            passed_on: Family::default(),
            nodes_buried: Counter::default(),
            attendance_late: Counter::default(),
            canary_silences: Counter::default(),
            canary_gaps: Counter::default(),
            asks: Family::default(),
            broker_gaps: Family::default(),
            reaches: Family::default(),
            disconnects: Family::default(),
            commands: Family::default(),
            refusals: Family::default(),
            watch: WatchFigures::default(),
            journal: JournalFigures::default(),
            filtered: Counter::default(),
            sheds: Family::default(),
            recoveries: Family::default(),
        };
        figures.describe_broker(registry.sub_registry_with_prefix("mainstay_ws"));
        figures.feeds.register(registry.sub_registry_with_prefix("mainstay_ws"));
        figures.backend.register(registry.sub_registry_with_prefix("mainstay_ws"));
        figures.describe(registry.sub_registry_with_prefix("mainstay_ws"));
        Self(Arc::new(figures))
    }
}

impl std::ops::Deref for Metrics {
    type Target = Figures;

    fn deref(&self) -> &Figures {
        &self.0
    }
}

impl Figures {
    fn describe(&self, registry: &mut Registry) {
        registry.register("connections", "Connections held", self.connections.clone());
        registry.register("subscriptions", "Subscriptions of all connections", self.subscriptions.clone());
        registry.register("channels", "Channels with at least one subscriber", self.channels.clone());
        registry.register("messages_sent", "Messages written to clients", self.messages_sent.clone());
        registry.register("messages_received", "Commands read from clients", self.messages_received.clone());
        registry.register("bytes_sent", "Payload written to clients", self.bytes_sent.clone());
        registry.register("bytes_received", "Payload read from clients", self.bytes_received.clone());
        registry.register("publications", "Publications given to a channel", self.publications.clone());
        registry.register(
            "slow_disconnects",
            "Clients disconnected because their outbox was full",
            self.slow_disconnects.clone(),
        );
        registry.register(
            "publish_seconds",
            "Time to queue one publication to all subscribers of its channel",
            self.publish_seconds.clone(),
        );
        registry.register(
            "delta_patches",
            "Publications queued as what they change",
            self.delta_patches.clone(),
        );
        registry.register(
            "delta_wholes",
            "Publications queued whole to subscribers who want deltas",
            self.delta_wholes.clone(),
        );
        registry.register(
            "delta_saved_bytes",
            "Data that deltas made unnecessary to send",
            self.delta_saved_bytes.clone(),
        );
        registry.register("disconnects", "Ends of connections by close code", self.disconnects.clone());
        registry.register("commands", "Commands answered, by method and result", self.commands.clone());
        registry.register(
            "publications_duplicate",
            "Publications dropped because their idempotency key was seen before",
            self.duplicates.clone(),
        );
        registry.register(
            "history_bytes",
            "What the histories of all channels take",
            self.history_bytes.clone(),
        );
        registry.register(
            "history_evictions",
            "Publications forgotten early because the histories took too much",
            self.history_evictions.clone(),
        );
        registry.register(
            "recoveries",
            "Subscriptions of clients that asked for what they missed",
            self.recoveries.clone(),
        );
        registry.register("journey_events", "What clients did, as journeys", self.journal.events.clone());
        registry.register("journey_bytes", "What remembering journeys takes", self.journal.bytes.clone());
        registry.register("journey_followers", "Callers who follow journeys", self.journal.followers.clone());
        registry.register(
            "journey_events_missed",
            "Events that were forgotten before a caller who follows had read them",
            self.journal.missed.clone(),
        );
        registry.register("watchers", "Callers who watch live", self.watch.watchers.clone());
        registry.register(
            "watch_events_missed",
            "Events that callers who watch were too slow for",
            self.watch.missed.clone(),
        );
        registry.register("publications_filtered", "Kept from subscribers by filters", self.filtered.clone());
        registry.register(
            "publications_dropped",
            "Publications left out because a subscriber was too slow for them",
            self.sheds.clone(),
        );
        registry.register(
            "handshakes_refused",
            "Handshakes answered with an HTTP error",
            self.refusals.clone(),
        );
    }

    fn describe_broker(&self, registry: &mut Registry) {
        registry.register(
            "broker_connected",
            "1 while publications of other nodes can arrive",
            self.broker_connected.clone(),
        );
        registry.register(
            "broker_deaf_partitions",
            "Partitions of Redis from which publications of other nodes cannot arrive",
            self.broker_deaf_partitions.clone(),
        );
        registry.register("broker_channels", "Channels listened to in Redis", self.broker_channels.clone());
        registry.register(
            "broker_messages",
            "Messages that arrived from Redis",
            self.broker_messages.clone(),
        );
        registry.register(
            "broker_gaps",
            "Times that publications did not arrive in channels with a history",
            self.broker_gaps.clone(),
        );
        registry.register(
            "requests_passed_on",
            "Requests of clients over HTTP whose stream another node holds",
            self.passed_on.clone(),
        );
        registry.register("drained", "Connections sent away at a pace", self.drained.clone());
        registry.register("nodes", "Nodes that live, this one included", self.nodes.clone());
        registry.register(
            "namesakes",
            "1 while another process has the same server.instance",
            self.namesakes.clone(),
        );
        registry.register("node_asks", "Questions asked of all other nodes", self.asks.clone());
        registry.register(
            "nodes_buried",
            "Dead nodes whose members this node has told to have left",
            self.nodes_buried.clone(),
        );
        registry.register(
            "attendance_late",
            "Comings and goings that other nodes could not be told of at once",
            self.attendance_late.clone(),
        );
        registry.register(
            "canary_silences",
            "Times that nothing arrived from Redis although it answered",
            self.canary_silences.clone(),
        );
        registry.register(
            "canary_gaps",
            "Times that messages between nodes were lost",
            self.canary_gaps.clone(),
        );
        registry.register("publish_reach", "Publications by how far they went", self.reaches.clone());
    }

    /// Counts the end of a connection.
    pub(crate) fn disconnected(&self, disconnect: Disconnect) {
        self.disconnects.get_or_create(&DisconnectLabels { code: disconnect.code }).inc();
    }

    /// Counts a command that was answered; `code` is 0 when it went well.
    pub(crate) fn answered(&self, method: Method, code: u32) {
        let labels = CommandLabels { method: method.as_str(), result: CommandResult(code) };
        self.commands.get_or_create(&labels).inc();
    }

    /// Counts publications that did not arrive from Redis in time.
    pub(crate) fn gap(&self, filled: bool) {
        let filled = if filled { "yes" } else { "no" };
        self.broker_gaps.get_or_create(&GapLabels { filled }).inc();
    }

    /// Counts a request of a client that another node was given: `heard`, `refused` or `lost`.
    pub(crate) fn passed_on(&self, outcome: &'static str) {
        self.passed_on.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    /// Counts a question that all other nodes were asked.
    pub(crate) fn asked_nodes(&self, is_complete: bool) {
        let complete = if is_complete { "yes" } else { "no" };
        self.asks.get_or_create(&AskLabels { complete }).inc();
    }

    /// Counts a publication by how far it went.
    pub(crate) fn reached(&self, reach: &'static str) {
        self.reaches.get_or_create(&ReachLabels { reach }).inc();
    }

    /// Counts a client that came back and asked for what it missed.
    pub(crate) fn recovered(&self, recovered: bool) {
        let recovered = if recovered { "yes" } else { "no" };
        self.recoveries.get_or_create(&RecoveryLabels { recovered }).inc();
    }

    /// Counts publications that a client was too slow for.
    pub(crate) fn shed(&self, policy: Slow, dropped: u64) {
        let policy = match policy {
            Slow::Disconnect => "disconnect",
            Slow::DropOldest => "drop_oldest",
            Slow::KeepLatest => "keep_latest",
        };
        self.sheds.get_or_create(&ShedLabels { policy }).inc_by(dropped);
    }

    /// Counts a handshake that led to no connection.
    pub(crate) fn refused(&self, reason: &'static str) {
        self.refusals.get_or_create(&RefusalLabels { reason }).inc();
    }
}

impl prometheus_client::encoding::EncodeLabelValue for CommandResult {
    fn encode(
        &self,
        encoder: &mut prometheus_client::encoding::LabelValueEncoder<'_>,
    ) -> Result<(), std::fmt::Error> {
        match self.0 {
            0 => "ok".encode(encoder),
            code => code.encode(encoder),
        }
    }
}
