//! What calls move over sockets: recognise the protocol, copy the first bytes of what matters into a ring.
//!
//! Five taps reach the same core. Best are the two tracepoints of sockets (Linux 6.3): they cost nothing where no socket is
//! involved, and tell socket and outcome; the buffer is found in the caller's registers. Else the tracepoints of eight system
//! calls where tracefs can be had, else the two raw tracepoints that see every call: there the socket behind the descriptor
//! is found at entry and the arguments are kept; at exit the number of bytes is known and the data is there. The fourth and the
//! fifth are in `flow/probes.rs`: the functions in which TCP and UDP send and receive. Sockets that
//! show no known protocol in their first calls are given up, after which a call on them costs little more than a lookup.
//! Invariant: per socket, records carry consecutive numbers and their place in the stream, so that the reader sees every gap.
#![no_std]
#![no_main]

#[path = "flow/calls.rs"]
mod calls;
#[path = "flow/go.rs"]
mod go;
#[path = "flow/lines.rs"]
mod lines;
#[path = "flow/parts.rs"]
mod parts;
#[path = "flow/pieces.rs"]
mod pieces;
#[path = "flow/probes.rs"]
mod probes;
#[path = "flow/put.rs"]
mod put;
#[path = "flow/recognise.rs"]
mod recognise;
#[path = "flow/sockets.rs"]
mod sockets;
#[path = "flow/tls.rs"]
mod tls;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid, bpf_get_current_task, bpf_ktime_get_ns, bpf_probe_read_user,
    generated::{bpf_get_current_task_btf, bpf_task_pt_regs},
};
use aya_ebpf::macros::{map, raw_tracepoint, tracepoint};
use aya_ebpf::maps::{LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::programs::{RawTracePointContext, TracePointContext};
use calls::{Arguments, Shape};
use kernel::{at, field, pointer, state};
use ollystack_ebpf::flow::{
    CARRY, CLIENT, DATA, ENCRYPTED, LARGE_BYTES, MEDIUM_BYTES, RECEIVED, SENT, SERVER, TURN, Watch, copies, loss, watch,
};
use ollystack_ebpf::http2::{PREFACE, Walk};
use ollystack_ebpf::layout;
use ollystack_ebpf::sniff::{self, BY_SERVER, PREFIX_BYTES};
use parts::{flow_frames, flow_parts, open, walk_of};
use pieces::{Bytes, first_piece, last_bytes};
use put::{Head, put, put_bare};
use recognise::{NOTHING, recognise};
use sockets::{OTHER, SOCKETS, Socket, close, flow_gives_up, is_given_up, watched};

kernel::program_file!();

#[unsafe(no_mangle)]
static FLOW_LAYOUT: layout::Flow = layout::Flow::UNFILLED;

/// What a connection says that has been upgraded to HTTP/2.
const HTTP2_BEGINS: u32 = u32::from_ne_bytes(*b"PRI ");

/// A call between its entry and its exit.
#[derive(Clone, Copy)]
#[repr(C)]
struct Call {
    socket: u64,
    buffer: u64,
    time_ns: u64,
    shape: u8,
    direction: u8,
    /// Messages of the call, where it may have several.
    messages: u8,
    /// Between entry and exit. The entry stays in the map for the thread's next call: writing it in place costs a fraction
    /// of putting it in and taking it out.
    is_running: u8,
    reserved: [u8; 4],
}

/// The loader may give another size.
#[map]
static RECORDS: RingBuf = RingBuf::with_byte_size(1024 * 1024, 0);

#[map]
static LOSSES: PerCpuArray<u64> = PerCpuArray::with_max_entries(loss::COUNT, 0);

/// By thread: a thread is in one call at a time.
#[map]
static CALLS: LruHashMap<u64, Call> = LruHashMap::with_max_entries(4 * 1024, 0);

/// `sock_send_length(sock, result, flags)`, within the call.
#[raw_tracepoint(tracepoint = "sock_send_length")]
pub fn socket_sent(ctx: RawTracePointContext) -> i32 {
    moved(&ctx, SENT);
    0
}

/// `sock_recv_length(sock, result, flags)`, within the call.
#[raw_tracepoint(tracepoint = "sock_recv_length")]
pub fn socket_received(ctx: RawTracePointContext) -> i32 {
    moved(&ctx, RECEIVED);
    0
}

/// Entry of a traced call: number at 8, six arguments from 16 (the kernel's `syscall_tp_t`).
#[tracepoint]
pub fn call_enter(ctx: TracePointContext) -> u32 {
    let base = ctx.as_ptr().cast::<u64>();
    // SAFETY: within the context of a system call's entry tracepoint, which has six arguments at most and three at least.
    let (number, first, second, third) =
        unsafe { (*base.add(1).cast::<u32>(), *base.add(2), *base.add(3), *base.add(4)) };
    // Read as memory, not as context: the kernel refuses to attach a program that may look at arguments a call has not.
    // Only `recvfrom`, which has six, is asked for its fourth.
    let fourth = || at(base as u64, 40).unwrap_or(0);
    enter(Arguments::new(number, first, second, third, fourth));
    0
}

/// Exit of a traced call: its result at 16.
#[tracepoint]
pub fn call_exit(ctx: TracePointContext) -> u32 {
    // SAFETY: within the context of a system call's exit tracepoint.
    let result = unsafe { *ctx.as_ptr().cast::<i64>().add(2) };
    exit(result);
    0
}

/// `sys_enter(registers, number)`.
#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn any_enter(ctx: RawTracePointContext) -> i32 {
    let number = ctx.arg::<u64>(1);
    if calls::is_traced(number as u32) && !is_compat() {
        enter(calls::running(ctx.arg::<u64>(0)));
    }
    0
}

/// `sys_exit(registers, result)`.
#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn any_exit(ctx: RawTracePointContext) -> i32 {
    exit(ctx.arg::<i64>(1));
    0
}

/// `inet_sock_set_state(sock, old state, new state)`: tells the reader, and frees what is remembered.
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
pub fn socket_state(ctx: RawTracePointContext) -> i32 {
    if ctx.arg::<i32>(2) != state::CLOSE {
        return 0;
    }
    let socket = ctx.arg::<u64>(0);
    if close(socket) == sniff::TLS {
        close(tls::over(socket));
    }
    0
}

/// A 32-bit task numbers its calls otherwise. (The tracepoints of single calls leave such tasks out by themselves.)
#[inline(always)]
pub(crate) fn is_compat() -> bool {
    let mask = field!(FLOW_LAYOUT.task_compat_mask);
    // SAFETY: no preconditions.
    let task = unsafe { bpf_get_current_task() };
    mask != 0 && at::<u32>(task, field!(FLOW_LAYOUT.task_compat)).is_some_and(|flags| flags & mask != 0)
}

/// A socket has moved bytes for the running call.
#[inline(always)]
fn moved(ctx: &RawTracePointContext, direction: u8) {
    let (socket, result, flags) = (ctx.arg::<u64>(0), ctx.arg::<i32>(1), ctx.arg::<i32>(2));
    let process = (bpf_get_current_pid_tgid() >> 32) as u32;
    if result <= 0 || flags & calls::MSG_PEEK as i32 != 0 || process == field!(FLOW_LAYOUT.agent) {
        return;
    }
    let Some(known) = watched(socket, direction) else { return };
    // SAFETY: no preconditions; the second takes what the first gave. Both know their type, so that fields are read without a
    // helper's call for each.
    let (is_compat, running) = unsafe {
        let task = bpf_get_current_task_btf();
        let mask = field!(FLOW_LAYOUT.task_compat_mask);
        let place = task.cast::<u8>().add(field!(FLOW_LAYOUT.task_compat) as usize).cast::<u32>();
        let is_compat = mask != 0 && place.read_volatile() & mask != 0;
        (is_compat, calls::running_typed(bpf_task_pt_regs(task) as *const u64))
    };
    if is_compat {
        return;
    }
    let mut call = Call {
        socket,
        buffer: 0,
        // SAFETY: no preconditions.
        time_ns: unsafe { bpf_ktime_get_ns() },
        shape: Shape::Unseen as u8,
        direction,
        messages: 0,
        is_running: 0,
        reserved: [0; 4],
    };
    // Other calls move bytes too (sendfile, splicing, io_uring's), from elsewhere than their arguments say: they count.
    if running.direction == direction {
        call.buffer = running.buffer;
        call.shape = running.shape as u8;
        call.messages = running.messages;
    }
    on_data(&call, known, result as u64);
}

#[inline(always)]
fn enter(arguments: Option<Arguments>) {
    let Some(arguments) = arguments else { return };
    if arguments.messages > 1 {
        // What became of each is known only where each is told of.
        return;
    }
    let thread = bpf_get_current_pid_tgid();
    if (thread >> 32) as u32 == field!(FLOW_LAYOUT.agent) {
        return;
    }
    let Some(socket) = socket_behind(arguments.descriptor) else { return };
    if is_given_up(socket, arguments.direction) {
        return;
    }
    let call = Call {
        socket,
        buffer: arguments.buffer,
        // SAFETY: no preconditions.
        time_ns: unsafe { bpf_ktime_get_ns() },
        shape: arguments.shape as u8,
        direction: arguments.direction,
        messages: arguments.messages,
        is_running: 1,
        reserved: [0; 4],
    };
    keep(thread, call);
}

/// Keep what a thread's call is about until its exit.
#[inline(always)]
fn keep(thread: u64, call: Call) {
    match CALLS.get_ptr_mut(thread) {
        // SAFETY: the map gave the address. Under eviction it may meanwhile be another thread's, whose call is then judged
        // by the wrong buffer; the helpers check every address.
        Some(entry) => unsafe { *entry = call },
        None => {
            let _ = CALLS.insert(thread, call, 0);
        }
    }
}

#[inline(always)]
fn exit(result: i64) {
    let thread = bpf_get_current_pid_tgid();
    let Some(entry) = CALLS.get_ptr_mut(thread) else { return };
    // SAFETY: as in `enter`.
    let mut call = unsafe {
        if (*entry).is_running == 0 {
            return;
        }
        (*entry).is_running = 0;
        *entry
    };
    if result <= 0 {
        return;
    }
    let Some(known) = watched(call.socket, call.direction) else { return };
    if call.direction == RECEIVED {
        // SAFETY: no preconditions.
        call.time_ns = unsafe { bpf_ktime_get_ns() };
    }
    on_data(&call, known, result as u64);
}

/// The socket behind a descriptor of the running process.
#[inline(always)]
fn socket_behind(descriptor: u32) -> Option<u64> {
    const TYPE: u16 = 0o170000;
    const SOCKET: u16 = 0o140000;
    // SAFETY: no preconditions.
    let task = unsafe { bpf_get_current_task() };
    let files = pointer(task, field!(FLOW_LAYOUT.task_files))?;
    let table = pointer(files, field!(FLOW_LAYOUT.files_fdt))?;
    if descriptor >= at::<u32>(table, field!(FLOW_LAYOUT.fdtable_max_fds))? {
        return None;
    }
    let array = pointer(table, field!(FLOW_LAYOUT.fdtable_fd))?;
    let file = pointer(array + u64::from(descriptor) * 8, 0)?;
    let inode = pointer(file, field!(FLOW_LAYOUT.file_inode))?;
    if at::<u16>(inode, field!(FLOW_LAYOUT.inode_mode))? & TYPE != SOCKET {
        return None;
    }
    let socket = pointer(file, field!(FLOW_LAYOUT.file_private_data))?;
    pointer(socket, field!(FLOW_LAYOUT.socket_sk))
}

/// The core: bytes have moved on a stream, of which `known` tells.
#[inline(always)]
fn on_data(call: &Call, known: *mut Socket, moved: u64) {
    let address = call.socket;
    // SAFETY: see `watched`.
    let mut protocol = unsafe { (*known).protocol };
    // Some protocols turn to TLS when both sides have agreed on it.
    let may_turn = protocol == sniff::UNKNOWN || matches!(watch(protocol), Watch::Turns);
    if may_turn && !tls::is_plain(address) && tls::flow_carries(address, call.direction.into()) != 0 {
        // SAFETY: as above.
        unsafe { (*known).protocol = sniff::TLS };
        return;
    }
    // SAFETY: as above.
    let bytes = unsafe { first_piece(call, known, moved) }.unwrap_or(Bytes { base: 0, length: 0, next: 0 });
    let (buffer, available) = (bytes.base, bytes.length);
    let direction = call.direction & 1;
    let length = moved as u32;
    // SAFETY: as above.
    let (position, is_turn) = unsafe {
        let position = (*known).moved[direction as usize];
        (*known).moved[direction as usize] = position.wrapping_add(length);
        let is_turn = (*known).last != direction + 1;
        (*known).last = direction + 1;
        (position, is_turn)
    };
    let mut flags = if is_turn { TURN } else { 0 } | if tls::is_plain(address) { ENCRYPTED } else { 0 };
    // SAFETY: as above.
    let before = unsafe {
        // No `Option`: the compiler leaves undefined what is not there, reads it all the same, and the verifier refuses.
        if protocol == sniff::UNKNOWN && (*known).carried == direction + 1 {
            u64::from((*known).carry)
        } else {
            NOTHING
        }
    };
    // What comes first after the other side's turn is a head, or as short as one; if it is in one piece, it is copied anyway.
    let is_heads = matches!(watch(protocol), Watch::Heads);
    let is_head = is_heads && is_turn && bytes.next == 0;
    let mut found = sniff::UNKNOWN;
    let mut first = 0;
    if available > 0 && !is_head && (protocol == sniff::UNKNOWN || is_heads) {
        let told = recognise(buffer, available, before, length, bytes.next);
        if told == NOTHING {
            return;
        }
        (found, first) = ((told >> 32) as u8, told as u32);
    }
    if before != NOTHING {
        flags |= CARRY;
    }
    let carry = if before == NOTHING { 0 } else { before as u32 };
    let time_ns = call.time_ns;
    let mut is_new = false;
    if protocol == sniff::UNKNOWN {
        is_new = true;
        // SAFETY: as above.
        unsafe {
            (*known).carried = 0;
            if found == 0 {
                if length == 4 && position == 0 && available >= 4 {
                    // A length read apart from its message.
                    (*known).carry = first;
                    (*known).carried = direction + 1;
                    return;
                }
                (*known).misses += 1;
                if u32::from((*known).misses) >= field!(FLOW_LAYOUT.misses_max) {
                    flow_gives_up(address);
                }
                return;
            }
            let (sniffed, is_by_server) = (found & !BY_SERVER, found & BY_SERVER != 0);
            if sniffed == sniff::TLS {
                (*known).protocol = sniff::TLS;
                go::go_moves(address);
                return;
            }
            if field!(FLOW_LAYOUT.protocols) & (1 << (sniffed & 31)) == 0 {
                (*known).protocol = OTHER;
                return;
            }
            protocol = sniffed;
            (*known).protocol = sniffed;
            // Who receives what a client says is the server.
            (*known).role = if (direction == RECEIVED) != is_by_server { SERVER } else { CLIENT };
        }
    }
    if protocol == sniff::HTTP1 && found == sniff::HTTP2 && first == HTTP2_BEGINS {
        // It has been upgraded.
        protocol = sniff::HTTP2;
        // SAFETY: as above.
        unsafe { (*known).protocol = sniff::HTTP2 };
        is_new = true;
    }
    if matches!(watch(protocol), Watch::Frames) {
        // SAFETY: as above.
        unsafe {
            if is_new {
                // A frame begins here; where the other side stands is known if it has said nothing.
                let is_first = (*known).moved[1 - direction as usize] == 0;
                *walk_of(known, direction) = 0;
                *walk_of(known, 1 - direction) = if is_first { 0 } else { Walk::lost().bits() };
            }
            if available == 0 {
                let place = walk_of(known, direction);
                *place = Walk::from_bits(*place).behind_unseen(length).bits();
                return;
            }
        }
        // Its streams do not take turns.
        open(&bytes, position, length, flags, carry, [0; 2]);
        flow_frames(address, time_ns, direction.into());
        return;
    }
    let mut last = 0;
    // SAFETY: as above.
    let allowed = unsafe { allowance(known, protocol, direction, is_turn, is_head || found != 0, length) };
    if allowed == 0 {
        return;
    }
    // Not before it is needed: the stack has no room to keep it.
    // SAFETY: as above.
    let is_turn_of_tcp = flags & (TURN | CARRY) != 0 && unsafe { (*known).is_tcp } != 0;
    let tcp = if is_turn_of_tcp { turn_of_tcp(address, direction, length) } else { [0; 2] };
    let wanted = if length < allowed { length } else { allowed };
    let in_one = if available < u64::from(wanted) { available } else { u64::from(wanted) };
    if available > 0 && (in_one < u64::from(wanted) && call.messages <= 1 || wanted > LARGE_BYTES as u32) {
        open(&bytes, position, length, flags, carry, tcp);
        flow_parts(address, time_ns, direction.into(), wanted);
    } else {
        // SAFETY: as above.
        let mut head = unsafe { Head::new(address, known, DATA, direction, time_ns, length, position) };
        (head.flags, head.carry, head.tcp) = (flags, carry, tcp);
        if available == 0 {
            put_bare(&head, 0, 0);
            return;
        }
        let told = put(&head, buffer, in_one);
        let first = told as u32;
        if in_one == moved {
            last = (told >> 32) as u32;
        }
        if is_head && in_one >= PREFACE.len() as u64 && (first == HTTP2_BEGINS || first == 0 && begins_http2(buffer)) {
            // SAFETY: as above. The reader has all of it; where the next frame begins will show.
            unsafe {
                (*known).protocol = sniff::HTTP2;
                *walk_of(known, direction) = Walk::lost().bits();
                *walk_of(known, 1 - direction) = Walk::lost().bits();
            }
            return;
        }
    }
    // SAFETY: as above.
    if matches!(watch(protocol), Watch::Heads) && unsafe { (*known).budget } > 0 {
        // Mostly it has been copied just now.
        if last == 0 && available == moved {
            last = last_bytes(buffer, moved);
        }
        let bit = 1 << direction;
        // SAFETY: as above.
        unsafe {
            if last == u32::from_ne_bytes(*b"\r\n\r\n") {
                (*known).open &= !bit;
            } else {
                (*known).open |= bit;
            }
        }
    }
}

/// Whether a connection goes on as HTTP/2, asked of the caller's memory: where there was no room in the ring.
#[inline(always)]
fn begins_http2(buffer: u64) -> bool {
    // SAFETY: the helper checks the user's address.
    let first = unsafe { bpf_probe_read_user(buffer as *const u32) };
    first == Ok(HTTP2_BEGINS)
}

/// The sequence number of the first byte of a call that has moved, and of what the other direction goes on with.
#[inline(always)]
fn turn_of_tcp(address: u64, direction: u8, length: u32) -> [u32; 2] {
    let number = |offset| at::<u32>(address, offset).unwrap_or(0);
    let (sent, received) = (number(field!(FLOW_LAYOUT.tcp_write_seq)), number(field!(FLOW_LAYOUT.tcp_copied_seq)));
    if direction == SENT { [sent.wrapping_sub(length), received] } else { [received.wrapping_sub(length), sent] }
}

/// Bytes of a call that are to be copied at most; 0 if it needs no record.
///
/// # Safety
/// `known` must be an address that the map gave.
#[inline(always)]
unsafe fn allowance(
    known: *mut Socket,
    protocol: u8,
    direction: u8,
    is_turn: bool,
    is_recognised: bool,
    length: u32,
) -> u32 {
    let most = field!(FLOW_LAYOUT.head_bytes);
    // SAFETY: as promised by the caller.
    unsafe {
        let is_request = (direction == RECEIVED) == ((*known).role == SERVER);
        let allowed = match watch(protocol) {
            Watch::Calls => return most * copies(protocol),
            // Looked at frame by frame.
            Watch::Frames => return 0,
            Watch::Heads => {
                if is_turn || is_recognised {
                    // Status and length come early in an answer.
                    (*known).budget = if is_request { most } else { MEDIUM_BYTES as u32 };
                }
                if is_recognised || (*known).open & (1 << direction) != 0 { (*known).budget } else { 0 }
            }
            Watch::Turns => {
                if is_turn {
                    // Many requests at once have as many answers.
                    let is_many = if is_request { length > most / 2 } else { (*known).open != 0 };
                    (*known).open = is_many.into();
                    (*known).budget = if is_request || is_many { most * copies(protocol) } else { most };
                }
                // Requests are told of although no more than their start is copied.
                if is_request && (*known).budget < PREFIX_BYTES as u32 { PREFIX_BYTES as u32 } else { (*known).budget }
            }
        };
        let used = if length < allowed { length } else { allowed };
        (*known).budget = (*known).budget.saturating_sub(used);
        allowed
    }
}
