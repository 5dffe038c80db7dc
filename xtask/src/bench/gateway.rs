//! `gateway`: the release gateway on one core under all the load that it answers, and at a pace.
//!
//! Load, payloads and the null sink are an example of the tests' crate (`tests/throughput`); here is only what it needs built first.

use super::{Options, Report, example};
use crate::progress::Steps;
use crate::{cargo, repository, setup, stack};
use anyhow::{Result, ensure};
use std::ffi::OsString;
use std::process::Command;

pub(super) fn run(options: &Options) -> Result<Report> {
    let mut steps = Steps::new(repository().join("target/xtask/bench"))?;
    let folder = stack::target_folder()?.join("release");
    let mut good = steps.step("set-up", setup::toolchain);
    good = good
        && steps.step("release build", |step| {
            step.run(&mut cargo(&["build", "--release", "--locked", "-p", "ollystack-gateway"]))
        });
    let mut arguments: Vec<OsString> = vec![folder.clone().into(), options.seconds.to_string().into()];
    if let Some(sink) = &options.sink {
        arguments.extend(["--sink".into(), sink.into()]);
    }
    let formats = options.arguments.iter().any(|argument| argument == "--formats");
    if formats || options.sink.as_deref() == Some("clickhouse") {
        good = good
            && steps.step("engine", |step| {
                step.run(Command::new(folder.join("ollystack-gateway")).args(["store", "--fetch"]))
            });
    }
    ensure!(good, "the set-up above failed");
    if let Some(signal) = &options.signal {
        arguments.extend(["--signal".into(), signal.into()]);
    }
    if let Some(peer) = &options.peer {
        arguments.extend(["--peer".into(), peer.into()]);
    }
    arguments.extend(options.arguments.iter().map(OsString::from));
    example::run("ollystack-tests", "throughput", "", arguments)
}
