//! `system.network.connection.count` by state, from the host's /proc/net/tcp and tcp6; and which sockets listen.
//!
//! The kernel walks its whole hash of connections for each table, 3 ms where memory is plenty, and writes 150 bytes a
//! connection: so this runs at every third slow reading, tcp6 is left alone where sockstat6 says that it is not used, and at
//! most [`read::BYTES_MAX`] of each table are looked at. What listens goes to the process scraper: a process that listens serves traffic. Invariant: every state is
//! sent in every reading, as zero if need be.

use crate::read::{self, KernelFile};
use crate::scrape::{Context, Roots, ScrapeError, Scraper};
use crate::series::{Catalog, Definition, amount};
use crate::text;
use hashbrown::HashSet;
use ollystack_record::{Series, value};
use ollystack_schema::names::semconv;
use std::sync::{Arc, Mutex, PoisonError};

const CONNECTIONS: Definition = amount("system.network.connection.count", "{connection}", "TCP sockets by state");

/// In the order of the kernel's numbers, which begin at 1. `close` stands for TCP_CLOSE, and 12 is a request socket.
const STATES: [&str; 11] = [
    "established",
    "syn_sent",
    "syn_recv",
    "fin_wait_1",
    "fin_wait_2",
    "time_wait",
    "close",
    "close_wait",
    "last_ack",
    "listen",
    "closing",
];
const LISTEN: usize = 9;

/// More listening sockets than this are not looked for among the processes.
const LISTENING_MAX: usize = 4096;

/// Inodes of the sockets that listen, shared with the process scraper.
pub(crate) type Listening = Arc<Mutex<HashSet<u64>>>;

pub(crate) struct Connections {
    tables: [KernelFile; 2],
    in_use: KernelFile,
    series: [Arc<Series>; 11],
    listening: Listening,
}

impl Connections {
    pub(crate) fn new(roots: &Roots, catalog: &mut Catalog, listening: Listening) -> Connections {
        let attributes = |state: &str| {
            vec![
                value::string(semconv::NETWORK_TRANSPORT, "tcp"),
                value::string(semconv::NETWORK_CONNECTION_STATE, state),
            ]
        };
        Connections {
            tables: ["net/tcp", "net/tcp6"].map(|table| KernelFile::new(roots.own(table))),
            in_use: KernelFile::new(roots.own("net/sockstat6")),
            series: STATES.map(|state| catalog.series(&CONNECTIONS, attributes(state))),
            listening,
        }
    }
}

impl Scraper for Connections {
    fn name(&self) -> &'static str {
        "connections"
    }

    fn scrape(&mut self, context: &mut Context<'_>) -> Result<(), ScrapeError> {
        let mut counts = [0; 11];
        let mut listening = HashSet::new();
        let mut read_any = false;
        let mut result = Ok(());
        let is_used = context.read(&mut self.in_use).is_err() || is_used(context.buffer);
        let tables = if is_used { 2 } else { 1 };
        for table in &mut self.tables[..tables] {
            match context.read(table) {
                Ok(()) => {
                    read_any = true;
                    count(context.buffer, &mut counts, &mut listening);
                    if context.buffer.len() >= read::BYTES_MAX {
                        result = Err(ScrapeError::Stuck(format!(
                            "{}: only the first {} MiB were counted",
                            table.path().display(),
                            read::BYTES_MAX >> 20
                        )));
                    }
                }
                // A host without IPv6 has no tcp6.
                Err(ScrapeError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => result = Err(error),
            }
        }
        if read_any {
            for (series, count) in self.series.iter().zip(counts) {
                context.samples.int(series, count);
            }
            *self.listening.lock().unwrap_or_else(PoisonError::into_inner) = listening;
        }
        result
    }
}

/// Whether sockstat6 tells of TCP sockets; a kernel that words it differently is not believed.
fn is_used(sockets: &[u8]) -> bool {
    let line = text::lines(sockets).find_map(|line| line.strip_prefix(b"TCP6: inuse "));
    line.and_then(|line| text::number(line.trim_ascii())) != Some(0)
}

/// `sl local remote st queues timer retransmits uid timeout inode ...`: the state is hexadecimal.
fn count(table: &[u8], counts: &mut [u64; 11], listening: &mut HashSet<u64>) {
    for line in text::lines(table).skip(1) {
        let mut words = text::words(line).skip(3);
        let state = words.next().and_then(|word| usize::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok());
        // 12 is a connection being made that has no full socket yet: to everybody else that is syn_recv.
        let state = match state {
            Some(12) => 2,
            Some(state @ 1..=11) => state - 1,
            _ => continue,
        };
        counts[state] += 1;
        if state == LISTEN && listening.len() < LISTENING_MAX {
            listening.extend(words.nth(5).and_then(text::number).filter(|inode| *inode != 0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
        0: 00000000:07E8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1617 1 000 100 0 0 10 0\n\
        1: 0100007F:07E8 0100007F:1234 01 00000000:00000000 00:00000000 00000000     0        0 1618 1 000 20 4 30 10 -1\n\
        2: 0100007F:07E8 0100007F:1235 06 00000000:00000000 03:00001770 00000000     0        0 0 3 000\n\
        3: 0100007F:07E8 0100007F:1236 0C 00000000:00000000 03:00001770 00000000     0        0 0 3 000\n\
        4: 0100007F:07E8 0100007F:1236 FF 0:0\n\
        5: torn\n";

    #[test]
    fn the_second_table_is_left_alone_only_if_it_is_surely_empty() {
        assert!(!is_used(b"TCP6: inuse 0\nUDP6: inuse 1\n"));
        assert!(is_used(b"TCP6: inuse 1\n"));
        assert!(is_used(b"TCP6 in use: 0\n"));
    }

    #[test]
    fn states_are_counted_and_what_listens_is_known_by_its_inode() {
        let (mut counts, mut listening) = ([0; 11], HashSet::new());
        count(TABLE.as_bytes(), &mut counts, &mut listening);
        assert_eq!(counts, [1, 0, 1, 0, 0, 1, 0, 0, 0, 1, 0]);
        assert_eq!(listening.into_iter().collect::<Vec<_>>(), [1617]);
    }
}
