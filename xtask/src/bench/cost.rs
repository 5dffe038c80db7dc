//! `cost`: the release agents, gateway and engine under the same events with reduction on and off: cores, bytes on the wire, bytes stored.
//!
//! Load and table are an example of the tests' crate (`tests/cost`); here is what it needs built first.

use super::{Options, Report, example};
use crate::stack;
use anyhow::Result;
use std::ffi::OsString;

pub(super) fn run(options: &Options) -> Result<Report> {
    stack::build("bench")?;
    let mut arguments: Vec<OsString> =
        vec![stack::target_folder()?.join("release").into(), options.seconds.to_string().into()];
    arguments.extend(options.arguments.iter().map(OsString::from));
    example::run("ollystack-tests", "cost", "", arguments)
}
