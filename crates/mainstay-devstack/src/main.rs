//! Runs the dev stack for people and scripts.
#![expect(clippy::disallowed_methods, reason = "a token's times count from the real clock")]

mod screen;

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use mainstay_auth::{Role, jwt};
use mainstay_devstack::{Devstack, Endpoints, Ports, Service};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::screen::Screen;

/// Redis with Sentinel, PostgreSQL with replicas, PgBouncer and the Mainstay services on this machine.
#[derive(Parser)]
#[command(name = "mainstay-devstack", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start the stack, run until SIGINT or SIGTERM, then stop all of it.
    Up(Box<Up>),
    /// End what an earlier run left in a directory, and only that.
    Down(Dir),
    /// List the processes of the stack in a directory; exit 0 when it is up, 1 when not.
    Status(Dir),
    /// Print a JWT signed with the secret of a running stack.
    MintToken(MintToken),
}

#[derive(Args)]
struct Up {
    /// Directory for data, logs and endpoints.json; kept. [default: a temporary one, removed at the end]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Use the well-known ports (edge 4000, redis 6390, postgres 5440, ...) instead of free ones.
    #[arg(long)]
    fixed_ports: bool,
    /// Leave Redis and the Sentinels out.
    #[arg(long)]
    without_redis: bool,
    /// Leave PostgreSQL, PgBouncer and replica-service out.
    #[arg(long)]
    without_postgres: bool,
    /// Take the binaries of the services from here. [default: beside this program]
    #[arg(long, value_name = "BINDIR", conflicts_with = "no_services")]
    services_from: Option<PathBuf>,
    /// Start Redis and PostgreSQL only.
    #[arg(long)]
    no_services: bool,
    /// Fill the database: organizations, and two pairs of tables with 200,000 rows each.
    #[arg(long)]
    demo_data: bool,
    /// Let the services export spans to this OTLP/gRPC endpoint.
    #[arg(long, value_name = "URL")]
    otlp_endpoint: Option<String>,
    /// When ready, print endpoints.json on one line instead of the screen for people.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Dir {
    #[arg(long)]
    dir: PathBuf,
}

#[derive(Args)]
struct MintToken {
    #[arg(long)]
    dir: PathBuf,
    /// viewer, operator or admin.
    #[arg(long)]
    role: Role,
    /// Who the token is about.
    #[arg(long)]
    subject: String,
    #[arg(long, default_value = "1h", value_parser = humantime::parse_duration)]
    ttl: Duration,
}

/// Says that a signal ended the start, as shells do for Ctrl-C.
const INTERRUPTED: u8 = 130;
/// How long the token on the screen is good.
const SCREEN_TOKEN_TTL: Duration = Duration::from_secs(12 * 3600);

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Up(up) => run_up(*up),
        Command::Down(Dir { dir }) => run_down(&dir),
        Command::Status(Dir { dir }) => Ok(run_status(&dir)),
        Command::MintToken(mint) => run_mint_token(&mint),
    };
    outcome.unwrap_or_else(|error| {
        tell(&format!("error: {error:#}"));
        ExitCode::FAILURE
    })
}

#[tokio::main]
async fn run_up(up: Up) -> anyhow::Result<ExitCode> {
    let mut stop = StopSignals::listen()?;
    let (json, otlp_endpoint, demo_data) = (up.json, up.otlp_endpoint.clone(), up.demo_data);
    let stack = tokio::select! {
        started = builder(up).start() => started?,
        () = stop.next() => {
            tell("stopped before it was ready");
            return Ok(ExitCode::from(INTERRUPTED));
        }
    };
    print(&summary(&stack, json, otlp_endpoint.as_deref(), demo_data)?);
    loop {
        tokio::select! {
            () = stop.next() => break,
            exit = stack.next_unexpected_exit() => {
                tell(&format!("{} ended with {}; end of its log:\n{}", exit.name, exit.status, exit.log_tail));
            }
        }
    }
    tell("stopping; once more to stop at once");
    tokio::select! {
        stopped = stack.stop() => stopped?,
        // Our end makes the guard end the rest.
        () = stop.next() => return Ok(ExitCode::from(INTERRUPTED)),
    }
    tell("stopped");
    Ok(ExitCode::SUCCESS)
}

fn builder(up: Up) -> mainstay_devstack::Builder {
    let mut builder = Devstack::builder()
        .redis(!up.without_redis)
        .postgres(!up.without_postgres)
        .pgbouncer(!up.without_postgres)
        .demo_data(up.demo_data)
        .ports(if up.fixed_ports { Ports::Fixed } else { Ports::Free })
        .on_progress(tell);
    if !up.no_services {
        // Without a single server to route to, replica-service has nothing to do.
        let wanted = |service: &Service| !up.without_postgres || *service != Service::ReplicaService;
        builder = builder.services(Service::ALL.into_iter().filter(wanted));
    }
    if let Some(dir) = up.dir {
        builder = builder.dir(dir);
    }
    if let Some(dir) = up.services_from {
        builder = builder.bin_dir(dir);
    }
    if let Some(url) = up.otlp_endpoint {
        builder = builder.otlp_endpoint(url);
    }
    builder
}

fn summary(
    stack: &Devstack,
    json: bool,
    otlp_endpoint: Option<&str>,
    demo_data: bool,
) -> anyhow::Result<String> {
    let endpoints = stack.endpoints();
    if json {
        return serde_json::to_string(endpoints).context("write the endpoints as JSON");
    }
    let token = sign(endpoints, "you", Role::Viewer, SCREEN_TOKEN_TTL)?;
    Ok(Screen { endpoints, token: &token, otlp_endpoint, demo_data }.render())
}

fn run_down(dir: &Path) -> anyhow::Result<ExitCode> {
    let ended = mainstay_devstack::down(dir)?;
    let what = if ended.is_empty() {
        "nothing was running".to_owned()
    } else {
        format!("ended {}", ended.join(", "))
    };
    tell(&what);
    Ok(ExitCode::SUCCESS)
}

fn run_status(dir: &Path) -> ExitCode {
    let (owned, entries) = mainstay_devstack::status(dir);
    print(if owned { "owner: running" } else { "owner: gone" });
    for entry in &entries {
        let state = if entry.alive { "running" } else { "ended" };
        print(&format!("{:<20} pid {:<8} {state}", entry.name, entry.pid));
    }
    if owned { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_mint_token(mint: &MintToken) -> anyhow::Result<ExitCode> {
    let endpoints = Endpoints::read(&mint.dir)?;
    print(&sign(&endpoints, &mint.subject, mint.role, mint.ttl)?);
    Ok(ExitCode::SUCCESS)
}

/// Signs a token that the edge and the gateway of the stack accept.
fn sign(endpoints: &Endpoints, subject: &str, role: Role, ttl: Duration) -> anyhow::Result<String> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).context("the clock is before 1970")?;
    let claims = jwt::Claims {
        sub: subject.to_owned(),
        role: Some(role),
        iat: Some(now.as_secs()),
        exp: Some((now + ttl).as_secs()),
        ..jwt::Claims::default()
    };
    jwt::sign_hs256(&claims, endpoints.credentials.jwt_secret.as_bytes()).context("sign the token")
}

/// Waits for any of the signals that ask to stop.
struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl StopSignals {
    fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("listen for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

/// Writes to the person; a closed terminal is no reason to leave the stack behind.
fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn print(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
