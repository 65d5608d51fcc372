use std::future::Future;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::args::{Args, Command};
use crate::clock::Clock;
use crate::config::{self, ServiceConfig, Sources};
use crate::context::Context;
use crate::healthcheck;
use crate::identity::Identity;
use crate::telemetry::Telemetry;

/// Runs a service from its first instruction to its exit code; the whole body of a service's `main`.
///
/// `start` assembles the service: it spawns everything, calls [`Context::serve`] and returns. The process is not ready
/// before `start` has returned. Then it lives until a signal or a crash.
///
/// Exit codes: 0 asked to stop; 1 `start` or a task failed, or a port is taken; 64 bad arguments or configuration.
pub fn run<C, F, Fut>(service: &'static str, start: F) -> ExitCode
where
    C: ServiceConfig,
    F: FnOnce(Context, C) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    let exit = match Args::parse_for(service, std::env::args_os()) {
        Ok(args) => do_as_told(service, args, start),
        Err(help_or_error) => {
            let exit = if help_or_error.use_stderr() { Exit::BadConfig } else { Exit::Asked };
            // A closed terminal is no reason for another exit code.
            drop(help_or_error.print());
            exit
        }
    };
    ExitCode::from(exit as u8)
}

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    Asked = 0,
    Failed = 1,
    BadConfig = 64,
}

fn do_as_told<C, F, Fut>(service: &'static str, args: Args, start: F) -> Exit
where
    C: ServiceConfig,
    F: FnOnce(Context, C) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    let sources = Sources::of_process(service, args.config);
    let config: C = match config::load(&sources) {
        Ok(config) => config,
        Err(problems) => {
            problems.iter().for_each(|problem| to_stderr(problem));
            return Exit::BadConfig;
        }
    };
    if let Some(Command::Healthcheck) = args.command {
        return report(healthcheck::ask(config.server()).map(|()| "ready".to_owned()));
    }
    if args.check_config {
        return report(Ok("configuration is valid".to_owned()));
    }
    if args.print_config {
        return report(toml::to_string_pretty(&config).map_err(anyhow::Error::new));
    }
    live(service, config, sources, start)
}

/// Prints the outcome of a command that is not the service itself.
fn report(outcome: anyhow::Result<String>) -> Exit {
    match outcome {
        Ok(text) => {
            drop(writeln!(std::io::stdout().lock(), "{}", text.trim_end()));
            Exit::Asked
        }
        Err(error) => {
            to_stderr(&format!("{error:#}"));
            Exit::Failed
        }
    }
}

fn to_stderr(line: &str) {
    drop(writeln!(std::io::stderr().lock(), "{line}"));
}

fn live<C, F, Fut>(service: &'static str, config: C, sources: Sources, start: F) -> Exit
where
    C: ServiceConfig,
    F: FnOnce(Context, C) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    raise_open_files();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().thread_name(service).build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            return report(Err(anyhow::Error::new(error).context("cannot start the async runtime")));
        }
    };
    let exit = runtime.block_on(async {
        let server = config.server().clone();
        let identity = Identity::new(service, &server.instance, server.listen);
        let cx = Context::new(identity, server, sources, Clock::system());
        cx.adopt_config(&config);
        let telemetry = match Telemetry::start(&cx, config.telemetry()) {
            Ok(telemetry) => telemetry,
            Err(error) => return report(Err(error)),
        };
        let exit = Box::pin(serve_until_asked(&cx, config, start)).await;
        telemetry.flush().await;
        exit
    });
    // A thread that blocks for good must not keep the process.
    runtime.shutdown_timeout(Duration::from_millis(500));
    exit
}

/// Starts the service, waits for a reason to stop, and stops in order.
async fn serve_until_asked<C, F, Fut>(cx: &Context, config: C, start: F) -> Exit
where
    C: ServiceConfig,
    F: FnOnce(Context, C) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => {
            return failed_to_start(&anyhow::Error::new(error).context("cannot listen for signals"));
        }
    };
    let identity = cx.identity();
    tracing::info!(instance = identity.instance, version = identity.version, "starting");
    let starting = cx.latch("start");
    if let Err(error) = cx.bind_internal().await {
        return failed_to_start(&error);
    }
    let started = tokio::select! {
        started = start(cx.clone(), config) => Some(started.and_then(|()| cx.ensure_served())),
        () = reason_to_stop(cx, &mut signals) => None,
    };
    let mut exit = Exit::Asked;
    match started {
        Some(Ok(())) => {
            starting.release();
            reason_to_stop(cx, &mut signals).await;
        }
        Some(Err(error)) => exit = failed_to_start(&error),
        None => {}
    }
    shut_down(cx, &mut signals).await;
    if cx.inner.lifecycle.crashed().is_cancelled() {
        exit = Exit::Failed;
    }
    tracing::info!(exit_code = exit as u8, "stopped");
    exit
}

fn failed_to_start(error: &anyhow::Error) -> Exit {
    tracing::error!(error = format!("{error:#}"), "cannot start");
    Exit::Failed
}

/// Waits for a signal or a crash, and logs the signal; the task that crashed has logged what happened.
async fn reason_to_stop(cx: &Context, signals: &mut Signals) {
    tokio::select! {
        name = signals.next() => tracing::info!(signal = name, "asked to stop"),
        () = cx.inner.lifecycle.crashed().cancelled() => {}
    }
}

async fn shut_down(cx: &Context, signals: &mut Signals) {
    let hurry = CancellationToken::new();
    let down = cx.shut_down_until(&hurry);
    tokio::pin!(down);
    tokio::select! {
        () = &mut down => return,
        name = signals.next() => tracing::warn!(signal = name, "asked again, stopping at once"),
    }
    hurry.cancel();
    down.await;
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Allows as many connections as the system permits; the usual soft limit of 1024 is for programs that use `select`.
fn raise_open_files() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        // Refused on systems with a lower real limit: then the old one holds.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
}
