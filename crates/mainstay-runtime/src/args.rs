use std::ffi::OsString;
use std::path::PathBuf;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

/// What the process was asked to do.
#[derive(Debug, Parser)]
pub(crate) struct Args {
    /// Read this TOML file instead of `deploy/config/<service>.toml`
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) config: Option<PathBuf>,

    /// Check the configuration, say so, and exit
    #[arg(long, conflicts_with = "print_config")]
    pub(crate) check_config: bool,

    /// Print the effective configuration as TOML, without secrets, and exit
    #[arg(long)]
    pub(crate) print_config: bool,

    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum Command {
    /// Ask the running service of this configuration whether it is ready: exit code 0 or 1
    Healthcheck,
}

impl Args {
    pub(crate) fn parse_for<I, T>(service: &'static str, args: I) -> Result<Self, clap::Error>
    where
        I: IntoIterator<Item = T>,
        T: Into<OsString> + Clone,
    {
        let command = Self::command().name(service).bin_name(service).version(env!("CARGO_PKG_VERSION")).about(
            "Settings come from defaults, the TOML file, and variables MAINSTAY__SECTION__KEY, the last one winning.",
        );
        Self::from_arg_matches(&command.try_get_matches_from(args)?)
    }
}
