//! The edge process.

use std::process::ExitCode;

fn main() -> ExitCode {
    mainstay_runtime::run("edge-gateway", edge_gateway::start)
}
