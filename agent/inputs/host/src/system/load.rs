//! `system.cpu.load_average.*` and `system.uptime`, from /proc/loadavg and /proc/uptime.
//!
//! Load averages are no part of the semantic conventions; the names are those of the OpenTelemetry Collector.

use crate::read::KernelFile;
use crate::scrape::{Context, Roots, ScrapeError, Scraper};
use crate::series::{Catalog, Definition, gauge};
use crate::text;
use ollystack_record::Series;
use std::sync::Arc;

const LOAD: [Definition; 3] = [
    gauge("system.cpu.load_average.1m", "{thread}", "Threads running or waiting for CPU or disk, mean over 1 minute"),
    gauge("system.cpu.load_average.5m", "{thread}", "Threads running or waiting for CPU or disk, mean over 5 minutes"),
    gauge(
        "system.cpu.load_average.15m",
        "{thread}",
        "Threads running or waiting for CPU or disk, mean over 15 minutes",
    ),
];
const UPTIME: Definition = gauge("system.uptime", "s", "How long the system has been running");

pub(crate) struct Load {
    averages: KernelFile,
    uptime: KernelFile,
    load_series: [Arc<Series>; 3],
    uptime_series: Arc<Series>,
}

impl Load {
    pub(crate) fn new(roots: &Roots, catalog: &mut Catalog) -> Load {
        Load {
            averages: KernelFile::new(roots.proc.join("loadavg")),
            uptime: KernelFile::new(roots.proc.join("uptime")),
            load_series: LOAD.map(|definition| catalog.series(&definition, vec![])),
            uptime_series: catalog.series(&UPTIME, vec![]),
        }
    }
}

impl Scraper for Load {
    fn name(&self) -> &'static str {
        "load"
    }

    fn scrape(&mut self, context: &mut Context<'_>) -> Result<(), ScrapeError> {
        context.read(&mut self.averages)?;
        let averages = fractions(context.buffer).ok_or_else(|| ScrapeError::parse(&self.averages, "load averages"))?;
        for (series, average) in self.load_series.iter().zip::<[f64; 3]>(averages) {
            context.samples.double(series, average);
        }
        context.read(&mut self.uptime)?;
        let [uptime] = fractions(context.buffer).ok_or_else(|| ScrapeError::parse(&self.uptime, "uptime"))?;
        context.samples.double(&self.uptime_series, uptime);
        Ok(())
    }
}

/// The first `N` words, all of which must be fractions.
fn fractions<const N: usize>(text: &[u8]) -> Option<[f64; N]> {
    let mut words = text::words(text);
    let mut values = [0.0; N];
    for value in &mut values {
        *value = text::fraction(words.next()?)?;
    }
    Some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_is_three_fractions_or_nothing() {
        assert_eq!(fractions(b"0.30 0.14 12.00 1/95 9930\n"), Some([0.3, 0.14, 12.0]));
        assert_eq!(fractions::<3>(b"0.30 0.14"), None);
        assert_eq!(fractions::<1>(b"nan 1"), None);
    }
}
