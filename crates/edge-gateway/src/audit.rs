//! Tells the monitor of every change that was asked for here: who, what, when, from where, and how it ended.
//!
//! Answers do not wait for it. What is waiting is told twice a second, told again while the monitor is away, and bounded:
//! the newest goes, counted, and what passes through the house before what says how it is run.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use mainstay_auth::Principal;
use mainstay_proto::monitor::v1 as wire;
use mainstay_proto::monitor::v1::access_service_client::AccessServiceClient;
use mainstay_rpc::{Call, ErrorCode, Lane};
use mainstay_runtime::Context;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::figures::Figures;
use crate::middleware::envelope::without_secret;
use crate::state::App;

const RECORD: &str = "mainstay.monitor.v1.AccessService/RecordChanges";
const TELL_EVERY: Duration = Duration::from_millis(500);
const TELL_WITHIN: Duration = Duration::from_secs(2);
/// On the way out: how often it is tried, and for how long.
const LAST_EVERY: Duration = Duration::from_millis(100);
const LAST_WITHIN: Duration = Duration::from_secs(5);
/// Changes in one call.
const BATCH: usize = 500;
/// Changes that may wait; some 5 MB.
const WAITING_MAX: usize = 10_000;
/// Longest text of a change, in bytes.
const TEXT_BYTES_MAX: usize = 512;

/// Changes that the monitor does not know yet.
pub(crate) struct Auditor {
    waiting: Mutex<VecDeque<wire::RecordedChange>>,
    /// False in a house without a monitor: then there is no record.
    is_kept: bool,
    figures: Figures,
}

/// One request that changes something, as far as its head tells.
pub(crate) struct Asked {
    pub(crate) verb: &'static str,
    /// Template of the path.
    pub(crate) route: String,
    pub(crate) path: String,
    pub(crate) address: String,
    pub(crate) agent: String,
    pub(crate) request_id: String,
}

/// How it ended.
pub(crate) struct Ended<'a> {
    pub(crate) status: u16,
    /// Of the problem; empty for a success.
    pub(crate) code: &'a str,
    /// It was refused before anything looked at it.
    pub(crate) at_door: bool,
}

impl Auditor {
    pub(crate) fn new(is_kept: bool, figures: Figures) -> Self {
        Self { waiting: Mutex::default(), is_kept, figures }
    }

    /// Notes a change.
    pub(crate) fn note(&self, cx: &Context, who: &Principal, asked: Asked, ended: &Ended<'_>) {
        if !self.is_kept {
            return;
        }
        let target = without_secret(&asked.route, &asked.path).to_owned();
        let change = wire::RecordedChange {
            id: uuid::Uuid::now_v7().to_string(),
            at: Some(cx.clock().now().into()),
            kind: kind(&asked.route, ended.at_door).into(),
            subject: short(who.subject.clone()),
            method: who.method.as_str().to_owned(),
            role: who.role.to_string(),
            address: asked.address,
            agent: short(asked.agent),
            verb: asked.verb.to_owned(),
            route: asked.route,
            target: short(target),
            status: ended.status.into(),
            code: ended.code.to_owned(),
            request_id: asked.request_id,
            edge: cx.identity().instance.to_string(),
            number: 0,
        };
        self.keep([change]);
    }

    fn keep(&self, changes: impl IntoIterator<Item = wire::RecordedChange>) {
        let mut waiting = self.waiting.lock();
        waiting.extend(changes);
        self.settle(&mut waiting);
    }

    fn settle(&self, waiting: &mut VecDeque<wire::RecordedChange>) {
        let dropped = waiting.len().saturating_sub(WAITING_MAX);
        for _ in 0..dropped {
            // Nobody may push out what he did by what he does next, nor by traffic.
            match waiting.iter().rposition(|change| change.kind() == wire::ChangeKind::Data) {
                Some(newest) => waiting.remove(newest),
                None => waiting.pop_back(),
            };
        }
        self.figures.audited(waiting.len(), dropped);
    }

    fn take(&self) -> Vec<wire::RecordedChange> {
        let mut waiting = self.waiting.lock();
        let n = waiting.len().min(BATCH);
        let batch = waiting.drain(..n).collect();
        self.figures.audited(waiting.len(), 0);
        batch
    }

    fn give_back(&self, batch: Vec<wire::RecordedChange>) {
        let mut waiting = self.waiting.lock();
        for change in batch.into_iter().rev() {
            waiting.push_front(change);
        }
        self.settle(&mut waiting);
    }

    /// Tells all that is waiting; false when the monitor did not take it.
    async fn tell(&self, app: &App) -> bool {
        loop {
            let batch = self.take();
            if batch.is_empty() {
                return true;
            }
            let request = wire::RecordChangesRequest { changes: batch };
            let send =
                async |mut client: AccessServiceClient<Lane>, request| client.record_changes(request).await;
            let call = Call::write(RECORD).within(TELL_WITHIN);
            let Err(failure) = app.upstreams.access(call, request.clone(), send).await else { continue };
            if failure.code() == ErrorCode::InvalidArgument {
                // It would be refused for ever, and with it all that comes after.
                tracing::error!(error = %failure, n_changes = request.changes.len(), "changes are not on record");
                self.figures.audited(self.waiting.lock().len(), request.changes.len());
                continue;
            }
            self.give_back(request.changes);
            return false;
        }
    }
}

/// Runs until the last request has ended, and what it did is told.
pub(crate) fn run(cx: &Context, app: &Arc<App>) {
    let (app, stopping) = (Arc::clone(app), cx.stopping());
    cx.spawn("audit", async move {
        let mut tick = tokio::time::interval(TELL_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => app.auditor.tell(&app).await,
                () = stopping.cancelled() => break,
            };
        }
        let until = Instant::now() + LAST_WITHIN;
        let mut tick = tokio::time::interval(LAST_EVERY);
        while Instant::now() < until {
            tick.tick().await;
            // In this order: a request notes its change before it ends.
            let all_ended = app.figures.in_flight.get() == 0;
            if app.auditor.tell(&app).await && all_ended {
                return Ok(());
            }
        }
        let lost = app.auditor.waiting.lock().len();
        if lost > 0 {
            tracing::error!(n_changes = lost, "the monitor took no more: these changes are not on record");
        }
        Ok(())
    });
}

/// Tells how the house is run from what passes through it, so that each has its own room in the record. What was refused at
/// the door goes with the traffic: nobody without the right to change anything may push out who did.
fn kind(route: &str, at_door: bool) -> wire::ChangeKind {
    let run = ["/cache/namespaces", "/cache/write-behind", "/realtime/nodes/", "/realtime/feeds"];
    let is_policy = run.iter().any(|area| route.starts_with(area));
    let passes = ["/cache/", "/sessions", "/users/", "/rate-limits", "/locks", "/counters", "/realtime/"];
    if at_door || !is_policy && passes.iter().any(|area| route.starts_with(area)) {
        wire::ChangeKind::Data
    } else {
        wire::ChangeKind::Control
    }
}

fn short(mut text: String) -> String {
    let end = text.floor_char_boundary(TEXT_BYTES_MAX);
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auditor() -> Auditor {
        Auditor::new(true, Figures::register(&mut prometheus_client::registry::Registry::default()))
    }

    fn numbered(numbers: std::ops::Range<usize>) -> impl Iterator<Item = wire::RecordedChange> {
        numbers.map(|n| wire::RecordedChange { id: n.to_string(), ..Default::default() })
    }

    #[test]
    fn what_waits_is_bounded_and_goes_in_order() {
        let auditor = auditor();
        auditor.keep(numbered(0..WAITING_MAX + 10));
        let batch = auditor.take();
        assert_eq!((batch[0].id.as_str(), batch.len()), ("0", BATCH), "the newest have gone");
        auditor.give_back(batch);
        assert_eq!(auditor.take()[0].id, "0", "what was not taken goes first again");
        auditor.keep(numbered(0..BATCH));
        assert_eq!(auditor.waiting.lock().len(), WAITING_MAX);
    }

    #[test]
    fn traffic_makes_room_for_how_the_house_is_run() {
        let auditor = auditor();
        let of = |kind: wire::ChangeKind| move |change| wire::RecordedChange { kind: kind.into(), ..change };
        auditor.keep(numbered(0..1).map(of(wire::ChangeKind::Control)));
        auditor.keep(numbered(1..WAITING_MAX + 10).map(of(wire::ChangeKind::Data)));
        auditor.keep(numbered(7_000_000..7_000_002).map(of(wire::ChangeKind::Control)));
        let waiting = auditor.waiting.lock();
        let ids = |from: usize| waiting.range(from..).map(|change| change.id.as_str()).collect::<Vec<_>>();
        assert_eq!((waiting.len(), waiting[0].id.as_str()), (WAITING_MAX, "0"));
        assert_eq!(ids(WAITING_MAX - 3), ["9997", "7000000", "7000001"]);
    }

    #[test]
    fn traffic_is_told_from_how_the_house_is_run() {
        use wire::ChangeKind::{Control, Data};
        for (route, expected) in [
            ("/cache/{namespace}/{key}", Data),
            ("/cache/{namespace}/batch", Data),
            ("/cache/namespaces/{namespace}", Control),
            ("/cache/write-behind/{namespace}/drop", Control),
            ("/realtime/publish", Data),
            ("/realtime/batch", Data),
            ("/realtime/nodes/{node}/drain", Control),
            ("/realtime/feeds/{name}", Control),
            ("/sessions", Data),
            ("/database/execute", Control),
            ("/database/configuration/reload", Control),
            ("/api-keys/{name}", Control),
            ("/monitoring/alerts/silences", Control),
        ] {
            assert_eq!(kind(route, false), expected, "{route}");
        }
        assert_eq!(kind("/api-keys", true), Data);
    }

    #[test]
    fn long_texts_are_cut_between_letters() {
        let cut = short("\u{e4}".repeat(TEXT_BYTES_MAX));
        assert_eq!(cut.len(), TEXT_BYTES_MAX);
        assert_eq!(short(format!("a{}", "\u{e4}".repeat(TEXT_BYTES_MAX))).len(), TEXT_BYTES_MAX - 1);
    }
}
