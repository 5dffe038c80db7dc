//! What the loader asks of the host besides BPF: a sight of tracefs, the memory limit, the bytes its maps take, clocks.
//!
//! Invariant: nothing here changes anything outside this process.

use rustix::fs::CWD;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use rustix::time::{ClockId, clock_gettime};
use std::io;
use std::path::Path;

const TRACEFS: &str = "/sys/kernel/tracing";

/// Make tracefs visible to the calling thread: if it is not mounted, in a mount namespace of the thread's own.
#[allow(unsafe_code)] // unshare can break the rules on file descriptors, see below
pub(crate) fn see_tracefs() -> io::Result<()> {
    let places = [TRACEFS, "/sys/kernel/debug/tracing"];
    if places.iter().any(|place| Path::new(place).join("events/syscalls").is_dir()) {
        return Ok(());
    }
    // SAFETY: only the mount namespace (and with it the working directory) becomes the thread's own; file descriptors,
    // which the function is unsafe for, stay shared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
    let quiet = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("tracefs", TRACEFS, "tracefs", quiet, None)?;
    Ok(())
}

/// Before Linux 5.11 maps count against the limit on locked memory. A refusal shows when a map is made.
pub(crate) fn lift_memory_limit() {
    let _ = setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None });
}

/// Give back what parsing the kernel's type information has left in the allocator: some 20 MB that nobody needs again.
#[allow(unsafe_code)] // a foreign function
pub(crate) fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Bytes that the kernel holds for the maps of this process, by its own account.
pub(crate) fn map_bytes() -> u64 {
    let Ok(entries) = std::fs::read_dir("/proc/self/fdinfo") else { return 0 };
    let infos = entries.flatten().filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
    infos.filter_map(|info| bytes_of_map(&info)).sum()
}

fn bytes_of_map(info: &str) -> Option<u64> {
    info.lines().find(|line| line.starts_with("map_type:"))?;
    info.lines().find_map(|line| line.strip_prefix("memlock:"))?.trim().parse().ok()
}

/// Whether process numbers mean the same here and in the kernel: false in a PID namespace of one's own.
pub(crate) fn sees_all_processes() -> bool {
    // The number of the first PID namespace is fixed (PROC_PID_INIT_INO).
    rustix::fs::statat(CWD, "/proc/self/ns/pid", rustix::fs::AtFlags::empty())
        .is_ok_and(|stat| stat.st_ino == 0xEFFF_FFFC)
}

/// Nanoseconds to add to the kernel's monotonic time for time since the epoch. Asked anew for every batch, so that a
/// clock that is set does not shift what follows.
pub(crate) fn epoch_offset_ns() -> u64 {
    now_ns(ClockId::Realtime).saturating_sub(monotonic_ns())
}

/// The kernel's monotonic time.
pub(crate) fn monotonic_ns() -> u64 {
    now_ns(ClockId::Monotonic)
}

fn now_ns(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_maps_count_as_map_memory() {
        assert_eq!(bytes_of_map("pos:\t0\nmap_type:\t27\nmemlock:\t4198400\nmap_id:\t7\n"), Some(4_198_400));
        assert_eq!(bytes_of_map("pos:\t0\nprog_type:\t17\nmemlock:\t4096\n"), None);
        assert_eq!(bytes_of_map("map_type:\t27\nmemlock:\tmany\n"), None);
    }
}
