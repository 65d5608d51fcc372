//! Telling operators live what happens: connections, subscriptions, publications, commands.
//!
//! Nobody waits for whoever watches, and when nobody does, an event costs one look at a counter.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::SystemTime;

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use uuid::Uuid;

use crate::channel::Channel;
use crate::hub::Connection;
use crate::journey::Step;
use crate::protocol::Method;
use crate::publication::ClientInfo;

/// Most who watch at once.
const MAX_WATCHERS: usize = 16;
/// Events that wait for one of them.
const MAX_WAITING: usize = 1_024;

/// Those who watch.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    n_watching: AtomicUsize,
    watching: Mutex<Vec<Arc<Watcher>>>,
    figures: WatchFigures,
}

/// What is counted about watching.
#[derive(Clone, Debug, Default)]
pub(crate) struct WatchFigures {
    pub(crate) watchers: Gauge,
    pub(crate) missed: Counter,
}

/// What somebody wants to see. Empty texts fit everything.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interest {
    pub(crate) client: Option<Uuid>,
    pub(crate) user: Box<str>,
    pub(crate) channel: Box<str>,
    /// None means all.
    pub(crate) kinds: Vec<Kind>,
    /// Only one of so many events; 0 and 1 mean each.
    pub(crate) one_of: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Connected,
    Disconnected,
    Subscribed,
    Unsubscribed,
    Published,
    Command,
}

/// What happens.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Happening<'a> {
    Connected,
    Disconnected { code: u16 },
    Subscribed { channel: &'a Channel, was_recovering: bool, recovered: bool },
    Unsubscribed { channel: &'a Channel },
    Published { channel: &'a Channel, receivers: u64, offset: u64 },
    Command { method: Method, code: u32 },
}

/// To whom it happens; nobody, when a server publishes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Subject<'a> {
    pub(crate) client: Option<Uuid>,
    pub(crate) user: &'a str,
}

/// An event as it is told.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) kind: Kind,
    pub(crate) at: SystemTime,
    pub(crate) client: Option<Uuid>,
    pub(crate) user: Box<str>,
    pub(crate) channel: Box<str>,
    pub(crate) code: u32,
    pub(crate) command: &'static str,
    pub(crate) receivers: u64,
    pub(crate) offset: u64,
    pub(crate) was_recovering: bool,
    pub(crate) recovered: bool,
    /// Events before this one that did not fit.
    pub(crate) missed: u64,
}

#[derive(Debug)]
struct Watcher {
    interest: Interest,
    events_tx: mpsc::Sender<Event>,
    n_fitting: AtomicU64,
    missed: AtomicU64,
}

/// What somebody sees. Dropping it ends the watching.
#[derive(Debug)]
pub(crate) struct Watch {
    watchers: Arc<Watchers>,
    watcher: Arc<Watcher>,
    events: mpsc::Receiver<Event>,
}

/// Says that so many watch already that one more is too many.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TooManyWatchers;

impl Watchers {
    pub(crate) fn new(figures: WatchFigures) -> Arc<Self> {
        Arc::new(Self { figures, ..Self::default() })
    }

    /// Begins to watch.
    pub(crate) fn watch(self: &Arc<Self>, interest: Interest) -> Result<Watch, TooManyWatchers> {
        let mut watching = self.watching.lock();
        if watching.len() >= MAX_WATCHERS {
            return Err(TooManyWatchers);
        }
        let (events_tx, events) = mpsc::channel(MAX_WAITING);
        let (n_fitting, missed) = (AtomicU64::new(0), AtomicU64::new(0));
        let watcher = Arc::new(Watcher { interest, events_tx, n_fitting, missed });
        watching.push(Arc::clone(&watcher));
        self.count(watching.len());
        drop(watching);
        Ok(Watch { watchers: Arc::clone(self), watcher, events })
    }

    /// Tells whoever wants to know what happens.
    pub(crate) fn tell(
        &self,
        at: impl FnOnce() -> SystemTime,
        subject: Subject<'_>,
        happening: Happening<'_>,
    ) {
        if self.n_watching.load(Ordering::Relaxed) == 0 {
            return;
        }
        let event = Event::new(at(), subject, happening);
        for watcher in &*self.watching.lock() {
            if watcher.interest.fits(&event) && !watcher.take(event.clone()) {
                self.figures.missed.inc();
            }
        }
    }

    fn forget(&self, watcher: &Arc<Watcher>) {
        let mut watching = self.watching.lock();
        watching.retain(|one| !Arc::ptr_eq(one, watcher));
        self.count(watching.len());
    }

    fn count(&self, n_watching: usize) {
        self.n_watching.store(n_watching, Ordering::Relaxed);
        self.figures.watchers.set(n_watching as i64);
    }
}

impl Interest {
    fn fits(&self, event: &Event) -> bool {
        let fits = |wanted: &str, text: &str| wanted.is_empty() || wanted == text;
        (self.kinds.is_empty() || self.kinds.contains(&event.kind))
            && (self.client.is_none() || self.client == event.client)
            && fits(&self.user, &event.user)
            && fits(&self.channel, &event.channel)
    }
}

impl Watcher {
    /// Queues an event, unless it is one of those left out; false when there is no room for it.
    fn take(&self, mut event: Event) -> bool {
        let n_earlier = self.n_fitting.fetch_add(1, Ordering::Relaxed);
        if !n_earlier.is_multiple_of(u64::from(self.interest.one_of.max(1))) {
            return true;
        }
        event.missed = self.missed.swap(0, Ordering::Relaxed);
        match self.events_tx.try_send(event) {
            Ok(()) | Err(TrySendError::Closed(_)) => true,
            Err(TrySendError::Full(event)) => {
                self.missed.fetch_add(event.missed + 1, Ordering::Relaxed);
                false
            }
        }
    }
}

impl Watch {
    pub(crate) async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.watchers.forget(&self.watcher);
    }
}

impl<'a> Happening<'a> {
    /// Returns what it is on the way of a client; none when it is no part of that, or is noted where the client asks for it.
    pub(crate) fn step(&self) -> Option<(Step, Option<&'a Channel>)> {
        match *self {
            Self::Connected => Some((Step::Connected, None)),
            Self::Disconnected { code } => Some((Step::Disconnected { code }, None)),
            Self::Subscribed { channel, .. } => Some((Step::Subscribed, Some(channel))),
            Self::Unsubscribed { channel } => Some((Step::Unsubscribed, Some(channel))),
            Self::Published { .. } | Self::Command { .. } => None,
        }
    }
}

impl<'a> From<&'a Connection> for Subject<'a> {
    fn from(connection: &'a Connection) -> Self {
        Self { client: Some(connection.client), user: connection.user().unwrap_or_default() }
    }
}

impl<'a> From<&'a ClientInfo> for Subject<'a> {
    fn from(info: &'a ClientInfo) -> Self {
        Self { client: Some(info.client), user: &info.user }
    }
}

impl Event {
    fn new(at: SystemTime, subject: Subject<'_>, happening: Happening<'_>) -> Self {
        let mut event = Self {
            kind: Kind::Connected,
            at,
            client: subject.client,
            user: subject.user.into(),
            channel: Box::default(),
            code: 0,
            command: "",
            receivers: 0,
            offset: 0,
            was_recovering: false,
            recovered: false,
            missed: 0,
        };
        let channel = match happening {
            Happening::Connected => None,
            Happening::Disconnected { code } => {
                (event.kind, event.code) = (Kind::Disconnected, code.into());
                None
            }
            Happening::Subscribed { channel, was_recovering, recovered } => {
                event.kind = Kind::Subscribed;
                (event.was_recovering, event.recovered) = (was_recovering, recovered);
                Some(channel)
            }
            Happening::Unsubscribed { channel } => {
                event.kind = Kind::Unsubscribed;
                Some(channel)
            }
            Happening::Published { channel, receivers, offset } => {
                (event.kind, event.receivers, event.offset) = (Kind::Published, receivers, offset);
                Some(channel)
            }
            Happening::Command { method, code } => {
                (event.kind, event.command, event.code) = (Kind::Command, method.as_str(), code);
                None
            }
        };
        event.channel = channel.map(|channel| channel.as_str().into()).unwrap_or_default();
        event
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tell(watchers: &Watchers, user: &str, happening: Happening<'_>) {
        watchers.tell(|| SystemTime::UNIX_EPOCH, Subject { client: None, user }, happening);
    }

    fn seen(watch: &mut Watch) -> Vec<(String, u64)> {
        std::iter::from_fn(|| watch.events.try_recv().ok())
            .map(|event| (format!("{:?} {}{}", event.kind, event.user, event.channel), event.missed))
            .collect()
    }

    #[test]
    fn everybody_sees_what_they_asked_for() {
        let watchers = Watchers::new(WatchFigures::default());
        let channel = Channel::parse("news", 9).unwrap();
        let mut all = watchers.watch(Interest::default()).unwrap();
        let mut ann = watchers.watch(Interest { user: "ann".into(), ..Interest::default() }).unwrap();
        let of_channel = Interest {
            channel: "news".into(),
            kinds: vec![Kind::Unsubscribed, Kind::Connected],
            ..Interest::default()
        };
        let mut news = watchers.watch(of_channel).unwrap();
        tell(&watchers, "ann", Happening::Connected);
        tell(&watchers, "bob", Happening::Unsubscribed { channel: &channel });
        tell(&watchers, "", Happening::Published { channel: &channel, receivers: 1, offset: 0 });
        assert_eq!(seen(&mut all).len(), 3);
        assert_eq!(seen(&mut ann), [("Connected ann".to_owned(), 0)]);
        assert_eq!(seen(&mut news), [("Unsubscribed bobnews".to_owned(), 0)]);
        drop((all, ann, news));
        assert_eq!(watchers.n_watching.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn who_is_too_slow_is_told_how_much_was_missed() {
        let watchers = Watchers::new(WatchFigures::default());
        let mut watch = watchers.watch(Interest::default()).unwrap();
        for _ in 0..MAX_WAITING + 5 {
            tell(&watchers, "ann", Happening::Connected);
        }
        assert_eq!(watchers.figures.missed.get(), 5);
        assert!(seen(&mut watch).iter().all(|(_, missed)| *missed == 0));
        tell(&watchers, "ann", Happening::Connected);
        assert_eq!(seen(&mut watch), [("Connected ann".to_owned(), 5)]);
    }

    #[test]
    fn samples_and_numbers_are_bounded() {
        let watchers = Watchers::new(WatchFigures::default());
        let mut some = watchers.watch(Interest { one_of: 10, ..Interest::default() }).unwrap();
        let others: Vec<_> =
            (1..MAX_WATCHERS).map(|_| watchers.watch(Interest::default()).unwrap()).collect();
        assert!(watchers.watch(Interest::default()).is_err());
        for _ in 0..100 {
            tell(&watchers, "ann", Happening::Connected);
        }
        assert_eq!(seen(&mut some).len(), 10);
        drop(others);
        assert!(watchers.watch(Interest::default()).is_ok());
    }
}
