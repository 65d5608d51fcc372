//! The Centrifuge client protocol, version 2, in JSON: texts to commands, results to texts.
//!
//! A frame holds one or more objects joined by line feeds. Fields that are not known are passed over.

mod command;
pub(crate) mod protobuf;
mod reply;

pub(crate) use command::{
    Command, ConnectRequest, HistoryRequest, Malformed, Method, PublishRequest, RefreshRequest, Request,
    RpcRequest, SubRefreshRequest, SubscribeRequest,
};
pub(crate) use reply::{
    About, ClientInfo, ConnectResult, Empty, HistoryResult, Lifetime, PING, PresenceResult,
    PresenceStatsResult, Publication, Push, RefreshResult, SubRefreshResult, SubscribeResult, Subscribed,
    error_reply, push, reply, told_error,
};
