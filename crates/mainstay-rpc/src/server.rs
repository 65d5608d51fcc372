//! The server side: what every gRPC request passes before it reaches a handler.

mod config;
mod deadline;
mod methods;
mod metrics;
mod panic;
mod report;
mod shed;
mod stack;
#[cfg(test)]
mod tests;
mod token;

pub use config::ServerConfig;
pub use deadline::Deadline;
pub use metrics::ServerMetrics;
pub use stack::stack;

pub(crate) use metrics::ListenerLabels;
pub(crate) use token::TOKEN_REFUSED;
