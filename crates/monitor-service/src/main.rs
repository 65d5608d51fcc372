//! The monitor of a Mainstay stack.

use std::process::ExitCode;

fn main() -> ExitCode {
    mainstay_runtime::run("monitor-service", monitor_service::start)
}
