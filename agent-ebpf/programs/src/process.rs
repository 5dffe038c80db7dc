//! Program starts and process ends: raw tracepoints of the scheduler, one record each.
//!
//! Invariant: an end is reported once a process, when its last thread leaves.
#![no_std]
#![no_main]

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::task_struct;
use aya_ebpf::helpers::{
    bpf_get_current_comm, bpf_get_current_task, bpf_ktime_get_ns, generated::bpf_probe_read_kernel_str,
};
use aya_ebpf::macros::{map, raw_tracepoint};
use aya_ebpf::maps::{PerCpuArray, RingBuf};
use aya_ebpf::programs::RawTracePointContext;
use kernel::{AVAILABLE, at, count, field, pointer, wakeup};
use ollystack_ebpf::process::{EXEC, EXIT, Event, Exec, PATH_BYTES, RING_BYTES, loss};
use ollystack_ebpf::{COMMAND_BYTES, layout};

kernel::program_file!();

#[unsafe(no_mangle)]
static PROCESS_LAYOUT: layout::Process = layout::Process {
    task_tgid: 0,
    task_real_parent: 0,
    task_exit_code: 0,
    task_signal: 0,
    task_start_time: 0,
    signal_live: 0,
    binprm_filename: 0,
};

#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);

#[map]
static LOSSES: PerCpuArray<u64> = PerCpuArray::with_max_entries(loss::COUNT, 0);

/// `sched_process_exec(task, old pid, linux_binprm)`.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn process_exec(ctx: RawTracePointContext) -> i32 {
    let waiting = EVENTS.query(AVAILABLE);
    let Some(mut entry) = EVENTS.reserve::<Exec>(0) else {
        count(&LOSSES, loss::EXEC);
        return 0;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: the ring gave room for one `Exec`; every byte of it is written before it is submitted.
    unsafe {
        (&raw mut (*record).event).write(event(&ctx, EXEC));
        let path = &raw mut (*record).path;
        path.write([0; PATH_BYTES]);
        if let Some(name) = pointer(ctx.arg::<u64>(2), field!(PROCESS_LAYOUT.binprm_filename)) {
            let _ = bpf_probe_read_kernel_str(path.cast(), PATH_BYTES as u32, name as *const _);
        }
    }
    entry.submit(wakeup(waiting, size_of::<Exec>(), RING_BYTES.into()));
    0
}

/// `sched_process_exit(task, ...)`, called for every thread.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn process_exit(ctx: RawTracePointContext) -> i32 {
    let task = ctx.arg::<u64>(0);
    let live = pointer(task, field!(PROCESS_LAYOUT.task_signal))
        .and_then(|signal| at::<i32>(signal, field!(PROCESS_LAYOUT.signal_live)));
    // The kernel has taken the leaving thread off before it comes here: others still live.
    if live != Some(0) {
        return 0;
    }
    let waiting = EVENTS.query(AVAILABLE);
    let Some(mut entry) = EVENTS.reserve::<Event>(0) else {
        count(&LOSSES, loss::EXIT);
        return 0;
    };
    entry.write(event(&ctx, EXIT));
    entry.submit(wakeup(waiting, size_of::<Event>(), RING_BYTES.into()));
    0
}

#[inline(always)]
fn event(ctx: &RawTracePointContext, kind: u8) -> Event {
    // SAFETY: no arguments, no preconditions.
    let (now, task) = unsafe { (bpf_ktime_get_ns(), bpf_get_current_task() as *const task_struct as u64) };
    let started: u64 = at(task, field!(PROCESS_LAYOUT.task_start_time)).unwrap_or(now);
    let parent = pointer(task, field!(PROCESS_LAYOUT.task_real_parent))
        .and_then(|parent| at::<u32>(parent, field!(PROCESS_LAYOUT.task_tgid)))
        .unwrap_or(0);
    Event {
        time_ns: now,
        lifetime_ns: now.wrapping_sub(started),
        process: ctx.tgid(),
        parent,
        user: ctx.uid(),
        status: if kind == EXIT { at(task, field!(PROCESS_LAYOUT.task_exit_code)).unwrap_or(0) } else { 0 },
        kind,
        reserved: [0; 7],
        command: bpf_get_current_comm().unwrap_or([0; COMMAND_BYTES]),
    }
}
