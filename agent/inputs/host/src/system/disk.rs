//! `system.disk.*`, from /proc/diskstats.
//!
//! Whole disks only (what /sys/block lists): a partition's work is its disk's too. A device that never did anything, such as
//! an unused loop device, is left out. Invariant: at most [`DISKS_MAX`] devices are measured.

use crate::read::KernelFile;
use crate::scrape::{Context, Roots, ScrapeError, Scraper};
use crate::series::{Definition, Groups, amount, counter};
use crate::text;
use hashbrown::HashMap;
use ollystack_record::value;
use ollystack_schema::names::semconv;
use std::path::PathBuf;

const IO: Definition = counter("system.disk.io", "By", "Bytes read and written");
const OPERATIONS: Definition = counter("system.disk.operations", "{operation}", "Reads and writes completed");
const OPERATION_TIME: Definition =
    counter("system.disk.operation_time", "s", "Time all reads and writes took, added up");
const MERGED: Definition = counter("system.disk.merged", "{operation}", "Reads and writes merged into others");
const IO_TIME: Definition = counter("system.disk.io_time", "s", "Time with at least one operation under way");
const LIMIT: Definition = amount("system.disk.limit", "By", "Size of the disk");

const DISKS_MAX: usize = 256;

/// /proc/diskstats counts in sectors of this size whatever the disk's own.
const SECTOR_BYTES: u64 = 512;

#[derive(Debug, PartialEq)]
struct Line<'a> {
    device: &'a [u8],
    /// Operations, merged, sectors, milliseconds.
    read: [u64; 4],
    written: [u64; 4],
    busy_ms: u64,
}

pub(crate) struct Disk {
    file: KernelFile,
    block: PathBuf,
    /// Whether a device is a whole disk, and its size in bytes: asked of /sys once.
    known: HashMap<Box<[u8]>, Option<u64>>,
    groups: Groups<10>,
}

impl Disk {
    pub(crate) fn new(roots: &Roots) -> Disk {
        let file = KernelFile::new(roots.proc.join("diskstats"));
        Disk { file, block: roots.sys.join("block"), known: HashMap::new(), groups: Groups::new(DISKS_MAX) }
    }

    /// The size of a whole disk; `None` for a partition. Where /sys is hidden everything counts as whole, of size 0.
    fn size(&mut self, device: &[u8]) -> Option<u64> {
        if let Some(known) = self.known.get(device) {
            return *known;
        }
        let name = String::from_utf8_lossy(device).replace('/', "!");
        let folder = self.block.join(name);
        let is_disk = folder.exists() || !self.block.exists();
        let sectors = std::fs::read(folder.join("size")).ok().and_then(|text| text::number(text.trim_ascii()));
        let size = is_disk.then(|| sectors.unwrap_or(0).saturating_mul(SECTOR_BYTES));
        if self.known.len() >= 4 * DISKS_MAX {
            self.known.clear(); // devices came and went: ask again rather than grow
        }
        self.known.insert(device.into(), size);
        size
    }
}

impl Scraper for Disk {
    fn name(&self) -> &'static str {
        "disk"
    }

    fn scrape(&mut self, context: &mut Context<'_>) -> Result<(), ScrapeError> {
        context.read(&mut self.file)?;
        // Taken out while its lines are borrowed; given back below.
        let text = std::mem::take(context.buffer);
        for line in text::lines(&text).filter_map(parse).filter(Line::worked) {
            let Some(size) = self.size(line.device) else { continue };
            let catalog = &mut *context.catalog;
            let make = || {
                let device = value::string(semconv::SYSTEM_DEVICE, String::from_utf8_lossy(line.device));
                let direction = |name: &str| vec![device.clone(), value::string(semconv::DISK_IO_DIRECTION, name)];
                let both = ["read", "write"].map(direction);
                let mut pair = |definition| both.clone().map(|attributes| catalog.series(definition, attributes));
                let [bytes_read, bytes_written] = pair(&IO);
                let [reads, writes] = pair(&OPERATIONS);
                let [read_time, write_time] = pair(&OPERATION_TIME);
                let [reads_merged, writes_merged] = pair(&MERGED);
                let busy = catalog.series(&IO_TIME, vec![device.clone()]);
                let limit = catalog.series(&LIMIT, vec![device]);
                [
                    reads,
                    reads_merged,
                    bytes_read,
                    read_time,
                    writes,
                    writes_merged,
                    bytes_written,
                    write_time,
                    busy,
                    limit,
                ]
            };
            let Some(series) = self.groups.get(line.device, make) else { continue };
            let samples = &mut *context.samples;
            for (series, [operations, merged, sectors, ms]) in series.chunks_exact(4).zip([line.read, line.written]) {
                samples.int(&series[0], operations);
                samples.int(&series[1], merged);
                samples.int(&series[2], sectors.saturating_mul(SECTOR_BYTES));
                samples.double(&series[3], ms as f64 / 1e3);
            }
            samples.double(&series[8], line.busy_ms as f64 / 1e3);
            if size > 0 {
                samples.int(&series[9], size);
            }
        }
        *context.buffer = text;
        self.groups.sweep();
        Ok(())
    }
}

impl Line<'_> {
    fn worked(&self) -> bool {
        self.read[0] > 0 || self.written[0] > 0
    }
}

/// `major minor name` and eleven numbers or more; the seven-field lines of ancient partitions are left out.
fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut words = text::words(line).skip(2);
    let device = words.next()?;
    let read = text::numbers(&mut words)?;
    let written = text::numbers(&mut words)?;
    let [_in_progress, busy_ms] = text::numbers(&mut words)?;
    Some(Line { device, read, written, busy_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_old_and_new_kernels_read_alike() {
        let new = b" 254       0 vda 56500 8074 5979842 42317 13170 20819 4995208 11472 0 13208 54351 4824 47 821552 484 871 76";
        let old = b"   8       0 vda 56500 8074 5979842 42317 13170 20819 4995208 11472 0 13208 54351";
        let expected = Line {
            device: b"vda",
            read: [56500, 8074, 5979842, 42317],
            written: [13170, 20819, 4995208, 11472],
            busy_ms: 13208,
        };
        assert_eq!(parse(new), Some(expected));
        assert_eq!(parse(old), parse(new));
    }

    #[test]
    fn what_is_not_a_disk_s_line_is_left_out() {
        for odd in ["", "8 1 sda1 4 5 6 7", "8 0 sda a b c d e f g h i j k", "8 0"] {
            assert_eq!(parse(odd.as_bytes()), None, "{odd:?}");
        }
        assert!(!parse(b"7 0 loop0 0 0 0 0 0 0 0 0 0 0 0").unwrap().worked());
    }
}
