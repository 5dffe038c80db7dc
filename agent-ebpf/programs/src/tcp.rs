//! TCP connections: the tracepoint where their state changes, and the one where a segment is sent again.
//!
//! A connection is known by its socket's address. Its owner is the process that acts on it: who connects, or who closes
//! (the states SYN_SENT, FIN_WAIT1 and LAST_ACK are entered from a system call); ESTABLISHED is entered by the network
//! stack on behalf of whoever happens to run, so nothing is learnt there.
//! Invariant: one outcome for every attempt, [`CONNECTED`] or [`FAILED`], and one [`CLOSED`] for every connection.
#![no_std]
#![no_main]

use aya_ebpf::helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use aya_ebpf::macros::{map, raw_tracepoint};
use aya_ebpf::maps::{LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::programs::RawTracePointContext;
use kernel::{AVAILABLE, at, count, field, is_internet, sock_layout, state, wakeup, write_ends};
use ollystack_ebpf::tcp::{
    CLOSED, CONNECTED, Event, FAILED, INBOUND, OUTBOUND, RETRANSMITTED, RING_BYTES, UNKNOWN, loss,
};
use ollystack_ebpf::{COMMAND_BYTES, layout};

kernel::program_file!();

#[unsafe(no_mangle)]
static TCP_LAYOUT: layout::Tcp = layout::Tcp {
    sock: layout::Sock {
        skc_family: 0,
        skc_dport: 0,
        inet_sport: 0,
        skc_rcv_saddr: 0,
        skc_daddr: 0,
        skc_v6_rcv_saddr: 0,
        skc_v6_daddr: 0,
    },
    sock_err: 0,
    sock_flags: 0,
    tcp_srtt_us: 0,
    tcp_bytes_sent: 0,
    tcp_bytes_retrans: 0,
    tcp_bytes_received: 0,
};

/// `SOCK_DONE` of `sock_flags`: the other side's FIN has arrived, and the kernel counts it as a byte received.
const FIN_RECEIVED: u64 = 1 << 1;

/// What is remembered of a connection.
#[derive(Clone, Copy)]
#[repr(C)]
struct Connection {
    since_ns: u64,
    process: u32,
    direction: u32,
    command: [u8; COMMAND_BYTES],
}

#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);

#[map]
static LOSSES: PerCpuArray<u64> = PerCpuArray::with_max_entries(loss::COUNT, 0);

/// By the socket's address. The oldest gives way: its close is then reported without an owner.
#[map]
static CONNECTIONS: LruHashMap<u64, Connection> = LruHashMap::with_max_entries(16 * 1024, 0);

/// `inet_sock_set_state(sock, old state, new state)`.
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
pub fn tcp_state(ctx: RawTracePointContext) -> i32 {
    let (sock, old, new) = (ctx.arg::<u64>(0), ctx.arg::<i32>(1), ctx.arg::<i32>(2));
    match (old, new) {
        (_, state::SYN_SENT) => own(sock, OUTBOUND),
        (state::SYN_SENT, state::ESTABLISHED) => report(sock, CONNECTED),
        (state::SYN_SENT, state::CLOSE) => {
            report(sock, FAILED);
            let _ = CONNECTIONS.remove(sock);
        }
        (state::SYN_RECV | state::NEW_SYN_RECV, state::ESTABLISHED) => {
            let _ = CONNECTIONS.insert(sock, connection(0, INBOUND), 0);
        }
        (_, state::FIN_WAIT1 | state::LAST_ACK) => own(sock, UNKNOWN),
        (state::LISTEN | state::CLOSE | state::SYN_RECV | state::NEW_SYN_RECV, state::CLOSE) => {}
        (_, state::CLOSE) => {
            report(sock, CLOSED);
            let _ = CONNECTIONS.remove(sock);
        }
        _ => {}
    }
    0
}

/// `tcp_retransmit_skb(sock, ...)`.
#[raw_tracepoint(tracepoint = "tcp_retransmit_skb")]
pub fn tcp_retransmit(ctx: RawTracePointContext) -> i32 {
    report(ctx.arg::<u64>(0), RETRANSMITTED);
    0
}

/// The running process acts on the connection, so it is the owner.
#[inline(always)]
fn own(sock: u64, direction: u8) {
    let process = (bpf_get_current_pid_tgid() >> 32) as u32;
    match CONNECTIONS.get_ptr_mut(sock) {
        Some(known) if direction == UNKNOWN => {
            // SAFETY: the map gave the address. Under eviction it may meanwhile belong to another connection, whose owner
            // is then wrong; nothing worse.
            unsafe {
                if (*known).process == 0 {
                    (*known).process = process;
                    (*known).command = command();
                }
            }
        }
        _ => {
            let _ = CONNECTIONS.insert(sock, connection(process, direction), 0);
        }
    }
}

#[inline(always)]
fn connection(process: u32, direction: u8) -> Connection {
    Connection {
        // A connection first seen when it closes has no known start.
        // SAFETY: no preconditions.
        since_ns: if direction == UNKNOWN { 0 } else { unsafe { bpf_ktime_get_ns() } },
        process,
        direction: u32::from(direction),
        command: if process == 0 { [0; COMMAND_BYTES] } else { command() },
    }
}

#[inline(always)]
fn command() -> [u8; COMMAND_BYTES] {
    bpf_get_current_comm().unwrap_or([0; COMMAND_BYTES])
}

#[inline(always)]
fn report(sock: u64, kind: u8) {
    if !is_internet(sock, &sock_layout!(TCP_LAYOUT)) {
        return;
    }
    let waiting = EVENTS.query(AVAILABLE);
    let Some(mut entry) = EVENTS.reserve::<Event>(0) else {
        count(&LOSSES, loss::EVENT);
        return;
    };
    let event = entry.as_mut_ptr();
    // SAFETY: no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    // SAFETY: the ring gave room for one `Event`, and every field of it is written. What is known of the connection is
    // copied at once; see `own` for eviction.
    unsafe {
        (&raw mut (*event).time_ns).write(now);
        match CONNECTIONS.get_ptr(sock) {
            Some(known) => {
                let since = (*known).since_ns;
                (&raw mut (*event).duration_ns).write(if since == 0 { 0 } else { now - since });
                (&raw mut (*event).process).write((*known).process);
                (&raw mut (*event).direction).write((*known).direction as u8);
                (&raw mut (*event).command).write((*known).command);
            }
            None => {
                (&raw mut (*event).duration_ns).write(0);
                (&raw mut (*event).process).write(0);
                (&raw mut (*event).direction).write(UNKNOWN);
                (&raw mut (*event).command).write([0; COMMAND_BYTES]);
            }
        }
        (&raw mut (*event).error).write(at::<u32>(sock, field!(TCP_LAYOUT.sock_err)).unwrap_or(0) as u16);
        (&raw mut (*event).round_trip_us).write(at::<u32>(sock, field!(TCP_LAYOUT.tcp_srtt_us)).unwrap_or(0) >> 3);
        (&raw mut (*event).bytes_sent).write(if kind == CLOSED { sent(sock) } else { 0 });
        (&raw mut (*event).bytes_received).write(if kind == CLOSED { received(sock) } else { 0 });
        (&raw mut (*event).kind).write(kind);
        (&raw mut (*event).reserved).write(0);
        write_ends(&raw mut (*event).ends, sock, &sock_layout!(TCP_LAYOUT));
    }
    entry.submit(wakeup(waiting, size_of::<Event>(), RING_BYTES.into()));
}

/// Payload sent, each byte once.
#[inline(always)]
fn sent(sock: u64) -> u64 {
    let all: u64 = at(sock, field!(TCP_LAYOUT.tcp_bytes_sent)).unwrap_or(0);
    all.saturating_sub(at(sock, field!(TCP_LAYOUT.tcp_bytes_retrans)).unwrap_or(0))
}

/// Payload received.
#[inline(always)]
fn received(sock: u64) -> u64 {
    let all: u64 = at(sock, field!(TCP_LAYOUT.tcp_bytes_received)).unwrap_or(0);
    let flags: u64 = at(sock, field!(TCP_LAYOUT.sock_flags)).unwrap_or(0);
    all.saturating_sub(u64::from(flags & FIN_RECEIVED != 0))
}
