//! One run of one torture: how many cycles, from which seed, in which surroundings.
//!
//! Invariant: cycle N of seed S sees the same random numbers whichever other cycles run.

use anyhow::{Context, Result};
use fastrand::Rng;
use ollystack_tests::{Binaries, Store, StoreConfig, World};
use std::cell::Cell;
use std::io::{IsTerminal, Write};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Between two lines of progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// One real engine for all tortures, started when the first asks.
#[derive(Debug, Default)]
pub(crate) struct SharedStore(OnceLock<(Store, TempDir)>);

/// What a torture gets.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    name: &'static str,
    seed: u64,
    cycles: u64,
    only: Option<u64>,
    binaries: Binaries,
    store: &'a SharedStore,
    said: Cell<Option<Instant>>,
}

/// One round of it.
#[derive(Debug)]
pub(crate) struct Cycle {
    /// From 0.
    pub(crate) number: u64,
    /// Of this cycle alone.
    pub(crate) random: Rng,
}

impl<'a> Run<'a> {
    pub(crate) fn new(
        name: &'static str,
        seed: u64,
        cycles: u64,
        only: Option<u64>,
        store: &'a SharedStore,
    ) -> Result<Self> {
        let binaries = Binaries::beside_this_program()?;
        Ok(Self { name, seed, cycles, only, binaries, store, said: Cell::new(None) })
    }

    /// The programs under torture.
    pub(crate) fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// Where everything random comes from.
    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// The rounds to go.
    pub(crate) fn cycles(&self) -> impl Iterator<Item = Cycle> {
        let (seed, only) = (self.seed, self.only);
        let numbers = (0..self.cycles).filter(move |number| only.is_none_or(|only| only == *number));
        let numbers = numbers.chain(only.filter(|only| *only >= self.cycles));
        // Apart from each other by an odd constant, so that near seeds do not share cycles.
        numbers.map(move |number| Cycle {
            number,
            random: Rng::with_seed(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        })
    }

    /// How many rounds there are.
    pub(crate) fn count(&self) -> u64 {
        if self.only.is_some() { 1 } else { self.cycles }
    }

    /// Of how many, where only one of them runs.
    pub(crate) fn of(&self) -> u64 {
        self.cycles
    }

    /// The real ClickHouse.
    pub(crate) fn store(&self) -> Result<&'a Store> {
        if let Some((store, _)) = self.store.0.get() {
            return Ok(store);
        }
        let folder = tempfile::tempdir()?;
        let store = StoreConfig::new(folder.path())?.start(&self.binaries);
        let store = store.context("the embedded engine does not start; `cargo xtask setup` fetches it")?;
        Ok(&self.store.0.get_or_init(|| (store, folder)).0)
    }

    /// A folder and a database of its own.
    pub(crate) fn world(&self, name: &str) -> Result<World<'_>> {
        World::new(&format!("torture_{}_{name}", self.name), &self.binaries, self.store()?)
    }

    /// The command that does the same again.
    pub(crate) fn replay(&self) -> String {
        format!("cargo xtask torture {} --cycles {} --seed {}", self.name, self.cycles, self.seed)
    }

    /// The command that does one cycle again.
    pub(crate) fn replay_of(&self, cycle: u64) -> String {
        format!("{} --only {cycle}", self.replay())
    }

    /// Says on a terminal how far it is, once a second.
    pub(crate) fn progress(&self, done: u64, what: &str) {
        if !std::io::stderr().is_terminal() || self.said.get().is_some_and(|said| said.elapsed() < PROGRESS_EVERY) {
            return;
        }
        self.said.set(Some(Instant::now()));
        let mut terminal = std::io::stderr().lock();
        let _ = write!(terminal, "\r\x1b[K{}: {done} of {}  {what}", self.name, self.count());
        let _ = terminal.flush();
    }
}
