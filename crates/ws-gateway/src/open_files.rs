//! How many sockets the system lets this process hold.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files a process needs beside the sockets of its clients.
const RESERVED: u64 = 256;

/// Raises the limit as far as it goes without rights, and returns how many connections fit below it.
pub(crate) fn make_room_for(wanted: u32) -> u32 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    let Some(files) = current else { return wanted };
    let fits = u32::try_from(files.saturating_sub(RESERVED).max(1)).unwrap_or(u32::MAX);
    if fits < wanted {
        tracing::info!(
            files,
            configured = wanted,
            max_connections = fits,
            "the system allows fewer open files than websocket.max_connections"
        );
    }
    wanted.min(fits)
}
