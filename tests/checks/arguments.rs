//! What the program is called with.

use std::path::PathBuf;

use anyhow::{Context as _, bail};

const USAGE: &str = "usage: mainstay-checks smoke|observability|all [--env NAME] [--environments FILE] [--junit FILE] \
                     [--json FILE]; AUTH_TOKEN is an API key or a JWT, VERBOSE=1 tells details, NO_COLOR=1 leaves colours out";

#[derive(Clone, Copy)]
pub(crate) enum Suite {
    Smoke,
    Observability,
    All,
}

pub(crate) struct Arguments {
    pub(crate) suite: Suite,
    pub(crate) environment: String,
    pub(crate) environments: PathBuf,
    pub(crate) junit: Option<PathBuf>,
    pub(crate) json: Option<PathBuf>,
    pub(crate) verbose: bool,
    pub(crate) coloured: bool,
}

impl Suite {
    pub(crate) fn parts(self) -> &'static [Self] {
        match self {
            Self::Smoke => &[Self::Smoke],
            Self::Observability => &[Self::Observability],
            Self::All => &[Self::Smoke, Self::Observability],
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Smoke => "smoke",
            Self::Observability => "observability",
            Self::All => "all",
        }
    }
}

impl Arguments {
    pub(crate) fn read(mut words: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let suite = match words.next().as_deref() {
            Some("smoke") => Suite::Smoke,
            Some("observability") => Suite::Observability,
            Some("all") => Suite::All,
            _ => bail!(USAGE),
        };
        let set = |name: &str| std::env::var(name).is_ok_and(|value| !value.is_empty() && value != "0");
        let mut arguments = Self {
            suite,
            environment: "local".to_owned(),
            environments: PathBuf::from("deploy/environments.toml"),
            junit: None,
            json: None,
            verbose: set("VERBOSE"),
            coloured: !set("NO_COLOR"),
        };
        while let Some(option) = words.next() {
            let value = words.next().with_context(|| format!("{option} takes a value; {USAGE}"))?;
            match option.as_str() {
                "--env" => arguments.environment = value,
                "--environments" => arguments.environments = value.into(),
                "--junit" => arguments.junit = Some(value.into()),
                "--json" => arguments.json = Some(value.into()),
                _ => bail!("unknown option {option}; {USAGE}"),
            }
        }
        Ok(arguments)
    }
}
