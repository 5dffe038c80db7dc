//! `system.network.*` by interface, from the host's /proc/net/dev.
//!
//! The host's ends of container interfaces (`veth...`) are left out: their traffic is their containers', and a busy node
//! makes hundreds a day. Invariant: at most [`INTERFACES_MAX`] interfaces are measured.

use crate::read::KernelFile;
use crate::scrape::{Context, Roots, ScrapeError, Scraper};
use crate::series::{Catalog, Definition, Groups, counter};
use crate::text;
use ollystack_record::{Series, value};
use ollystack_schema::names::semconv;
use std::sync::Arc;

const IO: Definition = counter("system.network.io", "By", "Bytes received and transmitted");
const PACKETS: Definition = counter("system.network.packet.count", "{packet}", "Packets received and transmitted");
const ERRORS: Definition = counter("system.network.errors", "{error}", "Receive and transmit errors");
const DROPPED: Definition =
    counter("system.network.packet.dropped", "{packet}", "Packets dropped although there was no error");

const INTERFACES_MAX: usize = 128;

/// Bytes, packets, errors, dropped.
type Counts = [u64; 4];

pub(crate) struct Network {
    file: KernelFile,
    groups: Groups<8>,
}

impl Network {
    pub(crate) fn new(roots: &Roots) -> Network {
        Network { file: KernelFile::new(roots.own("net/dev")), groups: Groups::new(INTERFACES_MAX) }
    }
}

impl Scraper for Network {
    fn name(&self) -> &'static str {
        "network"
    }

    fn scrape(&mut self, context: &mut Context<'_>) -> Result<(), ScrapeError> {
        context.read(&mut self.file)?;
        let mut found = false;
        for (interface, received, transmitted) in text::lines(context.buffer).filter_map(parse) {
            found = true;
            if interface.starts_with(b"veth") {
                continue;
            }
            let catalog = &mut *context.catalog;
            let Some(series) = self.groups.get(interface, || series(catalog, interface)) else { continue };
            for (series, counts) in series.chunks_exact(4).zip([received, transmitted]) {
                for (series, count) in series.iter().zip(counts) {
                    context.samples.int(series, count);
                }
            }
        }
        self.groups.sweep();
        if found { Ok(()) } else { Err(ScrapeError::parse(&self.file, "interface")) }
    }
}

fn series(catalog: &mut Catalog, interface: &[u8]) -> [Arc<Series>; 8] {
    let name = String::from_utf8_lossy(interface);
    let attributes = |direction: &str| {
        vec![
            value::string(semconv::NETWORK_INTERFACE_NAME, name.as_ref()),
            value::string(semconv::NETWORK_IO_DIRECTION, direction),
        ]
    };
    // The conventions name the interface `system.device` in this one metric; both are given, so that joins work.
    let packets = |direction: &str| {
        let mut attributes = attributes(direction);
        attributes.push(value::string(semconv::SYSTEM_DEVICE, name.as_ref()));
        attributes
    };
    let mut of = |direction: &str| {
        [
            catalog.series(&IO, attributes(direction)),
            catalog.series(&PACKETS, packets(direction)),
            catalog.series(&ERRORS, attributes(direction)),
            catalog.series(&DROPPED, attributes(direction)),
        ]
    };
    let [a, b, c, d] = of("receive");
    let [e, f, g, h] = of("transmit");
    [a, b, c, d, e, f, g, h]
}

/// `name: bytes packets errs drop fifo frame compressed multicast bytes packets errs drop ...`. Large counts may follow the
/// colon without a space.
fn parse(line: &[u8]) -> Option<(&[u8], Counts, Counts)> {
    let colon = line.iter().rposition(|byte| *byte == b':')?;
    let interface = line[..colon].trim_ascii();
    let mut words = text::words(&line[colon + 1..]);
    let received = text::numbers(&mut words)?;
    let [_fifo, _frame, _compressed, _multicast] = text::numbers(&mut words)?;
    let transmitted = text::numbers(&mut words)?;
    (!interface.is_empty()).then_some((interface, received, transmitted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_read_whatever_their_names_and_spacing() {
        let line = b"  eth0: 509799515   15422    1    2    0     0          0         0   951929    9398    3    4    0 0 0 0";
        assert_eq!(parse(line), Some((&b"eth0"[..], [509799515, 15422, 1, 2], [951929, 9398, 3, 4])));
        let tight = b"eth0:1:4294967295 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16";
        assert_eq!(parse(tight), Some((&b"eth0:1"[..], [4294967295, 2, 3, 4], [9, 10, 11, 12])));
    }

    #[test]
    fn headings_and_torn_lines_are_no_interfaces() {
        for odd in [
            "Inter-|   Receive       |  Transmit",
            " face |bytes packets",
            "eth0: 1 2 3",
            ": 1 2 3 4 5 6 7 8 9 10 11 12",
        ] {
            assert_eq!(parse(odd.as_bytes()), None, "{odd:?}");
        }
    }
}
