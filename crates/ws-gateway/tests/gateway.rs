//! The gateway from outside: real sockets, a real listener, the public API of the crate.

#[cfg(test)]
#[path = "gateway/application.rs"]
mod application;
#[cfg(test)]
#[path = "gateway/auth.rs"]
mod auth;
#[cfg(test)]
#[path = "gateway/backend.rs"]
mod backend;
#[cfg(test)]
#[path = "gateway/channels.rs"]
mod channels;
#[cfg(test)]
#[path = "gateway/client.rs"]
mod client;
#[cfg(test)]
#[path = "gateway/cluster.rs"]
mod cluster;
#[cfg(test)]
#[path = "gateway/connecting.rs"]
mod connecting;
#[cfg(test)]
#[path = "gateway/delivery.rs"]
mod delivery;
#[cfg(test)]
#[path = "gateway/deltas.rs"]
mod deltas;
#[cfg(test)]
#[path = "gateway/draining.rs"]
mod draining;
#[cfg(test)]
#[path = "gateway/ends.rs"]
mod ends;
#[cfg(test)]
#[path = "gateway/fallback.rs"]
mod fallback;
#[cfg(test)]
#[path = "gateway/feeds.rs"]
mod feeds;
#[cfg(test)]
#[path = "gateway/filters.rs"]
mod filters;
#[cfg(test)]
#[path = "gateway/hooks.rs"]
mod hooks;
#[cfg(test)]
#[path = "gateway/journeys.rs"]
mod journeys;
#[cfg(test)]
#[path = "gateway/limits.rs"]
mod limits;
#[cfg(test)]
#[path = "gateway/model.rs"]
mod model;
#[cfg(test)]
#[path = "gateway/node.rs"]
mod node;
#[cfg(test)]
#[path = "gateway/nodes.rs"]
mod nodes;
#[cfg(test)]
#[path = "gateway/peers.rs"]
mod peers;
#[cfg(test)]
#[path = "gateway/put_feeds.rs"]
mod put_feeds;
#[cfg(test)]
#[path = "gateway/sharded.rs"]
mod sharded;
#[cfg(test)]
#[path = "gateway/silence.rs"]
mod silence;
#[cfg(test)]
#[path = "gateway/skew.rs"]
mod skew;
#[cfg(test)]
#[path = "gateway/upheaval.rs"]
mod upheaval;
#[cfg(test)]
#[path = "gateway/watching.rs"]
mod watching;
#[cfg(test)]
#[path = "gateway/wire.rs"]
mod wire;
