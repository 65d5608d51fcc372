//! What concerns connections of all nodes: this one answers for itself, the others are asked.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use mainstay_auth::jwt::Overrides;
use mainstay_proto::realtime::v1;
use prost::Message as _;
use uuid::Uuid;

use super::shown::{described, shown_client};
use super::watch::health_here;
use super::{MAX_PRESENCE, Place, RealtimeApi, page_size};
use crate::codes::{Disconnect, Unsubscribed};
use crate::emulation::Overheard;
use crate::error::Refusal;
use crate::filter::{Filter, Filters, InvalidFilter};
use crate::hub::Subscription;
use crate::mesh::{Answers, Method, Question};
use crate::protocol::Lifetime;
use crate::session::{Ends, Word};

/// Entries of a list that one node tells another.
const MOST_TOLD: usize = 10_000;

/// The answer to a question of another node; none when it makes no sense.
type Told = Option<Result<Vec<u8>, Refusal>>;

impl RealtimeApi {
    /// Asks the other nodes, if there are any.
    pub(super) async fn others<A: prost::Message + Default>(
        &self,
        method: Method,
        question: &impl prost::Message,
    ) -> Answers<A> {
        match self.hub.broker() {
            Some(broker) => broker.mesh().ask(method, question).await,
            None => Answers { given: Vec::new(), missing: Vec::new() },
        }
    }

    /// Answers a question of another node, as far as this node goes; none when it refuses.
    pub(crate) async fn answer(&self, question: &Question) -> Option<Vec<u8>> {
        let body = question.body.clone();
        let told = match question.method {
            Method::Channels => told(body, |asked| Ok(self.channels_here(asked, MOST_TOLD))),
            Method::Connections => told(body, |asked| self.connections_here(asked)),
            Method::Disconnect => told(body, |asked| Ok(self.disconnect_here(asked))),
            Method::Drain => told(body, |asked| self.drain_here(asked)),
            Method::Feeds => told(body, |asked| Ok(self.feeds_here(asked))),
            Method::Health => told(body, |asked| Ok(self.health_here(asked))),
            Method::Hear => told(body, |overheard| Ok(self.hear_here(overheard))),
            Method::Journeys => told(body, |asked| self.journeys_here(asked)),
            Method::Presence => told(body, |asked| self.presence_here(asked)),
            Method::Users => told(body, |asked| self.users_here(asked)),
            Method::Refresh => told(body, |asked| self.refresh_here(asked)),
            Method::Unsubscribe => told(body, |asked| self.unsubscribe_here(asked)),
            Method::Subscribe => match v1::SubscribeRequest::decode(body) {
                Ok(asked) => Some(self.subscribe_here(&asked).await.map(|answer| answer.encode_to_vec())),
                Err(_) => None,
            },
        };
        let (node, method) = (&question.node, question.method);
        told?.inspect_err(|refusal| tracing::debug!(node, ?method, %refusal, "refused what a node asks")).ok()
    }

    fn channels_here(&self, asked: &v1::ChannelsRequest, most: usize) -> v1::ChannelsResponse {
        let channels = self.hub.channels(&asked.prefix);
        let total = channels.len() as u64;
        let told = channels
            .into_iter()
            .take(most)
            .map(|(channel, subscribers)| v1::Channel { name: channel.as_str().to_owned(), subscribers });
        v1::ChannelsResponse { channels: told.collect(), total, missing_nodes: Vec::new() }
    }

    pub(super) async fn channels_everywhere(&self, asked: &v1::ChannelsRequest) -> v1::ChannelsResponse {
        let others: Answers<v1::ChannelsResponse> = self.others(Method::Channels, asked).await;
        let mut total = 0;
        let mut by_name: BTreeMap<String, u64> = BTreeMap::new();
        let here = self.channels_here(asked, usize::MAX);
        for answer in std::iter::once(here).chain(others.given) {
            total = total.max(answer.total);
            for channel in answer.channels {
                *by_name.entry(channel.name).or_default() += channel.subscribers;
            }
        }
        // Exact as long as no other node has more than it tells.
        let total = total.max(by_name.len() as u64);
        let page = by_name.into_iter().take(page_size(asked.limit));
        let channels = page.map(|(name, subscribers)| v1::Channel { name, subscribers }).collect();
        v1::ChannelsResponse { channels, total, missing_nodes: others.missing }
    }

    fn connections_here(&self, asked: &v1::ConnectionsRequest) -> Result<v1::ConnectionsResponse, Refusal> {
        let mut connections = match asked.channel.as_str() {
            "" => self.hub.connections(),
            name => self.hub.members(&self.place(name)?.channel),
        };
        if !asked.user.is_empty() {
            connections.retain(|connection| connection.user() == Some(&*asked.user));
        }
        let total = connections.len() as u64;
        let page = connections.iter().take(page_size(asked.limit));
        Ok(v1::ConnectionsResponse {
            connections: page.map(|connection| described(connection, &self.node.id)).collect(),
            total,
            missing_nodes: Vec::new(),
        })
    }

    pub(super) async fn connections_everywhere(
        &self,
        asked: &v1::ConnectionsRequest,
    ) -> Result<v1::ConnectionsResponse, Refusal> {
        let mut all = self.connections_here(asked)?;
        let others: Answers<v1::ConnectionsResponse> = self.others(Method::Connections, asked).await;
        for answer in others.given {
            all.total += answer.total;
            all.connections.extend(answer.connections);
        }
        all.connections.truncate(page_size(asked.limit));
        all.missing_nodes = others.missing;
        Ok(all)
    }

    fn health_here(&self, asked: &v1::ConnectionHealthRequest) -> v1::ConnectionHealthResponse {
        let client = Uuid::parse_str(&asked.client).ok();
        client.and_then(|client| health_here(&self.hub, client, &self.node.id)).unwrap_or_default()
    }

    fn disconnect_here(&self, asked: &v1::DisconnectRequest) -> v1::DisconnectResponse {
        let disconnected = self.hub.disconnect_user(&asked.user, Disconnect::FORCED);
        tracing::info!(user = asked.user, disconnected, "disconnected a user");
        v1::DisconnectResponse { disconnected, missing_nodes: Vec::new() }
    }

    pub(super) async fn disconnect_everywhere(
        &self,
        asked: &v1::DisconnectRequest,
    ) -> v1::DisconnectResponse {
        let here = self.disconnect_here(asked);
        let others: Answers<v1::DisconnectResponse> = self.others(Method::Disconnect, asked).await;
        let elsewhere: u64 = others.given.iter().map(|answer| answer.disconnected).sum();
        v1::DisconnectResponse { disconnected: here.disconnected + elsewhere, missing_nodes: others.missing }
    }

    fn presence_here(&self, asked: &v1::PresenceRequest) -> Result<v1::PresenceResponse, Refusal> {
        let channel = self.attended(&asked.channel)?;
        let clients = self.hub.presence(&channel);
        let total = clients.len() as u64;
        let clients = clients.iter().map(shown_client).collect();
        Ok(v1::PresenceResponse { clients, total, missing_nodes: Vec::new() })
    }

    pub(super) async fn presence_everywhere(
        &self,
        asked: &v1::PresenceRequest,
    ) -> Result<v1::PresenceResponse, Refusal> {
        let mut all = self.presence_here(asked)?;
        let others: Answers<v1::PresenceResponse> = self.others(Method::Presence, asked).await;
        for answer in others.given {
            all.total += answer.total;
            all.clients.extend(answer.clients);
        }
        all.clients.truncate(MAX_PRESENCE);
        all.missing_nodes = others.missing;
        Ok(all)
    }

    /// Lists the users of a channel, each once; `total` counts clients.
    fn users_here(&self, asked: &v1::PresenceRequest) -> Result<v1::PresenceResponse, Refusal> {
        let channel = self.attended(&asked.channel)?;
        let clients = self.hub.presence(&channel);
        let users: HashSet<&str> = clients.iter().map(|info| &*info.user).collect();
        let named = |user: &str| v1::ClientInfo { user: user.to_owned(), ..v1::ClientInfo::default() };
        Ok(v1::PresenceResponse {
            clients: users.into_iter().map(named).collect(),
            total: clients.len() as u64,
            missing_nodes: Vec::new(),
        })
    }

    pub(super) async fn presence_stats_everywhere(
        &self,
        asked: &v1::PresenceStatsRequest,
    ) -> Result<v1::PresenceStatsResponse, Refusal> {
        let question = v1::PresenceRequest { channel: asked.channel.clone() };
        let here = self.users_here(&question)?;
        let others: Answers<v1::PresenceResponse> = self.others(Method::Users, &question).await;
        let all = || std::iter::once(&here).chain(&others.given);
        let users: HashSet<&str> =
            all().flat_map(|answer| &answer.clients).map(|one| one.user.as_str()).collect();
        Ok(v1::PresenceStatsResponse {
            clients: all().map(|answer| answer.total).sum(),
            users: users.len() as u64,
            missing_nodes: others.missing,
        })
    }

    async fn subscribe_here(&self, asked: &v1::SubscribeRequest) -> Result<v1::SubscribeResponse, Refusal> {
        let Place { channel, options } = self.place(&asked.channel)?;
        let granted = match &asked.filter[..] {
            [] => None,
            filter => Some(Arc::new(forced(filter).map_err(|InvalidFilter| Refusal::FilterInvalid)?)),
        };
        let wanted = Subscription {
            filters: Filters { asked: None, namespace: self.namespaces.filter_of(&channel), granted },
            channel,
            options,
            recover: None,
            reject_unrecovered: false,
            positioned: true,
            recoverable: true,
            join_leave: true,
            delta: false,
            chan_info: None,
            overrides: Overrides::default(),
            lifetime: Lifetime::default(),
            data: None,
            by_server: true,
        };
        let mut subscribed = 0;
        for connection in self.addressed(&asked.user, &asked.client)? {
            subscribed += u64::from(match self.hub.broker() {
                None => self.hub.subscribe_unasked(&connection, &wanted),
                Some(broker) => broker.subscribe_unasked(&connection, &wanted).await,
            });
        }
        Ok(v1::SubscribeResponse { subscribed, missing_nodes: Vec::new() })
    }

    pub(super) async fn subscribe_everywhere(
        &self,
        asked: &v1::SubscribeRequest,
    ) -> Result<v1::SubscribeResponse, Refusal> {
        let here = self.subscribe_here(asked).await?;
        let others: Answers<v1::SubscribeResponse> = self.others(Method::Subscribe, asked).await;
        let elsewhere: u64 = others.given.iter().map(|answer| answer.subscribed).sum();
        Ok(v1::SubscribeResponse { subscribed: here.subscribed + elsewhere, missing_nodes: others.missing })
    }

    /// Takes what a client of this node said to another; false when too much waits already.
    fn hear_here(&self, overheard: &Overheard) -> bool {
        self.emulation.as_ref().is_none_or(|emulation| emulation.overhear(overheard))
    }

    fn refresh_here(&self, asked: &v1::RefreshRequest) -> Result<v1::RefreshResponse, Refusal> {
        let channel = match asked.channel.as_str() {
            "" => None,
            name => Some(self.place(name)?.channel),
        };
        let now = self.hub.now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let ends = match (asked.expired, asked.expire_at) {
            (true, _) => Ends::Now,
            (false, 0) => Ends::Never,
            (false, at) if at > now.as_secs() => Ends::At(at),
            _ => return Err(Refusal::ExpireAtPast),
        };
        let mut connections = self.addressed(&asked.user, &asked.client)?;
        if let Some(channel) = &channel {
            connections.retain(|connection| connection.is_subscribed(channel));
        }
        for connection in &connections {
            connection.tell(Word::Prolong { channel: channel.clone(), ends });
        }
        Ok(v1::RefreshResponse { refreshed: connections.len() as u64, missing_nodes: Vec::new() })
    }

    pub(super) async fn refresh_everywhere(
        &self,
        asked: &v1::RefreshRequest,
    ) -> Result<v1::RefreshResponse, Refusal> {
        let here = self.refresh_here(asked)?;
        let others: Answers<v1::RefreshResponse> = self.others(Method::Refresh, asked).await;
        let elsewhere: u64 = others.given.iter().map(|answer| answer.refreshed).sum();
        Ok(v1::RefreshResponse { refreshed: here.refreshed + elsewhere, missing_nodes: others.missing })
    }

    fn unsubscribe_here(&self, asked: &v1::UnsubscribeRequest) -> Result<v1::UnsubscribeResponse, Refusal> {
        let channel = self.place(&asked.channel)?.channel;
        let connections = self.addressed(&asked.user, &asked.client)?;
        let ended = connections
            .iter()
            .filter(|connection| self.hub.unsubscribe(connection, &channel, Unsubscribed::BY_SERVER));
        Ok(v1::UnsubscribeResponse { unsubscribed: ended.count() as u64, missing_nodes: Vec::new() })
    }

    pub(super) async fn unsubscribe_everywhere(
        &self,
        asked: &v1::UnsubscribeRequest,
    ) -> Result<v1::UnsubscribeResponse, Refusal> {
        let here = self.unsubscribe_here(asked)?;
        let others: Answers<v1::UnsubscribeResponse> = self.others(Method::Unsubscribe, asked).await;
        let elsewhere: u64 = others.given.iter().map(|answer| answer.unsubscribed).sum();
        Ok(v1::UnsubscribeResponse {
            unsubscribed: here.unsubscribed + elsewhere,
            missing_nodes: others.missing,
        })
    }
}

fn forced(filter: &[u8]) -> Result<Filter, InvalidFilter> {
    Filter::forced(str::from_utf8(filter).map_err(|_| InvalidFilter)?)
}

/// Reads a question, and writes its answer.
fn told<Q: prost::Message + Default, A: prost::Message>(
    body: bytes::Bytes,
    answer: impl FnOnce(&Q) -> Result<A, Refusal>,
) -> Told {
    let asked = Q::decode(body).ok()?;
    Some(answer(&asked).map(|answer| answer.encode_to_vec()))
}
