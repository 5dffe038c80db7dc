//! What TLS libraries encrypt and decrypt: the plain text of their calls goes through the same core as what sockets move.
//!
//! At entry of a library's call its arguments are kept, by thread; at its return the number of bytes is known, the data is
//! there, and so is the socket: the one that moved bytes in between, or did for this session before. A library that is given
//! bytes instead of a socket (memory BIOs) leaves the session itself as the stream's identity. The stream of plain text has an
//! entry of its own beside its socket's; the socket's own is marked as TLS, and calls on it are told of no more.
//! Invariant: a call is told of once however often its return is seen (one file can be probed through two mounts).

use crate::calls::Shape;
use crate::{Call, FLOW_LAYOUT, go, on_data, watched};
use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns, bpf_probe_read_user};
use aya_ebpf::macros::{map, uprobe, uretprobe};
use aya_ebpf::maps::{LruHashMap, LruPerCpuHashMap, ProgramArray};
use aya_ebpf::programs::{ProbeContext, RetProbeContext};
use kernel::field;
use ollystack_ebpf::flow::{RECEIVED, SENT};

/// A bit of a stream's key that no address of a socket has: the stream is the plain text over that socket.
pub(crate) const PLAIN: u64 = 1;
/// Another, beside [`PLAIN`]: the key is a session's, as its socket was not seen.
const SESSION: u64 = 2;

/// A library's call between its entry and its return.
#[derive(Clone, Copy)]
#[repr(C)]
struct Operation {
    session: u64,
    buffer: u64,
    /// Where the library puts the number of bytes, if it does not return it.
    count: u64,
    /// That moved bytes meanwhile; 0 if none did.
    socket: u64,
    time_ns: u64,
    direction: u8,
    is_running: u8,
    reserved: [u8; 6],
}

/// A session, by its process and its address there.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Session {
    pub(crate) process: u64,
    pub(crate) address: u64,
}

/// By thread. Entries stay, as in `CALLS`.
#[map]
static OPERATIONS: LruHashMap<u64, Operation> = LruHashMap::with_max_entries(2 * 1024, 0);

/// The key of a session's plain text.
#[map]
pub(crate) static SESSIONS: LruHashMap<Session, u64> = LruHashMap::with_max_entries(4 * 1024, 0);

/// Calls by process, from which the agent sees what is too hot to be watched.
#[map]
static OPERATIONS_BY_PROCESS: LruPerCpuHashMap<u32, u64> = LruPerCpuHashMap::with_max_entries(512, 0);

/// Always empty. From Linux 6.13 on a program that needs more than 64 bytes of stack has it by processor, unless it may call
/// another through such a map: then it stays with the thread. User space's probes, which alone may be interrupted by
/// themselves, would share it and bring the kernel down; so each of them ends with such a call.
#[map]
static NONE: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// `SSL_write(session, buffer, length)`, `gnutls_record_send(session, buffer, length)`.
#[uprobe]
pub fn tls_write(ctx: ProbeContext) -> u32 {
    begin(&ctx, SENT, 0);
    keep_stack(&ctx)
}

/// `SSL_write_ex(session, buffer, length, count)`.
#[uprobe]
pub fn tls_write_ex(ctx: ProbeContext) -> u32 {
    begin(&ctx, SENT, ctx.arg(3).unwrap_or(0));
    keep_stack(&ctx)
}

/// `SSL_read(session, buffer, length)`, `gnutls_record_recv(session, buffer, length)`.
#[uprobe]
pub fn tls_read(ctx: ProbeContext) -> u32 {
    begin(&ctx, RECEIVED, 0);
    keep_stack(&ctx)
}

/// `SSL_read_ex(session, buffer, length, count)`.
#[uprobe]
pub fn tls_read_ex(ctx: ProbeContext) -> u32 {
    begin(&ctx, RECEIVED, ctx.arg(3).unwrap_or(0));
    keep_stack(&ctx)
}

/// The return of each of these.
#[uretprobe]
pub fn tls_return(ctx: RetProbeContext) -> u32 {
    end(&ctx);
    keep_stack(&ctx)
}

/// `SSL_free(session)`, `gnutls_deinit(session)`: another session may get the address.
#[uprobe]
pub fn tls_free(ctx: ProbeContext) -> u32 {
    forget(ctx.arg(0).unwrap_or(0));
    keep_stack(&ctx)
}

/// Calls nothing: see [`NONE`].
#[inline(always)]
pub(crate) fn keep_stack(ctx: &impl EbpfContext) -> u32 {
    // SAFETY: the map is empty, so this returns.
    unsafe { NONE.tail_call(ctx, 0) };
    0
}

#[inline(always)]
pub(crate) fn forget(address: u64) {
    let session = Session { process: bpf_get_current_pid_tgid() >> 32, address };
    // SAFETY: copied at once.
    let Some(key) = unsafe { SESSIONS.get(session) }.copied() else { return };
    let _ = SESSIONS.remove(session);
    if is_session(key) {
        crate::close(key);
    }
}

#[inline(always)]
fn begin(ctx: &ProbeContext, direction: u8, count: u64) {
    let (Some(session), Some(buffer)) = (ctx.arg(0), ctx.arg(1)) else { return };
    let thread = bpf_get_current_pid_tgid();
    let process = (thread >> 32) as u32;
    if process == field!(FLOW_LAYOUT.agent) {
        return;
    }
    let operation = Operation {
        session,
        buffer,
        count,
        socket: 0,
        // SAFETY: no preconditions.
        time_ns: unsafe { bpf_ktime_get_ns() },
        direction,
        is_running: 1,
        reserved: [0; 6],
    };
    match OPERATIONS.get_ptr_mut(thread) {
        // SAFETY: the map gave the address; see `enter` for eviction.
        Some(entry) => unsafe { *entry = operation },
        None => {
            let _ = OPERATIONS.insert(thread, operation, 0);
        }
    }
    count_call(process);
}

/// A process calls a library once more.
#[inline(always)]
pub(crate) fn count_call(process: u32) {
    match OPERATIONS_BY_PROCESS.get_ptr_mut(process) {
        // SAFETY: the map gave the address; an increment may be lost, as in `count`.
        Some(calls) => unsafe { *calls += 1 },
        None => {
            let _ = OPERATIONS_BY_PROCESS.insert(process, 1, 0);
        }
    }
}

#[inline(always)]
fn end(ctx: &RetProbeContext) {
    let thread = bpf_get_current_pid_tgid();
    let Some(entry) = OPERATIONS.get_ptr_mut(thread) else { return };
    // SAFETY: the map gave the address; see `enter` for eviction.
    unsafe {
        if (*entry).is_running == 0 {
            return;
        }
        (*entry).is_running = 0;
    }
    // SAFETY: as above.
    let (count, result) = (unsafe { (*entry).count }, ctx.ret::<i32>());
    let moved = match count {
        0 if result > 0 => result as u64,
        0 => 0,
        // SAFETY: the helper checks the user's address.
        _ if result == 1 => unsafe { bpf_probe_read_user(count as *const u64) }.unwrap_or(0),
        _ => 0,
    };
    if moved == 0 || moved > i32::MAX as u64 {
        return;
    }
    // SAFETY: as above.
    let mut call = unsafe {
        Call {
            socket: key((*entry).session, (*entry).socket, thread >> 32),
            buffer: (*entry).buffer,
            time_ns: (*entry).time_ns,
            shape: Shape::Plain as u8,
            direction: (*entry).direction,
            messages: 1,
            is_running: 0,
            reserved: [0; 4],
        }
    };
    let Some(known) = watched(call.socket, call.direction) else { return };
    if call.direction == RECEIVED {
        // SAFETY: no preconditions.
        call.time_ns = unsafe { bpf_ktime_get_ns() };
    }
    on_data(&call, known, moved);
}

/// The key of a session's plain text. Once it is the session's own it stays so, that both directions have the same.
#[inline(always)]
pub(crate) fn key(address: u64, socket: u64, process: u64) -> u64 {
    let session = Session { process, address };
    // SAFETY: copied at once.
    let known = unsafe { SESSIONS.get(session) }.copied().unwrap_or(0);
    let key = if socket == 0 || is_session(known) { known } else { socket | PLAIN };
    if key == known && known != 0 {
        return known;
    }
    // 41 bits of an address that tell a process's sessions apart (aligned to 16 bytes), and the process.
    let own = process << 43 | ((address >> 4) & ((1 << 41) - 1)) << 2 | SESSION | PLAIN;
    let key = if key == 0 { own } else { key };
    let _ = SESSIONS.insert(session, key, 0);
    key
}

/// A socket moves bytes: 1 if for a library's call, which is remembered.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn flow_carries(socket: u64, direction: u32) -> u32 {
    let Some(operation) = OPERATIONS.get_ptr_mut(bpf_get_current_pid_tgid()) else { return 0 };
    // SAFETY: the map gave the address; see `enter` for eviction.
    unsafe {
        if (*operation).is_running == 0 {
            return 0;
        }
        if (*operation).direction == direction as u8 {
            (*operation).socket = socket;
        }
    }
    1
}

/// A socket that is known to be TLS moves bytes: for a library's call, or for a goroutine.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn flow_encrypts(socket: u64, direction: u32) -> u32 {
    if flow_carries(socket, direction) == 0 {
        go::go_moves(socket);
    }
    0
}

/// Whether the stream is the plain text of something encrypted.
#[inline(always)]
pub(crate) fn is_plain(key: u64) -> bool {
    key & PLAIN != 0
}

/// Whether the stream is known by its session alone: there is no socket to look at.
#[inline(always)]
pub(crate) fn is_session(key: u64) -> bool {
    key & SESSION != 0
}

/// The socket below a stream.
#[inline(always)]
pub(crate) fn socket(key: u64) -> u64 {
    key & !(PLAIN | SESSION)
}

/// The stream of plain text over a socket.
#[inline(always)]
pub(crate) fn over(socket: u64) -> u64 {
    socket | PLAIN
}
