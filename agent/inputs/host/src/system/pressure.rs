//! Pressure stall information, from /proc/pressure: how long work stood still for want of CPU, memory or I/O.
//!
//! No part of the semantic conventions. The kernel's running totals are sent, not its averages: any window can be had from
//! them, and they lose nothing between readings. Invariant: one missing resource leaves the others as they are.

use crate::read::KernelFile;
use crate::scrape::{Context, Roots, ScrapeError, Scraper};
use crate::series::{Catalog, Definition, counter};
use crate::text;
use ollystack_record::{Series, value};
use ollystack_schema::names;
use std::sync::Arc;

const STALLED: Definition =
    counter(names::PRESSURE_STALL_TIME, "s", "Time in which some or all work stood still for want of a resource");

pub(crate) struct Pressure {
    resources: [(KernelFile, [Arc<Series>; 2]); 3],
}

impl Pressure {
    pub(crate) fn new(roots: &Roots, catalog: &mut Catalog) -> Pressure {
        let resources = ["cpu", "memory", "io"].map(|resource| {
            let series = ["some", "full"].map(|share| {
                let resource = value::string(names::key::PRESSURE_RESOURCE, resource);
                catalog.series(&STALLED, vec![resource, value::string(names::key::PRESSURE_SHARE, share)])
            });
            (KernelFile::new(roots.proc.join("pressure").join(resource)), series)
        });
        Pressure { resources }
    }
}

impl Scraper for Pressure {
    fn name(&self) -> &'static str {
        "pressure"
    }

    fn scrape(&mut self, context: &mut Context<'_>) -> Result<(), ScrapeError> {
        let mut result = Ok(());
        for (file, series) in &mut self.resources {
            if let Err(error) = context.read(file) {
                result = Err(error);
                continue;
            }
            for (series, microseconds) in series.iter().zip(parse(context.buffer)) {
                if let Some(microseconds) = microseconds {
                    context.samples.double(series, microseconds as f64 / 1e6);
                }
            }
        }
        result
    }
}

/// The totals of `some` and `full`, in microseconds. Before Linux 5.13 the CPU has no `full`.
fn parse(text: &[u8]) -> [Option<u64>; 2] {
    [b"some", b"full"].map(|share| {
        let line = text::lines(text).find(|line| line.starts_with(share))?;
        text::words(line).find_map(|word| word.strip_prefix(b"total=")).and_then(text::number)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_found_and_a_missing_line_is_no_zero() {
        let text =
            b"some avg10=1.87 avg60=1.04 avg300=1.64 total=29484054\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        assert_eq!(parse(text), [Some(29484054), Some(7)]);
        assert_eq!(parse(b"some avg10=0 total=5\n"), [Some(5), None]);
        assert_eq!(parse(b"full total=x\n"), [None, None]);
    }
}
