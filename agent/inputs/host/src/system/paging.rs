//! `system.paging.*`, from /proc/vmstat and /proc/swaps.
//!
//! Invariant: minor + major = all faults the kernel counted.

use crate::read::KernelFile;
use crate::scrape::{Context, Roots, ScrapeError, Scraper};
use crate::series::{Catalog, Definition, Groups, amount, counter, gauge};
use crate::text;
use ollystack_record::{Series, value};
use ollystack_schema::names::semconv;
use std::sync::Arc;

const FAULTS: Definition = counter("system.paging.faults", "{fault}", "Page faults by type");
const OPERATIONS: Definition = counter("system.paging.operations", "{operation}", "Pages swapped in and out");
const USAGE: Definition = amount("system.paging.usage", "By", "Swap space by device and state");
const UTILIZATION: Definition = gauge("system.paging.utilization", "1", "Share of swap space in each state");

/// Linux allows fewer than 32 swap areas.
const AREAS_MAX: usize = 32;

#[derive(Debug, Default, PartialEq)]
struct Snapshot {
    faults: u64,
    major: u64,
    pages_in: u64,
    pages_out: u64,
}

pub(crate) struct Paging {
    counters: KernelFile,
    swaps: KernelFile,
    faults: [Arc<Series>; 2],
    operations: [Arc<Series>; 2],
    areas: Groups<4>,
}

impl Paging {
    pub(crate) fn new(roots: &Roots, catalog: &mut Catalog) -> Paging {
        let kind = |kind: &str| vec![value::string(semconv::SYSTEM_PAGING_FAULT_TYPE, kind)];
        let direction = |direction: &str| vec![value::string(semconv::SYSTEM_PAGING_DIRECTION, direction)];
        Paging {
            counters: KernelFile::new(roots.proc.join("vmstat")),
            swaps: KernelFile::new(roots.proc.join("swaps")),
            faults: ["minor", "major"].map(|name| catalog.series(&FAULTS, kind(name))),
            operations: ["in", "out"].map(|name| catalog.series(&OPERATIONS, direction(name))),
            areas: Groups::new(AREAS_MAX),
        }
    }
}

impl Scraper for Paging {
    fn name(&self) -> &'static str {
        "paging"
    }

    fn scrape(&mut self, context: &mut Context<'_>) -> Result<(), ScrapeError> {
        context.read(&mut self.counters)?;
        let now = parse(context.buffer).ok_or_else(|| ScrapeError::parse(&self.counters, "page faults"))?;
        context.samples.int(&self.faults[0], now.faults.saturating_sub(now.major));
        context.samples.int(&self.faults[1], now.major);
        context.samples.int(&self.operations[0], now.pages_in);
        context.samples.int(&self.operations[1], now.pages_out);

        context.read(&mut self.swaps)?;
        for (device, size, used) in areas(context.buffer) {
            let catalog = &mut *context.catalog;
            let make = || {
                let device = value::string(semconv::SYSTEM_DEVICE, String::from_utf8_lossy(device));
                let state = |state: &str| vec![device.clone(), value::string(semconv::SYSTEM_PAGING_STATE, state)];
                let mut series = |definition, name| catalog.series(definition, state(name));
                [
                    series(&USAGE, "used"),
                    series(&USAGE, "free"),
                    series(&UTILIZATION, "used"),
                    series(&UTILIZATION, "free"),
                ]
            };
            let Some([used_bytes, free_bytes, used_share, free_share]) = self.areas.get(device, make) else { continue };
            let used = used.min(size);
            context.samples.int(used_bytes, used);
            context.samples.int(free_bytes, size - used);
            context.samples.double(used_share, used as f64 / size as f64);
            context.samples.double(free_share, (size - used) as f64 / size as f64);
        }
        self.areas.sweep();
        Ok(())
    }
}

/// Parse /proc/vmstat. `None` without fault counts. Kernels without swap have no swap counters: then they are zero.
fn parse(text: &[u8]) -> Option<Snapshot> {
    let mut found = Snapshot::default();
    let mut faults = None;
    for (key, count) in text::pairs(text) {
        match key {
            b"pgfault" => faults = Some(count),
            b"pgmajfault" => {
                found.major = count;
                break; // the last that is wanted
            }
            b"pswpin" => found.pages_in = count,
            b"pswpout" => found.pages_out = count,
            _ => {}
        }
    }
    found.faults = faults?;
    Some(found)
}

/// Device, size and use in bytes, of each line of /proc/swaps but the heading.
fn areas(text: &[u8]) -> impl Iterator<Item = (&[u8], u64, u64)> {
    text::lines(text).filter_map(|line| {
        let mut words = text::words(line);
        let device = words.next()?;
        let [size, used] = text::numbers(&mut words.skip(1))?;
        (size > 0).then(|| (device, size.saturating_mul(1024), used.saturating_mul(1024)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_among_the_others() {
        let text = b"nr_dirty 15365\npgpgin 5015517\npswpin 3\npswpout 4\npgfault 16771093\npgmajfault 3452\nx 1\n";
        let expected = Snapshot { faults: 16771093, major: 3452, pages_in: 3, pages_out: 4 };
        assert_eq!(parse(text), Some(expected));
        assert_eq!(parse(b"pswpin 3\n"), None);
    }

    #[test]
    fn the_heading_of_swaps_is_no_device_and_an_empty_area_divides_nothing() {
        let text = b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n/dev/sda2 partition\t8388604\t\t1024\t\t-2\n\
            /swap file 0 0 -3\n";
        let found: Vec<_> = areas(text).collect();
        assert_eq!(found, vec![(&b"/dev/sda2"[..], 8388604 * 1024, 1024 * 1024)]);
    }
}
