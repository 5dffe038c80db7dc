//! Go's own TLS, and its goroutines: what a thread is to other programs, a goroutine is to Go's.
//!
//! A goroutine is one call's and one request's however it wanders between threads; the running one is in a register of its own
//! wherever Go's code runs, also where it calls the kernel. `crypto/tls` is watched as libraries of TLS are (`tls`), with the
//! arguments of what reads kept by goroutine, and with probes on its return instructions. What is written is told of before it
//! goes, as another goroutine may read the answer before this one has come back. A connection belongs to the socket on which its
//! own goroutine then moved TLS; if none was seen, the stream has itself for its identity. `net/http` hands a request to another goroutine that writes it: from these two functions it
//! is known for whom.
//! Invariant: what is no goroutine by its stack has no number. (Global functions are looked at by the verifier once, each by itself.)

use crate::calls::Shape;
use crate::tls::{self, PLAIN, SESSIONS, Session};
use crate::{Call, FLOW_LAYOUT, on_data, watched};
use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::{bpf_get_current_task_btf, bpf_task_pt_regs};
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns, bpf_probe_read_user};
use aya_ebpf::macros::{map, uprobe};
use aya_ebpf::maps::{HashMap, LruHashMap};
use aya_ebpf::programs::ProbeContext;
use kernel::{at, field};
use ollystack_ebpf::flow::{GOROUTINE, RECEIVED, SENT};

/// Words of `struct pt_regs`: the first three arguments by Go's convention (the first result comes where the first argument went), the
/// goroutine and the stack pointer.
#[cfg(bpf_target_arch = "x86_64")]
mod word {
    pub(super) const ARGUMENTS: [usize; 3] = [10, 5, 11]; // rax, rbx, rcx
    pub(super) const GOROUTINE: usize = 1; // r14
    pub(super) const STACK: usize = 19; // rsp
}
#[cfg(bpf_target_arch = "aarch64")]
mod word {
    pub(super) const ARGUMENTS: [usize; 3] = [0, 1, 2]; // x0, x1, x2
    pub(super) const GOROUTINE: usize = 28; // x28
    pub(super) const STACK: usize = 31; // sp
}

/// In `bufio.Writer`, where the address of what it writes to is: behind an error, a slice, a number and a type.
const WRITES_TO: u64 = 56;

/// A goroutine, or what it knows by an address or number of its own.
#[derive(Clone, Copy)]
#[repr(C)]
struct Mine {
    process: u64,
    address: u64,
}

/// What a goroutine does with `crypto/tls`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Operation {
    /// Whose plain text it reads, from the call's entry to its return; else 0.
    connection: u64,
    buffer: u64,
    /// Where the goroutine's stack began, if the buffer is on it: stacks move, and keep what they hold by its distance from there.
    stack_top: u64,
    /// A connection whose socket is not known: the next on which this goroutine moves TLS is it.
    awaiting: u64,
}

/// A request that a goroutine has given to a connection of `net/http`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Given {
    process: u64,
    connection: u64,
    request: u64,
}

/// Programs whose goroutines can be told apart, by process: where the goroutine's number is. The agent fills it.
#[map]
static GO_PROGRAMS: HashMap<u32, u32> = HashMap::with_max_entries(512, 0);

/// By goroutine. Those that wait for something to read are in it, too.
#[map]
static GO_OPERATIONS: LruHashMap<Mine, Operation> = LruHashMap::with_max_entries(2 * 1024, 0);

/// The number of the goroutine that gave a request away.
#[map]
static GO_GIVEN: LruHashMap<Given, u64> = LruHashMap::with_max_entries(512, 0);

/// By the number of a goroutine that writes for others: for whom it does so now. Numbers are never used again.
#[map]
static GO_WRITERS: LruHashMap<Mine, u64> = LruHashMap::with_max_entries(512, 0);

/// `(*tls.Conn).Write(bytes)`.
#[uprobe]
pub fn go_tls_write(ctx: ProbeContext) -> u32 {
    tls::count_call(process() as u32);
    let (connection, count) = (argument(&ctx, 0), argument(&ctx, 2));
    match stream(connection) {
        0 => await_socket(goroutine(&ctx), connection),
        key if count > 0 && count <= i32::MAX as u64 => tell(key, argument(&ctx, 1), SENT, count),
        _ => {}
    }
    tls::keep_stack(&ctx)
}

/// `(*tls.Conn).Read(bytes)`.
#[uprobe]
pub fn go_tls_read(ctx: ProbeContext) -> u32 {
    tls::count_call(process() as u32);
    let (goroutine, connection, buffer) = (goroutine(&ctx), argument(&ctx, 0), argument(&ctx, 1));
    let awaiting = if stream(connection) == 0 { connection } else { 0 };
    if let Some(operation) = operation(goroutine) {
        let [low, high] = stack(goroutine);
        let stack_top = if low <= buffer && buffer < high { high } else { 0 };
        // SAFETY: the map gave the address; see `enter` for eviction.
        unsafe { *operation = Operation { connection, buffer, stack_top, awaiting } };
    }
    tls::keep_stack(&ctx)
}

/// Its returns.
#[uprobe]
pub fn go_tls_return(ctx: ProbeContext) -> u32 {
    end(&ctx);
    tls::keep_stack(&ctx)
}

/// `(*tls.Conn).clientHandshake` and `serverHandshake`: a connection begins, which may have the address of another before it.
#[uprobe]
pub fn go_tls_handshake(ctx: ProbeContext) -> u32 {
    let connection = argument(&ctx, 0);
    tls::forget(connection);
    // One of QUIC has nothing below it.
    if read_user(connection) != 0 {
        tls::key(connection, 0, process());
        await_socket(goroutine(&ctx), connection);
    }
    tls::keep_stack(&ctx)
}

/// `(*tls.Conn).Close()`.
#[uprobe]
pub fn go_tls_close(ctx: ProbeContext) -> u32 {
    tls::forget(argument(&ctx, 0));
    tls::keep_stack(&ctx)
}

/// `(*http.persistConn).roundTrip(request)`: the running goroutine gives a request to a connection's. `request` begins with the address of
/// the `Request` itself.
#[uprobe]
pub fn go_http_give(ctx: ProbeContext) -> u32 {
    let number = caller(&ctx);
    if number != 0 {
        let given = Given { process: process(), connection: argument(&ctx, 0), request: read_user(argument(&ctx, 1)) };
        let _ = GO_GIVEN.insert(given, number, 0);
    }
    tls::keep_stack(&ctx)
}

/// `(*http.Request).write(writer, ...)`, where `writer` is the connection's `bufio.Writer`.
#[uprobe]
pub fn go_http_take(ctx: ProbeContext) -> u32 {
    let number = caller(&ctx);
    if number != 0 {
        let connection = read_user(argument(&ctx, 2).wrapping_add(WRITES_TO));
        let given = Given { process: process(), connection, request: argument(&ctx, 0) };
        let writer = Mine { process: process(), address: number };
        // SAFETY: copied at once.
        match unsafe { GO_GIVEN.get(given) }.copied() {
            Some(giver) => {
                let _ = GO_GIVEN.remove(given);
                let _ = GO_WRITERS.insert(writer, giver, 0);
            }
            None => {
                let _ = GO_WRITERS.remove(writer);
            }
        }
    }
    tls::keep_stack(&ctx)
}

#[inline(always)]
fn argument(ctx: &ProbeContext, number: usize) -> u64 {
    argument_at(ctx, word::ARGUMENTS[number])
}

#[inline(always)]
fn argument_at(ctx: &ProbeContext, word: usize) -> u64 {
    // SAFETY: a word of the registers, which are the context.
    unsafe { *ctx.as_ptr().cast::<u64>().add(word) }
}

#[inline(always)]
fn goroutine(ctx: &ProbeContext) -> u64 {
    argument_at(ctx, word::GOROUTINE)
}

#[inline(always)]
fn process() -> u64 {
    bpf_get_current_pid_tgid() >> 32
}

/// 0 if it cannot be read.
#[inline(always)]
fn read_user(address: u64) -> u64 {
    // SAFETY: the helper checks the user's address.
    unsafe { bpf_probe_read_user(address as *const u64) }.unwrap_or(0)
}

/// Lowest and highest address of a goroutine's stack, with which its structure begins.
#[inline(always)]
fn stack(goroutine: u64) -> [u64; 2] {
    // SAFETY: the helper checks the user's address.
    unsafe { bpf_probe_read_user(goroutine as *const [u64; 2]) }.unwrap_or([0; 2])
}

/// A goroutine's entry.
#[inline(always)]
fn operation(goroutine: u64) -> Option<*mut Operation> {
    let mine = Mine { process: process(), address: goroutine };
    if let Some(operation) = GO_OPERATIONS.get_ptr_mut(mine) {
        return Some(operation);
    }
    let _ = GO_OPERATIONS.insert(mine, Operation { connection: 0, buffer: 0, stack_top: 0, awaiting: 0 }, 0);
    GO_OPERATIONS.get_ptr_mut(mine)
}

#[inline(always)]
fn await_socket(goroutine: u64, connection: u64) {
    if let Some(operation) = operation(goroutine) {
        // SAFETY: the map gave the address; see `enter` for eviction.
        unsafe { (*operation).awaiting = connection };
    }
}

#[inline(always)]
fn end(ctx: &ProbeContext) {
    let goroutine = goroutine(ctx);
    let moved = argument(ctx, 0);
    let Some(operation) = GO_OPERATIONS.get_ptr_mut(Mine { process: process(), address: goroutine }) else { return };
    // SAFETY: the map gave the address; see `enter` for eviction.
    let Operation { connection, mut buffer, stack_top, .. } = unsafe {
        let found = *operation;
        (*operation).connection = 0;
        found
    };
    if connection == 0 || moved == 0 || moved > i32::MAX as u64 {
        return;
    }
    if stack_top != 0 {
        buffer = buffer.wrapping_add(stack(goroutine)[1]).wrapping_sub(stack_top);
    }
    let key = stream(connection);
    if key != 0 {
        tell(key, buffer, RECEIVED, moved);
    }
}

#[inline(always)]
fn tell(key: u64, buffer: u64, direction: u8, moved: u64) {
    let call = Call {
        socket: key,
        buffer,
        // SAFETY: no preconditions.
        time_ns: unsafe { bpf_ktime_get_ns() },
        shape: Shape::Plain as u8,
        direction,
        messages: 1,
        is_running: 0,
        reserved: [0; 4],
    };
    if let Some(known) = watched(key, direction) {
        on_data(&call, known, moved);
    }
}

/// The key of a connection's plain text; 0 of one that was joined midway and whose socket was not seen: what it moves until then is not told
/// of, as an answer would have no request.
#[inline(always)]
fn stream(connection: u64) -> u64 {
    // SAFETY: copied at once.
    unsafe { SESSIONS.get(Session { process: process(), address: connection }) }.copied().unwrap_or(0)
}

/// The registers of the running thread's program; `None` where the kernel does not give them (before Linux 5.15).
#[inline(always)]
fn registers() -> Option<u64> {
    if field!(FLOW_LAYOUT.registers) == 0 {
        return None;
    }
    // SAFETY: no preconditions; the second takes what the first gave.
    Some(unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) } as u64)
}

/// A socket moves TLS: it is the one of the connection for which the running goroutine awaits one, if it does.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn go_moves(socket: u64) -> u32 {
    let Some(goroutine) = registers().and_then(|registers| at(registers, 8 * word::GOROUTINE as u32)) else { return 0 };
    let mine = Mine { process: process(), address: goroutine };
    let Some(operation) = GO_OPERATIONS.get_ptr_mut(mine) else { return 0 };
    // SAFETY: the map gave the address; see `enter` for eviction.
    let connection = unsafe { (*operation).awaiting };
    if connection != 0 && !tls::is_plain(socket) {
        // SAFETY: as above.
        unsafe { (*operation).awaiting = 0 };
        let _ = SESSIONS.insert(Session { process: mine.process, address: connection }, socket | PLAIN, 0);
    }
    0
}

/// Who is running: a goroutine by its number (that for which it writes, if it does), or else the thread.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn go_runs(thread: u32) -> u32 {
    let Some(offset) = number_offset() else { return thread };
    let Some(registers) = registers() else { return thread };
    let stack = at(registers, 8 * word::STACK as u32).unwrap_or(0);
    let number = number(at(registers, 8 * word::GOROUTINE as u32).unwrap_or(0), stack, offset);
    if number == 0 {
        return thread;
    }
    // SAFETY: copied at once.
    let number = unsafe { GO_WRITERS.get(Mine { process: process(), address: number }) }.copied().unwrap_or(number);
    GOROUTINE | number as u32
}

/// The number of the goroutine that calls a function.
#[inline(always)]
fn caller(ctx: &ProbeContext) -> u64 {
    let Some(offset) = number_offset() else { return 0 };
    number(goroutine(ctx), argument_at(ctx, word::STACK), offset)
}

/// Where goroutines have their numbers, if the running process is such a program.
#[inline(always)]
fn number_offset() -> Option<u32> {
    // SAFETY: copied at once.
    unsafe { GO_PROGRAMS.get(process() as u32) }.copied()
}

/// A goroutine's number; 0 if it is none that runs on this stack.
#[inline(always)]
fn number(goroutine: u64, stack_pointer: u64, offset: u32) -> u64 {
    let [low, high] = stack(goroutine);
    if low < stack_pointer && stack_pointer <= high { read_user(goroutine.wrapping_add(offset.into())) } else { 0 }
}
