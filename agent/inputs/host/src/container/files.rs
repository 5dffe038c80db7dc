//! The files of a control group, parsed. Version 1 and version 2 say the same things in different words.
//!
//! Invariant: a file or line that is missing leaves its part out; "max" and version 1's largest number are no limit.

use crate::text;

/// What one group used. Bytes, and seconds of CPU time.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    pub(crate) cpu: Option<Cpu>,
    pub(crate) memory: Option<u64>,
    pub(crate) memory_limit: Option<u64>,
    pub(crate) detail: Option<MemoryDetail>,
    /// Device number, bytes read, bytes written.
    pub(crate) io: Vec<(Box<str>, u64, u64)>,
}

/// Seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Cpu {
    pub(crate) all: f64,
    pub(crate) user: f64,
    pub(crate) system: f64,
}

/// From memory.stat.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct MemoryDetail {
    /// Memory that is no file's.
    pub(crate) anonymous: u64,
    /// File cache that can go without harm: not part of the working set.
    pub(crate) inactive_file: u64,
    pub(crate) faults: u64,
    pub(crate) major_faults: u64,
}

/// Devices of one group; the rest is left out.
const DEVICES_MAX: usize = 32;

/// Version 2's cpu.stat.
pub(crate) fn cpu_v2(text: &[u8]) -> Option<Cpu> {
    let find = |wanted: &[u8]| text::pairs(text).find(|(key, _)| *key == wanted).map(|(_, us)| us as f64 / 1e6);
    Some(Cpu { all: find(b"usage_usec")?, user: find(b"user_usec")?, system: find(b"system_usec")? })
}

/// Version 1's cpuacct.usage (nanoseconds) and cpuacct.stat (ticks).
pub(crate) fn cpu_v1(usage: &[u8], stat: &[u8], ticks_per_second: f64) -> Option<Cpu> {
    let all = text::number(usage.trim_ascii())? as f64 / 1e9;
    let find = |wanted: &[u8]| text::pairs(stat).find(|(key, _)| *key == wanted).map(|(_, ticks)| ticks as f64);
    Some(Cpu { all, user: find(b"user")? / ticks_per_second, system: find(b"system")? / ticks_per_second })
}

/// A file of one number, or "max".
pub(crate) fn limit(text: &[u8]) -> Option<u64> {
    // Version 1 writes the largest multiple of the page size that fits 63 bits.
    text::number(text.trim_ascii()).filter(|bytes| *bytes < (1 << 62))
}

/// memory.stat of either version: version 1's `total_` lines include the groups below, as version 2's lines do.
pub(crate) fn memory_detail(text: &[u8]) -> Option<MemoryDetail> {
    let mut detail = MemoryDetail::default();
    let mut found = false;
    for (key, count) in text::pairs(text) {
        let field = match key {
            b"anon" | b"total_rss" => &mut detail.anonymous,
            b"total_inactive_file" => &mut detail.inactive_file,
            // Version 1 has a line of this name too, for the group alone; its total follows and wins.
            b"inactive_file" => &mut detail.inactive_file,
            b"pgfault" | b"total_pgfault" => &mut detail.faults,
            b"pgmajfault" | b"total_pgmajfault" => &mut detail.major_faults,
            _ => continue,
        };
        *field = count;
        found = true;
    }
    found.then_some(detail)
}

/// Version 2's io.stat: `254:0 rbytes=1 wbytes=2 ...`.
pub(crate) fn io_v2(text: &[u8]) -> Vec<(Box<str>, u64, u64)> {
    let device = |line| {
        let mut words = text::words(line);
        let device = std::str::from_utf8(words.next()?).ok()?;
        let (mut read, mut written) = (None, None);
        for word in words {
            if let Some(bytes) = word.strip_prefix(b"rbytes=") {
                read = text::number(bytes);
            } else if let Some(bytes) = word.strip_prefix(b"wbytes=") {
                written = text::number(bytes);
            }
        }
        Some((device.into(), read?, written?))
    };
    text::lines(text).filter_map(device).take(DEVICES_MAX).collect()
}

/// Version 1's blkio.throttle.io_service_bytes(_recursive): `254:0 Read 1`, `254:0 Write 2`.
pub(crate) fn io_v1(text: &[u8]) -> Vec<(Box<str>, u64, u64)> {
    let mut found: Vec<(Box<str>, u64, u64)> = Vec::new();
    for line in text::lines(text) {
        let mut words = text::words(line);
        let (Some(device), Some(operation), Some(bytes)) = (words.next(), words.next(), words.next()) else { continue };
        let (Ok(device), Some(bytes)) = (std::str::from_utf8(device), text::number(bytes)) else { continue };
        let at = found.iter().position(|(known, _, _)| &**known == device);
        let at = match at {
            Some(at) => at,
            None if found.len() < DEVICES_MAX => {
                found.push((device.into(), 0, 0));
                found.len() - 1
            }
            None => continue,
        };
        match operation {
            b"Read" => found[at].1 = bytes,
            b"Write" => found[at].2 = bytes,
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_say_the_same_of_cpu_time() {
        let two = cpu_v2(b"usage_usec 3000000\nuser_usec 2000000\nsystem_usec 1000000\nnr_periods 0\n");
        let one = cpu_v1(b"3000000000\n", b"user 200\nsystem 100\n", 100.0);
        assert_eq!(two, Some(Cpu { all: 3.0, user: 2.0, system: 1.0 }));
        assert_eq!(one, two);
        assert_eq!(cpu_v2(b"usage_usec 1\n"), None);
        assert_eq!(cpu_v1(b"x", b"user 1\nsystem 1\n", 100.0), None);
    }

    #[test]
    fn both_versions_say_the_same_of_memory() {
        let one = b"rss 1\ninactive_file 2\npgfault 3\npgmajfault 4\ntotal_rss 10\ntotal_pgfault 30\n\
            total_pgmajfault 40\ntotal_inactive_file 20\n";
        let two = b"anon 10\nfile 99\ninactive_file 20\npgfault 30\npgmajfault 40\n";
        let expected = MemoryDetail { anonymous: 10, inactive_file: 20, faults: 30, major_faults: 40 };
        assert_eq!(memory_detail(one), Some(expected));
        assert_eq!(memory_detail(two), Some(expected));
        assert_eq!(memory_detail(b"torn"), None);
    }

    #[test]
    fn no_limit_is_no_number() {
        assert_eq!(limit(b"1048576\n"), Some(1 << 20));
        assert_eq!(limit(b"max\n"), None);
        assert_eq!(limit(b"9223372036854771712\n"), None);
    }

    #[test]
    fn both_versions_say_the_same_of_disks() {
        let two = io_v2(b"254:0 rbytes=1 wbytes=2 rios=3 wios=4\n8:0\n8:16 rbytes=x wbytes=1\n");
        let one = io_v1(b"254:0 Read 1\n254:0 Write 2\n254:0 Sync 9\n254:0 Total 3\nTotal 3\n");
        assert_eq!(two, vec![("254:0".into(), 1, 2)]);
        assert_eq!(one, two);
    }
}
