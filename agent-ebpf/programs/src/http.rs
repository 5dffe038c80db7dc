//! HTTP/1.x through system calls: recognise heads on TCP sockets, copy them into a ring.
//!
//! Three taps reach the same core. Best are the two tracepoints of sockets (Linux 6.3): they cost nothing where no socket is
//! involved, and tell socket and outcome; the buffer is found in the caller's registers. Else the tracepoints of eight system
//! calls where tracefs can be had, else the two raw tracepoints that see every call: there the socket behind the descriptor
//! is found at entry and the arguments are kept; at exit the number of bytes is known and the data is there. Sockets that
//! show no HTTP in their first messages are given up, after which a call on them costs little more than a lookup.
//! Invariant: per socket, records carry consecutive numbers, so that the reader sees every gap.
#![no_std]
#![no_main]

#[path = "http/calls.rs"]
mod calls;
#[path = "http/put.rs"]
mod put;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid, bpf_get_current_task, bpf_ktime_get_ns, bpf_probe_read_user,
    generated::{bpf_get_current_task_btf, bpf_probe_read_user as probe_read_user, bpf_task_pt_regs},
};
use aya_ebpf::macros::{map, raw_tracepoint, tracepoint};
use aya_ebpf::maps::{LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::programs::{RawTracePointContext, TracePointContext};
use calls::{Arguments, Shape};
use kernel::{at, field, is_internet, pointer, port_pair, sock_layout, state};
use ollystack_ebpf::http::{CLOSE, PREFIX_BYTES, RECEIVED, REQUEST, RESPONSE, SENT, loss};
use ollystack_ebpf::layout;
use put::{Head, next, put_head, put_meta};

kernel::program_file!();

#[unsafe(no_mangle)]
static HTTP_LAYOUT: layout::Http = layout::Http {
    sock: layout::Sock {
        skc_family: 0,
        skc_dport: 0,
        inet_sport: 0,
        skc_rcv_saddr: 0,
        skc_daddr: 0,
        skc_v6_rcv_saddr: 0,
        skc_v6_daddr: 0,
    },
    task_files: 0,
    files_fdt: 0,
    fdtable_max_fds: 0,
    fdtable_fd: 0,
    file_inode: 0,
    file_private_data: 0,
    inode_mode: 0,
    socket_type: 0,
    socket_sk: 0,
    task_compat: 0,
    task_compat_mask: 0,
    agent: 0,
    ring_bytes: 0,
    head_bytes: 0,
    misses_max: 0,
};

/// A socket, as long as it is used.
#[derive(Clone, Copy)]
#[repr(C)]
struct Socket {
    ports: u32,
    sequence: u32,
    misses: u16,
    class: u8,
    reserved: [u8; 5],
}

/// Not known yet.
const UNDECIDED: u8 = 0;
/// Carried a head.
const HTTP: u8 = 1;
/// Not TCP, or no head in its first messages.
const OTHER: u8 = 2;

/// A call between its entry and its exit.
#[derive(Clone, Copy)]
#[repr(C)]
struct Call {
    socket: u64,
    buffer: u64,
    time_ns: u64,
    shape: u8,
    direction: u8,
    /// Between entry and exit. The entry stays in the map for the thread's next call: writing it in place costs a fraction
    /// of putting it in and taking it out.
    is_running: u8,
    reserved: [u8; 5],
}

/// The loader may give another size.
#[map]
static HEADS: RingBuf = RingBuf::with_byte_size(1024 * 1024, 0);

#[map]
static LOSSES: PerCpuArray<u64> = PerCpuArray::with_max_entries(loss::COUNT, 0);

/// By the socket's address. The least used gives way, and is judged anew when it comes back.
#[map]
static SOCKETS: LruHashMap<u64, Socket> = LruHashMap::with_max_entries(16 * 1024, 0);

/// By thread: a thread is in one call at a time.
#[map]
static CALLS: LruHashMap<u64, Call> = LruHashMap::with_max_entries(8 * 1024, 0);

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
    let address = ctx.arg::<u64>(0);
    if let Some(socket) = SOCKETS.get_ptr_mut(address) {
        // SAFETY: the map gave the address.
        if unsafe { (*socket).class } == HTTP {
            let prefix = [0; PREFIX_BYTES];
            // SAFETY: no preconditions.
            let time_ns = unsafe { bpf_ktime_get_ns() };
            let head = Head { address, kind: CLOSE, direction: SENT, time_ns, length: 0, prefix: &prefix };
            put_meta(&head, next(socket));
        }
        let _ = SOCKETS.remove(address);
    }
    0
}

/// A 32-bit task numbers its calls otherwise. (The tracepoints of single calls leave such tasks out by themselves.)
#[inline(always)]
fn is_compat() -> bool {
    let mask = field!(HTTP_LAYOUT.task_compat_mask);
    // SAFETY: no preconditions.
    let task = unsafe { bpf_get_current_task() };
    mask != 0 && at::<u32>(task, field!(HTTP_LAYOUT.task_compat)).is_some_and(|flags| flags & mask != 0)
}

/// A socket has moved bytes for the running call.
#[inline(always)]
fn moved(ctx: &RawTracePointContext, direction: u8) {
    let (socket, result, flags) = (ctx.arg::<u64>(0), ctx.arg::<i32>(1), ctx.arg::<i32>(2));
    let process = (bpf_get_current_pid_tgid() >> 32) as u32;
    if result <= 0 || flags & calls::MSG_PEEK as i32 != 0 || process == field!(HTTP_LAYOUT.agent) || is_given_up(socket)
    {
        return;
    }
    // SAFETY: no preconditions; the second takes what the first gave.
    let registers = unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) } as u64;
    // Other calls move bytes too (splicing, io_uring's), from elsewhere than their arguments say.
    let Some(arguments) = calls::running(registers).filter(|found| found.direction == direction) else { return };
    if is_compat() {
        return;
    }
    let call = Call {
        socket,
        buffer: arguments.buffer,
        // SAFETY: no preconditions.
        time_ns: unsafe { bpf_ktime_get_ns() },
        shape: arguments.shape as u8,
        direction,
        is_running: 0,
        reserved: [0; 5],
    };
    on_data(&call, result as u64);
}

/// Whether a socket was found to carry something else.
#[inline(always)]
fn is_given_up(socket: u64) -> bool {
    // SAFETY: the value is read at once; see `on_data` for eviction.
    let known = unsafe { SOCKETS.get(socket) };
    known
        .is_some_and(|known| known.class == OTHER && port_pair(socket, &sock_layout!(HTTP_LAYOUT)) == Some(known.ports))
}

#[inline(always)]
fn enter(arguments: Option<Arguments>) {
    let Some(arguments) = arguments else { return };
    let thread = bpf_get_current_pid_tgid();
    if (thread >> 32) as u32 == field!(HTTP_LAYOUT.agent) {
        return;
    }
    let Some(socket) = socket_behind(arguments.descriptor) else { return };
    if is_given_up(socket) {
        return;
    }
    let call = Call {
        socket,
        buffer: arguments.buffer,
        // SAFETY: no preconditions.
        time_ns: unsafe { bpf_ktime_get_ns() },
        shape: arguments.shape as u8,
        direction: arguments.direction,
        is_running: 1,
        reserved: [0; 5],
    };
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
    let call = unsafe {
        if (*entry).is_running == 0 {
            return;
        }
        (*entry).is_running = 0;
        *entry
    };
    if result > 0 {
        on_data(&call, result as u64);
    }
}

/// The stream socket behind a descriptor of the running process.
#[inline(always)]
fn socket_behind(descriptor: u32) -> Option<u64> {
    const TYPE: u16 = 0o170000;
    const SOCKET: u16 = 0o140000;
    const STREAM: u16 = 1;
    // SAFETY: no preconditions.
    let task = unsafe { bpf_get_current_task() };
    let files = pointer(task, field!(HTTP_LAYOUT.task_files))?;
    let table = pointer(files, field!(HTTP_LAYOUT.files_fdt))?;
    if descriptor >= at::<u32>(table, field!(HTTP_LAYOUT.fdtable_max_fds))? {
        return None;
    }
    let array = pointer(table, field!(HTTP_LAYOUT.fdtable_fd))?;
    let file = pointer(array + u64::from(descriptor) * 8, 0)?;
    let inode = pointer(file, field!(HTTP_LAYOUT.file_inode))?;
    if at::<u16>(inode, field!(HTTP_LAYOUT.inode_mode))? & TYPE != SOCKET {
        return None;
    }
    let socket = pointer(file, field!(HTTP_LAYOUT.file_private_data))?;
    if at::<u16>(socket, field!(HTTP_LAYOUT.socket_type))? != STREAM {
        return None;
    }
    pointer(socket, field!(HTTP_LAYOUT.socket_sk))
}

/// The core: bytes have moved on a socket.
#[inline(always)]
fn on_data(call: &Call, moved: u64) {
    let Some((buffer, available)) = first_piece(call, moved) else { return };
    let mut prefix = [0u8; PREFIX_BYTES];
    let wanted = if available < PREFIX_BYTES as u64 { available as u32 } else { PREFIX_BYTES as u32 };
    // SAFETY: `prefix` has room for `wanted`; the helper checks the user's address.
    if unsafe { probe_read_user(prefix.as_mut_ptr().cast(), wanted, buffer as *const _) } != 0 {
        return;
    }
    let kind = head_kind(&prefix);
    let Some(ports) = port_pair(call.socket, &sock_layout!(HTTP_LAYOUT)) else { return };

    // SAFETY: under eviction the entry may meanwhile be another socket's: then a record carries a wrong number, which the
    // reader takes for a gap.
    let known = match SOCKETS.get_ptr_mut(call.socket) {
        Some(known) if unsafe { (*known).ports } == ports => known,
        _ => {
            let class = if is_internet(call.socket, &sock_layout!(HTTP_LAYOUT)) { UNDECIDED } else { OTHER };
            let fresh = Socket { ports, sequence: 0, misses: 0, class, reserved: [0; 5] };
            let _ = SOCKETS.insert(call.socket, fresh, 0);
            let Some(known) = SOCKETS.get_ptr_mut(call.socket) else { return };
            known
        }
    };
    // SAFETY: as above.
    unsafe {
        if (*known).class == OTHER {
            return;
        }
        if kind == 0 {
            if (*known).class == UNDECIDED {
                (*known).misses += 1;
                if u32::from((*known).misses) >= field!(HTTP_LAYOUT.misses_max) || is_http2(&prefix) {
                    (*known).class = OTHER;
                }
            }
            return;
        }
        (*known).class = HTTP;
    }
    let mut time_ns = call.time_ns;
    if call.direction == RECEIVED {
        // SAFETY: no preconditions.
        time_ns = unsafe { bpf_ktime_get_ns() };
    }
    let head =
        Head { address: call.socket, kind, direction: call.direction, time_ns, length: moved as u32, prefix: &prefix };
    put_head(&head, next(known), buffer, available);
}

/// Where the data begins, and how much lies there in one piece.
#[inline(always)]
fn first_piece(call: &Call, moved: u64) -> Option<(u64, u64)> {
    let pieces = if call.shape == Shape::Plain as u8 {
        return Some((call.buffer, moved));
    } else if call.shape == Shape::Message as u8 {
        // `struct msghdr` of user space: name, name length, then the array.
        // SAFETY: the helper checks the user's address.
        unsafe { bpf_probe_read_user((call.buffer + 16) as *const u64) }.ok()?
    } else {
        call.buffer
    };
    // SAFETY: as above.
    let [base, length] = unsafe { bpf_probe_read_user(pieces as *const [u64; 2]) }.ok()?;
    Some((base, if length < moved { length } else { moved }))
}

#[inline(always)]
fn head_kind(prefix: &[u8; PREFIX_BYTES]) -> u8 {
    let [a, b, c, d, e, f, g, h, ..] = *prefix;
    match (a, b, c, d) {
        (b'H', b'T', b'T', b'P') if (e, f, g) == (b'/', b'1', b'.') => RESPONSE,
        (b'G', b'E', b'T', b' ') | (b'P', b'U', b'T', b' ') => REQUEST,
        (b'P', b'O', b'S', b'T') | (b'H', b'E', b'A', b'D') if e == b' ' => REQUEST,
        (b'P', b'A', b'T', b'C') if (e, f) == (b'H', b' ') => REQUEST,
        (b'T', b'R', b'A', b'C') if (e, f) == (b'E', b' ') => REQUEST,
        (b'D', b'E', b'L', b'E') if (e, f, g) == (b'T', b'E', b' ') => REQUEST,
        (b'O', b'P', b'T', b'I') | (b'C', b'O', b'N', b'N') => match (e, f, g, h) {
            (b'O', b'N', b'S', b' ') if a == b'O' => REQUEST,
            (b'E', b'C', b'T', b' ') if a == b'C' => REQUEST,
            _ => 0,
        },
        _ => 0,
    }
}

/// The preface of HTTP/2: it will never be HTTP/1.
#[inline(always)]
fn is_http2(prefix: &[u8; PREFIX_BYTES]) -> bool {
    let [a, b, c, d, e, f, ..] = *prefix;
    (a, b, c, d, e, f) == (b'P', b'R', b'I', b' ', b'*', b' ')
}
