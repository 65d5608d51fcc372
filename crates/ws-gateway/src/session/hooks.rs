//! What a session asks the application, and what it makes of the answers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use mainstay_proto::realtime::v1::BackendError;
use tokio::time::Instant;

use super::admission::{Newcoming, NotAdmitted};
use super::permission::Permit;
use super::{Action, Ask, Connected, Now, Rules, Session, State};
use crate::backend::{Matter, Newcomer, Told, Verdict, Wish};
use crate::channel::Channel;
use crate::codes::{Disconnect, ReplyError};
use crate::config::{Away, ChannelHook, ConnectionHook, NamespaceConfig};
use crate::hub::Subscription;
use crate::protocol::{self, ConnectRequest, Method};

/// Questions that may wait beyond one for each channel.
const EXTRA: usize = 64;

/// What a session hears from others than its client.
#[derive(Debug)]
pub(crate) enum Word {
    /// What came of a question.
    Verdict(Matter, Verdict),
    /// A server says how long a connection lives on, or one of its subscriptions.
    Prolong { channel: Option<Channel>, ends: Ends },
}

impl Word {
    /// Says whether it makes an earlier one idle.
    pub(crate) fn replaces(&self, earlier: &Self) -> bool {
        match (self, earlier) {
            (Self::Prolong { channel, .. }, Self::Prolong { channel: other, .. }) => channel == other,
            _ => false,
        }
    }
}

/// When something ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ends {
    Never,
    /// Seconds since the Unix epoch.
    At(u64),
    Now,
}

/// What is asked for one client, and what will be.
#[derive(Debug, Default)]
pub(super) struct Hooks {
    /// Not asked yet, oldest first.
    line: VecDeque<Matter>,
    n_asking: u32,
    /// Publications are asked about one after the other, so that they keep their order.
    is_publishing: bool,
    /// Channels that are asked about, each with the command that is to end the subscription again.
    subscribing: Vec<(Channel, Option<u32>)>,
    /// When the application is to be asked how long the connection lives on.
    refresh: Option<Renewal>,
    subscription_refreshes: Vec<(Channel, Renewal)>,
}

/// Something that the application may prolong.
#[derive(Clone, Copy, Debug)]
struct Renewal {
    ask_at: Instant,
    is_asking: bool,
}

impl Hooks {
    /// Returns when there is something to ask; none when nothing is known that ends.
    pub(super) fn next_at(&self) -> Option<Instant> {
        let renewals = self.subscription_refreshes.iter().map(|(_, renewal)| renewal);
        let due = renewals.chain(&self.refresh).filter(|renewal| !renewal.is_asking);
        due.map(|renewal| renewal.ask_at).min()
    }

    /// Asks what is due.
    pub(super) fn on_timer(&mut self, rules: &Rules, now: Instant, actions: &mut Vec<Action>) {
        if self.refresh.as_mut().is_some_and(|renewal| renewal.is_due(now)) {
            self.line.push_back(Matter::Refresh);
        }
        for (channel, renewal) in &mut self.subscription_refreshes {
            if renewal.is_due(now) {
                self.line.push_back(Matter::SubRefresh(channel.clone()));
            }
        }
        self.advance(rules, actions);
    }

    /// Queues a question of the client; false when too many wait.
    fn ask(&mut self, matter: Matter, rules: &Rules, actions: &mut Vec<Action>) -> bool {
        if self.line.len() >= rules.max_channels + EXTRA {
            return false;
        }
        self.line.push_back(matter);
        self.advance(rules, actions);
        true
    }

    /// Asks as much as may be asked at once.
    fn advance(&mut self, rules: &Rules, actions: &mut Vec<Action>) {
        let mut index = 0;
        while self.n_asking < rules.asks_at_once && index < self.line.len() {
            let is_publication = matches!(self.line[index], Matter::Publish(_));
            if is_publication && self.is_publishing {
                index += 1;
                continue;
            }
            self.is_publishing |= is_publication;
            self.n_asking += 1;
            actions.extend(self.line.remove(index).map(|matter| Action::Consult(Box::new(matter))));
        }
    }

    fn answered(&mut self, matter: &Matter) {
        self.n_asking = self.n_asking.saturating_sub(1);
        if matches!(matter, Matter::Publish(_)) {
            self.is_publishing = false;
        }
    }

    /// Keeps the end of a subscription for after the question whether it may begin; true when there is such a question.
    pub(super) fn unsubscribe_later(&mut self, channel: &Channel, id: u32) -> bool {
        match self.subscribing.iter_mut().find(|(asked, _)| asked == channel) {
            Some((_, end)) if end.is_none() => {
                *end = Some(id);
                true
            }
            _ => false,
        }
    }

    pub(super) fn forget(&mut self, channel: &Channel) {
        self.subscription_refreshes.retain(|(other, _)| other != channel);
    }
}

impl Renewal {
    fn at(ask_at: Instant) -> Self {
        Self { ask_at, is_asking: false }
    }

    /// Returns whether to ask now; then it counts as asked.
    fn is_due(&mut self, now: Instant) -> bool {
        let is_due = !self.is_asking && self.ask_at <= now;
        self.is_asking |= is_due;
        is_due
    }
}

impl Rules {
    /// Says how long to wait before the application is asked again that was away.
    fn ask_again_after(&self) -> Duration {
        (self.refresh_within / 5).clamp(Duration::from_secs(1), Duration::from_secs(10))
    }

    pub(super) fn is_asked(&self, hook: ChannelHook, options: &NamespaceConfig) -> bool {
        options.ask.contains(&hook)
    }
}

impl Session {
    /// Asks the application who a client is that shows no token.
    pub(super) fn ask_who(
        &mut self,
        id: u32,
        request: &ConnectRequest<'_>,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let newcoming = Newcoming::new(id, request);
        let headers = self.headers.take().map(|headers| *headers).unwrap_or_default();
        let newcomer = Newcomer {
            id,
            name: newcoming.name,
            version: newcoming.version,
            data: request.data.map(ToOwned::to_owned),
            headers,
            positions: newcoming.positions,
        };
        // The answer comes within its own time; this is for one that never does.
        let answer_by = now.at + self.rules.hooks.connect.within + self.rules.connect_within;
        self.state = State::Asking { answer_by };
        actions.push(Action::Consult(Box::new(Matter::Connect(Box::new(newcomer)))));
    }

    /// Takes what others than the client say.
    pub(crate) fn on_word(&mut self, word: Word, now: Now, actions: &mut Vec<Action>) {
        match (word, &mut self.state) {
            (Word::Verdict(Matter::Connect(newcomer), verdict), State::Asking { answer_by }) => {
                let connect_by = *answer_by;
                self.on_newcomer(*newcomer, verdict, connect_by, now, actions);
            }
            (Word::Verdict(matter, verdict), State::Connected(connected)) => {
                let mut hearing = Hearing { connected, rules: &self.rules, now, actions };
                if let Err(disconnect) = hearing.take(matter, verdict) {
                    self.close(disconnect, actions);
                }
            }
            (Word::Prolong { channel, ends }, State::Connected(connected)) => {
                let mut hearing = Hearing { connected, rules: &self.rules, now, actions };
                if let Err(disconnect) = hearing.prolong(channel, ends) {
                    self.close(disconnect, actions);
                }
            }
            // It is over, or has not begun.
            _ => {}
        }
    }

    fn on_newcomer(
        &mut self,
        newcomer: Newcomer,
        verdict: Verdict,
        connect_by: Instant,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let id = newcomer.id;
        let away = self.rules.hooks.connect.when_away;
        let told = match verdict {
            Verdict::Told(told) => *told,
            Verdict::Away if away == Away::Allow => Told::default(),
            Verdict::Away => return self.turn_away(id, ReplyError::INTERNAL, connect_by, actions),
            Verdict::Busy => return self.turn_away(id, ReplyError::TOO_MANY_REQUESTS, connect_by, actions),
        };
        if let Some(error) = &told.error {
            self.state = State::Refused { connect_by };
            actions.push(Action::told(id, Method::Connect, error));
            return;
        }
        let claims = told.claims();
        let newcoming =
            Newcoming { id, name: newcomer.name, version: newcomer.version, positions: newcomer.positions };
        let renews = self.rules.hooks.asks(ConnectionHook::Refresh);
        match self.admit(newcoming, &claims, (told.data, renews), now, actions) {
            Ok(mut connected) => {
                if renews {
                    connected.renew_by_hook(&self.rules, now, told.expire_at);
                }
                self.state = State::Connected(Box::new(connected));
            }
            // The application let in what it says has ended.
            Err(NotAdmitted::Expired) => self.turn_away(id, ReplyError::EXPIRED, connect_by, actions),
            Err(NotAdmitted::Disconnect(Disconnect::INVALID_TOKEN)) => {
                tracing::warn!("the backend subscribes a client to channels that do not exist");
                self.turn_away(id, ReplyError::INTERNAL, connect_by, actions);
            }
            Err(NotAdmitted::Disconnect(disconnect)) => self.close(disconnect, actions),
        }
    }

    fn turn_away(&mut self, id: u32, error: ReplyError, connect_by: Instant, actions: &mut Vec<Action>) {
        self.state = State::Refused { connect_by };
        actions.push(Action::refuse(id, Method::Connect, error));
    }
}

impl Connected {
    /// Sees to it that the application is asked when the connection is about to end.
    fn renew_by_hook(&mut self, rules: &Rules, now: Now, expire_at: u64) {
        let ends_in_s = expire_at.saturating_sub(now.unix_s);
        let ask_at = (expire_at != 0).then(|| now.at.checked_add(Duration::from_secs(ends_in_s))).flatten();
        let denies = rules.hooks.refresh.when_away == Away::Deny;
        let ends_at = ask_at.and_then(|at| at.checked_add(rules.refresh_within));
        self.expires_at = ends_at.filter(|_| denies);
        let renewal = ask_at.map(Renewal::at);
        if renewal.is_some() || self.hooks.is_some() {
            self.hooks.get_or_insert_default().refresh = renewal;
        }
    }
}

/// A session that hears a word, and all it may touch.
struct Hearing<'a> {
    connected: &'a mut Connected,
    rules: &'a Rules,
    now: Now,
    actions: &'a mut Vec<Action>,
}

impl Hearing<'_> {
    /// Does what a verdict comes to, or gives the reason to close the connection.
    fn take(&mut self, matter: Matter, verdict: Verdict) -> Result<(), Disconnect> {
        let hooks = self.connected.hooks.get_or_insert_default();
        hooks.answered(&matter);
        let outcome = match matter {
            Matter::Connect(_) => Ok(()),
            Matter::Refresh => self.refreshed(verdict),
            Matter::Subscribe { id, wanted, .. } => {
                self.subscribed(id, *wanted, verdict);
                Ok(())
            }
            Matter::SubRefresh(channel) => {
                self.subscription_refreshed(channel, verdict);
                Ok(())
            }
            Matter::Publish(wish) => {
                self.publish(*wish, verdict);
                Ok(())
            }
        };
        self.connected.hooks.get_or_insert_default().advance(self.rules, self.actions);
        outcome
    }

    fn refreshed(&mut self, verdict: Verdict) -> Result<(), Disconnect> {
        let Verdict::Told(told) = verdict else {
            let ask_at = self.now.at + self.rules.ask_again_after();
            // None where a server has said meanwhile that it never ends.
            if let Some(renewal) = &mut self.connected.hooks.get_or_insert_default().refresh {
                *renewal = Renewal::at(ask_at);
            }
            return Ok(());
        };
        let is_over = told.expired || told.error.is_some();
        if is_over || (told.expire_at != 0 && told.expire_at <= self.now.unix_s) {
            return Err(Disconnect::EXPIRED);
        }
        self.connected.renew_by_hook(self.rules, self.now, told.expire_at);
        Ok(())
    }

    fn subscribed(&mut self, id: u32, mut wanted: Subscription, verdict: Verdict) {
        let hooks = self.connected.hooks.get_or_insert_default();
        let index = hooks.subscribing.iter().position(|(channel, _)| *channel == wanted.channel);
        let end = index.and_then(|index| hooks.subscribing.swap_remove(index).1);
        let channel = wanted.channel.clone();
        match self.permitted(&mut wanted, verdict) {
            Ok(()) => self.actions.push(Action::Ask { id, ask: Box::new(Ask::Subscribe(wanted)) }),
            Err(Refused::Ours(error)) => self.actions.push(Action::refuse(id, Method::Subscribe, error)),
            Err(Refused::Theirs(error)) => self.actions.push(Action::told(id, Method::Subscribe, &error)),
        }
        if let Some(id) = end {
            self.connected.ends_at(&channel, None);
            self.actions.push(Action::Ask { id, ask: Box::new(Ask::Unsubscribe(channel)) });
        }
    }

    fn permitted(&mut self, wanted: &mut Subscription, verdict: Verdict) -> Result<(), Refused> {
        let mut told = match verdict {
            Verdict::Told(told) => told,
            Verdict::Away if self.rules.hooks.subscribe.when_away == Away::Allow => return Ok(()),
            Verdict::Away => return Err(Refused::Ours(ReplyError::INTERNAL)),
            Verdict::Busy => return Err(Refused::Ours(ReplyError::TOO_MANY_REQUESTS)),
        };
        if let Some(error) = told.error.take() {
            return Err(Refused::Theirs(error));
        }
        let permit = self.rules.permit_of(&told.claims(), self.now, ReplyError::EXPIRED);
        let Permit { chan_info, overrides, filter, lifetime, expires_at } = permit.map_err(Refused::Ours)?;
        wanted.filters.granted = filter;
        (wanted.chan_info, wanted.overrides, wanted.data) = (chan_info, overrides, told.data.map(Arc::from));
        if self.rules.is_asked(ChannelHook::SubRefresh, &wanted.options) {
            self.renew_subscription(&wanted.channel, told.expire_at);
        } else {
            wanted.lifetime = lifetime;
            self.connected.ends_at(&wanted.channel, expires_at);
        }
        Ok(())
    }

    /// Sees to it that the application is asked when a subscription is about to end.
    fn renew_subscription(&mut self, channel: &Channel, expire_at: u64) {
        let ends_in_s = expire_at.saturating_sub(self.now.unix_s);
        let ask_at =
            (expire_at != 0).then(|| self.now.at.checked_add(Duration::from_secs(ends_in_s))).flatten();
        let denies = self.rules.hooks.sub_refresh.when_away == Away::Deny;
        let ends_at = ask_at.and_then(|at| at.checked_add(self.rules.refresh_within));
        let ends_at = ends_at.filter(|_| denies);
        self.connected.ends_at(channel, ends_at);
        if let Some(ask_at) = ask_at {
            let hooks = self.connected.hooks.get_or_insert_default();
            hooks.subscription_refreshes.push((channel.clone(), Renewal::at(ask_at)));
        }
    }

    fn subscription_refreshed(&mut self, channel: Channel, verdict: Verdict) {
        let now = self.now;
        let hooks = self.connected.hooks.get_or_insert_default();
        let mut refreshes = hooks.subscription_refreshes.iter_mut();
        let Some((_, renewal)) = refreshes.find(|(asked, _)| *asked == channel) else { return };
        let Verdict::Told(told) = verdict else {
            *renewal = Renewal::at(now.at + self.rules.ask_again_after());
            return;
        };
        let is_over = told.expired || told.error.is_some();
        if is_over || (told.expire_at != 0 && told.expire_at <= now.unix_s) {
            self.connected.ends_at(&channel, None);
            self.actions.push(Action::Expire(channel));
        } else {
            self.renew_subscription(&channel, told.expire_at);
        }
    }

    fn publish(&mut self, wish: Wish, verdict: Verdict) {
        let Wish { id, channel, options, data, members_only } = wish;
        let refuse = |error| Action::refuse(id, Method::Publish, error);
        let data = match verdict {
            Verdict::Told(told) => match told.error {
                Some(error) => return self.actions.push(Action::told(id, Method::Publish, &error)),
                None => told.data.unwrap_or(data),
            },
            Verdict::Away if self.rules.hooks.publish.when_away == Away::Allow => data,
            Verdict::Away => return self.actions.push(refuse(ReplyError::INTERNAL)),
            Verdict::Busy => return self.actions.push(refuse(ReplyError::TOO_MANY_REQUESTS)),
        };
        if data.get().len() > self.rules.max_data_bytes {
            return self.actions.push(refuse(ReplyError::LIMIT_EXCEEDED));
        }
        let ask = Ask::Publish { channel, options, data, members_only };
        self.actions.push(Action::Ask { id, ask: Box::new(ask) });
    }

    /// Does what a server says about when something ends.
    fn prolong(&mut self, channel: Option<Channel>, ends: Ends) -> Result<(), Disconnect> {
        let expire_at = match (ends, &channel) {
            (Ends::Now, None) => return Err(Disconnect::EXPIRED),
            (Ends::Now, Some(channel)) => {
                self.connected.ends_at(channel, None);
                self.actions.push(Action::Expire(channel.clone()));
                return Ok(());
            }
            (Ends::Never, _) => 0,
            (Ends::At(unix_s), _) => unix_s,
        };
        let in_s = expire_at.saturating_sub(self.now.unix_s);
        let at = (expire_at != 0)
            .then(|| self.now.at.checked_add(Duration::from_secs(in_s) + self.rules.refresh_within))
            .flatten();
        let hooks = self.connected.hooks.as_deref();
        match channel {
            None if hooks.is_some_and(|hooks| hooks.refresh.is_some()) => {
                self.connected.renew_by_hook(self.rules, self.now, expire_at);
            }
            None => self.connected.expires_at = at,
            Some(channel) => {
                let is_renewed = |hooks: &Hooks| {
                    hooks.subscription_refreshes.iter().any(|(renewed, _)| *renewed == channel)
                };
                if hooks.is_some_and(is_renewed) {
                    self.renew_subscription(&channel, expire_at);
                } else {
                    self.connected.ends_at(&channel, at);
                }
            }
        }
        Ok(())
    }
}

/// Why a client does not get what it wants.
enum Refused {
    Ours(ReplyError),
    /// In the words of the application.
    Theirs(BackendError),
}

impl Action {
    /// Answers a command with an error of the application.
    fn told(id: u32, method: Method, error: &BackendError) -> Self {
        let frame = protocol::told_error(id, error.code, &error.message, error.temporary);
        Self::Reply { frame, method, code: crate::backend::ANY_CODE }
    }
}

impl super::requests::Turn<'_> {
    /// Asks the application whether the client may subscribe.
    pub(super) fn ask_to_subscribe(
        &mut self,
        wanted: Subscription,
        data: Option<&serde_json::value::RawValue>,
    ) -> Result<(), ReplyError> {
        let hooks = self.connected.hooks.get_or_insert_default();
        if hooks.subscribing.iter().any(|(channel, _)| *channel == wanted.channel) {
            return Err(ReplyError::ALREADY_SUBSCRIBED);
        }
        let channel = wanted.channel.clone();
        let (wanted, data) = (Box::new(wanted), data.map(ToOwned::to_owned));
        if !hooks.ask(Matter::Subscribe { id: self.id, wanted, data }, self.rules, self.actions) {
            return Err(ReplyError::TOO_MANY_REQUESTS);
        }
        hooks.subscribing.push((channel, None));
        Ok(())
    }

    /// Asks the application whether the client may publish.
    pub(super) fn ask_to_publish(&mut self, wish: Wish) -> Result<(), ReplyError> {
        let hooks = self.connected.hooks.get_or_insert_default();
        if hooks.ask(Matter::Publish(Box::new(wish)), self.rules, self.actions) {
            Ok(())
        } else {
            Err(ReplyError::TOO_MANY_REQUESTS)
        }
    }
}
