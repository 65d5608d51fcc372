//! The monitor against real targets: services of mainstay-runtime in this process, over real sockets.

mod access;
mod alerts;
mod analysis;
mod collection;
mod datastores;
mod durable;
mod faults;
mod grouping;
mod harness;
mod import;
mod mail;
mod names;
mod notify;
mod rules;
mod secure;
mod several;
mod strangers;
