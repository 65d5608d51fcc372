//! Runs one feed: takes its turn, connects, reads, publishes, and begins again.

use std::sync::Arc;
use std::time::Duration;

use mainstay_proto::realtime::v1::FeedState;
use mainstay_runtime::Context;
use parking_lot::Mutex;
use sha1::{Digest as _, Sha1};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::lease::{Lease, hex};
use super::order::{Limits, Mark, Order, Step};
use super::outlet::Outlet;
use super::place::Place;
use super::pool::Pool;
use super::read::Told;
use super::source::{Broken, Sent, Source};
use super::{Feed, Figures};
use crate::error::Refusal;

/// How long to wait while every source is left alone.
const NOBODY_FOR: Duration = Duration::from_millis(250);
/// Pause before a message is published once more.
const AGAIN_AFTER: Duration = Duration::from_millis(200);
/// What may wait for missing numbers.
const HOLD_BYTES: usize = 8 << 20;
/// A longer id is stood for by its digest, and is no place to go on from.
const MAX_ID_BYTES: usize = 60;
const MAX_EVENT_ID_BYTES: usize = 1_024;

/// A feed at work.
pub(super) struct Runner {
    pub(super) feed: Arc<Feed>,
    pub(super) outlet: Arc<Outlet>,
    pub(super) lease: Lease,
    pub(super) cx: Context,
}

/// What lives as long as a lease is held.
struct Turn<'a> {
    runner: &'a Runner,
    pool: Pool,
    order: Order<Told>,
    /// How far it got; who keeps the lease reads it.
    place: &'a Mutex<Place>,
}

impl Runner {
    /// Runs until `ends`, whenever it is this node's turn.
    pub(super) async fn run(self, ends: CancellationToken) {
        let place = Mutex::new(Place::default());
        let at_work = ends.run_until_cancelled(async {
            loop {
                let held = self.lease.taken(|holder| self.held_by(holder)).await;
                if let Some(known) = held.place.clone() {
                    *place.lock() = known;
                }
                let mut turn = Turn::new(&self, &place);
                tokio::select! {
                    biased;
                    () = self.lease.kept(&held, || place.lock().clone()) => {}
                    () = turn.connect_again_and_again() => {}
                }
                self.held_by("");
                self.enter(FeedState::Standby);
            }
        });
        at_work.await;
        self.held_by("");
        self.enter(FeedState::Standby);
        if self.feed.is_gone() {
            self.feed.metrics.feeds.forget(&self.feed.name);
        }
        let place = place.lock().clone();
        self.lease.give_back(&place).await;
    }

    fn held_by(&self, holder: &str) {
        self.feed.note(|figures| holder.clone_into(&mut figures.holder));
    }

    fn enter(&self, state: FeedState) {
        self.feed.enter(state, self.cx.clock().now());
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.feed
                .note(|figures| "it broke, which is a fault of ours".clone_into(&mut figures.last_failure));
            self.enter(FeedState::Unusable);
        }
    }
}

impl<'a> Turn<'a> {
    fn new(runner: &'a Runner, place: &'a Mutex<Place>) -> Self {
        let config = &runner.feed.config;
        let limits = Limits {
            window: config.window as usize,
            hold: config.hold as usize,
            hold_bytes: HOLD_BYTES,
            hold_for: config.hold_for,
            renumbered_after: config.renumbered_after,
        };
        let last = place.lock().number.filter(|_| !config.sequence_per_connection);
        Self { runner, pool: Pool::new(config), order: Order::new(limits, last), place }
    }

    async fn connect_again_and_again(&mut self) {
        let feed = &self.runner.feed;
        self.show_breakers();
        loop {
            let Some((index, permit)) = self.pool.choose(Instant::now().into_std()) else {
                self.runner.enter(FeedState::Waiting);
                sleep(NOBODY_FOR).await;
                continue;
            };
            let (began_at, shown) = (Instant::now(), feed.endpoints[index].shown());
            feed.note(|figures| figures.endpoint = shown);
            self.runner.enter(FeedState::Connecting);
            let mut permit = Some(permit);
            let broken = self
                .serve(index, |pool| {
                    if let Some(permit) = permit.take() {
                        let now = Instant::now();
                        pool.worked(index, permit, now - began_at, now.into_std());
                    }
                })
                .await;
            let now = Instant::now();
            let (took, unit) = (now - began_at, rand::random());
            let wait = match permit.take() {
                Some(permit) => self.pool.failed(index, permit, took, now.into_std(), unit),
                None => self.pool.broke(index, took, unit),
            };
            self.failed(&broken);
            self.runner.enter(FeedState::Waiting);
            sleep(wait).await;
        }
    }

    fn failed(&self, broken: &Broken) {
        let (feed, failure) = (&self.runner.feed, broken.in_full());
        tracing::debug!(feed = feed.name, failure, "a source of a feed failed");
        feed.metrics.feeds.failed(&feed.name);
        feed.note(|figures| {
            figures.failures += 1;
            figures.last_failure = failure;
        });
        self.show_breakers();
    }

    fn show_breakers(&self) {
        let states = self.pool.states(Instant::now().into_std());
        self.runner.feed.note(|figures| figures.breakers = states);
    }

    /// Reads from one source until it fails. `works` is called whenever it sends anything.
    async fn serve(&mut self, index: usize, mut works: impl FnMut(&mut Pool)) -> Broken {
        let (feed, config) = (&self.runner.feed, &self.runner.feed.config);
        if config.sequence_per_connection {
            let step = self.order.begin_anew();
            self.go_on(step).await;
        }
        let after = self.place.lock().event_id.clone();
        let open = Source::open(&feed.endpoints[index], config, &after, &self.runner.cx);
        let mut source = match timeout(config.connect_within, open).await {
            Ok(Ok(source)) => source,
            Ok(Err(broken)) => return broken,
            Err(_) => return Broken::Late,
        };
        if let Err(broken) = self.subscribe(&mut source).await {
            return broken;
        }
        let (mut heard_at, mut message_at) = (Instant::now(), Instant::now());
        let mut ping_at = heard_at + config.ping_every;
        loop {
            let waited_at = self.order.next_at();
            let has_end = !config.no_message_for.is_zero();
            let sent = tokio::select! {
                biased;
                sent = source.next() => sent,
                () = sleep_until(message_at + config.no_message_for), if has_end => return Broken::NoMessage,
                () = sleep_until(heard_at + config.silent_for) => return Broken::Silent,
                () = sleep_until(waited_at.unwrap_or(heard_at)), if waited_at.is_some() => {
                    let step = self.order.on_timer(Instant::now());
                    self.go_on(step).await;
                    continue;
                }
                () = sleep_until(ping_at) => {
                    ping_at = Instant::now() + config.ping_every;
                    match timeout(config.silent_for, source.ping(&config.heartbeat)).await {
                        Ok(Ok(())) => continue,
                        Ok(Err(broken)) => return broken,
                        Err(_) => return Broken::Silent,
                    }
                }
            };
            let sent = match sent {
                Ok(sent) => sent,
                Err(broken) => return broken,
            };
            works(&mut self.pool);
            self.runner.enter(FeedState::Live);
            // A flood must keep nothing from its time.
            let late = self.order.on_timer(Instant::now());
            self.go_on(late).await;
            if let Sent::Message(event) = sent {
                let is_gap = self.take(feed.read(event)).await;
                if is_gap && let Err(broken) = self.ask_again(&mut source).await {
                    return broken;
                }
                message_at = Instant::now();
            } else if has_end && message_at.elapsed() >= config.no_message_for {
                return Broken::NoMessage;
            }
            // What came while this was published counts from here.
            heard_at = Instant::now();
        }
    }

    /// Tells a source what is wanted of it.
    async fn subscribe(&self, source: &mut Source) -> Result<(), Broken> {
        let (config, after) = (&self.runner.feed.config, self.order.last().to_string());
        for text in &config.subscribe {
            let said = source.say(text.expose().replace("{after}", &after));
            timeout(config.connect_within, said).await.map_err(|_| Broken::Silent)??;
        }
        Ok(())
    }

    /// Asks for what is missing; a source that does not listen is connected to again, after the last that is there.
    async fn ask_again(&self, source: &mut Source) -> Result<(), Broken> {
        if source.listens() { self.subscribe(source).await } else { Err(Broken::Gap) }
    }

    /// Takes a message; true when others are missing before it.
    async fn take(&mut self, told: Option<Told>) -> bool {
        let (feed, now) = (&self.runner.feed, self.runner.cx.clock().now());
        feed.note(|figures| {
            figures.received += 1;
            figures.last_message_at = Some(now);
        });
        let Some(mut told) = told else {
            self.count("rejected", |figures| &mut figures.rejected, 1);
            return false;
        };
        if let Some(id) = told.id.as_mut().filter(|id| id.len() > MAX_ID_BYTES) {
            *id = hex(&Sha1::digest(id.as_bytes()));
        }
        let (id, number, len_bytes) = (told.id.clone(), told.number, told.data.len());
        let mark = Mark { id: id.as_deref(), number, len_bytes };
        let step = self.order.take(mark, told, Instant::now());
        if step.is_duplicate {
            self.count("duplicate", |figures| &mut figures.duplicates, 1);
        }
        let (feed, is_gap) = (&self.runner.feed, step.is_gap);
        if is_gap {
            feed.metrics.feeds.gap(&feed.name);
            feed.note(|figures| figures.gaps += 1);
        }
        if step.is_renumbered {
            tracing::info!(feed = feed.name, "the source of a feed counts anew");
            feed.note(|figures| figures.renumbered += 1);
            let unix_s = self.runner.cx.clock().unix_s();
            let mut place = self.place.lock();
            place.numbering = unix_s.max(place.numbering + 1);
        }
        self.go_on(step).await;
        is_gap
    }

    /// Publishes what is in order. Nothing is read from the source meanwhile, so nothing piles up here.
    async fn go_on(&self, step: Step<Told>) {
        if step.missed > 0 {
            self.count("missed", |figures| &mut figures.missed, step.missed);
        }
        for told in step.ready {
            match self.publish(&told).await {
                Ok(()) => self.count("published", |figures| &mut figures.published, 1),
                Err(refusal) => {
                    let name = &self.runner.feed.name;
                    tracing::debug!(feed = name, %refusal, "a message of a feed is not published");
                    self.count("rejected", |figures| &mut figures.rejected, 1);
                }
            }
            let mut place = self.place.lock();
            place.number = told.number.or(place.number);
            if !told.event_id.is_empty() && told.event_id.len() <= MAX_EVENT_ID_BYTES {
                place.event_id = told.event_id;
            }
        }
    }

    /// Publishes one message, however long that takes: the lease ends when Redis is away, and whoever has it next begins
    /// with this message.
    async fn publish(&self, told: &Told) -> Result<(), Refusal> {
        let config = &self.runner.feed.config;
        let key = self.key(told);
        loop {
            match self.runner.outlet.publish(&config.channel, &told.data, &key).await {
                Err(Refusal::RedisUnavailable) => {}
                // With a key it is not published twice.
                Err(Refusal::PublishUnknown) if !key.is_empty() => {}
                outcome => return outcome,
            }
            sleep(AGAIN_AFTER).await;
        }
    }

    /// Returns what tells a message from all others; empty when nothing does.
    fn key(&self, told: &Told) -> String {
        let (feed, numbering) = (&self.runner.feed, self.place.lock().numbering);
        match (&told.id, told.number) {
            (Some(id), _) => format!("f:{}:{id}", feed.name),
            (None, Some(number)) if !feed.config.sequence_per_connection => {
                format!("f:{}:{numbering}:{number}", feed.name)
            }
            _ => String::new(),
        }
    }

    fn count(&self, outcome: &'static str, figure: impl FnOnce(&mut Figures) -> &mut u64, times: u64) {
        let feed = &self.runner.feed;
        feed.metrics.feeds.count(&feed.name, outcome, times);
        feed.note(|figures| {
            let figure = figure(figures);
            *figure = figure.saturating_add(times);
        });
    }
}
