//! Builds the Go program beside it.

use libtest_mimic::Failed;
use std::path::Path;
use std::process::{Command, Stdio};

/// The command that adds Go, if it is not there.
pub(crate) fn missing() -> Option<String> {
    let mut go = Command::new("go");
    let status = go.arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    (!status.is_ok_and(|status| status.success())).then(|| "no go: apt-get install golang-go".to_owned())
}

/// Build it as a file, with more arguments to the linker and others.
pub(crate) fn build(program: &Path, arguments: &[&str]) -> Result<(), Failed> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/go");
    let mut go = Command::new("go");
    let status = go.args(["build", "-o"]).arg(program).args(arguments).current_dir(folder).status()?;
    if status.success() { Ok(()) } else { Err("the Go program cannot be built".into()) }
}
