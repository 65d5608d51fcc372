//! The whole URL map: one file per area, each path with the smallest role that may use it. Everything else about a path
//! stands at its handler.

mod access;
mod alerting;
mod analysis;
mod cache;
mod coordination;
mod database;
mod health;
mod monitoring;
mod pages;
mod realtime;
mod sessions;

use crate::map::Map;

/// Names every path.
pub(crate) fn map() -> Map {
    let areas = [
        health::paths,
        monitoring::paths,
        alerting::paths,
        analysis::paths,
        cache::paths,
        sessions::paths,
        coordination::paths,
        database::paths,
        realtime::paths,
        access::paths,
        pages::paths,
    ];
    areas.into_iter().fold(Map::default(), |map, paths| paths(map))
}
