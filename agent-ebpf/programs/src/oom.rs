//! Kills for want of memory: the tracepoint where the kernel marks its victim.
//!
//! Since Linux 6.8, and in some older ones, it is given the victim; before, its number alone. The victim is then the thread
//! that the kernel has just sent SIGKILL on behalf of the one that wants memory, which another tracepoint shows.
//! Invariant: what is told is read from the victim itself, which the kernel keeps while it is marked.
#![no_std]
#![no_main]

use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use aya_ebpf::macros::{map, raw_tracepoint};
use aya_ebpf::maps::{LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::programs::RawTracePointContext;
use kernel::cgroup::{self, write_names};
use kernel::{AVAILABLE, at, cgroup_layout, count, field, pointer, wakeup};
use ollystack_ebpf::oom::{Event, RING_BYTES, loss};
use ollystack_ebpf::{COMMAND_BYTES, layout};

kernel::program_file!();

#[unsafe(no_mangle)]
static OOM_LAYOUT: layout::Oom = layout::Oom {
    cgroup: cgroup::UNKNOWN,
    task_pid: 0,
    task_tgid: 0,
    task_comm: 0,
    task_cred: 0,
    cred_uid: 0,
    task_mm: 0,
    mm_rss_stat: 0,
    rss_stat_bytes: 0,
};

const SIGKILL: i32 = 9;
/// Kinds of pages that are in memory, in the order of the kernel's counts: of files, anonymous, shared.
const RESIDENT: [u32; 3] = [0, 1, 3];

#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);

#[map]
static LOSSES: PerCpuArray<u64> = PerCpuArray::with_max_entries(loss::COUNT, 0);

/// Whom a thread killed last.
#[map]
static KILLED: LruHashMap<u64, u64> = LruHashMap::with_max_entries(256, 0);

/// `mark_victim(task, user)`.
#[raw_tracepoint(tracepoint = "mark_victim")]
pub fn victim(ctx: RawTracePointContext) -> i32 {
    report(ctx.arg::<u64>(0));
    0
}

/// `mark_victim(pid)`.
#[raw_tracepoint(tracepoint = "mark_victim")]
pub fn victim_number(ctx: RawTracePointContext) -> i32 {
    let (number, by) = (ctx.arg::<u32>(0), bpf_get_current_pid_tgid());
    if let Some(killed) = KILLED.get_ptr(by) {
        // SAFETY: the map gave the address, and what is there is copied at once.
        let killed = unsafe { *killed };
        if at(killed, field!(OOM_LAYOUT.task_pid)) == Some(number) {
            report(killed);
        }
    }
    let _ = KILLED.remove(by);
    0
}

/// `signal_generate(signal, info, task, ...)`.
#[raw_tracepoint(tracepoint = "signal_generate")]
pub fn signal_sent(ctx: RawTracePointContext) -> i32 {
    if ctx.arg::<i32>(0) == SIGKILL {
        let _ = KILLED.insert(bpf_get_current_pid_tgid(), ctx.arg::<u64>(2), 0);
    }
    0
}

#[inline(always)]
fn report(task: u64) {
    let waiting = EVENTS.query(AVAILABLE);
    let Some(mut entry) = EVENTS.reserve::<Event>(0) else {
        count(&LOSSES, loss::EVENT);
        return;
    };
    let event = entry.as_mut_ptr();
    let layout = cgroup_layout!(OOM_LAYOUT);
    let user = pointer(task, field!(OOM_LAYOUT.task_cred)).and_then(|cred| at(cred, field!(OOM_LAYOUT.cred_uid)));
    // SAFETY: the ring gave room for one `Event`, and every field of it is written.
    unsafe {
        (&raw mut (*event).time_ns).write(bpf_ktime_get_ns());
        (&raw mut (*event).resident_pages).write(resident_pages(task));
        (&raw mut (*event).process).write(at(task, field!(OOM_LAYOUT.task_tgid)).unwrap_or(0));
        (&raw mut (*event).user).write(user.unwrap_or(0));
        let command = &raw mut (*event).command;
        command.write([0; COMMAND_BYTES]);
        let name = task + u64::from(field!(OOM_LAYOUT.task_comm));
        let _ = bpf_probe_read_kernel_str(command.cast(), COMMAND_BYTES as u32, name as *const _);
        write_names(&raw mut (*event).cgroup, cgroup::state_of(task, &layout), &layout);
    }
    entry.submit(wakeup(waiting, size_of::<Event>(), RING_BYTES.into()));
}

/// As the kernel's own report has it: counts that CPUs have not yet added to the whole are left out.
#[inline(always)]
fn resident_pages(task: u64) -> u64 {
    let Some(memory) = pointer(task, field!(OOM_LAYOUT.task_mm)) else { return 0 };
    let (first, each) = (field!(OOM_LAYOUT.mm_rss_stat), field!(OOM_LAYOUT.rss_stat_bytes));
    let mut pages = 0;
    for kind in RESIDENT {
        let of_kind: i64 = at(memory, first + kind * each).unwrap_or(0);
        pages += if of_kind > 0 { of_kind as u64 } else { 0 };
    }
    pages
}
