//! `cargo xtask bench NAME`: measures the release build on this host and prints a table, or JSON.
//!
//! A bench is a line in [`BENCHES`]: a name, what it measures, and a function that gives named figures. Figures are what
//! the kernel and the processes say, never estimates.

mod idle;

use crate::stack;
use anyhow::{Result, bail};
use clap::Args;
use serde_json::{Map, Value};
use std::process::ExitCode;
use std::time::Duration;

/// Flags.
#[derive(Args)]
pub(crate) struct Options {
    /// Which; without it, all are listed
    name: Option<String>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    /// How long to measure
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

struct Bench {
    name: &'static str,
    about: &'static str,
    run: fn(&stack::Built, Duration) -> Result<Vec<Figure>>,
}

/// One measured figure.
pub(crate) struct Figure {
    /// With its unit last: `rss_bytes_max`.
    name: &'static str,
    value: f64,
}

const BENCHES: &[Bench] =
    &[Bench { name: "idle", about: "the agent's memory and CPU on a quiet host, every input on", run: idle::run }];

/// Runs one bench, or lists all.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let Some(name) = &options.name else {
        for bench in BENCHES {
            println!("{:<10} {}", bench.name, bench.about);
        }
        return Ok(ExitCode::SUCCESS);
    };
    let Some(bench) = BENCHES.iter().find(|bench| bench.name == name) else {
        let names: Vec<&str> = BENCHES.iter().map(|bench| bench.name).collect();
        bail!("no bench is called {name}; there are: {}", names.join(", "));
    };
    let built = stack::build("bench")?;
    let figures = (bench.run)(&built, Duration::from_secs(options.seconds))?;
    if options.json {
        let figures: Map<String, Value> = figures.iter().map(|f| (f.name.to_owned(), f.value.into())).collect();
        println!("{}", serde_json::to_string_pretty(&figures)?);
    } else {
        println!("\n{}: {}, over {} s", bench.name, bench.about, options.seconds);
        for figure in &figures {
            println!("  {:<22} {}", figure.name, figure.shown());
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Figure {
    fn shown(&self) -> String {
        match self.name {
            name if name.contains("bytes") => format!("{:>9.1} MiB", self.value / (1 << 20) as f64),
            _ => format!("{:>9.2}", self.value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_as_mebibytes() {
        assert_eq!(Figure { name: "rss_bytes_max", value: 3.0 * 1048576.0 }.shown().trim(), "3.0 MiB");
        assert_eq!(Figure { name: "threads", value: 4.0 }.shown().trim(), "4.00");
    }
}
