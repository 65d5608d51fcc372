//! What is watched.

/// Names one address of one service; the process behind it may change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Position among all targets.
    pub index: usize,
    /// Name of the service, from the configuration.
    pub service: String,
    /// Address it is pulled from, e.g. `http://127.0.0.1:4010`.
    pub endpoint: String,
}
