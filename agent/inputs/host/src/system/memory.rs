//! `system.memory.*`, from /proc/meminfo.
//!
//! Invariant: used + free + cached + buffers = `system.memory.limit`, in every sample. Reclaimable slab is cache, as free(1)
//! has it.

use crate::read::KernelFile;
use crate::scrape::{Context, Roots, ScrapeError, Scraper};
use crate::series::{Catalog, Definition, amount, gauge};
use crate::text;
use ollystack_record::{Series, value};
use ollystack_schema::names::semconv;
use std::sync::Arc;

const USAGE: Definition = amount("system.memory.usage", "By", "Memory by state");
const UTILIZATION: Definition = gauge("system.memory.utilization", "1", "Share of memory in each state");
const LIMIT: Definition = amount("system.memory.limit", "By", "Memory of the system");
const AVAILABLE: Definition =
    amount("system.memory.linux.available", "By", "Memory that new work can have without swapping");
const SHARED: Definition = amount("system.memory.linux.shared", "By", "Shared memory, mostly of tmpfs");
const SLAB: Definition = amount("system.memory.linux.slab.usage", "By", "Memory of the kernel's caches of objects");

const STATES: [&str; 4] = ["used", "free", "cached", "buffers"];

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Snapshot {
    total: u64,
    free: u64,
    available: Option<u64>,
    buffers: u64,
    cached: u64,
    shared: u64,
    reclaimable: u64,
    unreclaimable: u64,
}

pub(crate) struct Memory {
    file: KernelFile,
    usage: [Arc<Series>; 4],
    utilization: [Arc<Series>; 4],
    limit: Arc<Series>,
    available: Arc<Series>,
    shared: Arc<Series>,
    slab: [Arc<Series>; 2],
}

impl Memory {
    pub(crate) fn new(roots: &Roots, catalog: &mut Catalog) -> Memory {
        let state = |state: &str| vec![value::string(semconv::SYSTEM_MEMORY_STATE, state)];
        let slab = |state: &str| vec![value::string(semconv::SYSTEM_MEMORY_LINUX_SLAB_STATE, state)];
        Memory {
            file: KernelFile::new(roots.proc.join("meminfo")),
            usage: STATES.map(|name| catalog.series(&USAGE, state(name))),
            utilization: STATES.map(|name| catalog.series(&UTILIZATION, state(name))),
            limit: catalog.series(&LIMIT, vec![]),
            available: catalog.series(&AVAILABLE, vec![]),
            shared: catalog.series(&SHARED, vec![]),
            slab: ["reclaimable", "unreclaimable"].map(|name| catalog.series(&SLAB, slab(name))),
        }
    }
}

impl Scraper for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn scrape(&mut self, context: &mut Context<'_>) -> Result<(), ScrapeError> {
        context.read(&mut self.file)?;
        let now = parse(context.buffer).ok_or_else(|| ScrapeError::parse(&self.file, "MemTotal"))?;
        let samples = &mut *context.samples;
        for ((usage, utilization), bytes) in self.usage.iter().zip(&self.utilization).zip(now.states()) {
            samples.int(usage, bytes);
            samples.quotient(utilization, bytes as f64 / now.total as f64);
        }
        samples.int(&self.limit, now.total);
        if let Some(available) = now.available {
            samples.int(&self.available, available);
        }
        samples.int(&self.shared, now.shared);
        samples.int(&self.slab[0], now.reclaimable);
        samples.int(&self.slab[1], now.unreclaimable);
        Ok(())
    }
}

impl Snapshot {
    /// Bytes in the order of [`STATES`]. Containers' meminfo (lxcfs) may claim more cache than there is memory: the claims
    /// are cut so that the sum holds.
    fn states(&self) -> [u64; 4] {
        let free = self.free.min(self.total);
        let buffers = self.buffers.min(self.total - free);
        let cached = (self.cached.saturating_add(self.reclaimable)).min(self.total - free - buffers);
        [self.total - free - buffers - cached, free, cached, buffers]
    }
}

/// Parse /proc/meminfo; bytes. `None` without a total.
fn parse(text: &[u8]) -> Option<Snapshot> {
    let mut found = Snapshot::default();
    for (key, kibibytes) in text::pairs(text) {
        let bytes = kibibytes.saturating_mul(1024);
        match key {
            b"MemTotal" => found.total = bytes,
            b"MemFree" => found.free = bytes,
            b"MemAvailable" => found.available = Some(bytes),
            b"Buffers" => found.buffers = bytes,
            b"Cached" => found.cached = bytes,
            b"Shmem" => found.shared = bytes,
            b"SReclaimable" => found.reclaimable = bytes,
            b"SUnreclaim" => {
                found.unreclaimable = bytes;
                break; // all that is wanted stands above this line on every kernel since 2.6.19
            }
            _ => {}
        }
    }
    (found.total > 0).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemTotal:       24684084 kB\nMemFree:        22877524 kB\nMemAvailable:   24113800 kB\n\
        Buffers:            7460 kB\nCached:          1370428 kB\nSwapCached:            0 kB\nActive(anon):       1568 kB\n\
        Shmem:              8872 kB\nKReclaimable:     165408 kB\nSlab:             195340 kB\n\
        SReclaimable:     165408 kB\nSUnreclaim:        29932 kB\nHugePages_Total:       0\n";

    #[test]
    fn the_states_add_up_to_the_limit() {
        let snapshot = parse(MEMINFO.as_bytes()).unwrap();
        assert_eq!(snapshot.states().iter().sum::<u64>(), 24684084 * 1024);
        assert_eq!(snapshot.states()[0], (24684084 - 22877524 - 7460 - 1370428 - 165408) * 1024);
        assert_eq!(snapshot.available, Some(24113800 * 1024));
        assert_eq!(snapshot.unreclaimable, 29932 * 1024);
    }

    #[test]
    fn claims_beyond_the_total_are_cut() {
        let snapshot =
            parse(b"MemTotal: 100 kB\nMemFree: 90 kB\nBuffers: 5 kB\nCached: 99999999999999999 kB\n").unwrap();
        assert_eq!(snapshot.states(), [0, 90 * 1024, 5 * 1024, 5 * 1024]);
        assert_eq!(snapshot.available, None, "kernels before 3.14");
    }

    #[test]
    fn no_total_is_no_snapshot() {
        assert_eq!(parse(b"MemTotal: many kB\n"), None);
        assert_eq!(parse(b"\xff\xfe"), None);
    }
}
