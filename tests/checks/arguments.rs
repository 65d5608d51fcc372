//! What the program is called with.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};

const USAGE: &str = "usage: mainstay-checks smoke|observability|all|load [--env NAME] [--environments FILE] [--junit FILE] \
                     [--json FILE] [--seconds N]; AUTH_TOKEN is an API key or a JWT, AUTH_TOKEN_FILE a file with one, VERBOSE=1 tells details, NO_COLOR=1 leaves colours out";

#[derive(Clone, Copy)]
pub(crate) enum Suite {
    Smoke,
    Observability,
    All,
    /// Never part of all: it makes work for the stack.
    Load,
}

pub(crate) struct Arguments {
    pub(crate) suite: Suite,
    pub(crate) environment: String,
    pub(crate) environments: PathBuf,
    pub(crate) junit: Option<PathBuf>,
    pub(crate) json: Option<PathBuf>,
    /// How long each check of the load suite lasts.
    pub(crate) load_for: Duration,
    pub(crate) verbose: bool,
    pub(crate) coloured: bool,
}

impl Suite {
    pub(crate) fn parts(self) -> &'static [Self] {
        match self {
            Self::Smoke => &[Self::Smoke],
            Self::Observability => &[Self::Observability],
            Self::All => &[Self::Smoke, Self::Observability],
            Self::Load => &[Self::Load],
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Smoke => "smoke",
            Self::Observability => "observability",
            Self::All => "all",
            Self::Load => "load",
        }
    }
}

impl Arguments {
    pub(crate) fn read(mut words: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let suite = match words.next().as_deref() {
            Some("smoke") => Suite::Smoke,
            Some("observability") => Suite::Observability,
            Some("all") => Suite::All,
            Some("load") => Suite::Load,
            _ => bail!(USAGE),
        };
        let set = |name: &str| std::env::var(name).is_ok_and(|value| !value.is_empty() && value != "0");
        let mut arguments = Self {
            suite,
            environment: "local".to_owned(),
            environments: PathBuf::from("deploy/environments.toml"),
            junit: None,
            json: None,
            load_for: Duration::from_secs(10),
            // The figures are what a load is for.
            verbose: set("VERBOSE") || matches!(suite, Suite::Load),
            coloured: !set("NO_COLOR"),
        };
        while let Some(option) = words.next() {
            let value = words.next().with_context(|| format!("{option} takes a value; {USAGE}"))?;
            match option.as_str() {
                "--env" => arguments.environment = value,
                "--environments" => arguments.environments = value.into(),
                "--junit" => arguments.junit = Some(value.into()),
                "--json" => arguments.json = Some(value.into()),
                "--seconds" => {
                    let seconds: u64 = value
                        .parse()
                        .ok()
                        .filter(|seconds| (1..=3_600).contains(seconds))
                        .context("--seconds takes a number from 1 to 3600")?;
                    arguments.load_for = Duration::from_secs(seconds);
                }
                _ => bail!("unknown option {option}; {USAGE}"),
            }
        }
        Ok(arguments)
    }
}
