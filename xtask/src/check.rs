//! `cargo xtask check`: the gate. Everything that must hold before a change is taken, in one run; CI runs exactly this.
//!
//! Everything is built once, with the development profile: the end-to-end tests start the binaries of that build.

use crate::progress::{Step, Steps};
use crate::{cargo, repository, rules, setup, torture};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, ExitCode};

/// The end-to-end tests: they need the binaries, the engine and the SDK, so they run last and in a step of their own.
const END_TO_END: &str = "e2e";

/// The tortures need the same; the gate runs each for a moment, from a seed that changes.
const TORTURES: &str = torture::TARGET;

/// Runs the gate; `fast` leaves out licences, end-to-end tests and what they need.
pub(crate) fn run(fast: bool) -> Result<ExitCode> {
    let mut steps = Steps::new(repository().join("target/xtask/check"))?;
    steps.step("set-up", |step| {
        setup::toolchain(step)?;
        if !fast {
            setup::python_sdk(step)?;
            setup::torture_tools(step)?;
            setup::kafka_if_possible(step);
        }
        Ok(())
    });
    steps.step("format", |step| step.run(&mut cargo(&["fmt", "--all", "--check"])));
    steps.step("house rules", rules::check);
    if !fast {
        steps.step("licences", licences);
    }
    steps.step("clippy", |step| {
        step.run(&mut cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]))
    });
    let built = fast
        || steps.step("build", |step| step.run(&mut cargo(&["build", "--workspace", "--all-targets", "--locked"])));
    steps.step("unit tests", unit_tests);
    if !fast {
        steps.step("kernel objects", kernel_objects);
        steps.step("engine", |step| if built { engine(step) } else { bail!("the build failed") });
        steps.step("end-to-end", |step| if built { end_to_end(step) } else { bail!("the build failed") });
        steps.step("tortures", |step| if built { tortures(step) } else { bail!("the build failed") });
    }
    Ok(if steps.close() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Licences, banned crates and sources always; advisories when their database can be fetched.
fn licences(step: &mut Step) -> Result<()> {
    let program = setup::cargo_deny(step)?;
    let deny = |checks: &[&str]| {
        let mut command = Command::new(&program);
        command.current_dir(repository()).args(["--color", "never", "--all-features", "check"]).args(checks);
        command
    };
    step.run(&mut deny(&["--hide-inclusion-graph", "bans", "licenses", "sources"]))?;
    let fetched = Command::new(&program).current_dir(repository()).args(["fetch", "db"]).output();
    if fetched.context("cargo-deny does not start")?.status.success() {
        return step.run(&mut deny(&["--disable-fetch", "advisories"]));
    }
    step.note("skipped: advisories: their database cannot be fetched from here");
    Ok(())
}

/// Unit and property tests, the stages' own integration tests, and the examples in the documentation.
fn unit_tests(step: &mut Step) -> Result<()> {
    let metadata = cargo(&["metadata", "--no-deps", "--format-version", "1", "--locked"]).output()?;
    let metadata: Value = serde_json::from_slice(&metadata.stdout).context("cargo metadata")?;
    let mut arguments = vec!["test", "--workspace", "--locked", "--no-fail-fast", "--lib", "--bins"];
    let names = integration_tests(&metadata);
    for name in &names {
        arguments.extend(["--test", name]);
    }
    let tests = step.run(&mut cargo(&arguments));
    let examples = step.run(&mut cargo(&["test", "--workspace", "--locked", "--no-fail-fast", "--doc"]));
    tests.and(examples)
}

/// The names of all test targets but the end-to-end tests and the tortures.
fn integration_tests(metadata: &Value) -> Vec<String> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let targets = packages.flat_map(|package| package["targets"].as_array().into_iter().flatten());
    let tests = targets.filter(|target| target["kind"][0] == "test").filter_map(|target| target["name"].as_str());
    tests.filter(|name| ![END_TO_END, TORTURES].contains(name)).map(str::to_owned).collect()
}

/// The committed kernel objects are what their sources give, where a toolchain for BPF is there or can be installed.
fn kernel_objects(step: &mut Step) -> Result<()> {
    if !setup::works("bpf-linker", &["--version"]) && !setup::can_install_packages() {
        step.note("skipped: building the kernel programs: no bpf-linker here, and only root can install one on Debian");
        return Ok(());
    }
    // The build above may have replaced this very program.
    step.run(Command::new(debug_binary("xtask")).args(["ebpf", "--check"]))
}

/// The embedded engine, fetched once.
fn engine(step: &mut Step) -> Result<()> {
    step.run(Command::new(debug_binary("ollystack-gateway")).args(["store", "--fetch"]))
}

fn end_to_end(step: &mut Step) -> Result<()> {
    step.run(&mut cargo(&["test", "--workspace", "--locked", "--test", END_TO_END]))
}

fn tortures(step: &mut Step) -> Result<()> {
    step.run(&mut cargo(&["test", "--workspace", "--locked", "--test", TORTURES]))
}

fn debug_binary(name: &str) -> std::path::PathBuf {
    let here = std::env::current_exe().unwrap_or_default();
    here.parent().unwrap_or(Path::new("target/debug")).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_integration_test_runs_but_the_end_to_end_ones() {
        let metadata = serde_json::json!({"packages": [
            {"targets": [{"kind": ["lib"], "name": "a"}, {"kind": ["test"], "name": "model"}]},
            {"targets": [{"kind": ["test"], "name": "e2e"}, {"kind": ["test"], "name": "torture"}, {"kind": ["bin"], "name": "b"}]},
        ]});
        assert_eq!(integration_tests(&metadata), ["model"]);
    }
}
