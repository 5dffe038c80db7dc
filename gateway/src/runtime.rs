//! The process around the stages: who may look into its memory, its allocator's settings, its threads.
//!
//! Invariant: what is set here is set before there is a second thread.

use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use std::io;

/// No core dump, and no debugger of another process of this user: both would show keys and tenants' data.
pub(crate) fn shield_memory() {
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        eprintln!("ollystack-gateway: core dumps stay possible: {error}");
    }
}

/// Settings of glibc's malloc: what a block took is kept for the next one. By default it goes back to the kernel, which clears each of its pages
/// again when the next block touches them: 4% of the CPU of a span. 32 MiB is the most that malloc takes for the first.
#[cfg(target_env = "gnu")]
const MALLOC: [(libc::c_int, libc::c_int); 2] =
    [(libc::M_MMAP_THRESHOLD, 32 << 20), (libc::M_TRIM_THRESHOLD, 64 << 20)];

/// Put the settings of malloc in force: before there are threads with heaps of their own.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code, reason = "mallopt is a call of the C library, see MALLOC")]
pub(crate) fn keep_memory() {
    for (setting, value) in MALLOC {
        // SAFETY: mallopt takes two integers and has no other precondition than that no other thread allocates meanwhile.
        if unsafe { libc::mallopt(setting, value) } == 0 {
            tracing::debug!(setting, value, "malloc keeps its default");
        }
    }
}

/// Another C library's malloc has no such settings.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn keep_memory() {}

/// The runtime that carries everything, with a thread for each core.
pub(crate) fn build() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::dumpable_behavior;

    #[test]
    fn nobody_gets_a_core_dump() {
        shield_memory();
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
    }
}
