//! The outbox over the real store while the process dies between any two steps.
//!
//! One second of a monitor is: targets are looked at, rules move alerts, what changed is queued (1), committed (2), handed to
//! the queues of the channels (3), sent (4), marked as sent (5), and the mark is committed (6). A process that dies leaves
//! the files of the store as they lie at that moment, with their log; the next one is opened over a copy of those.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mainstay_openmetrics::Exposition;
use mainstay_resilience::backoff::Backoff;
use mainstay_runtime::{Clock, ClockHandle, ComponentKind, Context};
use proptest::prelude::*;
use tempfile::TempDir;

use super::group::{Groups, Next};
use super::{Channel, DeliveryError, Dispatch, Outbox, client_tls};
use crate::alert::{AlertState, Notice, Record};
use crate::collect::{Answer, Miss};
use crate::config::{ChannelConfig, ChannelKind, Config};
use crate::metrics::MonitorMetrics;
use crate::monitor::{Monitor, Parts};
use crate::roster::{Report, tests::at};
use crate::rule::CHANNEL_FAILING;
use crate::store::{self, Opened, Writer};
use crate::target::Target;

const CHANNELS: [&str; 2] = ["first", "second"];
/// More than any of these histories has: everything that waits.
const ALL: usize = 10_000;

/// What happens next.
#[derive(Debug, Clone)]
enum Step {
    /// A second passes; all targets are looked at, two of which are there or not, and the rules.
    Second([bool; 2]),
    /// So many of the writes that wait are committed, and what they tell is handed over.
    Commit(usize),
    /// A channel sends one message, which arrives or does not.
    Send(usize, bool),
    /// The process dies, and another one starts.
    Die(Moment),
}

/// When the process dies.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// With whatever is queued not committed.
    Idle,
    /// Right after so many writes were committed, before what they tell was handed over.
    Committed(usize),
    /// Right after a message of a channel has arrived, before that was noted.
    Arrived(usize),
    /// Right after it was noted in memory, before the note was committed.
    Noted(usize),
}

/// One process after the other, and what people got.
struct World {
    folder: TempDir,
    generation: usize,
    clock: Clock,
    hand: ClockHandle,
    tls: Arc<rustls::ClientConfig>,
    process: Process,
    received: Vec<(usize, Record)>,
    n_deaths: usize,
}

struct Process {
    _cx: Context,
    config: Config,
    path: PathBuf,
    targets: Vec<Arc<Target>>,
    monitor: Monitor,
    writer: Writer,
    outbox: Outbox,
    dispatches: Vec<Dispatch>,
}

fn config(path: &std::path::Path) -> Config {
    let mut config = Config::default();
    config.targets.retain(|name, _| name != "edge-gateway");
    config.alerts.missing_for = Duration::from_secs(1);
    config.alerts.clear_for = Duration::from_secs(1);
    path.clone_into(&mut config.store.path);
    let log = ChannelConfig { kind: ChannelKind::Log, ..ChannelConfig::default() };
    config.notify.channels = CHANNELS.map(|name| (name.to_owned(), log.clone())).into();
    config
}

impl Process {
    fn start(path: PathBuf, clock: &Clock, tls: &Arc<rustls::ClientConfig>) -> Self {
        let config = config(&path);
        let metrics = MonitorMetrics::register(&mut prometheus_client::registry::Registry::default());
        let opened = store::open(&config.store, metrics.clone(), clock.now()).expect("the file is whole");
        let Opened { store, writer, restored } = opened;
        assert!(
            path.exists() && fs::read_dir(path.parent().unwrap()).unwrap().count() <= 3,
            "none set aside"
        );
        let outbox = Outbox::new(&config.notify, metrics.clone());
        let cx = Context::for_test_at("monitor-service", clock.clone());
        let dispatch = |name: &&str| Dispatch {
            channel: Arc::new(Channel::new(name, &config.notify.channels[*name], Arc::clone(tls))),
            outbox: outbox.clone(),
            store: store.clone(),
            shared: None,
            component: cx.component(format!("channel.{name}"), ComponentKind::Upstream, false),
            clock: clock.clone(),
            config: config.notify.clone(),
            stopping: cx.stopping(),
        };
        let dispatches = CHANNELS.iter().map(dispatch).collect();
        let (config_of, outbox_of, clock) = (config.clone(), outbox.clone(), clock.clone());
        let parts =
            Parts { config: config_of, clock, metrics, store, outbox: outbox_of, imported: Vec::new() };
        let (targets, monitor) = (config.all_targets(), Monitor::new(parts, restored));
        Self { _cx: cx, config, path, targets, monitor, writer, outbox, dispatches }
    }

    /// Looks at all targets: the first two are there or not, the last is.
    fn look(&self, are_there: [bool; 2], now: SystemTime) {
        for (target, is_there) in self.targets.iter().zip(are_there.into_iter().chain([true])) {
            if is_there {
                let report = Report::of_stranger(now, Duration::from_millis(1), String::new(), Vec::new());
                self.monitor.answered(target, Answer { report, metrics: Ok(Exposition::default()) });
            } else {
                self.monitor.missed(target, Miss { reason: "refused".to_owned(), ..Miss::default() });
            }
        }
        self.monitor.evaluate();
    }

    /// Returns what a channel has to send next.
    fn next(&self, channel: usize) -> Vec<Record> {
        let queue = &self.outbox.queues[CHANNELS[channel]];
        let groups = Groups::new(&self.config.notify.channels[CHANNELS[channel]]);
        match queue.next(&groups, tokio::time::Instant::now()) {
            Next::Tell(_, records) => records,
            Next::At(_) | Next::Nothing => Vec::new(),
        }
    }

    /// Notes how an attempt went.
    fn note(&self, channel: usize, records: &[Record], arrived: bool) {
        let queue = &self.outbox.queues[CHANNELS[channel]];
        let sent = if arrived { Ok(()) } else { Err(DeliveryError::Late(Duration::from_secs(5))) };
        let mut backoff = Backoff::try_new(Duration::from_secs(1), Duration::from_secs(2)).expect("legal");
        self.dispatches[channel].settle(queue, records, sent, &mut backoff);
    }
}

impl World {
    fn new() -> Self {
        let folder = TempDir::new().expect("a folder");
        let (clock, hand) = Clock::fixed(at(0));
        let tls = client_tls().expect("a configuration");
        let process = Process::start(folder.path().join("0/monitor.db"), &clock, &tls);
        Self { folder, generation: 0, clock, hand, tls, process, received: Vec::new(), n_deaths: 0 }
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Second(are_there) => {
                self.hand.advance(Duration::from_secs(1));
                self.process.look(are_there, self.clock.now());
            }
            Step::Commit(n) => {
                self.process.writer.commit_some(n, self.clock.now(), &self.process.outbox, true);
            }
            Step::Send(channel, arrives) => {
                self.send(channel, arrives, true);
            }
            Step::Die(moment) => self.die(moment),
        }
    }

    /// Sends what is next; returns whether there was anything.
    fn send(&mut self, channel: usize, arrives: bool, is_noted: bool) -> bool {
        let records = self.process.next(channel);
        if arrives {
            self.received.extend(records.iter().map(|record| (channel, record.clone())));
        }
        if is_noted && !records.is_empty() {
            self.process.note(channel, &records, arrives);
        }
        !records.is_empty()
    }

    fn die(&mut self, moment: Moment) {
        match moment {
            Moment::Idle => {}
            Moment::Committed(n) => {
                self.process.writer.commit_some(n, self.clock.now(), &self.process.outbox, false);
            }
            Moment::Arrived(channel) => drop(self.send(channel, true, false)),
            Moment::Noted(channel) => drop(self.send(channel, true, true)),
        }
        self.generation += 1;
        self.n_deaths += 1;
        let next = self.folder.path().join(self.generation.to_string());
        fs::create_dir(&next).expect("the folder is ours");
        for name in ["monitor.db", "monitor.db-wal"] {
            // As they lie: nothing was closed. The log is absent while nothing was written.
            let from = self.process.path.with_file_name(name);
            if from.exists() {
                fs::copy(from, next.join(name)).expect("the disk has room");
            }
        }
        self.process = Process::start(next.join("monitor.db"), &self.clock, &self.tls);
    }

    /// Goes on without a death until there is nothing left to do.
    fn come_to_rest(&mut self, are_there: [bool; 2]) {
        for _ in 0..5 {
            self.take(&Step::Second(are_there));
            loop {
                self.take(&Step::Commit(ALL));
                let sent = [self.send(0, true, true), self.send(1, true, true)];
                if sent == [false, false] {
                    break;
                }
            }
        }
    }

    /// Returns what is on record, and checks that nothing waits.
    fn on_record(&self) -> Vec<Record> {
        let opened =
            store::open(&self.process.config.store, metrics(), self.clock.now()).expect("the file is whole");
        assert!(opened.restored.deliveries.is_empty(), "{:?}", opened.restored.deliveries);
        opened.restored.records
    }
}

fn metrics() -> MonitorMetrics {
    MonitorMetrics::register(&mut prometheus_client::registry::Registry::default())
}

/// Checks that each alert went its way once: no state twice, none left out.
fn check_ways(records: &[Record]) -> Result<(), TestCaseError> {
    let mut ways: BTreeMap<_, Vec<&str>> = BTreeMap::new();
    for record in records {
        ways.entry(record.alert.id).or_default().push(&record.change);
    }
    let ids: BTreeSet<u64> = records.iter().map(|record| record.id).collect();
    prop_assert_eq!(ids.len(), records.len(), "a number twice");
    for way in ways.values() {
        let states: Vec<&str> = way.iter().copied().filter(|change| *change != "released").collect();
        let legal = |pair: &[&str]| match pair[0] {
            "started" => ["fired", "withdrawn"].contains(&pair[1]),
            "fired" | "relapsed" => pair[1] == "recovering",
            "recovering" => ["relapsed", "resolved"].contains(&pair[1]),
            _ => false,
        };
        prop_assert!(states[0] == "started" && states.windows(2).all(legal), "{:?}", way);
        prop_assert!(["resolved", "withdrawn"].contains(states.last().unwrap()), "not over: {:?}", way);
    }
    Ok(())
}

/// Checks that people got what is on record: all of it, nothing else, and each transition under one number.
fn check_received(world: &World, records: &[Record]) -> Result<(), TestCaseError> {
    let is_told = |record: &&Record| {
        let told = ["fired", "resolved", "released"].contains(&&*record.change);
        told && record.alert.notice == Notice::Sent
    };
    for (channel, name) in CHANNELS.into_iter().enumerate() {
        // That a channel fails is told through the other one.
        let is_own =
            |record: &&Record| record.alert.key.rule == CHANNEL_FAILING && record.alert.key.subject == name;
        let told = records.iter().filter(is_told).filter(|record| !is_own(record));
        let told: BTreeMap<u64, &Record> = told.map(|record| (record.id, record)).collect();
        let of_channel = world.received.iter().filter(|(of, _)| *of == channel);
        let got: BTreeMap<u64, &Record> = of_channel.clone().map(|(_, record)| (record.id, record)).collect();
        prop_assert_eq!(&got, &told, "channel {}", channel);
        let transitions: BTreeSet<_> =
            got.values().map(|record| (record.alert.id, record.change.clone())).collect();
        prop_assert_eq!(transitions.len(), got.len(), "one transition under two numbers");
        let n_again = of_channel.count() - got.len();
        prop_assert!(world.n_deaths > 0 || n_again == 0, "{} told again, and nobody died", n_again);
    }
    Ok(())
}

fn step() -> impl Strategy<Value = Step> {
    let channel = || 0..CHANNELS.len();
    let moment = prop_oneof![
        Just(Moment::Idle),
        (1..4_usize).prop_map(Moment::Committed),
        channel().prop_map(Moment::Arrived),
        channel().prop_map(Moment::Noted),
    ];
    prop_oneof![
        6 => any::<[bool; 2]>().prop_map(Step::Second),
        4 => (1..4_usize).prop_map(Step::Commit),
        4 => (channel(), prop::bool::weighted(0.8)).prop_map(|(channel, arrives)| Step::Send(channel, arrives)),
        2 => moment.prop_map(Step::Die),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn no_transition_is_lost_or_doubled_wherever_the_process_dies(
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let _inside = runtime.enter();
        let mut world = World::new();
        for step in &steps {
            world.take(step);
        }
        // What is down at the end is told, whatever became of the beginning, and so is its end.
        world.come_to_rest([false, false]);
        let n_told = world.received.len();
        let firing: BTreeSet<_> = world.process.monitor.alerts(&Default::default(), None, ALL).alerts
            .into_iter().filter(|alert| alert.state == AlertState::Firing)
            .filter(|alert| alert.key.rule != CHANNEL_FAILING).map(|alert| alert.key.source).collect();
        prop_assert_eq!(firing.len(), 2, "two are down: {:?}", firing);
        world.come_to_rest([true, true]);
        prop_assert!(world.received.len() >= n_told, "what was told stays told");
        let records = world.on_record();
        check_ways(&records)?;
        check_received(&world, &records)?;
    }
}

/// The same, step by step, for each moment: a table that a change of the strategy above cannot thin out.
#[test]
fn each_moment_of_death_leaves_one_transition_and_no_hole() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _inside = runtime.enter();
    let fires = [Step::Second([false, true]), Step::Second([false, true])];
    let (commit, send) = (Step::Commit(ALL), Step::Send(0, true));
    let table: [(&str, Vec<Step>, usize); 6] = [
        ("queued", vec![Step::Die(Moment::Idle)], 1),
        ("committed in part", vec![Step::Die(Moment::Committed(1))], 1),
        ("committed, not handed over", vec![Step::Die(Moment::Committed(ALL))], 1),
        ("handed over, not sent", vec![commit.clone(), Step::Die(Moment::Idle)], 1),
        ("arrived, not noted", vec![commit.clone(), Step::Die(Moment::Arrived(0))], 2),
        ("noted, the note not committed", vec![commit, send, Step::Die(Moment::Idle)], 2),
    ];
    for (name, steps, n_received) in table {
        let mut world = World::new();
        fires.iter().chain(&steps).for_each(|step| world.take(step));
        world.come_to_rest([false, true]);
        let of_first = world.received.iter().filter(|(channel, _)| *channel == 0);
        let ids: BTreeSet<u64> = of_first.clone().map(|(_, record)| record.id).collect();
        assert_eq!((ids.len(), of_first.count()), (1, n_received), "{name}");
        world.come_to_rest([true, true]);
        let records = world.on_record();
        check_ways(&records).and_then(|()| check_received(&world, &records)).expect(name);
        let n_fired = records.iter().filter(|record| record.change == "fired").count();
        assert_eq!(n_fired, 1, "{name}");
    }
}
