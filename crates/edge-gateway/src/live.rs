//! Live figures: asked for once, rendered once, sent to everybody who watches.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;

use bytes::Bytes;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::broadcast;
use tokio::time::Instant;

/// Events a watcher may be behind; one that is further behind goes on with the newest.
const MAX_BEHIND: usize = 32;
/// Alert changes kept for watchers that come back.
const KEPT_CHANGES: usize = 256;
/// Figures younger than this greet a new watcher.
const FRESH_MS: u128 = 3_000;

/// One event as it goes over the wire.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    id: u64,
    pub(crate) text: Bytes,
}

/// What is told of an alert: the words that change, and the whole as JSON.
pub(crate) struct AlertNow {
    pub(crate) id: String,
    pub(crate) phase: String,
    pub(crate) json: String,
}

/// Everything that watchers share.
pub(crate) struct Live {
    told: Mutex<Told>,
    news: broadcast::Sender<Event>,
}

#[derive(Default)]
struct Told {
    last_id: u64,
    figures: Option<(Instant, Event)>,
    changes: VecDeque<Event>,
    /// Phase of each alert when it was last told of; nothing before the first look.
    phases: Option<HashMap<String, String>>,
}

/// What one watcher gets: what it missed, then what comes.
pub(crate) struct Watch {
    pub(crate) missed: VecDeque<Event>,
    pub(crate) coming: broadcast::Receiver<Event>,
}

impl Default for Live {
    fn default() -> Self {
        Self { told: Mutex::default(), news: broadcast::Sender::new(MAX_BEHIND) }
    }
}

impl Live {
    /// Says whether anybody watches: without a watcher nothing is asked of the services.
    pub(crate) fn is_watched(&self) -> bool {
        self.news.receiver_count() > 0
    }

    /// Begins to watch; `after` is the id of the last event that this watcher saw.
    pub(crate) fn watch(&self, after: Option<u64>) -> Watch {
        // Under the lock, so that no event falls between what was missed and what comes.
        let told = self.told.lock();
        let coming = self.news.subscribe();
        let after = after.unwrap_or(u64::MAX);
        let mut missed: VecDeque<Event> =
            told.changes.iter().filter(|event| event.id > after).cloned().collect();
        let figures = told.figures.as_ref().filter(|(at, _)| at.elapsed().as_millis() < FRESH_MS);
        missed.extend(figures.map(|(_, event)| event.clone()));
        Watch { missed, coming }
    }

    /// Tells everybody the figures, and before them how alerts changed since the last time.
    pub(crate) fn tell(&self, figures: &impl Serialize, alerts: Option<Vec<AlertNow>>, unix_ms: u64) {
        let figures = serde_json::to_string(figures).expect("figures always serialize");
        let mut told = self.told.lock();
        for change in told.changed(alerts) {
            let event = told.event("alert", &change, unix_ms);
            if told.changes.len() == KEPT_CHANGES {
                told.changes.pop_front();
            }
            told.changes.push_back(event.clone());
            self.send(event);
        }
        let event = told.event("figures", &figures, unix_ms);
        told.figures = Some((Instant::now(), event.clone()));
        self.send(event);
    }

    fn send(&self, event: Event) {
        // An error says that the last watcher has just gone: nobody misses the event.
        let _ = self.news.send(event);
    }
}

impl Told {
    /// Compares with what was told last; the first look only learns, and a missing answer changes nothing.
    fn changed(&mut self, alerts: Option<Vec<AlertNow>>) -> Vec<String> {
        let Some(alerts) = alerts else { return Vec::new() };
        let phases = alerts.iter().map(|alert| (alert.id.clone(), alert.phase.clone())).collect();
        let Some(before) = self.phases.replace(phases) else { return Vec::new() };
        let changed = alerts.into_iter().rev().filter(|alert| before.get(&alert.id) != Some(&alert.phase));
        changed.map(|alert| alert.json).collect()
    }

    /// Ids follow the clock, so that they also grow over a restart.
    fn event(&mut self, kind: &str, json: &str, unix_ms: u64) -> Event {
        self.last_id = unix_ms.max(self.last_id + 1);
        let mut text = String::with_capacity(json.len() + 48);
        write!(text, "id: {}\nevent: {kind}\ndata: {json}\n\n", self.last_id)
            .expect("writing to a string cannot fail");
        Event { id: self.last_id, text: text.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alert(id: &str, phase: &str) -> AlertNow {
        AlertNow { id: id.to_owned(), phase: phase.to_owned(), json: format!("\"{id} {phase}\"") }
    }

    fn texts(events: impl IntoIterator<Item = Event>) -> Vec<String> {
        let data = |event: Event| {
            let text = String::from_utf8(event.text.to_vec()).unwrap();
            text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap().to_owned()
        };
        events.into_iter().map(data).collect()
    }

    fn drain(coming: &mut broadcast::Receiver<Event>) -> Vec<Event> {
        std::iter::from_fn(|| coming.try_recv().ok()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn alert_is_told_when_its_phase_changes_and_not_again() {
        let live = Live::default();
        let mut watch = live.watch(None);
        live.tell(&1, Some(vec![alert("a", "firing")]), 10);
        live.tell(&2, Some(vec![alert("b", "pending"), alert("a", "firing")]), 20);
        live.tell(&3, None, 30);
        live.tell(&4, Some(vec![alert("b", "firing"), alert("a", "resolved")]), 40);
        assert_eq!(
            texts(drain(&mut watch.coming)),
            ["1", "\"b pending\"", "2", "3", "\"a resolved\"", "\"b firing\"", "4"]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn returning_watcher_gets_the_changes_it_missed_and_the_newest_figures() {
        let live = Live::default();
        live.tell(&1, Some(vec![]), 10);
        live.tell(&2, Some(vec![alert("a", "pending")]), 20);
        live.tell(&3, Some(vec![alert("a", "firing")]), 30);
        assert_eq!(texts(live.watch(Some(20)).missed), ["\"a firing\"", "3"]);
        assert_eq!(texts(live.watch(None).missed), ["3"], "a new watcher has missed nothing");
        tokio::time::advance(std::time::Duration::from_secs(4)).await;
        assert!(live.watch(None).missed.is_empty(), "old figures are not shown as new");
    }

    #[tokio::test(start_paused = true)]
    async fn ids_grow_also_when_the_clock_stands_still() {
        let live = Live::default();
        let mut watch = live.watch(None);
        for _ in 0..3 {
            live.tell(&0, None, 7);
        }
        let ids: Vec<u64> = drain(&mut watch.coming).into_iter().map(|event| event.id).collect();
        assert_eq!(ids, [7, 8, 9]);
    }

    #[tokio::test(start_paused = true)]
    async fn slow_watcher_costs_a_bounded_number_of_events() {
        let live = Live::default();
        let mut watch = live.watch(None);
        for figure in 0..1000 {
            live.tell(&figure, None, figure);
        }
        assert!(matches!(watch.coming.try_recv(), Err(broadcast::error::TryRecvError::Lagged(968))));
        assert_eq!(drain(&mut watch.coming).len(), MAX_BEHIND);
    }
}
