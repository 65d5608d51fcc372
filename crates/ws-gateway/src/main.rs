//! The WebSocket gateway process.

use std::process::ExitCode;

fn main() -> ExitCode {
    mainstay_runtime::run("ws-gateway", ws_gateway::start)
}
