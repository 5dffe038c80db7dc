//! `cargo xtask fuzz TARGET`: looks for inputs that break a parser of outside bytes.
//!
//! libFuzzer around one target of `tests/fuzz`, with the stable compiler: coverage comes from LLVM's own pass. What it finds on the
//! way lies under `target/fuzz/corpus`, apart from the few inputs that are committed; an input that breaks the target is kept, and
//! the command that runs it again is printed.

use crate::{cargo, repository, setup};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// LLVM's coverage pass, as libFuzzer wants it (rustc's own `-Zsanitizer` needs a nightly compiler).
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebug-assertions -Coverflow-checks --cfg fuzzing";

/// Of each target: what takes longer or more is a finding, too.
const TIMEOUT_SECONDS: u32 = 20;
const RSS_MIB_MAX: u32 = 2_048;
const INPUT_BYTES_MAX: u32 = 16 << 10;

/// The committed inputs, a folder a target.
const CORPORA: &str = "tests/fuzz/corpus";

/// Flags.
#[derive(Args)]
pub(crate) struct Options {
    /// Which; without it, all are listed
    target: Option<String>,
    /// Every target, one after the other
    #[arg(long, conflicts_with = "target")]
    all: bool,
    /// How long each
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// One input, once: to see again what was found
    #[arg(long, value_name = "FILE", requires = "target")]
    input: Option<PathBuf>,
}

/// Fuzzes one target or all, or lists them.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let all = targets()?;
    let chosen = match &options.target {
        Some(name) if all.contains(name) => vec![name.clone()],
        Some(name) => bail!("no fuzz target is called {name}; there are: {}", all.join(", ")),
        None if options.all => all,
        None => {
            println!("{}", all.join("\n"));
            return Ok(ExitCode::SUCCESS);
        }
    };
    ensure!((0.01..=100_000.0).contains(&options.minutes), "--minutes {}: 0.01 to 100000", options.minutes);
    let fuzzer = build()?;
    let mut held = true;
    for name in chosen {
        held &= fuzz(&fuzzer, &name, options)?;
    }
    Ok(if held { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Each has a corpus (a test sees to it), and this crate need not be built with all that is fuzzed.
fn targets() -> Result<Vec<String>> {
    let corpora = repository().join(CORPORA);
    let folders = std::fs::read_dir(&corpora).with_context(|| format!("read {}", corpora.display()))?;
    let names: std::io::Result<Vec<String>> =
        folders.map(|folder| Ok(folder?.file_name().to_string_lossy().into_owned())).collect();
    let mut names = names?;
    names.sort();
    Ok(names)
}

/// The fuzzer of all targets; flags of its own want a target folder of its own.
fn build() -> Result<PathBuf> {
    if !setup::works("c++", &["--version"]) {
        bail!("a C++ compiler is missing, libFuzzer is C++: `apt-get install -y g++`");
    }
    let folder = repository().join("target/fuzz");
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    eprintln!("building the fuzzer");
    // A target is named so that the flags are not those of build scripts.
    let mut build =
        cargo(&["build", "--quiet", "--release", "--locked", "-p", "ollystack-fuzz", "--features", "fuzzer"]);
    build.args(["--bin", "fuzz", "--target", &host, "--target-dir"]).arg(&folder);
    build.env("RUSTFLAGS", FLAGS).env("CARGO_PROFILE_RELEASE_LTO", "off").env("CARGO_PROFILE_RELEASE_STRIP", "none");
    ensure!(build.status().context("cargo does not start")?.success(), "the fuzzer does not build");
    Ok(folder.join(host).join("release/fuzz"))
}

/// True if nothing was found.
fn fuzz(fuzzer: &Path, name: &str, options: &Options) -> Result<bool> {
    let committed = repository().join(CORPORA).join(name);
    let (corpus, found) = (repository().join("target/fuzz/corpus").join(name), repository().join("target/fuzz/found"));
    for folder in [&corpus, &found] {
        std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    let mut command = Command::new(fuzzer);
    command.env("OLLYSTACK_FUZZ_TARGET", name).arg(format!("-artifact_prefix={}/{name}-", found.display()));
    command.arg(format!("-timeout={TIMEOUT_SECONDS}")).arg(format!("-rss_limit_mb={RSS_MIB_MAX}"));
    match &options.input {
        Some(input) => drop(command.arg(input)),
        None => {
            let seconds = (options.minutes * 60.0).ceil();
            command.arg(format!("-max_total_time={seconds}")).arg(format!("-max_len={INPUT_BYTES_MAX}"));
            command.args(["-print_final_stats=1", "-verbosity=0"]).arg(&corpus).arg(&committed);
        }
    }
    eprintln!("{name}: fuzzing; what breaks it comes to {}", found.display());
    let held = command.status().with_context(|| format!("{} does not start", fuzzer.display()))?.success();
    println!("{name}: {}", if held { "held" } else { "BROKEN" });
    if !held {
        println!("  again: cargo xtask fuzz {name} --input {}/{name}-...", found.display());
    }
    Ok(held)
}
