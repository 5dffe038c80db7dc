//! Whose sockets these are: from the inode of a socket to a process, and from a process to the service that it is.
//!
//! In: /proc/<pid>/fd, walked only while there are sockets whose owner is not known, processes that own others first, those that own very
//! many last. A socket that several share is the one's that was there first; process 1, which may hold sockets for those that it starts,
//! comes last. Invariant: a walk begins no process once it has read [`LINKS_ENOUGH`] links, and goes on where it ended the next time; a
//! name is believed for [`FRESH`].

use hashbrown::{HashMap, HashSet};
use ollystack_record::service_name::{Process, container_id, pod_uid, service_name};
use rustix::fs::{CWD, Mode, OFlags, RawDir, openat, readlinkat_raw};
use std::io::Read as _;
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Links of one process that are read in a walk, 2 us each.
const LINKS_MAX: usize = 40_000;
/// After so many no further process is begun.
const LINKS_ENOUGH: usize = 10_000;
/// A process that owns so many sockets costs most to walk: it comes last.
const MANY: usize = 1_000;
/// Processes looked at in a round; a host that has more is walked in parts.
const PROCESSES_MAX: usize = 4_096;
const FRESH: Duration = Duration::from_secs(60);
/// An environment may be 2 MB; the variables that name a service are near its start in practice.
const READ_BYTES_MAX: u64 = 64 * 1024;

/// Owner of a socket that nobody was found to own.
const NOBODY: u32 = 0;

/// What is remembered.
pub(crate) struct Owners {
    proc: PathBuf,
    by_inode: HashMap<u32, u32>,
    names: HashMap<u32, (Arc<Service>, Instant)>,
    /// Where the last walk ended, if it did before its end.
    resume: u32,
}

/// A process as the map has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) name: Arc<str>,
    pub(crate) container: Option<Box<str>>,
    /// Of a pod of Kubernetes: its addresses are its own.
    pub(crate) is_pod: bool,
    /// Where Docker's proxy hands on what comes to a published port.
    pub(crate) relay: Option<std::net::SocketAddr>,
}

impl Owners {
    pub(crate) fn new(proc: &Path) -> Owners {
        Owners { proc: proc.to_owned(), by_inode: HashMap::new(), names: HashMap::new(), resume: 0 }
    }

    /// Find the owners of all these, and forget all others.
    pub(crate) fn find(&mut self, inodes: &HashSet<u32>, processes: &[u32]) {
        self.by_inode.retain(|inode, _| inodes.contains(inode));
        let mut wanted: HashSet<u32> =
            inodes.iter().copied().filter(|inode| !self.by_inode.contains_key(inode)).collect();
        if wanted.is_empty() {
            return;
        }
        // Those that were looked for in vain are looked for once more when there is a walk anyway.
        wanted.extend(self.by_inode.iter().filter(|(_, owner)| **owner == NOBODY).map(|(inode, _)| *inode));
        let mut owned: HashMap<u32, usize> = HashMap::new();
        for pid in self.by_inode.values() {
            *owned.entry(*pid).or_default() += 1;
        }
        let mut order = processes.to_vec();
        let resume = self.resume;
        order.sort_by_key(|pid| {
            let owned = owned.get(pid).copied().unwrap_or(0);
            // Where the last walk ended comes first, so that each has its turn.
            (*pid != resume, *pid == 1, owned >= MANY, owned == 0, *pid < resume, *pid)
        });
        let mut read = 0;
        self.resume = 0;
        for pid in order.into_iter().take(PROCESSES_MAX) {
            if wanted.is_empty() || read >= LINKS_ENOUGH {
                self.resume = if wanted.is_empty() { 0 } else { pid };
                break;
            }
            let mut links_left = LINKS_MAX;
            self.walk(pid, &mut wanted, &mut links_left);
            read += LINKS_MAX - links_left;
        }
        if self.resume == 0 {
            self.by_inode.extend(wanted.into_iter().map(|inode| (inode, NOBODY)));
        }
    }

    fn walk(&mut self, pid: u32, wanted: &mut HashSet<u32>, links_left: &mut usize) {
        let by_inode = &mut self.by_inode;
        each_socket(&self.proc, pid, links_left, |inode| {
            if wanted.remove(&inode) {
                by_inode.insert(inode, pid);
            }
            !wanted.is_empty()
        });
    }

    /// Whose it is, if that was found.
    pub(crate) fn process_of(&self, inode: u32) -> Option<u32> {
        self.by_inode.get(&inode).copied().filter(|pid| *pid != NOBODY)
    }

    /// The service that owns a socket.
    pub(crate) fn service_of(&mut self, inode: u32, now: Instant) -> Option<Arc<Service>> {
        let pid = self.process_of(inode)?;
        if let Some((service, read)) = self.names.get(&pid)
            && now.saturating_duration_since(*read) < FRESH
        {
            return Some(Arc::clone(service));
        }
        let service = Arc::new(read(&self.proc.join(pid.to_string()))?);
        self.names.insert(pid, (Arc::clone(&service), now));
        Some(service)
    }

    /// Forget the names of processes that are no more.
    pub(crate) fn sweep(&mut self, processes: &HashSet<u32>) {
        self.names.retain(|pid, _| processes.contains(pid));
    }
}

/// The service that a process is; `None` if it is gone.
pub(crate) fn read(folder: &Path) -> Option<Service> {
    let file = |name: &str| {
        let mut bytes = Vec::new();
        let opened = std::fs::File::open(folder.join(name));
        // Gone or not permitted: then that part is not known.
        let _ = opened.map(|file| file.take(READ_BYTES_MAX).read_to_end(&mut bytes));
        bytes
    };
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let path = std::fs::read_link(folder.join("exe")).ok().map(|path| path.to_string_lossy().into_owned());
    // The kernel marks a program whose file was replaced.
    let path = path.as_deref().map(|path| path.strip_suffix(" (deleted)").unwrap_or(path));
    let command = text(file("comm"));
    let executable =
        path.and_then(|path| path.rsplit('/').next()).filter(|name| !name.is_empty()).unwrap_or(command.trim_end());
    let (cgroup, cmdline) = (text(file("cgroup")), file("cmdline"));
    let name = service_name(Process { environ: &file("environ"), cgroup: &cgroup, cmdline: &cmdline, executable });
    let container = container_id(&cgroup).map(Box::from);
    let is_pod = container.is_some() && pod_uid(&cgroup).is_some();
    let relay = (executable == "docker-proxy").then(|| relay(&cmdline)).flatten();
    (!name.is_empty()).then(|| Service { name: name.into(), container, is_pod, relay })
}

/// `docker-proxy -proto tcp -host-ip 0.0.0.0 -host-port 8080 -container-ip 172.17.0.2 -container-port 80`.
fn relay(cmdline: &[u8]) -> Option<std::net::SocketAddr> {
    let words: Vec<&[u8]> = cmdline.split(|byte| *byte == 0).collect();
    let behind = |flag: &[u8]| {
        let at = words.iter().position(|word| *word == flag)?;
        std::str::from_utf8(words.get(at + 1)?).ok()
    };
    let (address, port) = (behind(b"-container-ip")?.parse().ok()?, behind(b"-container-port")?.parse().ok()?);
    Some(std::net::SocketAddr::new(address, port))
}

/// The inodes of a process's sockets, as long as `take` wants more and links are left to read.
pub(crate) fn each_socket(proc: &Path, pid: u32, links_left: &mut usize, mut take: impl FnMut(u32) -> bool) {
    let folder = proc.join(pid.to_string()).join("fd");
    // Without the right to look, or gone meanwhile.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(folder) = openat(CWD, &folder, flags, Mode::empty()) else { return };
    let mut entries = [MaybeUninit::<u8>::uninit(); 8192];
    let mut entries = RawDir::new(&folder, &mut entries);
    while let Some(Ok(entry)) = entries.next() {
        if *links_left == 0 {
            return;
        }
        *links_left -= 1;
        let mut target = [MaybeUninit::<u8>::uninit(); 32];
        let target = readlinkat_raw(&folder, entry.file_name(), &mut target[..]);
        if let Some(inode) = target.ok().and_then(|(target, _)| socket(target))
            && !take(inode)
        {
            return;
        }
    }
}

/// `socket:[1617]` is 1617.
fn socket(target: &[u8]) -> Option<u32> {
    std::str::from_utf8(target.strip_prefix(b"socket:[")?.strip_suffix(b"]")?).ok()?.parse().ok()
}

/// The numbers of all processes.
pub(crate) fn processes(proc: &Path) -> std::io::Result<Vec<u32>> {
    let entries = std::fs::read_dir(proc)?;
    let mut processes: Vec<u32> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    processes.sort_unstable();
    Ok(processes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::fd::AsRawFd;

    fn inode(listener: &TcpListener) -> u32 {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap();
        socket(link.as_os_str().as_encoded_bytes()).unwrap()
    }

    #[test]
    fn a_socket_s_owner_is_found_and_named_and_forgotten_with_the_socket() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (inode, own) = (inode(&listener), std::process::id());
        let mut owners = Owners::new(Path::new("/proc"));
        owners.find(&HashSet::from_iter([inode, u32::MAX]), &[own]);
        assert_eq!((owners.process_of(inode), owners.process_of(u32::MAX)), (Some(own), None));
        let service = owners.service_of(inode, Instant::now()).unwrap();
        assert!(!service.name.is_empty());
        owners.find(&HashSet::new(), &[own]);
        assert_eq!(owners.process_of(inode), None);
    }

    /// A folder that looks like /proc: processes, each with sockets of these inodes.
    fn proc(processes: &[(u32, &[u32])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (pid, sockets) in processes {
            let fd = folder.path().join(pid.to_string()).join("fd");
            std::fs::create_dir_all(&fd).unwrap();
            for (number, inode) in sockets.iter().enumerate() {
                std::os::unix::fs::symlink(format!("socket:[{inode}]"), fd.join(number.to_string())).unwrap();
            }
        }
        folder
    }

    #[test]
    fn who_was_there_first_owns_what_several_share_and_process_1_only_what_nobody_else_has() {
        let folder = proc(&[(1, &[10, 11]), (5, &[10, 12]), (6, &[12])]);
        let mut owners = Owners::new(folder.path());
        owners.find(&HashSet::from_iter([10, 11, 12]), &[1, 5, 6]);
        assert_eq!([10, 11, 12].map(|inode| owners.process_of(inode)), [Some(5), Some(1), Some(5)]);
    }

    #[test]
    fn what_nobody_owned_is_looked_for_again_when_something_new_is() {
        let folder = proc(&[(5, &[10])]);
        let mut owners = Owners::new(folder.path());
        owners.find(&HashSet::from_iter([10, 11]), &[5]);
        assert_eq!(owners.process_of(11), None);
        std::os::unix::fs::symlink("socket:[11]", folder.path().join("5/fd/9")).unwrap();
        owners.find(&HashSet::from_iter([10, 11]), &[5]);
        assert_eq!(owners.process_of(11), None, "nothing is new: no walk");
        owners.find(&HashSet::from_iter([10, 11, 12]), &[5]);
        assert_eq!(owners.process_of(11), Some(5));
    }

    #[test]
    fn a_walk_ends_once_it_was_long_and_goes_on_from_there_the_next_time() {
        let folder = proc(&[(5, &vec![9; LINKS_ENOUGH]), (6, &[10])]);
        let mut owners = Owners::new(folder.path());
        let inodes = HashSet::from_iter([10, 11]);
        owners.find(&inodes, &[5, 6]);
        assert_eq!((owners.process_of(10), owners.resume), (None, 6));
        owners.find(&inodes, &[5, 6]);
        assert_eq!(owners.process_of(10), Some(6));
    }

    #[test]
    fn docker_s_proxy_says_where_it_hands_on_to() {
        let line = b"/usr/bin/docker-proxy\0-proto\0tcp\0-host-port\x008080\0-container-ip\x00172.17.0.2\0-container-port\x0080\0";
        assert_eq!(relay(line), Some("172.17.0.2:80".parse().unwrap()));
        assert_eq!(relay(b"docker-proxy\0-container-ip\0"), None);
    }
}
