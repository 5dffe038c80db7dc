//! Lines that processes write as they serve: told with who writes, so that a line of a log can be found again by what it says.
//!
//! At the entry of `write` and `writev`, before anybody can read the line, and by processes alone that the agent has marked. A call is a
//! line if it ends in a newline; whether it is one line or several shows by its length when the log is read. Where it goes does not matter:
//! what nobody reads in a log is found nowhere. Invariant: a line is told of after what its thread has received before it.

use crate::calls::{self, Shape};
use crate::pieces::{is_of_kernel, told};
use crate::{FLOW_LAYOUT, LOSSES, RECORDS, go, is_compat};
use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::bpf_probe_read_user as probe_read_user;
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns, bpf_probe_read_user};
use aya_ebpf::macros::{map, raw_tracepoint, tracepoint};
use aya_ebpf::maps::Array;
use aya_ebpf::programs::{RawTracePointContext, TracePointContext};
use kernel::{AVAILABLE, count, field, wakeup};
use ollystack_ebpf::flow::{
    LINE, LINE_BYTES_MAX, LINE_BYTES_MIN, LINE_HEAD_BYTES, MARKS, Meta, SMALL_BYTES, Small, loss, mark,
};

/// Whose lines are told of. The agent fills it.
#[map]
static LINES: Array<u64> = Array::with_max_entries(MARKS, 0);

/// Entry of `write` or `writev`, as [`crate::call_enter`].
#[tracepoint]
pub fn line_enter(ctx: TracePointContext) -> u32 {
    if let Some(thread) = marked() {
        let base = ctx.as_ptr().cast::<u64>();
        // SAFETY: within the context of the entry of a call that has three arguments.
        let (call, buffer, length) = unsafe { (*base.add(1).cast::<u32>(), *base.add(3), *base.add(4)) };
        written(thread, call, buffer, length);
    }
    0
}

/// `sys_enter(registers, number)`.
#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn line_any(ctx: RawTracePointContext) -> i32 {
    if calls::writes(ctx.arg::<u64>(1) as u32).is_some()
        && let Some(thread) = marked()
        && !is_compat()
        && let Some((call, [_, buffer, length])) = calls::call(ctx.arg::<u64>(0))
    {
        written(thread, call, buffer, length);
    }
    0
}

/// The running thread, if it is of a process whose lines are told of.
#[inline(always)]
fn marked() -> Option<u64> {
    let thread = bpf_get_current_pid_tgid();
    let (word, bit) = mark((thread >> 32) as u32);
    let marks = LINES.get(word)?;
    (*marks & bit != 0).then_some(thread)
}

#[inline(always)]
fn written(thread: u64, call: u32, buffer: u64, length: u64) {
    let Some(shape) = calls::writes(call) else { return };
    let whole = match shape {
        Shape::Plain => Some([buffer, length]),
        _ => only_piece(buffer, length),
    };
    let Some([buffer, length]) = whole else { return };
    if length < LINE_BYTES_MIN || length > LINE_BYTES_MAX {
        return;
    }
    // SAFETY: the helper checks the user's address.
    let last = unsafe { bpf_probe_read_user((buffer + length - 1) as *const u8) };
    if last != Ok(b'\n') {
        return;
    }
    let waiting = RECORDS.query(AVAILABLE);
    let ring = u64::from(field!(FLOW_LAYOUT.ring_bytes));
    // Requests come first.
    if waiting > ring / 2 {
        return count(&LOSSES, loss::LINE);
    }
    let Some(mut entry) = RECORDS.reserve::<Small>(0) else { return count(&LOSSES, loss::LINE) };
    let record = entry.as_mut_ptr();
    let bytes = if length <= SMALL_BYTES as u64 { length as u32 } else { LINE_HEAD_BYTES as u32 };
    // SAFETY: the ring gave room for one such record, within which both copies lie.
    let is_copied = unsafe {
        let head = (&raw mut (*record).head).cast::<u8>();
        let begins = probe_read_user(head.cast(), bytes, buffer as *const _) == 0;
        let ends = length <= SMALL_BYTES as u64 || {
            const TAIL_BYTES: u64 = (SMALL_BYTES - LINE_HEAD_BYTES) as u64;
            let tail = (buffer + length - TAIL_BYTES) as *const _;
            probe_read_user(head.add(LINE_HEAD_BYTES).cast(), TAIL_BYTES as u32, tail) == 0
        };
        begins && ends
    };
    let captured = if length <= SMALL_BYTES as u64 { length as u16 } else { SMALL_BYTES as u16 };
    let meta = Meta {
        // SAFETY: no preconditions.
        time_ns: unsafe { bpf_ktime_get_ns() },
        process: (thread >> 32) as u32,
        thread: go::go_runs(thread as u32),
        length: length as u32,
        captured: if is_copied { captured } else { 0 },
        kind: LINE,
        ..Meta::default()
    };
    // SAFETY: as above.
    unsafe { (&raw mut (*record).meta).write(meta) };
    entry.submit(wakeup(waiting, size_of::<Small>(), ring));
}

/// The one of two pieces that is not empty: some put what they have kept before what is new. `None` if there are more, or both are not.
#[inline(always)]
fn only_piece(list: u64, pieces: u64) -> Option<[u64; 2]> {
    if is_of_kernel(list) {
        return None;
    }
    let first = if pieces == 1 || pieces == 2 { told(list)? } else { return None };
    let second = if pieces == 2 { told(list + 16)? } else { [0; 2] };
    match (first[1], second[1]) {
        (_, 0) => Some(first),
        (0, _) => Some(second),
        _ => None,
    }
}
