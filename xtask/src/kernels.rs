//! `cargo xtask kernels`: the kernel programs in the kernels that people run, every way of attaching that each has.
//!
//! Debian's kernels come through apt, by the names of their packages, into the cache. Each boots in QEMU, emulated, with the live
//! tests of the eBPF input and busybox as all its world, and powers off. What it says becomes a table of kernel, feature, way and
//! outcome; and the instructions that its verifier went through become `agent-ebpf/objects/VERIFIED`, so that a program that grows
//! is seen. Invariant: nothing but the cache, `target` and that file changes, and every machine ends by itself or is ended.

mod fetch;
mod machine;
mod report;

use crate::progress::{Step, Steps};
use crate::{cargo, repository, setup};
use anyhow::{Context, Result, bail, ensure};
use report::Report;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Lines of kernels, and the suites of Debian that carry them.
const KERNELS: [(&str, &str); 3] = [("5.10", "bullseye"), ("6.1", "bookworm"), ("6.12", "trixie")];
/// The machine that this runs on.
const HERE: &str = "here";
/// Programs that are needed, and the packages that bring them.
const TOOLS: [(&str, &str); 2] = [("qemu-system-x86_64", "qemu-system-x86"), ("busybox", "busybox-static")];
/// Where the counts of the verifier are kept.
const VERIFIED: &str = "agent-ebpf/objects/VERIFIED";

/// Flags.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// One of 5.10, 6.1, 6.12 and `here`, the running one; may be given again
    #[arg(long, value_name = "KERNEL", value_parser = ["5.10", "6.1", "6.12", HERE])]
    only: Vec<String>,
    /// Print the table as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the live tests in each kernel that is wanted.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    ensure!(cfg!(target_arch = "x86_64"), "the machines are x86-64 ones: run this on x86-64");
    let is_wanted = |kernel: &str| options.only.is_empty() || options.only.iter().any(|only| only == kernel);
    let logs = repository().join("target/xtask/kernels");
    let mut steps = Steps::new(logs.clone())?;
    let (mut tests, mut reports) = (None, Vec::new());
    steps.step("set-up", |step| {
        setup_tools(step)?;
        tests = Some(live_tests(step)?);
        Ok(())
    });
    let Some(tests) = tests else { return Ok(ExitCode::from(u8::from(!steps.close()))) };
    if is_wanted(HERE) {
        steps.step(HERE, |step| {
            let outcome = if setup::is_root() {
                step.line(std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim());
                step.run(Command::new(&tests).args(["--color", "never"]))
            } else {
                step.note("skipped: the running kernel: needs root");
                Ok(())
            };
            reports.push(Report::read(HERE, &logs)?);
            outcome
        });
    }
    for (kernel, suite) in KERNELS.into_iter().filter(|(kernel, _)| is_wanted(kernel)) {
        steps.step(kernel, |step| {
            let image = fetch::kernel(kernel, suite, step)?;
            let world = machine::world(&tests, &logs.join(format!("{kernel}.img")))?;
            let booted = machine::boot(&image, &world, step);
            let report = Report::read(kernel, &logs)?;
            let verdict = report.verdict();
            reports.push(report);
            booted.and(verdict)
        });
    }
    if options.json {
        println!("{}", serde_json::to_string(&reports)?);
    } else {
        print!("{}", report::table(&reports));
    }
    if report::is_whole(&reports, &KERNELS) {
        let path = repository().join(VERIFIED);
        std::fs::write(&path, report::verified(&reports)).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(if steps.close() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn setup_tools(step: &mut Step) -> Result<()> {
    let missing: Vec<&str> = TOOLS.iter().filter(|(tool, _)| !on_path(tool)).map(|(_, package)| *package).collect();
    if missing.is_empty() { Ok(()) } else { setup::packages(step, &missing).context("QEMU or busybox is missing") }
}

/// Whether a program is there; busybox has no `--version` that ends well everywhere.
fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Builds the live tests; the program.
fn live_tests(step: &mut Step) -> Result<PathBuf> {
    let build = ["test", "--locked", "-p", "ollystack-input-ebpf", "--test", "live", "--no-run"];
    step.run(&mut cargo(&build))?;
    let told = cargo(&build).arg("--message-format=json").output().context("cargo does not start")?;
    let said = String::from_utf8_lossy(&told.stdout);
    let messages = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let program = messages.filter_map(|message| Some(PathBuf::from(message["executable"].as_str()?))).next_back();
    program.context("cargo does not tell where the live tests are")
}

/// Runs a command, with its words in the error.
fn output(command: &mut Command) -> Result<String> {
    let done = command.output().with_context(|| format!("{:?} does not start", command.get_program()))?;
    if !done.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// An empty folder.
fn empty(folder: &Path) -> Result<()> {
    if folder.exists() {
        std::fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))
}
