//! What the host input did, for the admin page and the agent's own metrics.

use serde::Serialize;
use std::sync::{Mutex, PoisonError};

/// Shared with whoever shows it. Invariant: one row per scraper that has run, in the order they first ran.
#[derive(Debug, Default)]
pub struct Stats {
    scrapers: Mutex<Vec<ScraperStats>>,
}

/// One scraper's account since the start.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ScraperStats {
    /// For example `cpu` or `disk`.
    pub name: &'static str,
    /// Readings that gave samples.
    pub readings: u64,
    /// Readings that failed.
    pub failures: u64,
    /// Samples handed in or refused by a full queue.
    pub samples: u64,
    /// CPU time of the last reading, in microseconds.
    pub last_cpu_us: u64,
    /// Milliseconds until the next reading, as stretched by its cost.
    pub interval_ms: u64,
    /// What the last failure was; empty when the last reading succeeded.
    pub error: String,
}

impl Stats {
    /// A copy of all rows.
    pub fn read(&self) -> Vec<ScraperStats> {
        self.scrapers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Change one scraper's row, made on first use.
    pub(crate) fn update(&self, name: &'static str, change: impl FnOnce(&mut ScraperStats)) {
        let mut scrapers = self.scrapers.lock().unwrap_or_else(PoisonError::into_inner);
        match scrapers.iter_mut().find(|scraper| scraper.name == name) {
            Some(scraper) => change(scraper),
            None => {
                let mut scraper = ScraperStats { name, ..ScraperStats::default() };
                change(&mut scraper);
                scrapers.push(scraper);
            }
        }
    }
}
