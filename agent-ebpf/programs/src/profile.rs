//! CPU profiles: what runs when the clock of a CPU ticks.
//!
//! Invariant: every tick in a process is counted once, if need be without its stack.
#![no_std]
#![no_main]

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::bpf_get_current_comm;
use aya_ebpf::macros::{map, perf_event};
use aya_ebpf::maps::{HashMap, PerCpuArray, StackTrace};
use aya_ebpf::programs::PerfEventContext;
use aya_ebpf::programs::tracing::StackIdContext as _;
use kernel::count;
use kernel::histogram::add;
use ollystack_ebpf::COMMAND_BYTES;
use ollystack_ebpf::profile::{Key, LOST_STACK, NO_STACK, SAMPLES_MAX, STACKS_MAX, loss};

kernel::program_file!();

/// Of the stack in the program, not of the one in the kernel.
const USER_STACK: u64 = 1 << 8;
/// There is none.
const EFAULT: i32 = -14;

#[map]
static STACKS: StackTrace = StackTrace::with_max_entries(STACKS_MAX, 0);

#[map]
static SAMPLES: HashMap<Key, u64> = HashMap::with_max_entries(SAMPLES_MAX, 0);

#[map]
static LOSSES: PerCpuArray<u64> = PerCpuArray::with_max_entries(loss::COUNT, 0);

/// The clock ticked.
#[perf_event]
pub fn tick(ctx: PerfEventContext) -> i32 {
    // 0 is what runs when nothing else does.
    if ctx.tgid() == 0 {
        return 0;
    }
    let command = bpf_get_current_comm().unwrap_or([0; COMMAND_BYTES]);
    let word = |at: usize| u32::from_ne_bytes([command[at], command[at + 1], command[at + 2], command[at + 3]]);
    let key: Key = [ctx.tgid(), word(0), word(4), word(8), word(12), stack(&ctx, USER_STACK), stack(&ctx, 0)];
    if SAMPLES.get_ptr(key).is_none() {
        // Another CPU may have put one there meanwhile, which then stays.
        const NO_EXIST: u64 = 1;
        let _ = SAMPLES.insert(key, 0, NO_EXIST);
    }
    match SAMPLES.get_ptr_mut(key) {
        // SAFETY: the map gave the address.
        Some(ticks) => unsafe { add(ticks, 1) },
        None => count(&LOSSES, loss::SAMPLE),
    }
    0
}

#[inline(always)]
fn stack(ctx: &PerfEventContext, flags: u64) -> u32 {
    match ctx.get_stackid(&STACKS, flags) {
        Ok(number) => number as u32,
        Err(EFAULT) => NO_STACK,
        Err(_) => LOST_STACK,
    }
}
