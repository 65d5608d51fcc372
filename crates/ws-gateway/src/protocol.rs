//! The Centrifuge client protocol, version 2, in JSON: texts to commands, results to texts.
//!
//! A frame holds one or more objects joined by line feeds. Fields that are not known are passed over.

mod command;
mod reply;

pub(crate) use command::{
    Command, ConnectRequest, Malformed, Method, PublishRequest, RefreshRequest, Request, SubscribeRequest,
};
pub(crate) use reply::{
    ClientInfo, ConnectResult, Empty, Lifetime, PING, RefreshResult, SubscribeResult, error_reply,
    publication_push, reply,
};
