//! Stage benches: an example of the stage's own crate, built in release, which prints one [`Report`] as JSON.
//!
//! The bench lives beside the code it measures; here is only how it is started. Invariant: what it says on standard error
//! is shown as it comes, what it says on standard output must be a report.

use super::{Options, Report};
use crate::cargo;
use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::process::Stdio;

/// As it was asked for.
pub(super) fn arguments(options: &Options) -> Result<Vec<OsString>> {
    let mut arguments = Vec::new();
    if let Some(data) = &options.data {
        // The bench runs in the repository, the path was given from elsewhere.
        let data = std::path::absolute(data).with_context(|| format!("--data {}", data.display()))?;
        arguments.extend(["--data".into(), data.into_os_string()]);
    }
    arguments.extend(options.arguments.iter().map(OsString::from));
    Ok(arguments)
}

pub(super) fn run(package: &str, example: &str, features: &str, arguments: Vec<OsString>) -> Result<Report> {
    let mut command =
        cargo(&["run", "--quiet", "--release", "-p", package, "--features", features, "--example", example, "--"]);
    command.args(arguments);
    eprintln!("building and running the bench of {package} in release");
    let done = command.stderr(Stdio::inherit()).output().context("cargo does not start")?;
    if !done.status.success() {
        bail!("the bench of {package} failed: {}", done.status);
    }
    let said = String::from_utf8_lossy(&done.stdout);
    serde_json::from_str(&said).with_context(|| {
        let shown: String = said.chars().take(200).collect();
        format!("the bench of {package} printed no report but {shown:?}")
    })
}
