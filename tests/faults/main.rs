//! Faults, done for real: bad configuration, missing dependencies, `kill -9`, SIGTERM under load.
//!
//! Every test starts what it breaks.

mod config;
mod dependency;
mod drain;
mod killed;
mod limits;
mod network;
mod tokens;
