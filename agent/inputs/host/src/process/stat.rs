//! `/proc/<pid>/stat` and the other files of a process, parsed.
//!
//! Invariant: a name made of parentheses and spaces cannot shift the fields: they are counted from the last parenthesis.

use crate::text;

/// What a scan keeps of each process.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stat {
    pub(crate) pid: u32,
    /// At most 15 bytes, as the kernel has it.
    pub(crate) name: Box<[u8]>,
    pub(crate) state: u8,
    pub(crate) parent: u32,
    pub(crate) minor_faults: u64,
    pub(crate) major_faults: u64,
    /// Ticks in user mode and in the kernel.
    pub(crate) user: u64,
    pub(crate) system: u64,
    pub(crate) threads: u64,
    /// Ticks since boot. With the pid it tells processes apart for good.
    pub(crate) start: u64,
    pub(crate) virtual_bytes: u64,
    pub(crate) resident_pages: u64,
}

impl Stat {
    /// User and kernel ticks.
    pub(crate) fn ticks(&self) -> u64 {
        self.user.saturating_add(self.system)
    }

    /// Kernel threads have no memory of their own; nor have the dead.
    pub(crate) fn is_kernel_thread(&self) -> bool {
        self.virtual_bytes == 0
    }
}

/// `pid (name) state ppid ...`, see proc_pid_stat(5).
pub(crate) fn parse(text: &[u8]) -> Option<Stat> {
    let open = text.iter().position(|byte| *byte == b'(')?;
    let close = text.iter().rposition(|byte| *byte == b')')?;
    let pid = u32::try_from(text::number(text[..open].trim_ascii())?).ok()?;
    let name = text.get(open + 1..close)?;
    let mut words = text::words(&text[close + 1..]);
    let state = *words.next()?.first()?;
    let parent = u32::try_from(text::number(words.next()?)?).ok()?;
    // pgrp session tty tpgid may be -1; flags follow.
    let mut words = words.skip(5);
    let [minor_faults, _, major_faults, _, user, system] = text::numbers(&mut words)?;
    // Children's times, priority and nice may be negative.
    let mut words = words.skip(4);
    let [threads] = text::numbers(&mut words)?;
    let mut words = words.skip(1);
    let [start, virtual_bytes, resident_pages] = text::numbers(&mut words)?;
    Some(Stat {
        pid,
        name: name.into(),
        state,
        parent,
        minor_faults,
        major_faults,
        user,
        system,
        threads,
        start,
        virtual_bytes,
        resident_pages,
    })
}

/// Bytes really read from and written to storage, from `/proc/<pid>/io`.
pub(crate) fn parse_io(text: &[u8]) -> Option<[u64; 2]> {
    let find = |wanted: &[u8]| text::pairs(text).find(|(key, _)| *key == wanted).map(|(_, bytes)| bytes);
    Some([find(b"read_bytes")?, find(b"write_bytes")?])
}

/// Voluntary and involuntary context switches, and the effective user, from `/proc/<pid>/status`.
pub(crate) fn parse_status(text: &[u8]) -> (Option<[u64; 2]>, Option<u64>) {
    let find = |wanted: &[u8]| text::pairs(text).find(|(key, _)| *key == wanted).map(|(_, count)| count);
    let switches = find(b"voluntary_ctxt_switches").zip(find(b"nonvoluntary_ctxt_switches"));
    let user = text::lines(text).find_map(|line| line.strip_prefix(b"Uid:"));
    let effective = user.and_then(|users| text::words(users).nth(1)).and_then(text::number);
    (switches.map(|(voluntary, involuntary)| [voluntary, involuntary]), effective)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "17301 (a) R (b) S 17287 17287 6136 0 -1 4194304 100 5 3 6 40 20 1 2 20 0 4 0 143673 3133440 390 \
        18446744073709551615 93926901383168 93926901403049 140729655651712 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0";

    #[test]
    fn a_name_full_of_parentheses_shifts_nothing() {
        let stat = parse(STAT.as_bytes()).unwrap();
        assert_eq!((stat.pid, &*stat.name, stat.state, stat.parent), (17301, &b"a) R (b"[..], b'S', 17287));
        assert_eq!((stat.minor_faults, stat.major_faults, stat.user, stat.system), (100, 3, 40, 20));
        assert_eq!((stat.threads, stat.start, stat.virtual_bytes, stat.resident_pages), (4, 143673, 3133440, 390));
    }

    #[test]
    fn torn_and_odd_lines_are_no_process() {
        for odd in ["", "1", "1 (", "1 )(", "1 (x) S 1 2 3", "x (y) S 1", "1 (x)", "99999999999 (x) S 1"] {
            assert_eq!(parse(odd.as_bytes()), None, "{odd:?}");
        }
        for end in 0..STAT.len() {
            parse(&STAT.as_bytes()[..end]); // must not panic at any cut
        }
    }

    #[test]
    fn the_rest_is_found_by_name() {
        let io = b"rchar: 6976\nwchar: 0\nread_bytes: 4096\nwrite_bytes: 8192\ncancelled_write_bytes: 1\n";
        assert_eq!(parse_io(io), Some([4096, 8192]));
        assert_eq!(parse_io(b"rchar: 1\n"), None);
        let status =
            b"Name:\tx\nUid:\t1000\t1001\t1000\t1000\nvoluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t8\n";
        assert_eq!(parse_status(status), (Some([7, 8]), Some(1001)));
        assert_eq!(parse_status(b""), (None, None));
    }
}
