//! The handlers, one file per resource: build the request, call, map the answer.

pub(crate) mod cache;
pub(crate) mod dashboard;
pub(crate) mod database;
pub(crate) mod health;
pub(crate) mod monitoring;
pub(crate) mod realtime;

mod sql_json;
mod words;
