use std::net::SocketAddr;

/// Names this process among all others.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Name of the service, e.g. `cache-service`.
    pub service: &'static str,
    /// Name of this process among its peers; from `server.instance`, else made anew at every start.
    pub instance: String,
    /// Version of the binary.
    pub version: &'static str,
}

impl Identity {
    pub(crate) fn new(service: &'static str, configured: &str, listen: SocketAddr) -> Self {
        let instance = if configured.is_empty() { made_up(service, listen) } else { configured.to_owned() };
        Self { service, instance, version: env!("CARGO_PKG_VERSION") }
    }
}

fn made_up(service: &str, listen: SocketAddr) -> String {
    let suffix: u32 = rand::random_range(0..1 << 24);
    match listen.port() {
        0 => format!("{service}-{suffix:06x}"),
        port => format!("{service}-{port}-{suffix:06x}"),
    }
}
