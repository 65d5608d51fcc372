//! The server side: what every gRPC request passes before it reaches a handler.

mod config;
mod deadline;
mod methods;
mod metrics;
mod panic;
mod quick;
mod report;
mod shed;
mod stack;
#[cfg(test)]
mod tests;
mod token;
mod unreadable;

pub use config::ServerConfig;
pub use deadline::Deadline;
pub use metrics::ServerMetrics;
pub use quick::{AtOnce, QuickCalls, QuickMethod};
pub use stack::{Stack, stack};
pub use unreadable::unreadable;

pub(crate) use metrics::ListenerLabels;
pub(crate) use quick::ServedBody;
pub(crate) use token::TOKEN_REFUSED;
