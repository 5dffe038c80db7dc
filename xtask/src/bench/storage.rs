//! `storage`: what rows weigh in ClickHouse and how long questions take, by the real gateway and the real engine.
//!
//! Load and questions are an example of the tests' crate (`tests/storage`); here is what it needs built first.

use super::{Options, Report, example};
use crate::progress::Steps;
use crate::{cargo, repository, setup, stack};
use anyhow::{Result, ensure};
use std::ffi::OsString;

/// Of each signal, unless `--rows` says otherwise.
const ROWS: u64 = 10_000_000;

pub(super) fn run(options: &Options) -> Result<Report> {
    let mut steps = Steps::new(repository().join("target/xtask/bench"))?;
    let mut good = steps.step("set-up", setup::toolchain);
    good = good
        && steps.step("release build", |step| {
            step.run(&mut cargo(&["build", "--release", "--locked", "-p", "ollystack-gateway"]))
        });
    ensure!(good, "the set-up above failed");
    let mut arguments: Vec<OsString> =
        vec![stack::target_folder()?.join("release").into(), options.rows.unwrap_or(ROWS).to_string().into()];
    if let Some(data) = &options.data {
        arguments.push(std::path::absolute(data)?.into());
    }
    example::run("ollystack-tests", "storage", "", arguments)
}
