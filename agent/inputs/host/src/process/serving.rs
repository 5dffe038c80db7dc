//! Which processes serve traffic: those that hold a socket that listens.
//!
//! Only /proc/<pid>/fd tells whose a socket is, at one readlink(2) a descriptor, so it is looked for rarely: when the set of
//! listening sockets has changed, but at most once a minute, and every ten minutes for workers that were forked since.
//! Invariant: one search reads at most [`LINKS_MAX`] links, about 2 us each.

use super::choose::Key;
use super::stat::Stat;
use crate::text;
use hashbrown::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

const LINKS_MAX: usize = 20_000;
const AFTER_CHANGE: Duration = Duration::from_secs(60);
const ALWAYS_AFTER: Duration = Duration::from_secs(600);

#[derive(Debug, Default)]
pub(crate) struct Serving {
    processes: HashSet<Key>,
    sockets: HashSet<u64>,
    searched: Option<Instant>,
}

impl Serving {
    /// The processes that serve, searched for anew if it is time to.
    pub(crate) fn update(
        &mut self,
        listening: &HashSet<u64>,
        all: &[Stat],
        proc: &Path,
        now: Instant,
    ) -> &HashSet<Key> {
        let age = self.searched.map(|at| now.saturating_duration_since(at));
        let due = match age {
            None => true,
            Some(age) => age >= ALWAYS_AFTER || (age >= AFTER_CHANGE && *listening != self.sockets),
        };
        if due {
            self.searched = Some(now);
            self.sockets.clone_from(listening);
            self.processes = search(listening, all, proc);
        }
        &self.processes
    }
}

fn search(listening: &HashSet<u64>, all: &[Stat], proc: &Path) -> HashSet<Key> {
    let mut found = HashSet::new();
    let mut links_left = LINKS_MAX;
    if listening.is_empty() {
        return found;
    }
    for process in all.iter().filter(|process| !process.is_kernel_thread()) {
        // Without the right to look, or gone meanwhile: then it is not known to serve.
        let Ok(folder) = std::fs::read_dir(proc.join(process.pid.to_string()).join("fd")) else { continue };
        for descriptor in folder.flatten() {
            if links_left == 0 {
                return found;
            }
            links_left -= 1;
            let target = std::fs::read_link(descriptor.path());
            let inode = target.ok().and_then(|target| socket(target.as_os_str().as_encoded_bytes()));
            if inode.is_some_and(|inode| listening.contains(&inode)) {
                found.insert((process.pid, process.start));
                break;
            }
        }
    }
    found
}

/// `socket:[1617]` is 1617.
fn socket(target: &[u8]) -> Option<u64> {
    text::number(target.strip_prefix(b"socket:[")?.strip_suffix(b"]")?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::fd::AsRawFd;

    fn own() -> Stat {
        super::super::stat::parse(&std::fs::read("/proc/self/stat").unwrap()).unwrap()
    }

    #[test]
    fn a_process_with_a_listening_socket_is_found_and_looked_for_again_only_when_it_is_time() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let link = std::fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap();
        let inode = socket(link.as_os_str().as_encoded_bytes()).unwrap();
        let own = own();
        let key = (own.pid, own.start);
        let (mut serving, start) = (Serving::default(), Instant::now());
        let mut update = |listening: &[u64], seconds| {
            let listening = listening.iter().copied().collect();
            let now = start + Duration::from_secs(seconds);
            serving.update(&listening, std::slice::from_ref(&own), Path::new("/proc"), now).contains(&key)
        };
        assert!(!update(&[], 0));
        assert!(!update(&[inode], 59), "too early");
        assert!(update(&[inode], 60));
        assert!(update(&[], 61), "too early to forget");
        assert!(!update(&[], 121));
    }

    #[test]
    fn only_sockets_are_sockets() {
        assert_eq!(socket(b"socket:[1617]"), Some(1617));
        for odd in ["pipe:[1617]", "socket:[]", "socket:[-1]", "/tmp/socket:[1]", "socket:[1"] {
            assert_eq!(socket(odd.as_bytes()), None, "{odd}");
        }
    }
}
