//! What the loader asks of the host besides BPF: a sight of tracefs, the memory limit, the bytes its maps take, clocks.
//!
//! Invariant: nothing here changes anything outside this process.

use rustix::fs::{CWD, Mode, OFlags, fstat, open};
use rustix::io;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use rustix::time::{ClockId, clock_gettime};
use std::ops::Deref;
use std::path::Path;
use std::{ptr, slice};

const TRACEFS: &str = "/sys/kernel/tracing";

const QUIET: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// Make tracefs visible to the calling thread: if it is not mounted, in a mount namespace of the thread's own.
pub(crate) fn see_tracefs() -> io::Result<()> {
    let places = [TRACEFS, "/sys/kernel/debug/tracing"];
    if places.iter().any(|place| Path::new(place).join("events/syscalls").is_dir()) {
        return Ok(());
    }
    enter_private_mounts()?;
    mount("tracefs", TRACEFS, "tracefs", QUIET, None)
}

/// Hide the kernel's type information from the calling thread. The loader parses all of it, which takes 20 MB and leaves a
/// quarter of that behind, and then uses none of it. Where this is refused, memory is all that is lost.
pub(crate) fn hide_kernel_types() -> io::Result<()> {
    enter_private_mounts()?;
    mount("none", "/sys/kernel/btf", "tmpfs", QUIET, Some(c"size=4k"))
}

/// Give the calling thread a mount namespace of its own, from which nothing propagates.
#[allow(unsafe_code)] // unshare can break the rules on file descriptors, see below
fn enter_private_mounts() -> io::Result<()> {
    // SAFETY: only the mount namespace (and with it the working directory) becomes the thread's own; file descriptors,
    // which the function is unsafe for, stay shared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
}

/// Before Linux 5.11 maps count against the limit on locked memory. A refusal shows when a map is made.
pub(crate) fn lift_memory_limit() {
    let _ = setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None });
}

/// A file in pages of its own. An allocator that was asked for a block of many megabytes keeps more for itself ever after.
pub(crate) struct Pages {
    start: *mut core::ffi::c_void,
    /// Of the mapping, and of what the file filled.
    size: usize,
    filled: usize,
}

impl Pages {
    /// The whole of a file that tells its size.
    #[allow(unsafe_code)] // memory from the kernel
    pub(crate) fn read(path: &str) -> io::Result<Pages> {
        let file = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let size = usize::try_from(fstat(&file)?.st_size).unwrap_or(0).max(1);
        // SAFETY: new anonymous memory, at an address of the kernel's choice.
        let start =
            unsafe { mmap_anonymous(ptr::null_mut(), size, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE) }?;
        let mut pages = Pages { start, size, filled: 0 };
        loop {
            // SAFETY: the rest of the mapping, which nothing else refers to.
            let rest = unsafe { slice::from_raw_parts_mut(start.cast::<u8>().add(pages.filled), size - pages.filled) };
            match rustix::io::read(&file, rest)? {
                0 => return Ok(pages),
                read => pages.filled += read,
            }
        }
    }
}

impl Deref for Pages {
    type Target = [u8];

    #[allow(unsafe_code)] // as above
    fn deref(&self) -> &[u8] {
        // SAFETY: mapped and filled up to `filled` as long as `self` lives, and never written again.
        unsafe { slice::from_raw_parts(self.start.cast::<u8>(), self.filled) }
    }
}

impl Drop for Pages {
    #[allow(unsafe_code)] // as above
    fn drop(&mut self) {
        // SAFETY: exactly what was mapped; no reference outlives `self`. A failure would leave the pages, nothing worse.
        let _ = unsafe { munmap(self.start, self.size) };
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
    fn a_file_comes_whole_and_an_empty_or_missing_one_is_no_accident() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        assert!(Pages::read(path).unwrap().is_empty());
        let bytes: Vec<u8> = (0..100_000u32).map(|at| at as u8).collect();
        std::fs::write(path, &bytes).unwrap();
        assert!(*Pages::read(path).unwrap() == *bytes);
        assert!(Pages::read("/does/not/exist").is_err());
    }

    #[test]
    fn only_maps_count_as_map_memory() {
        assert_eq!(bytes_of_map("pos:\t0\nmap_type:\t27\nmemlock:\t4198400\nmap_id:\t7\n"), Some(4_198_400));
        assert_eq!(bytes_of_map("pos:\t0\nprog_type:\t17\nmemlock:\t4096\n"), None);
        assert_eq!(bytes_of_map("map_type:\t27\nmemlock:\tmany\n"), None);
    }
}
