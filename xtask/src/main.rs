//! Every command a developer or CI types: `cargo xtask check`, `demo`, `bench`, `torture`, `fuzz`, `ebpf`, `kernels`, `rules`, `setup`.
//!
//! Each module is one command or one of its parts; nothing here is part of the product.

mod bench;
mod check;
mod demo;
mod ebpf;
mod fuzz;
mod kernels;
mod mutations;
mod progress;
mod rules;
mod setup;
mod stack;
mod torture;
mod usage;

use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Every command a developer or CI types")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The gate: set-up, format, lints, licences, house rules, unit, property and end-to-end tests.
    Check {
        /// Format, lints, house rules and unit tests only.
        #[arg(long)]
        fast: bool,
    },
    /// Shows this host's metrics, logs and traces arriving in a real ClickHouse.
    Demo(demo::Options),
    /// Measures the release build; `cargo xtask bench` lists what there is to measure.
    Bench(bench::Options),
    /// Does to the real programs what the promises must survive; `cargo xtask torture` lists the tortures.
    Torture(torture::Options),
    /// Looks for inputs that break a parser of outside bytes; `cargo xtask fuzz` lists the parsers.
    Fuzz(fuzz::Options),
    /// Builds the kernel programs and puts the objects where the agent embeds them.
    Ebpf(ebpf::Options),
    /// Runs the kernel programs in the kernels that people run, in QEMU.
    Kernels(kernels::Options),
    /// Breaks promises one by one, in a copy, and shows that tests notice.
    Mutations(mutations::Options),
    /// The house rules alone, in a second.
    Rules,
    /// Installs what `check` and `demo` need and is not there yet.
    Setup {
        /// Also servers that some tests watch and no distribution brings: Kafka by Maven, FerretDB by Go. Some minutes, once.
        #[arg(long)]
        servers: bool,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Check { fast } => check::run(fast),
        Command::Demo(options) => demo::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Torture(options) => torture::run(&options),
        Command::Fuzz(options) => fuzz::run(&options),
        Command::Ebpf(options) => ebpf::run(&options),
        Command::Kernels(options) => kernels::run(&options),
        Command::Mutations(options) => mutations::run(&options),
        Command::Rules => rules::run(),
        Command::Setup { servers } => setup::run(servers),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// The folder of the repository: the parent of this crate's.
fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// A cargo command in the repository, without the variables that the outer `cargo run` leaves behind: they would make
/// build scripts run again.
fn cargo(arguments: &[&str]) -> std::process::Command {
    let mut command = std::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(repository()).args(arguments).env("CARGO_TERM_COLOR", "never");
    for (name, _) in std::env::vars_os() {
        let inner = name.to_str().is_some_and(|n| n.starts_with("CARGO_PKG_") || n.starts_with("CARGO_MANIFEST_"));
        if inner {
            command.env_remove(name);
        }
    }
    command
}
