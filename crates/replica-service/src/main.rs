//! The replica service process.

use std::process::ExitCode;

fn main() -> ExitCode {
    mainstay_runtime::run("replica-service", replica_service::start)
}
