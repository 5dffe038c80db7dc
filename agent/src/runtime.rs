//! The process around the stages: threads, their stacks, and who may look into its memory.
//!
//! Invariant: the number of threads does not depend on the number of cores, so neither does the memory they take.

use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use tokio::runtime::{Builder, Runtime};

/// One for the stages, one more so that a long computation (folding a window) does not delay an answer to an application.
const WORKERS: usize = 2;
/// Blocking calls: name resolution, file reads.
const BLOCKING_MAX: usize = 4;
/// Only what is touched is resident; our deepest calls (protobuf, TLS) stay far below.
const STACK_BYTES: usize = 1 << 20;

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
