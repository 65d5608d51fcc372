use std::process::ExitCode;

fn main() -> ExitCode {
    mainstay_runtime::run("cache-service", cache_service::start)
}
