//! Waits for a CPU: from the moment a thread could run, as it was woken or another took its place, to the one it does.
//!
//! Invariant: one wait is counted once, under the control group that the thread is in when it ends. A thread whose place in
//! [`WAITING`] was taken by another is not counted, and none is counted with the time of another.
#![no_std]
#![no_main]

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::{map, raw_tracepoint};
use aya_ebpf::maps::{Array, HashMap};
use aya_ebpf::programs::RawTracePointContext;
use kernel::cgroup::{self, write_names};
use kernel::histogram::record;
use kernel::{at, cgroup_layout, field};
use ollystack_ebpf::layout;
use ollystack_ebpf::run_queue::{GROUPS_MAX, Group, OTHERS, WAITING_MAX};

kernel::program_file!();

#[unsafe(no_mangle)]
static RUN_QUEUE_LAYOUT: layout::RunQueue = layout::RunQueue { cgroup: cgroup::UNKNOWN, task_pid: 0, task_state: 0 };

const RUNNING: u32 = 0;

/// A thread that could run.
#[derive(Clone, Copy)]
#[repr(C)]
struct Waiting {
    since_ns: u64,
    thread: u64,
}

/// By the last digits of the thread's number.
#[map]
static WAITING: Array<Waiting> = Array::with_max_entries(WAITING_MAX, 0);

#[map]
static GROUPS: HashMap<u64, Group> = HashMap::with_max_entries(GROUPS_MAX, 0);

/// What a group begins with: a program's stack is too small for one.
#[map]
static EMPTY: Array<Group> = Array::with_max_entries(1, 0);

/// `sched_wakeup(task)`.
#[raw_tracepoint(tracepoint = "sched_wakeup")]
pub fn woken(ctx: RawTracePointContext) -> i32 {
    waits(ctx.arg::<u64>(0));
    0
}

/// `sched_wakeup_new(task)`.
#[raw_tracepoint(tracepoint = "sched_wakeup_new")]
pub fn woken_new(ctx: RawTracePointContext) -> i32 {
    waits(ctx.arg::<u64>(0));
    0
}

/// `sched_switch(preempted, previous task, next task, ...)`.
#[raw_tracepoint(tracepoint = "sched_switch")]
pub fn switched(ctx: RawTracePointContext) -> i32 {
    let (is_preempted, previous) = (ctx.arg::<u8>(0) != 0, ctx.arg::<u64>(1));
    if is_preempted || at(previous, field!(RUN_QUEUE_LAYOUT.task_state)) == Some(RUNNING) {
        waits(previous);
    }
    let _ = runs(ctx.arg::<u64>(2));
    0
}

#[inline(always)]
fn waits(task: u64) {
    // 0 is what runs when nothing else does.
    let Some(thread) = at::<u32>(task, field!(RUN_QUEUE_LAYOUT.task_pid)).filter(|thread| *thread != 0) else { return };
    if let Some(place) = WAITING.get_ptr_mut(thread & (WAITING_MAX - 1)) {
        // SAFETY: the map gave the address. Two threads that share it may mix: then neither is counted, or one with the
        // time of the other's wake-up in the same moment.
        unsafe {
            (*place).thread = 0;
            (*place).since_ns = bpf_ktime_get_ns();
            (*place).thread = thread.into();
        }
    }
}

#[inline(always)]
fn runs(task: u64) -> Option<()> {
    let thread = at::<u32>(task, field!(RUN_QUEUE_LAYOUT.task_pid)).filter(|thread| *thread != 0)?;
    let place = WAITING.get_ptr_mut(thread & (WAITING_MAX - 1))?;
    // SAFETY: as in `waits`.
    let since_ns = unsafe {
        if (*place).thread != u64::from(thread) {
            return None;
        }
        (*place).thread = 0;
        (*place).since_ns
    };
    let group = group(task)?;
    // SAFETY: no preconditions; the map gave the group.
    unsafe { record(&raw mut (*group).waits, bpf_ktime_get_ns().saturating_sub(since_ns)) };
    Some(())
}

#[inline(always)]
fn group(task: u64) -> Option<*mut Group> {
    const NO_EXIST: u64 = 1;
    let layout = cgroup_layout!(RUN_QUEUE_LAYOUT);
    let state = cgroup::state_of(task, &layout)?;
    let key = cgroup::number_of(state, &layout)?;
    if let Some(known) = GROUPS.get_ptr_mut(key) {
        return Some(known);
    }
    if GROUPS.insert(key, EMPTY.get(0)?, NO_EXIST).is_ok() {
        let group = GROUPS.get_ptr_mut(key)?;
        // SAFETY: the map gave it.
        unsafe { write_names(&raw mut (*group).names, Some(state), &layout) };
        return Some(group);
    }
    // Another CPU may have been faster; else there is no room.
    if let Some(known) = GROUPS.get_ptr_mut(key) {
        return Some(known);
    }
    if GROUPS.get_ptr(OTHERS).is_none() {
        let _ = GROUPS.insert(OTHERS, EMPTY.get(0)?, NO_EXIST);
    }
    GROUPS.get_ptr_mut(OTHERS)
}
