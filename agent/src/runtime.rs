//! The process around the stages: its allocator's settings, its threads and stacks, and who may look into its memory.
//!
//! Invariant: the number of threads and of heaps does not depend on the number of cores, so neither does the memory
//! they take.

use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use tokio::runtime::{Builder, Runtime};

/// One for the stages, one more so that a long computation (folding a window) does not delay an answer to an application.
const WORKERS: usize = 2;
/// Blocking calls: name resolution, file reads.
const BLOCKING_MAX: usize = 4;
/// Only what is touched is resident; our deepest calls (protobuf, TLS) stay far below.
const STACK_BYTES: usize = 1 << 20;

/// Settings of glibc's malloc: one heap instead of eight per core, and thresholds that stay where they are instead of
/// growing to 32 MiB, so that freed memory goes back to the kernel.
///
/// Measured with 320,000 spans in two bursts (resident anonymous memory idle / highest total / 5 s after): glibc as it is
/// 2.2 / 46 / 19 MB, glibc so set 2.2 / 40 / 11 MB, mimalloc tuned 3.0 / 46 / 11 MB with a tenth more CPU, jemalloc
/// 3.8 / 51 / 19 MB, and jemalloc needs `make` to build. Mimalloc untuned took 14 / 100 / 36 MB for half the spans.
#[cfg(target_env = "gnu")]
const MALLOC: [(libc::c_int, libc::c_int); 3] =
    [(libc::M_ARENA_MAX, 1), (libc::M_MMAP_THRESHOLD, 128 << 10), (libc::M_TRIM_THRESHOLD, 128 << 10)];

/// Put the settings of malloc in force: first thing in `main`, before there are threads with heaps of their own.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code, reason = "mallopt is a call of the C library; it saves a quarter of the peak, see MALLOC")]
pub(crate) fn tune_allocator() {
    for (setting, value) in MALLOC {
        // SAFETY: mallopt takes two integers and has no other precondition than that no other thread allocates meanwhile.
        if unsafe { libc::mallopt(setting, value) } == 0 {
            tracing::debug!(setting, value, "malloc keeps its default");
        }
    }
}

/// Another C library's malloc has no such settings.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn tune_allocator() {}

/// Give what is freed back to the kernel. Allocating waits meanwhile, for some milliseconds.
#[cfg(target_env = "gnu")]
#[allow(
    unsafe_code,
    reason = "malloc_trim is a call of the C library; what is freed in the middle of the heap stays resident without"
)]
pub(crate) fn release_memory() {
    // SAFETY: malloc_trim takes a number and may be called from any thread at any time.
    unsafe { libc::malloc_trim(0) };
}

/// Another C library gives back by itself, or not at all.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn release_memory() {}

/// The runtime that carries everything but the threads that stages start for themselves.
pub(crate) fn build() -> std::io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING_MAX)
        .thread_stack_size(STACK_BYTES)
        .thread_name("ollystack")
        .enable_all()
        .build()
}

/// No core dump, and no debugger of another process of this user: both would show the API key.
pub(crate) fn shield_memory() {
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::debug!(%error, "core dumps stay possible");
    }
}
