//! What `check` and `demo` need beside Rust, and how to get it: by name, through the ordinary clients, kept outside the
//! repository. What cannot be installed here is named with the command that installs it.

use crate::progress::{Step, Steps};
use crate::{cargo, repository};
use anyhow::{Context, Result, bail};
use ollystack_tests::cache;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

/// cargo-deny's version: another one may judge otherwise.
const CARGO_DENY: &str = "0.20.2";

/// `cargo xtask setup`; `servers` also builds those that some tests watch.
pub(crate) fn run(servers: bool) -> Result<ExitCode> {
    let mut steps = Steps::new(repository().join("target/xtask/setup"))?;
    steps.step("toolchain", toolchain);
    steps.step("cargo-deny", |step| cargo_deny(step).map(drop));
    steps.step("python sdk", python_sdk);
    steps.step("tools of tortures", torture_tools);
    if servers {
        steps.step("kafka", kafka);
        steps.step("ferretdb", ferretdb);
    }
    Ok(if steps.close() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A C compiler (SQLite, zstd and ring are C) and make (of librdkafka), rustfmt and clippy.
pub(crate) fn toolchain(step: &mut Step) -> Result<()> {
    if !works("cc", &["--version"]) {
        packages(step, &["gcc", "libc6-dev"]).context("a C compiler is missing")?;
    }
    if !works("make", &["--version"]) {
        packages(step, &["make"]).context("make is missing")?;
    }
    for (tool, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        if !works("cargo", &[tool, "--version"]) {
            let add = step.run(Command::new("rustup").args(["component", "add", component]));
            add.with_context(|| format!("{component} is missing; run `rustup component add {component}`"))?;
        }
    }
    Ok(())
}

/// cargo-deny, installed into the cache unless this very version is there; its path.
pub(crate) fn cargo_deny(step: &mut Step) -> Result<PathBuf> {
    let root = cache::folder()?.join(format!("cargo-deny-{CARGO_DENY}"));
    let program = root.join("bin/cargo-deny");
    if !program.is_file() {
        step.line("installing cargo-deny: about a minute, once");
        // Unoptimised: it builds in a fraction of the time, and runs for two seconds.
        let mut install = cargo(&["install", "cargo-deny", "--version", CARGO_DENY, "--locked", "--debug", "--root"]);
        install.arg(&root).env("CARGO_PROFILE_DEV_DEBUG", "0");
        step.run(&mut install)
            .with_context(|| format!("run `cargo install cargo-deny --version {CARGO_DENY} --locked`"))?;
    }
    Ok(program)
}

/// The official OpenTelemetry SDK for Python, in a virtual environment in the cache.
pub(crate) fn python_sdk(step: &mut Step) -> Result<()> {
    let environment = cache::python_environment()?;
    let complete = environment.join("complete");
    if complete.is_file() && works(environment.join("bin/python"), &["--version"]) {
        return Ok(());
    }
    if !works("python3", &["-c", "import venv, ensurepip"]) {
        packages(step, &["python3", "python3-venv"]).context("Python 3 with venv is missing")?;
    }
    step.run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment))?;
    let requirements = repository().join("tests/e2e/requirements.txt");
    let mut install = Command::new(environment.join("bin/python"));
    install.args(["-m", "pip", "install", "--disable-pip-version-check", "--quiet", "-r"]).arg(&requirements);
    step.run(&mut install).with_context(|| format!("pip could not install {}", requirements.display()))?;
    std::fs::write(&complete, "").with_context(|| format!("write {}", complete.display()))
}

/// What some tortures stand on: the program, and the Debian package that brings it.
const TORTURE_TOOLS: [(&str, &str); 2] = [("strace", "strace"), ("faketime", "faketime")];

/// Tools of tortures. One that cannot be installed here is named; its tortures say that they were skipped.
pub(crate) fn torture_tools(step: &mut Step) -> Result<()> {
    let missing = TORTURE_TOOLS.iter().filter(|(program, _)| !works(program, &["--version"]));
    let missing: Vec<&str> = missing.map(|(_, package)| *package).collect();
    if !missing.is_empty() && packages(step, &missing).is_err() {
        step.note(format!("missing, tortures that need it are skipped: `apt-get install -y {}`", missing.join(" ")));
    }
    Ok(())
}

/// Apache Kafka's broker with what it depends on, 43 MB, into the cache.
fn kafka(step: &mut Step) -> Result<()> {
    let folder = cache::kafka()?;
    if folder.is_dir() {
        return Ok(());
    }
    if !works("mvn", &["--version"]) {
        packages(step, &["maven", "default-jre-headless"]).context("Maven is missing")?;
    }
    // Moved when it is whole.
    let partial = folder.with_file_name("kafka-partial");
    let mut copy = Command::new("mvn");
    copy.args(["--batch-mode", "--quiet", "--file"]).arg(repository().join("xtask/src/setup/kafka.xml"));
    copy.arg(format!("-Dkafka.version={}", cache::KAFKA)).arg(format!("-DoutputDirectory={}", partial.display()));
    step.run(copy.arg("dependency:copy-dependencies")).context("Maven could not fetch Kafka")?;
    std::fs::rename(&partial, &folder).with_context(|| format!("move {}", partial.display()))
}

/// As [`kafka`], where it can be fetched; else the test that needs a broker says that it was skipped.
pub(crate) fn kafka_if_possible(step: &mut Step) {
    if kafka(step).is_err() || !works("java", &["-version"]) {
        step.note("missing, the test with a broker of Kafka is skipped: `cargo xtask setup --servers`".to_owned());
    }
}

/// FerretDB, built into the cache: it speaks MongoDB's protocol, and keeps its documents in SQLite. Go fetches 0.6 GB for it.
fn ferretdb(step: &mut Step) -> Result<()> {
    const PROGRAM: &str = include_str!("setup/ferretdb.go");
    let folder = cache::ferretdb()?;
    if folder.join("ferretdb").is_file() {
        return Ok(());
    }
    if !works("go", &["version"]) {
        packages(step, &["golang-go"]).context("Go is missing")?;
    }
    step.line("building FerretDB: some minutes, once");
    let module = format!("module servers\n\ngo 1.24\n\nrequire github.com/FerretDB/FerretDB {}\n", cache::FERRETDB);
    std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    for (name, text) in [("go.mod", module.as_str()), ("main.go", PROGRAM)] {
        std::fs::write(folder.join(name), text).with_context(|| format!("write {name} to {}", folder.display()))?;
    }
    let mut build = Command::new("go");
    build.args(["build", "-mod=mod", "-trimpath", "-o", "ferretdb"]).env("CGO_ENABLED", "0").current_dir(&folder);
    step.run(&mut build).context("Go could not build FerretDB")
}

/// Installs Debian packages when this user may, and says the command otherwise.
pub(crate) fn packages(step: &mut Step, names: &[&str]) -> Result<()> {
    let by_hand = format!("apt-get install -y {}", names.join(" "));
    if !can_install_packages() {
        bail!("install it, on Debian and Ubuntu by `sudo {by_hand}`");
    }
    step.run(Command::new("apt-get").args(["update", "-q"]))?;
    let mut install = Command::new("apt-get");
    install
        .args(["install", "-y", "-q", "--no-install-recommends"])
        .args(names)
        .env("DEBIAN_FRONTEND", "noninteractive");
    step.run(&mut install).with_context(|| format!("`{by_hand}` failed"))
}

/// Whether this is root on Debian or one of its kin.
pub(crate) fn can_install_packages() -> bool {
    is_root() && works("apt-get", &["--version"])
}

/// Whether this process is root's.
pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|folder| std::os::unix::fs::MetadataExt::uid(&folder) == 0)
}

/// Whether a program is there and answers.
pub(crate) fn works(program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
