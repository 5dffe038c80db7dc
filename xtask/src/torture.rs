//! `cargo xtask torture NAME`: builds the release programs and does to them what the promises must survive.
//!
//! The tortures are the test target `torture` of the tests' crate; here is only how they are built and started. Invariant: the
//! exit status says whether every promise held.

use crate::{cargo, repository};
use anyhow::{Context, Result, ensure};
use clap::Args;
use std::process::{Command, ExitCode, Stdio};

/// Where they are.
pub(crate) const TARGET: &str = "torture";

/// Flags.
#[derive(Args)]
pub(crate) struct Options {
    /// Which; without it, all are listed
    name: Option<String>,
    /// All of them, one after the other
    #[arg(long, conflicts_with = "name")]
    all: bool,
    /// How many cycles; without it, as many as the published figures have
    #[arg(long, value_name = "N")]
    cycles: Option<u64>,
    /// Where everything random comes from; without it, a new one, which is printed
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// One cycle alone, by its number
    #[arg(long, value_name = "N")]
    only: Option<u64>,
    /// Print the figures as JSON instead of a table
    #[arg(long)]
    json: bool,
    /// The development build, as the gate uses it
    #[arg(long)]
    debug: bool,
}

/// Runs one, or lists all.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let listing = options.name.is_none() && !options.all;
    let profile: &[&str] = if options.debug || listing { &[] } else { &["--release"] };
    if !listing {
        let mut build = cargo(&["build", "--locked", "-p", "ollystack-agent", "-p", "ollystack-gateway"]);
        build.args(profile).stdout(Stdio::null());
        ensure!(build.status().context("cargo does not start")?.success(), "the programs do not build");
        let folder = if options.debug { "debug" } else { "release" };
        let gateway = repository().join("target").join(folder).join("ollystack-gateway");
        let fetched = Command::new(gateway).args(["store", "--fetch"]).stdout(Stdio::null()).status();
        ensure!(
            fetched.context("ollystack-gateway does not start")?.success(),
            "the embedded engine cannot be fetched"
        );
    }
    let mut command = cargo(&["test", "--quiet", "--locked", "-p", "ollystack-tests", "--test", TARGET]);
    command.args(profile).arg("--").args(&options.name);
    if listing {
        command.arg("--list");
    } else {
        command.arg("--full");
    }
    for (flag, value) in [("--cycles", options.cycles), ("--seed", options.seed), ("--only", options.only)] {
        if let Some(value) = value {
            command.arg(flag).arg(value.to_string());
        }
    }
    if options.json {
        command.arg("--json");
    }
    let held = command.status().context("cargo does not start")?.success();
    Ok(if held { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
