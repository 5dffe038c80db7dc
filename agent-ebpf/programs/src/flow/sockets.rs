//! What is remembered of each stream: a socket's own, and the plain text over one.
//!
//! Invariant: an entry is of the connection whose ports it has: the kernel gives a socket's memory to others.

use crate::put::{Head, put_bare};
use crate::{FLOW_LAYOUT, tls};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::LruHashMap;
use kernel::{at, field, is_internet, port_pair, sock_layout, write_ends};
use ollystack_ebpf::Ends;
use ollystack_ebpf::flow::{CLIENT, CLOSE, ENCRYPTED, GIVEN_UP, MIDWAY, RECEIVED, SENT, SERVER};
use ollystack_ebpf::sniff;

/// A socket, as long as it is used.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Socket {
    pub(crate) ports: u32,
    pub(crate) sequence: u32,
    /// Bytes by direction, wrapping around.
    pub(crate) moved: [u32; 2],
    /// Bytes that are still copied before the other side's turn; of HTTP/2, where the frames stand that were sent.
    pub(crate) budget: u32,
    /// The first four bytes of a connection, if they came alone; of a datagram socket, which message of a call is next; of
    /// HTTP/2, where the frames stand that were received.
    pub(crate) carry: u32,
    pub(crate) misses: u16,
    /// A number of `sniff`, or [`OTHER`].
    pub(crate) protocol: u8,
    pub(crate) role: u8,
    /// Direction of the last call and one; 0 at first.
    pub(crate) last: u8,
    /// A bit by direction: the head that was copied last may go on in the next call.
    pub(crate) open: u8,
    /// Direction of what `carry` holds and one; 0 if nothing.
    pub(crate) carried: u8,
    /// TCP, and no session that is known by itself: it has sequence numbers.
    pub(crate) is_tcp: u8,
    /// Read once: five reads of the kernel's memory for each record cost more than the rest of it.
    pub(crate) ends: Ends,
}

/// None that is known.
pub(crate) const OTHER: u8 = 0xFF;

/// By the socket's address. The least used gives way, and is judged anew when it comes back.
#[map]
pub(crate) static SOCKETS: LruHashMap<u64, Socket> = LruHashMap::with_max_entries(9_536, 0);

/// What is known of a stream, which may be new; `None` if what it carries is not looked at.
#[inline(always)]
pub(crate) fn watched(address: u64, direction: u8) -> Option<*mut Socket> {
    let ports = if tls::is_session(address) { 0 } else { port_pair(tls::socket(address), &sock_layout!(FLOW_LAYOUT))? };
    let known = match SOCKETS.get_ptr_mut(address) {
        // SAFETY: under eviction the entry may meanwhile be another socket's: then a record carries a wrong number, which the
        // reader takes for a gap.
        Some(known) if unsafe { (*known).ports } == ports => known,
        _ => first_sight(address, ports)?,
    };
    // SAFETY: as above.
    match unsafe { (*known).protocol } {
        sniff::TLS => {
            if !tls::is_plain(address) {
                tls::flow_encrypts(address, direction.into());
            }
            None
        }
        OTHER => None,
        _ => Some(known),
    }
}

/// Whether a socket was found to carry what is not looked at.
#[inline(always)]
pub(crate) fn is_given_up(socket: u64, direction: u8) -> bool {
    // SAFETY: the value is read at once; see `on_data` for eviction.
    let Some(known) = (unsafe { SOCKETS.get(socket) }) else { return false };
    let is_left = matches!(known.protocol, sniff::TLS | OTHER)
        && port_pair(socket, &sock_layout!(FLOW_LAYOUT)) == Some(known.ports);
    if is_left && known.protocol == sniff::TLS {
        tls::flow_encrypts(socket, direction.into());
    }
    is_left
}

/// A stream that was not seen before, or another's that had its address.
#[inline(always)]
fn first_sight(address: u64, ports: u32) -> Option<*mut Socket> {
    let (protocol, role) = nature(address, ports);
    let fresh = Socket {
        ports,
        sequence: 0,
        moved: [0; 2],
        budget: 0,
        carry: 0,
        misses: 0,
        protocol,
        role,
        last: 0,
        open: 0,
        carried: 0,
        is_tcp: u8::from(is_tcp(address)),
        ends: Ends { local: [0; 16], remote: [0; 16], local_port: 0, remote_port: 0, family: 0, reserved: 0 },
    };
    let _ = SOCKETS.insert(address, fresh, 0);
    let known = SOCKETS.get_ptr_mut(address)?;
    if !tls::is_session(address) {
        // SAFETY: the map gave the address.
        unsafe { write_ends(&raw mut (*known).ends, tls::socket(address), &sock_layout!(FLOW_LAYOUT)) };
    }
    Some(known)
}

#[inline(always)]
fn is_tcp(address: u64) -> bool {
    const TCP: u16 = 6;
    !tls::is_plain(address) && at::<u16>(address, field!(FLOW_LAYOUT.sk_protocol)) == Some(TCP)
}

/// What a socket can be before it has said anything: datagrams are of one protocol, known by its port.
#[inline(always)]
fn nature(address: u64, ports: u32) -> (u8, u8) {
    const STREAM: u16 = 1;
    const DATAGRAM: u16 = 2;
    const DNS_PORT: u16 = 53;
    if tls::is_session(address) {
        return (sniff::UNKNOWN, CLIENT);
    }
    let address = tls::socket(address);
    if !is_internet(address, &sock_layout!(FLOW_LAYOUT)) {
        return (OTHER, CLIENT);
    }
    let remote = u16::from_be(ports as u16);
    let local = (ports >> 16) as u16;
    match at::<u16>(address, field!(FLOW_LAYOUT.sk_type)) {
        Some(STREAM) => (sniff::UNKNOWN, CLIENT),
        Some(DATAGRAM) if field!(FLOW_LAYOUT.protocols) & (1 << sniff::DNS) == 0 => (OTHER, CLIENT),
        Some(DATAGRAM) if remote == DNS_PORT => (sniff::DNS, CLIENT),
        Some(DATAGRAM) if local == DNS_PORT => (sniff::DNS, SERVER),
        _ => (OTHER, CLIENT),
    }
}

/// A stream is over: tell the reader, and forget it. The protocol it had.
#[inline(always)]
pub(crate) fn close(key: u64) -> u8 {
    let Some(known) = SOCKETS.get_ptr_mut(key) else { return sniff::UNKNOWN };
    // SAFETY: the map gave the address.
    let protocol = unsafe { (*known).protocol };
    if !matches!(protocol, sniff::UNKNOWN | sniff::TLS | OTHER) {
        // SAFETY: no preconditions.
        let time_ns = unsafe { bpf_ktime_get_ns() };
        // SAFETY: as above.
        let head = unsafe { Head::new(key, known, CLOSE, SENT, time_ns, 0, 0) };
        put_bare(&head, 0, 0);
    }
    let _ = SOCKETS.remove(key);
    protocol
}

/// A stream's calls were of no known protocol: it is looked at no more, and the reader is told whose it is.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn flow_gives_up(key: u64) -> u32 {
    let Some(known) = SOCKETS.get_ptr_mut(key) else { return 0 };
    // SAFETY: the map gave the address; the helper has no preconditions.
    unsafe {
        (*known).protocol = OTHER;
        let mut head = Head::new(key, known, GIVEN_UP, SENT, bpf_ktime_get_ns(), 0, 0);
        if tls::is_plain(key) {
            head.flags = ENCRYPTED;
        } else if (*known).is_tcp != 0 && began_before(key, &(*known).moved) {
            head.flags = MIDWAY;
        }
        put_bare(&head, 0, 0);
    }
    1
}

/// Whether a TCP socket has moved more than these bytes. Its acknowledged bytes are read before the place up to which they are, its received
/// ones likewise: of what moves meanwhile it is then too few.
#[inline(always)]
fn began_before(address: u64, moved: &[u32; 2]) -> bool {
    /// Either side's first and last numbers stand for no byte.
    const EDGES: i32 = 2;
    let number = |offset| at::<u32>(address, offset).unwrap_or(0);
    let (acknowledged, received) =
        (number(field!(FLOW_LAYOUT.tcp_bytes_acked)), number(field!(FLOW_LAYOUT.tcp_bytes_received)));
    let (until, next) = (number(field!(FLOW_LAYOUT.tcp_snd_una)), number(field!(FLOW_LAYOUT.tcp_rcv_nxt)));
    let on_its_way = number(field!(FLOW_LAYOUT.tcp_write_seq)).wrapping_sub(until);
    let not_read = next.wrapping_sub(number(field!(FLOW_LAYOUT.tcp_copied_seq)));
    let sent = acknowledged.wrapping_add(on_its_way).wrapping_sub(moved[SENT as usize]);
    let read = received.wrapping_sub(not_read).wrapping_sub(moved[RECEIVED as usize]);
    sent.cast_signed() > EDGES || read.cast_signed() > EDGES
}
