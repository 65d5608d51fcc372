//! The handlers, one file per resource: build the request, call, map the answer.

pub(crate) mod alerting;
pub(crate) mod analysis;
pub(crate) mod audit;
pub(crate) mod batch;
pub(crate) mod cache;
pub(crate) mod cache_monitor;
pub(crate) mod channels;
pub(crate) mod coordination;
pub(crate) mod crowd;
pub(crate) mod dashboard;
pub(crate) mod database;
pub(crate) mod docs;
pub(crate) mod feeds;
pub(crate) mod glance;
pub(crate) mod health;
pub(crate) mod invalidation;
pub(crate) mod journeys;
pub(crate) mod keys;
pub(crate) mod live;
pub(crate) mod monitoring;
pub(crate) mod partitions;
pub(crate) mod policies;
pub(crate) mod realtime;
pub(crate) mod sessions;
pub(crate) mod switchover;
pub(crate) mod system;
pub(crate) mod warming;
pub(crate) mod words;
pub(crate) mod write_behind;

mod page;
mod sql_json;
