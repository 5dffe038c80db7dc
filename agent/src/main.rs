//! `ollystack-agent`: collects a host's telemetry, reduces it there and sends what matters.
//!
//! The command line leads to one module a command; `run` is the agent itself. Invariant: every failure ends in one line on
//! stderr that names what was found and the next step, and in exit code 1.

mod admin;
mod books;
mod budget;
mod checkpoint;
mod cli;
mod config;
mod doctor;
mod farewell;
mod guard;
mod inputs;
mod log;
mod observe;
mod patterns;
mod pipeline;
mod record;
mod run;
mod runtime;
mod signals;
mod stage;
mod state;
mod status;
mod supervise;
mod table;
mod telemetry;
mod usage;

use clap::Parser;
use cli::{Cli, Command, ConfigCommand, Settings};
use config::{ConfigError, Loaded};
use std::fmt::Display;
use std::io::{BufWriter, IsTerminal, StdoutLock, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match &cli.command {
        Command::Run => load(&cli.settings, None).map_err(fail).and_then(|loaded| run::run(loaded).map_err(fail)),
        Command::Config(ConfigCommand::Print { effective: false }) => print(config::annotated()),
        Command::Config(ConfigCommand::Print { effective: true }) => {
            load(&cli.settings, None).map_err(fail).and_then(|loaded| print(&config::effective(&loaded)))
        }
        Command::Config(ConfigCommand::Check { file }) => check(&cli.settings, file.as_deref()),
        Command::Doctor { json, processes: true } => processes(&cli.settings, *json),
        Command::Doctor { json, processes: false } => doctor(&cli.settings, *json),
        Command::Status { json, watch } => status(&cli.settings, *json, *watch),
        Command::Patterns(asked) => patterns(asked),
        Command::Record(options) => load(&cli.settings, None)
            .map_err(fail)
            .and_then(|loaded| record::record(loaded, options).map_err(fail))
            .and_then(|summary| print(&summary)),
        Command::Version => print(concat!("ollystack-agent ", env!("CARGO_PKG_VERSION"), "\n")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(code) => code,
    }
}

/// All layers, the file as given by `file`, else by the settings, else the default one.
fn load(settings: &Settings, file: Option<&Path>) -> Result<Loaded, ConfigError> {
    config::load(file.or(settings.config.as_deref()), environment(), &settings.flags())
}

/// Variables that are not text cannot be settings of ours.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

fn check(settings: &Settings, file: Option<&Path>) -> Result<(), ExitCode> {
    let loaded = load(settings, file).map_err(fail)?;
    let faults = loaded.config.faults();
    for fault in &faults {
        eprintln!("error: {fault}");
    }
    let more = loaded.config.warnings(loaded.file.as_deref());
    for warning in loaded.warnings.iter().chain(&more).chain(&loaded.config.clear_text_warning()) {
        eprintln!("warning: {warning}");
    }
    if !faults.is_empty() {
        return Err(ExitCode::FAILURE);
    }
    // A file may leave these to the environment of the service, so they are no faults of it.
    for missing in [loaded.config.require_endpoint().err(), loaded.config.require_key().err()].into_iter().flatten() {
        eprintln!("note: {missing}");
    }
    let file = loaded.file.map_or("no file, defaults".to_owned(), |file| file.display().to_string());
    print(&format!("ok: {file}, {} keys set\n", loaded.origins.len()))
}

fn doctor(settings: &Settings, json: bool) -> Result<(), ExitCode> {
    let findings = doctor::examine(load(settings, None));
    print(&if json { doctor::as_json(&findings) } else { doctor::render(&findings, terminal_width()) })?;
    if findings.can_run() { Ok(()) } else { Err(ExitCode::FAILURE) }
}

fn processes(settings: &Settings, json: bool) -> Result<(), ExitCode> {
    let config = load(settings, None).map_err(fail)?.config;
    let coverage = doctor::coverage(&config).map_err(fail)?;
    print(&if json { coverage.as_json() } else { coverage.render(terminal_width()) })
}

fn status(settings: &Settings, json: bool, watch: bool) -> Result<(), ExitCode> {
    let address = load(settings, None).map_err(fail)?.config.admin.listen;
    loop {
        let (raw, report) = status::fetch(&address).map_err(fail)?;
        let page = if json { format!("{raw}\n") } else { status::render(&report, SystemTime::now(), terminal_width()) };
        if !watch {
            return print(&page);
        }
        let clear = if std::io::stdout().is_terminal() { "\x1b[H\x1b[2J" } else { "" };
        print(&format!("{clear}{page}"))?;
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn patterns(asked: &cli::Patterns) -> Result<(), ExitCode> {
    let width = std::io::stdout().is_terminal().then(terminal_width);
    let mut complete = false;
    write(|stdout| {
        complete = patterns::run(asked, width, stdout)?;
        Ok(())
    })?;
    // Which file was not read, and why, is said already.
    if complete { Ok(()) } else { Err(ExitCode::FAILURE) }
}

fn print(text: &str) -> Result<(), ExitCode> {
    write(|stdout| stdout.write_all(text.as_bytes()))
}

/// To stdout; a reader that closed early (`| head`) has what it wanted.
fn write(text: impl FnOnce(&mut BufWriter<StdoutLock>) -> std::io::Result<()>) -> Result<(), ExitCode> {
    let mut stdout = BufWriter::new(std::io::stdout().lock());
    match text(&mut stdout).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(ExitCode::SUCCESS),
        Err(error) => Err(fail(error)),
    }
}

fn fail(error: impl Display) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::FAILURE
}

/// As the environment or the terminal says, else what fits most terminals.
fn terminal_width() -> usize {
    let said = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let asked = || rustix::termios::tcgetwinsize(std::io::stdout()).ok().map(|size| usize::from(size.ws_col));
    said.or_else(asked).filter(|columns| *columns > 0).unwrap_or(110)
}
