//! The monitor against real targets: services of mainstay-runtime in this process, over real sockets.

mod alerts;
mod collection;
mod durable;
mod harness;
mod notify;
mod rules;
