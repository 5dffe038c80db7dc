//! The OllyStack gateway: OTLP in, ClickHouse out.
//!
//! Folders follow the datum: `receive` (its own crate), [`admit`], [`convert`], [`batch`], [`write`]; [`run`] wires them. With Kafka between here
//! and ClickHouse, `kafka` follows `convert`, and `consume` wires the other side of the topics. This file
//! reads the command line and prints. Invariant: an error ends the program with status 1 and one line that says what to do.

mod admin;
mod administer;
mod admit;
mod batch;
mod cli;
mod config;
#[cfg(feature = "kafka")]
mod consume;
mod convert;
mod delivered;
mod engine;
#[cfg(feature = "fuzz")]
#[path = "../fuzz/targets.rs"]
pub mod fuzz;
mod ingest;
#[cfg(feature = "kafka")]
mod kafka;
mod keys;
mod migrate;
mod run;
mod runtime;
mod signals;
mod telemetry;
mod tenants;
mod tiers;
mod treat;
mod usage;
mod write;

use clap::Parser;
use cli::{Cli, Command, Configured};
use config::{Config, Layers, StoreMode};
use migrate::unless_stopped;
use ollystack_schema::migrations::MIGRATIONS;
use signals::Signals;
use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;
use tokio_util::sync::CancellationToken;
use write::clickhouse::ClickHouse;

/// Read the command line, do what it says, and exit as it went.
pub fn main() -> ExitCode {
    runtime::shield_memory();
    match dispatch(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ollystack-gateway: {error}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<(), Box<dyn Error>> {
    match command {
        Command::Run(configured) => {
            let (config, layers) = load(&configured)?;
            telemetry::start_logging(&config.log)?;
            for name in layers.strangers() {
                tracing::warn!(name, "this environment variable names no key and has no effect");
            }
            runtime::keep_memory();
            runtime::build()?.block_on(run::run(config))?;
        }
        #[cfg(feature = "kafka")]
        Command::Consume(configured) => {
            let (config, layers) = load(&configured)?;
            config.kafka.check_usable()?;
            telemetry::start_logging(&config.log)?;
            for name in layers.strangers() {
                tracing::warn!(name, "this environment variable names no key and has no effect");
            }
            runtime::keep_memory();
            runtime::build()?.block_on(consume::run(config))?;
        }
        Command::Migrate { configured, plan } => {
            let (config, _) = load(&configured)?;
            telemetry::start_logging(&config.log)?;
            runtime::build()?.block_on(migrate(&config, plan))?;
        }
        Command::Keys { command } => administer::keys(command)?,
        Command::Tenants { command } => administer::tenants(command)?,
        Command::Store { options, until_stdin_ends } => {
            telemetry::start_logging(&config::default_log()?)?;
            runtime::build()?.block_on(engine::serve(*options, until_stdin_ends))?;
        }
        Command::Config { command: cli::Config::Print { configured } } => {
            let (_, layers) = load(&configured)?;
            print(&config::print(&layers)?)?;
        }
        Command::Config { command: cli::Config::Check { configured } } => {
            let (_, layers) = load(&configured)?;
            for name in layers.strangers() {
                eprintln!("{name} names no key and has no effect");
            }
            print("the configuration is valid\n")?;
        }
    }
    Ok(())
}

fn load(configured: &Configured) -> Result<(Config, Layers), config::Error> {
    config::load(&configured.flags())
}

async fn migrate(config: &Config, plan: bool) -> Result<(), Box<dyn Error>> {
    let url = match config.store.mode {
        StoreMode::External => config.clickhouse.url.clone(),
        StoreMode::Embedded => engine::url(config),
    };
    let clickhouse = ClickHouse::new(&config.clickhouse, &url)?;
    let at = |error: migrate::Error| format!("ClickHouse at {url}, database {}: {error}", config.clickhouse.database);
    let (stop, mut signals) = (CancellationToken::new(), Signals::new()?);
    let stopped = stop.clone();
    tokio::spawn(async move {
        let interrupted = signals.next().await;
        stopped.cancel();
        signals.second_interrupt(interrupted).await;
        std::process::exit(1);
    });
    let done = match plan {
        true => unless_stopped(&stop, migrate::pending(&clickhouse)).await,
        false => migrate::apply(&clickhouse, &migrate::Problem::default(), &stop).await,
    };
    let done = done.map_err(at)?;
    let moves = match plan {
        true => unless_stopped(&stop, tiers::pending(&clickhouse, &config.tiers)).await,
        false => unless_stopped(&stop, tiers::apply(&clickhouse, &config.tiers)).await,
    };
    let moves = moves.map_err(at)?;
    let mut text = String::new();
    if plan && done.len() == MIGRATIONS.len() {
        text = migrate::foundation(&clickhouse).iter().map(|statement| format!("{statement};\n\n")).collect();
    }
    let verb = if plan { "would apply" } else { "applied" };
    for migration in &done {
        text += &format!("{verb} {}\n", migration.name);
        if plan {
            for statement in migration.statements(&clickhouse.placement())? {
                text += &format!("{statement};\n\n");
            }
            text += &format!("{};\n\n", migrate::record(migration));
        }
    }
    if !moves.is_empty() {
        text += &format!("{verb} tiers\n");
    }
    if plan {
        text += &moves.iter().map(|statement| format!("{statement};\n\n")).collect::<String>();
    }
    if text.is_empty() {
        text = format!("the schema of {} is up to date\n", config.clickhouse.database);
    }
    print(&text)?;
    Ok(())
}

/// To standard output. A reader that has seen enough (`head`) is no error.
fn print(text: &str) -> io::Result<()> {
    match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// Columns as wide as their widest cell, two blanks between them.
fn table<const N: usize>(rows: Vec<[String; N]>) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells: String = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}  ")).collect();
        format!("{}\n", cells.trim_end())
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_table_lines_up() {
        let rows = vec![["A", "BB"], ["ccc", ""]].into_iter().map(|row| row.map(str::to_owned)).collect();
        assert_eq!(super::table(rows), "A    BB\nccc\n");
    }
}
