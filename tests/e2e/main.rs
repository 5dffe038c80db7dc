//! Every end-to-end property, one a module: real store, real gateway, real agent, asked through ClickHouse's HTTP interface.
//!
//! All share one store process, each has a database of its own. A failure shows the ends of all logs of its processes.

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};
use ollystack_tests::{Binaries, Outcome, Store, StoreConfig, World};
use std::process::ExitCode;
use std::sync::Arc;

type Property = fn(&World) -> Result<Outcome>;

/// The properties, by module.
const PROPERTIES: &[(&str, Property)] = &[];

struct Shared {
    binaries: Binaries,
    store: Store,
}

fn main() -> Result<ExitCode> {
    let mut arguments = Arguments::from_args();
    // Most of a test is waiting for processes: more run at a time than there are cores.
    arguments.test_threads = arguments.test_threads.or(Some(4));
    if arguments.list {
        let trials = PROPERTIES.iter().map(|(name, _)| Trial::test(*name, || Ok(()))).collect();
        return Ok(libtest_mimic::run(&arguments, trials).exit_code());
    }
    let binaries = Binaries::beside_this_program()?;
    let folder = tempfile::tempdir()?;
    let store = StoreConfig::new(folder.path())?.start(&binaries)?;
    let shared = Arc::new(Shared { binaries, store });
    let trials = PROPERTIES.iter().map(|(name, property)| {
        let (shared, property) = (shared.clone(), *property);
        Trial::test(*name, move || hold(name, property, &shared))
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    Ok(conclusion.exit_code())
}

/// Runs one property; a failure carries the logs.
fn hold(name: &str, property: Property, shared: &Shared) -> Result<(), Failed> {
    let world = World::new(name, &shared.binaries, &shared.store).map_err(|error| format!("{error:#}"))?;
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| property(&world)));
    let failure = match outcome {
        Ok(Ok(Outcome::Held)) => return Ok(()),
        Ok(Ok(Outcome::Skipped(reason))) => {
            println!("skipped: {name}: {reason}");
            return Ok(());
        }
        Ok(Err(error)) => format!("{error:#}"),
        Err(panic) => match (panic.downcast_ref::<String>(), panic.downcast_ref::<&str>()) {
            (Some(text), _) => text.clone(),
            (_, Some(text)) => (*text).to_owned(),
            _ => "panicked".to_owned(),
        },
    };
    Err(format!("{failure}\n{}", world.logs()).into())
}
