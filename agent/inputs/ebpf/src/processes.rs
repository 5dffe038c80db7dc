//! Whose records are these: from a process number to the resources of its spans and its metrics.
//!
//! In: /proc/<pid>, read when a process is first met and again after [`FRESH_NS`]; for a process that is gone by then, the
//! command name that came with the record. Out: resources built once and shared. Invariant: at most `max` processes and
//! `max` services are remembered; when there are more, all are forgotten and read again.

use crate::peers::Ends;
use crate::seen::{Seen, SeenProcess};
use hashbrown::HashMap;
use ollystack_ebpf::COMMAND_BYTES;
use ollystack_ebpf::flow::Meta;
use ollystack_record::service_name::{Process, service_name};
use ollystack_record::value::{int, string};
use ollystack_record::{Peer, Peers, Resource};
use ollystack_schema::names::semconv;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;

/// How long what was read is believed, so that a number given to another process is noticed.
const FRESH_NS: u64 = 60_000_000_000;
/// An environment may be 2 MB; the variables that name a service are near its start in practice.
const READ_BYTES_MAX: u64 = 64 * 1024;

/// What event loops wait on, and how many files are looked at to find one: processes with more mostly have one.
const LOOPS: [&str; 2] = ["anon_inode:[eventpoll]", "anon_inode:[io_uring]"];
const FILES_MAX: usize = 1_024;

/// A process, as it appears in what is sent.
#[derive(Clone, Debug)]
pub(crate) struct Who {
    /// With `process.pid`: for spans.
    pub(crate) process: Arc<Resource>,
    /// Without: for metrics, so that every run of a program adds to the same series.
    pub(crate) service: Arc<Resource>,
    /// What the service is called.
    name: Arc<str>,
    /// The network namespace it is in; 0 if that cannot be read.
    namespace: u64,
}

/// Remembers processes.
pub(crate) struct Processes {
    host: Arc<Resource>,
    proc: PathBuf,
    max: usize,
    known: HashMap<u32, (Who, u64)>,
    services: HashMap<(String, String), Arc<Resource>>,
    ends: Ends,
    seen: Seen,
}

impl Processes {
    pub(crate) fn new(host: Arc<Resource>, max: usize) -> Processes {
        let (proc, ends) = (PathBuf::from("/proc"), Ends::new(Arc::default(), max));
        Processes { host, proc, max, known: HashMap::new(), services: HashMap::new(), ends, seen: Seen::default() }
    }

    /// With what was found out of who answers where.
    pub(crate) fn among(self, peers: Arc<Peers>) -> Processes {
        Processes { ends: Ends::new(peers, self.max), ..self }
    }

    /// A connection is seen for the first time.
    pub(crate) fn opened(&mut self, meta: &Meta) {
        let who = self.who(meta.process, &meta.command, meta.time_ns);
        self.ends.opened(meta, who.namespace, &who.name);
    }

    /// A span is made over this connection. Who is at the other end, if that is known.
    pub(crate) fn spanned(&mut self, meta: &Meta) -> Option<Peer> {
        self.seen.span(meta);
        let namespace = match self.known.get(&meta.process) {
            Some((who, read_ns)) if meta.time_ns.saturating_sub(*read_ns) < FRESH_NS => who.namespace,
            _ => self.who(meta.process, &meta.command, meta.time_ns).namespace,
        };
        self.ends.other(meta, namespace)
    }

    /// A connection of this process is given up.
    pub(crate) fn gave_up(&mut self, meta: &Meta) {
        self.seen.gave_up(meta);
    }

    /// The host itself, for what belongs to no process.
    pub(crate) fn host(&self) -> &Arc<Resource> {
        &self.host
    }

    /// The process of this number. `command` stands in for what /proc no longer has.
    pub(crate) fn who(&mut self, process: u32, command: &[u8; COMMAND_BYTES], now_ns: u64) -> Who {
        if process == 0 {
            let (process, service, name) =
                (Arc::clone(&self.host), Arc::clone(&self.host), self.host.service_name().into());
            return Who { process, service, name, namespace: 0 };
        }
        if let Some((who, read_ns)) = self.known.get(&process)
            && now_ns.saturating_sub(*read_ns) < FRESH_NS
        {
            return who.clone();
        }
        let who = self.read(process, &text(command));
        if self.known.len() >= self.max {
            self.known.clear();
        }
        self.known.insert(process, (who.clone(), now_ns));
        who
    }

    /// The process of this number, if it was met. Nothing is read.
    pub(crate) fn known(&self, process: u32) -> Option<&Who> {
        self.known.get(&process).map(|(who, _)| who)
    }

    /// Whether the process can wait for many files at once, as event loops do, or it cannot be told. `poll` and `select` do not show.
    pub(crate) fn has_loop(&self, process: u32) -> bool {
        let Ok(files) = std::fs::read_dir(self.proc.join(process.to_string()).join("fd")) else { return true };
        let waits =
            |file: std::io::Result<std::fs::DirEntry>| match file.and_then(|file| std::fs::read_link(file.path())) {
                Ok(link) => LOOPS.iter().any(|name| link.as_os_str() == *name),
                // Closed meanwhile.
                Err(_) => false,
            };
        let mut files = files.take(FILES_MAX + 1).enumerate();
        files.any(|(at, file)| at == FILES_MAX || waits(file))
    }

    /// The process runs another program now.
    pub(crate) fn changed(&mut self, process: u32) {
        self.known.remove(&process);
        self.seen.forget(process);
    }

    /// What was seen of the requests of each.
    pub(crate) fn seen(&self) -> Vec<SeenProcess> {
        self.seen.read()
    }

    fn read(&mut self, process: u32, command: &str) -> Who {
        let folder = self.proc.join(process.to_string());
        let file = |name: &str| {
            let mut bytes = Vec::new();
            let opened = std::fs::File::open(folder.join(name));
            // Gone or not permitted: then that part is not known.
            let _ = opened.map(|file| file.take(READ_BYTES_MAX).read_to_end(&mut bytes));
            bytes
        };
        let path = std::fs::read_link(folder.join("exe")).ok();
        let path = path.as_ref().map(|path| path.to_string_lossy());
        // The kernel marks a program whose file was replaced.
        let path = path.as_deref().map(|path| path.strip_suffix(" (deleted)").unwrap_or(path));
        let name = path.and_then(|path| path.rsplit('/').next()).filter(|name| !name.is_empty()).unwrap_or(command);
        let cgroup = file("cgroup");
        let service = service_name(Process {
            environ: &file("environ"),
            cgroup: &String::from_utf8_lossy(&cgroup),
            cmdline: &file("cmdline"),
            executable: name,
        });
        let shared = vec![string(semconv::SERVICE_NAME, &service), string(semconv::PROCESS_EXECUTABLE_NAME, name)];
        let mut own = shared.clone();
        own.push(int(semconv::PROCESS_PID, process.into()));
        if let Some(path) = path {
            own.push(string(semconv::PROCESS_EXECUTABLE_PATH, path));
        }
        if self.services.len() >= self.max {
            self.services.clear();
        }
        let host = &self.host;
        let with_host = |attributes: Vec<_>| Arc::new(Resource::new([host.attributes().to_vec(), attributes].concat()));
        let called = Arc::from(service.as_str());
        let of_service = self.services.entry((service, name.to_owned())).or_insert_with(|| with_host(shared));
        let namespace = std::fs::read_link(folder.join("ns/net")).ok();
        let namespace = namespace.and_then(|path| number(path.to_str()?)).unwrap_or(0);
        Who { service: Arc::clone(of_service), process: with_host(own), name: called, namespace }
    }
}

/// `net:[4026531840]` is 4026531840.
fn number(namespace: &str) -> Option<u64> {
    namespace.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
}

/// Up to the first zero.
pub(crate) fn text(bytes: &[u8]) -> String {
    let length = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn processes(folder: &tempfile::TempDir) -> Processes {
        let host =
            Arc::new(Resource::new(vec![string(semconv::HOST_NAME, "h1"), string(semconv::SERVICE_NAME, "agent")]));
        Processes { proc: folder.path().to_owned(), ..Processes::new(host, 2) }
    }

    fn command(name: &str) -> [u8; COMMAND_BYTES] {
        let mut command = [0; COMMAND_BYTES];
        command[..name.len()].copy_from_slice(name.as_bytes());
        command
    }

    #[test]
    fn a_process_is_named_by_what_it_says_and_keeps_the_host() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("7")).unwrap();
        std::fs::write(folder.path().join("7/environ"), b"A=1\0OTEL_SERVICE_NAME=shop\0").unwrap();
        std::os::unix::fs::symlink("/usr/bin/shopd", folder.path().join("7/exe")).unwrap();
        let who = processes(&folder).who(7, &command("worker"), 1);
        assert_eq!(who.process.service_name(), "shop");
        assert_eq!(who.process.get(semconv::HOST_NAME), Some("h1"));
        assert_eq!(who.process.get(semconv::PROCESS_EXECUTABLE_PATH), Some("/usr/bin/shopd"));
        assert_eq!(who.service.get(semconv::PROCESS_EXECUTABLE_NAME), Some("shopd"));
        assert!(who.process.attributes().iter().any(|a| a.key == semconv::PROCESS_PID));
        assert!(!who.service.attributes().iter().any(|a| a.key == semconv::PROCESS_PID));
    }

    #[test]
    fn a_process_that_is_gone_is_named_by_its_command_and_its_runs_share_a_resource() {
        let folder = tempfile::tempdir().unwrap();
        let mut processes = processes(&folder);
        let one = processes.who(8, &command("curl"), 1);
        let two = processes.who(9, &command("curl"), 1);
        assert_eq!(one.service.service_name(), "curl");
        assert!(Arc::ptr_eq(&one.service, &two.service));
        assert!(!Arc::ptr_eq(&one.process, &two.process));
    }

    #[test]
    fn a_number_is_read_again_when_it_may_be_another_process() {
        let folder = tempfile::tempdir().unwrap();
        let mut processes = processes(&folder);
        assert_eq!(processes.who(8, &command("old"), 1).service.service_name(), "old");
        assert_eq!(processes.who(8, &command("new"), 2).service.service_name(), "old");
        assert_eq!(processes.who(8, &command("new"), 1 + FRESH_NS).service.service_name(), "new");
        processes.changed(8);
        assert_eq!(processes.who(8, &command("newer"), 2 + FRESH_NS).service.service_name(), "newer");
    }

    #[test]
    fn no_more_processes_are_remembered_than_allowed() {
        let folder = tempfile::tempdir().unwrap();
        let mut processes = processes(&folder);
        for number in 1..=9 {
            processes.who(number, &command("x"), 1);
            assert!(processes.known.len() <= 2);
        }
    }

    #[test]
    fn an_event_loop_shows_by_what_it_waits_on_and_what_cannot_be_told_may_have_one() {
        let folder = tempfile::tempdir().unwrap();
        let link = |process: &str, file: usize, to: &str| {
            let files = folder.path().join(process).join("fd");
            std::fs::create_dir_all(&files).unwrap();
            std::os::unix::fs::symlink(to, files.join(file.to_string())).unwrap();
        };
        link("7", 0, "/dev/null");
        link("8", 0, "/dev/null");
        link("8", 1, "anon_inode:[eventpoll]");
        (0..=FILES_MAX).for_each(|file| link("9", file, "/dev/null"));
        let processes = processes(&folder);
        assert_eq!([7, 8, 9, 10].map(|process| processes.has_loop(process)), [false, true, true, true]);
    }

    #[test]
    fn what_belongs_to_no_process_belongs_to_the_host() {
        let folder = tempfile::tempdir().unwrap();
        let mut processes = processes(&folder);
        let who = processes.who(0, &command(""), 1);
        assert!(Arc::ptr_eq(&who.process, processes.host()));
    }
}
