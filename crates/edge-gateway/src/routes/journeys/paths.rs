//! What journeys come to: who went where, for how long, what came next, and where they left.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, SystemTime};

use mainstay_proto::realtime::v1 as wire;
use mainstay_proto::realtime::v1::JourneyStep as Step;
use serde::Serialize;
use utoipa::ToSchema;

use crate::routes::words::rfc3339;

/// Channels, and moves between them, that are listed: those with the most users.
const MOST_LISTED: usize = 100;

/// Journeys of users, as far as the gateways still know them.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct JourneysAnswer {
    /// Who did something last comes first. Each anonymous connection stands for itself.
    users: Vec<UserJourney>,
    /// Those with the most visits, at most 100.
    channels: Vec<ChannelVisits>,
    /// Where users went from where, the most frequent first, at most 100.
    moves: Vec<ChannelMove>,
    /// Events that all this is made of.
    events: usize,
    /// There are more events that fit, before these.
    truncated: bool,
    /// From here on nothing is forgotten by the nodes that answered.
    complete_since: Option<String>,
    /// Nodes that did not answer in time: what they know is not in this answer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing_nodes: Vec<String>,
}

/// What one user did, oldest first.
#[derive(Serialize, ToSchema)]
struct UserJourney {
    /// Empty for an anonymous client.
    user: String,
    events: Vec<UserStep>,
}

#[derive(Serialize, ToSchema)]
struct UserStep {
    at: Option<String>,
    /// `connected`, `subscribed`, `published`, `unsubscribed` or `disconnected`.
    step: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<String>,
    /// Id of the connection.
    client: String,
    node: String,
    /// Close code of the end of a connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u32>,
    /// How long the visit of a channel, or the connection, that ends here was.
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<f64>,
}

/// How one channel was visited.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ChannelVisits {
    channel: String,
    /// Subscriptions that began.
    visits: u64,
    /// Different users among them; each anonymous connection counts as one.
    users: u64,
    /// Subscriptions that began and have not ended.
    present: u64,
    publications: u64,
    /// Of the visits whose beginning and end are both known.
    mean_seconds: Option<f64>,
    /// Users whose last channel this was before their last connection ended.
    left_from: u64,
}

/// Users who went from one channel to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
struct ChannelMove {
    /// Null: it was their first one.
    from: Option<String>,
    /// Null: there they left.
    to: Option<String>,
    times: u64,
}

/// Whose journey it is: a user, or an anonymous connection.
type Traveller = (String, String);

/// Reads events one after the other.
#[derive(Default)]
struct Survey {
    /// With the number of the latest event.
    travellers: HashMap<Traveller, Travel>,
    /// When what a connection has begun began: itself, and its visits.
    begun: HashMap<(String, Option<String>), SystemTime>,
    channels: BTreeMap<String, Visits>,
    moves: BTreeMap<(Option<String>, Option<String>), u64>,
}

#[derive(Default)]
struct Travel {
    last_event: usize,
    steps: Vec<UserStep>,
    channel: Option<String>,
    /// The last connection has ended.
    is_gone: bool,
    connections: BTreeSet<String>,
}

#[derive(Default)]
struct Visits {
    counted: ChannelVisits,
    users: BTreeSet<Traveller>,
    whole: u32,
    total: Duration,
}

impl From<wire::JourneysResponse> for JourneysAnswer {
    fn from(answer: wire::JourneysResponse) -> Self {
        let n_events = answer.events.len();
        let mut survey = Survey::default();
        for (number, event) in answer.events.into_iter().enumerate() {
            survey.read(number, event);
        }
        let (users, channels, moves) = survey.sum_up();
        Self {
            users,
            channels,
            moves,
            events: n_events,
            truncated: answer.truncated,
            complete_since: rfc3339(answer.complete_since),
            missing_nodes: answer.missing_nodes,
        }
    }
}

impl Survey {
    fn read(&mut self, number: usize, event: wire::JourneyEvent) {
        let step = event.step();
        let who = if event.user.is_empty() {
            (String::new(), event.client.clone())
        } else {
            (event.user.clone(), String::new())
        };
        let channel = (!event.channel.is_empty()).then(|| event.channel.clone());
        let lasted = self.lasted(step, &event, channel.clone());
        if let Some(channel) = &channel {
            self.visit(channel, &who, step, lasted);
        }
        let travel = self.travellers.entry(who).or_default();
        travel.last_event = number;
        let moved = travel.goes(step, &event.client, channel.as_ref());
        travel.steps.push(UserStep {
            at: rfc3339(event.at),
            step: word(step),
            channel,
            client: event.client,
            node: event.node,
            code: (step == Step::Disconnected).then_some(event.code),
            seconds: lasted.map(in_seconds),
        });
        if let Some(moved) = moved {
            *self.moves.entry(moved).or_default() += 1;
        }
    }

    /// Notes what begins; returns how long what ends was, if its beginning is known.
    fn lasted(
        &mut self,
        step: Step,
        event: &wire::JourneyEvent,
        channel: Option<String>,
    ) -> Option<Duration> {
        let at = SystemTime::try_from(event.at?).ok()?;
        let what = (event.client.clone(), channel);
        match step {
            Step::Connected | Step::Subscribed => {
                self.begun.insert(what, at);
                None
            }
            // A clock that was set back measures nothing.
            Step::Unsubscribed | Step::Disconnected => at.duration_since(self.begun.remove(&what)?).ok(),
            Step::Published | Step::Unspecified => None,
        }
    }

    fn visit(&mut self, channel: &str, who: &Traveller, step: Step, lasted: Option<Duration>) {
        let visits = self.channels.entry(channel.to_owned()).or_default();
        match step {
            Step::Subscribed => {
                visits.counted.visits += 1;
                visits.users.insert(who.clone());
            }
            Step::Published => visits.counted.publications += 1,
            _ => {}
        }
        if let Some(lasted) = lasted {
            (visits.whole, visits.total) = (visits.whole + 1, visits.total + lasted);
        }
    }

    fn sum_up(mut self) -> (Vec<UserJourney>, Vec<ChannelVisits>, Vec<ChannelMove>) {
        for channel in self.begun.into_keys().filter_map(|(_, channel)| channel) {
            if let Some(visits) = self.channels.get_mut(&channel) {
                visits.counted.present += 1;
            }
        }
        for channel in
            self.travellers.values().filter(|travel| travel.is_gone).filter_map(|one| one.channel.as_ref())
        {
            *self.moves.entry((Some(channel.clone()), None)).or_default() += 1;
            if let Some(visits) = self.channels.get_mut(channel) {
                visits.counted.left_from += 1;
            }
        }
        let mut travels: Vec<_> = self.travellers.into_iter().collect();
        travels.sort_unstable_by_key(|(_, travel)| Reverse(travel.last_event));
        let users = travels.into_iter().map(|((user, _), travel)| UserJourney { user, events: travel.steps });
        let mut channels: Vec<_> =
            self.channels.into_iter().map(|(name, visits)| visits.counted(name)).collect();
        channels.sort_by_key(|channel| Reverse((channel.visits, channel.publications)));
        channels.truncate(MOST_LISTED);
        let moves = self.moves.into_iter().map(|((from, to), times)| ChannelMove { from, to, times });
        let mut moves: Vec<_> = moves.collect();
        moves.sort_by_key(|one| Reverse(one.times));
        moves.truncate(MOST_LISTED);
        (users.collect(), channels, moves)
    }
}

impl Travel {
    /// Notes a step; returns the move to another channel, if it is one.
    fn goes(
        &mut self,
        step: Step,
        client: &str,
        channel: Option<&String>,
    ) -> Option<(Option<String>, Option<String>)> {
        match (step, channel) {
            (Step::Disconnected, _) => {
                self.connections.remove(client);
                self.is_gone = self.connections.is_empty();
                None
            }
            (Step::Subscribed, Some(channel)) => {
                self.connections.insert(client.to_owned());
                self.is_gone = false;
                let from = self.channel.replace(channel.clone());
                // A client that comes back to where it was has gone nowhere.
                (from.as_ref() != Some(channel)).then(|| (from, Some(channel.clone())))
            }
            (Step::Connected | Step::Published, _) => {
                self.connections.insert(client.to_owned());
                self.is_gone = false;
                None
            }
            _ => None,
        }
    }
}

impl Visits {
    fn counted(self, channel: String) -> ChannelVisits {
        let mean = self.total.checked_div(self.whole);
        let users = self.users.len() as u64;
        ChannelVisits { channel, users, mean_seconds: mean.map(in_seconds), ..self.counted }
    }
}

fn word(step: Step) -> &'static str {
    match step {
        Step::Connected => "connected",
        Step::Subscribed => "subscribed",
        Step::Published => "published",
        Step::Unsubscribed => "unsubscribed",
        Step::Disconnected => "disconnected",
        Step::Unspecified => "unknown",
    }
}

/// Rounds to the millisecond, which is what the moments are told to.
fn in_seconds(duration: Duration) -> f64 {
    duration.as_millis() as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One event a second: user, client, step, channel.
    fn answer(events: &[(&str, &str, Step, &str)]) -> JourneysAnswer {
        let event = |(second, &(user, client, step, channel)): (usize, &(&str, &str, Step, &str))| {
            wire::JourneyEvent {
                step: step.into(),
                at: Some(prost_types::Timestamp { seconds: second as i64, nanos: 0 }),
                user: user.to_owned(),
                client: client.to_owned(),
                channel: channel.to_owned(),
                ..wire::JourneyEvent::default()
            }
        };
        let events = events.iter().enumerate().map(event).collect();
        wire::JourneysResponse { events, ..wire::JourneysResponse::default() }.into()
    }

    fn moves(answer: &JourneysAnswer) -> Vec<(&str, &str, u64)> {
        let name = |channel: &'_ Option<String>| channel.as_deref().map_or("-", |name| name).to_owned();
        let mut moves: Vec<_> = answer.moves.iter().collect();
        moves.sort_by_key(|one| (name(&one.from), name(&one.to)));
        moves
            .into_iter()
            .map(|one| (one.from.as_deref().unwrap_or("-"), one.to.as_deref().unwrap_or("-"), one.times))
            .collect()
    }

    #[test]
    fn visits_moves_and_ends_are_counted() {
        let answer = answer(&[
            ("ann", "1", Step::Connected, ""),
            ("ann", "1", Step::Subscribed, "lobby"),
            ("bob", "2", Step::Connected, ""),
            ("bob", "2", Step::Subscribed, "lobby"),
            ("ann", "1", Step::Subscribed, "game"),
            ("ann", "1", Step::Published, "game"),
            ("ann", "1", Step::Unsubscribed, "lobby"),
            ("ann", "1", Step::Unsubscribed, "game"),
            ("ann", "1", Step::Disconnected, ""),
        ]);
        assert_eq!(moves(&answer), [("-", "lobby", 2), ("game", "-", 1), ("lobby", "game", 1)]);
        let lobby = &answer.channels[0];
        assert_eq!((lobby.channel.as_str(), lobby.visits, lobby.users), ("lobby", 2, 2));
        assert_eq!((lobby.present, lobby.mean_seconds, lobby.left_from), (1, Some(5.0), 0));
        let game = &answer.channels[1];
        assert_eq!((game.present, game.publications, game.mean_seconds), (0, 1, Some(3.0)));
        assert_eq!(game.left_from, 1);
        let order: Vec<_> = answer.users.iter().map(|user| (user.user.as_str(), user.events.len())).collect();
        assert_eq!(order, [("ann", 7), ("bob", 2)]);
        let last = answer.users[0].events.last().unwrap();
        assert_eq!((last.step, last.seconds, last.code), ("disconnected", Some(8.0), Some(0)));
    }

    #[test]
    fn who_comes_back_has_not_left_and_gone_nowhere() {
        let answer = answer(&[
            ("ann", "1", Step::Subscribed, "a"),
            ("ann", "1", Step::Unsubscribed, "a"),
            ("ann", "1", Step::Disconnected, ""),
            ("ann", "2", Step::Connected, ""),
            ("ann", "2", Step::Subscribed, "a"),
        ]);
        assert_eq!(moves(&answer), [("-", "a", 1)]);
        assert_eq!((answer.channels[0].visits, answer.channels[0].users), (2, 1));
        assert_eq!((answer.channels[0].present, answer.channels[0].left_from), (1, 0));
    }

    #[test]
    fn one_of_two_connections_that_ends_is_no_leaving_and_strangers_are_apart() {
        let answer = answer(&[
            ("ann", "1", Step::Subscribed, "a"),
            ("ann", "2", Step::Subscribed, "a"),
            ("ann", "1", Step::Disconnected, ""),
            ("", "3", Step::Subscribed, "a"),
            ("", "4", Step::Subscribed, "a"),
            ("", "4", Step::Disconnected, ""),
        ]);
        assert_eq!(moves(&answer), [("-", "a", 3), ("a", "-", 1)]);
        assert_eq!((answer.channels[0].users, answer.users.len()), (3, 3));
    }

    #[test]
    fn what_began_before_the_first_event_has_no_length() {
        let answer = answer(&[("ann", "1", Step::Unsubscribed, "a"), ("ann", "1", Step::Disconnected, "")]);
        assert!(answer.users[0].events.iter().all(|event| event.seconds.is_none()));
        assert_eq!((answer.channels[0].visits, answer.channels[0].mean_seconds), (0, None));
    }
}
