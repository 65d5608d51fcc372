mod environment;
mod layers;
mod load;
mod path;

mod problems;
mod reader;
mod telemetry;

use mainstay_rpc::ServerConfig;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use load::{Sources, fingerprint, load};
pub use problems::Problems;
pub use telemetry::{LogFormat, TelemetryConfig};

/// Describes everything a service can be told at start.
///
/// The sections `server` and `telemetry` are common to all services; the struct names them so. Put
/// `#[serde(default, deny_unknown_fields)]` on every section; `#[serde(flatten)]` is not supported.
pub trait ServiceConfig: Default + Serialize + DeserializeOwned + Send + 'static {
    /// Returns the section `server`.
    fn server(&self) -> &ServerConfig;

    /// Returns the section `telemetry`.
    fn telemetry(&self) -> &TelemetryConfig;

    /// Reports every value that is legal for its type but not for the service. The sections `server` and `telemetry`
    /// are checked by the runtime.
    fn check(&self, problems: &mut Problems);
}

#[cfg(test)]
mod tests;
