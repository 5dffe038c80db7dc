//! A conversation for the tests of every protocol: bytes go to the parser as the kernel would hand them over.

use crate::{Chunk, Exchange, Found, Moment, Protocol, Side, parser};

/// A connection with its parser.
pub(crate) struct Play {
    protocol: Box<dyn Protocol>,
    found: Found,
    time_ns: u64,
    last: Option<Side>,
    positions: [u32; 2],
}

impl Play {
    pub(crate) fn new(protocol: u8) -> Play {
        let protocol = parser(protocol).expect("a protocol of the list");
        Play { protocol, found: Found::default(), time_ns: 0, last: None, positions: [0; 2] }
    }

    /// The client sends, in one call that is copied whole.
    pub(crate) fn client(&mut self, bytes: &[u8]) {
        self.take(Side::Client, bytes, bytes.len() as u32);
    }

    /// The server sends.
    pub(crate) fn server(&mut self, bytes: &[u8]) {
        self.take(Side::Server, bytes, bytes.len() as u32);
    }

    /// The client sends `length` bytes, of which the first were copied.
    pub(crate) fn client_cut(&mut self, bytes: &[u8], length: u32) {
        self.take(Side::Client, bytes, length);
    }

    /// The server sends `length` bytes, of which the first were copied.
    pub(crate) fn server_cut(&mut self, bytes: &[u8], length: u32) {
        self.take(Side::Server, bytes, length);
    }

    pub(crate) fn take(&mut self, from: Side, bytes: &[u8], length: u32) {
        self.time_ns += 1;
        let position = &mut self.positions[from as usize];
        let at = Moment { time_ns: self.time_ns, thread: 1 };
        let chunk = Chunk { from, at, position: *position, length, bytes, is_turn: self.last != Some(from) };
        (*position, self.last) = (position.wrapping_add(length), Some(from));
        self.protocol.take(&chunk, &mut self.found);
    }

    /// A side sends bytes of which nothing is told.
    pub(crate) fn skip(&mut self, from: Side, length: u32) {
        let position = &mut self.positions[from as usize];
        *position = position.wrapping_add(length);
    }

    /// A record is lost.
    pub(crate) fn gap(&mut self) {
        self.protocol.gap(&mut self.found);
        self.last = None;
    }

    /// The connection closes.
    pub(crate) fn end(&mut self) {
        self.protocol.end(&mut self.found);
    }

    pub(crate) fn exchanges(&self) -> &[Exchange] {
        &self.found.exchanges
    }

    pub(crate) fn found(&self) -> &Found {
        &self.found
    }

    /// Each exchange in words: its name, its error, and whether that is the client's fault.
    pub(crate) fn told(&self) -> Vec<String> {
        let tell = |exchange: &Exchange| match &exchange.error {
            None => exchange.name.clone(),
            Some(error) if exchange.is_fault_of_client => format!("{} {error} (client)", exchange.name),
            Some(error) => format!("{} {error}", exchange.name),
        };
        self.found.exchanges.iter().map(tell).collect()
    }
}
