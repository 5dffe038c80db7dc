//! `overload`: the release agent under parts and multiples of the load that one core sustains, with every input on.
//!
//! Load and endpoint are an example of the tests' crate (`tests/overload`), which speaks OTLP; here is what it needs built first.

use super::{Options, Report, example};
use crate::progress::Steps;
use crate::{cargo, repository, setup, stack};
use anyhow::{Result, ensure};
use std::ffi::OsString;

pub(super) fn run(options: &Options) -> Result<Report> {
    let mut steps = Steps::new(repository().join("target/xtask/bench"))?;
    let mut good = steps.step("set-up", setup::toolchain);
    good = good
        && steps.step("release build", |step| {
            step.run(&mut cargo(&["build", "--release", "--locked", "-p", "ollystack-agent"]))
        });
    ensure!(good, "the set-up above failed");
    let mut arguments: Vec<OsString> =
        vec![stack::target_folder()?.join("release").into(), options.seconds.to_string().into()];
    arguments.extend(options.arguments.iter().map(OsString::from));
    example::run("ollystack-tests", "overload", "", arguments)
}
