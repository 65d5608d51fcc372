//! The smallest service: what `tests/process.rs` starts, asks, signals and breaks.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use mainstay_rpc::Routes;
use mainstay_runtime::{
    ComponentKind, Context, Problems, Schedule, Secret, ServerConfig, ServiceConfig, TelemetryConfig, run,
};
use serde::{Deserialize, Serialize};

fn main() -> ExitCode {
    run("echo-service", start)
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    server: ServerConfig,
    telemetry: TelemetryConfig,
    echo: Echo,
}

#[derive(Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Echo {
    /// A file that must exist for the service to be ready: its database, so to speak.
    store: PathBuf,
    /// What goes wrong.
    fault: Fault,
    /// Never end when asked.
    deaf: bool,
    password: Secret,
    repeat: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Fault {
    None,
    Start,
    Unserved,
    Error,
    Panic,
}

impl Default for Echo {
    fn default() -> Self {
        Self { store: "/".into(), fault: Fault::None, deaf: false, password: Secret::default(), repeat: 1 }
    }
}

impl ServiceConfig for Config {
    fn server(&self) -> &ServerConfig {
        &self.server
    }

    fn telemetry(&self) -> &TelemetryConfig {
        &self.telemetry
    }

    fn check(&self, problems: &mut Problems) {
        problems.range("echo.repeat", self.echo.repeat, 1..=9);
    }
}

async fn start(cx: Context, config: Config) -> anyhow::Result<()> {
    let Echo { store, fault, deaf, .. } = config.echo;
    if fault == Fault::Start {
        bail!("the echo is lost");
    }
    let component = cx.component("store", ComponentKind::Datastore, true);
    cx.background("store.probe", Schedule::Every(Duration::from_millis(20)), move || {
        let (component, exists) = (component.clone(), store.exists());
        async move {
            if exists {
                component.healthy("is there");
            } else {
                component.unhealthy("is not there");
            }
            Ok(())
        }
    });
    let stopping = cx.stopping();
    cx.spawn("troublemaker", async move {
        match fault {
            Fault::Error => bail!("cannot go on"),
            Fault::Panic => panic!("lost my head"),
            Fault::None | Fault::Start | Fault::Unserved => {}
        }
        stopping.cancelled().await;
        if deaf { std::future::pending().await } else { Ok(()) }
    });
    if fault == Fault::Unserved { Ok(()) } else { cx.serve(Routes::default()).await }
}
