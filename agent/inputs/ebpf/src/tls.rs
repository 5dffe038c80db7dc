//! Sees into TLS: finds the libraries that processes encrypt with, and probes the calls that take and give plain text.
//!
//! In: `/proc`, looked at every two seconds, each process at growing distances as libraries may be loaded late. Out: probes in
//! files, which then hold for whoever runs them; what they see comes through the ring of `ebpf.requests`. Libraries in the
//! host's usual places are probed before anybody runs them, so that a program of a moment is seen, too. Go programs have their TLS in
//! themselves; of them the kernel's part is told besides how their goroutines are told apart. Invariant: at most [`FILES_MAX`] files are
//! probed, each as long as a process runs it.

pub(crate) mod elf;
mod go;
mod inside;
mod maps;
mod probes;
mod told;

use hashbrown::HashMap;
use inside::Inside;
use maps::{FileId, Mapped};
use ollystack_record::Availability;
use probes::Probes;
pub(crate) use probes::{Kernel, Programs};
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;
pub use told::TlsFile;

/// Between two looks.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Files that are probed at a time: each has nine probes of two descriptors, and a Go program some twenty.
const FILES_MAX: usize = 32;
/// Files that are remembered to have nothing to probe.
const KNOWN_MAX: usize = 4_096;
/// Processes that are remembered, and whose maps are read in one look.
const PROCESSES_MAX: usize = 16_384;
const READ_MAX: usize = 512;
/// Looks between two readings of a process's maps: 1 at first, then twice as many each time.
const WAIT_MAX: u32 = 32;
/// Looks until a file that was too hot is tried again: ten minutes.
const REST: u32 = 300;

/// Where hosts have their libraries.
const STANDING: [&str; 7] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/lib/x86_64-linux-gnu",
    "/lib64",
    "/usr/local/lib",
];

/// Which files are probed, and for whom.
pub(crate) struct Tls<P: Probes = Kernel> {
    probes: P,
    calls_per_second_max: u64,
    proc: PathBuf,
    looks: u32,
    processes: HashMap<u32, Process>,
    files: HashMap<FileId, Known<P::Links>>,
    standing: Vec<FileId>,
    /// Why a file that has something to probe is not probed.
    refused: Option<String>,
}

#[derive(Default)]
struct Process {
    files: Vec<FileId>,
    /// What the kernel's part was told of it.
    goroutines: Option<u32>,
    /// At which look its maps are read again, and how many later the time after.
    next: u32,
    wait: u32,
    /// Its calls until the last look.
    calls: u64,
    /// Looks for which it was too hot.
    hot: u32,
}

/// A file that was looked into.
struct Known<L> {
    name: PathBuf,
    /// Whose TLS is in it, if any is.
    library: Option<&'static str>,
    state: State<L>,
    /// Where goroutines of this program have their numbers.
    goroutines: Option<u32>,
}

/// What became of a file.
enum State<L> {
    /// It has nothing to probe.
    Nothing,
    /// It has something that cannot be probed; why.
    Refused(String),
    Probed(L),
    /// Its calls were too many; until which look.
    Resting(u32),
}

/// What a look changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) probed: Vec<PathBuf>,
    pub(crate) left: Vec<PathBuf>,
    pub(crate) too_hot: Vec<PathBuf>,
}

impl<P: Probes> Tls<P> {
    pub(crate) fn new(probes: P, calls_per_second_max: u64) -> Tls<P> {
        Tls {
            probes,
            calls_per_second_max,
            proc: PathBuf::from("/proc"),
            looks: 0,
            processes: HashMap::new(),
            files: HashMap::new(),
            standing: Vec::new(),
            refused: None,
        }
    }

    /// Look at the processes that there are, and probe or leave what they run. Blocks for milliseconds, at first for some tens of them.
    pub(crate) fn look(&mut self) -> Change {
        let mut change = Change::default();
        if self.looks == 0 {
            self.probe_standing(&mut change);
        }
        self.looks += 1;
        let running = self.running();
        for (ended, _) in self.processes.extract_if(|number, _| running.binary_search(number).is_err()) {
            self.probes.tell_goroutines(ended, None);
        }
        let mut left_to_read = READ_MAX;
        for number in running {
            if self.processes.len() >= PROCESSES_MAX && !self.processes.contains_key(&number) {
                continue;
            }
            let process = self.processes.entry(number).or_default();
            if process.next > self.looks || left_to_read == 0 {
                continue;
            }
            left_to_read -= 1;
            process.wait = (process.wait * 2).clamp(1, WAIT_MAX);
            process.next = self.looks + process.wait;
            let Some(mapped) = maps::of_process(&self.proc.join(number.to_string())) else {
                continue;
            };
            process.files = mapped.iter().map(|file| file.id.clone()).collect();
            let mut goroutines = None;
            for file in mapped {
                let id = file.id.clone();
                self.consider(file, &mut change);
                goroutines = goroutines.or(self.files.get(&id).and_then(|known| known.goroutines));
            }
            self.tell_goroutines(number, goroutines);
        }
        self.rest_hot(&mut change);
        self.leave_unused(&mut change);
        change
    }

    /// How many files are probed.
    pub(crate) fn probed(&self) -> usize {
        self.files.values().filter(|known| matches!(known.state, State::Probed(_))).count()
    }

    /// The files that have TLS in them, as far as they were looked into.
    pub(crate) fn told(&self) -> Vec<TlsFile> {
        let told = self.files.values().filter_map(|known| {
            let why_not = match &known.state {
                State::Nothing | State::Probed(_) => None,
                State::Refused(why) => Some(why.clone()),
                State::Resting(_) => Some("it is called too often: left alone for ten minutes".to_owned()),
            };
            Some(TlsFile { file: known.name.clone(), library: known.library?, why_not })
        });
        told.take(told::TOLD_MAX).collect()
    }

    /// A row for `doctor`.
    pub(crate) fn availability(&self) -> Availability {
        const NAME: &str = "ebpf.tls";
        let probed = self.files.values().filter(|known| matches!(known.state, State::Probed(_)));
        let names = probed.filter_map(|known| Some(known.name.file_name()?.to_string_lossy().into_owned()));
        let mut names: Vec<String> = names.collect();
        names.sort_unstable();
        names.dedup();
        match &self.refused {
            Some(why) => Availability::partial(
                NAME,
                format!(
                    "probed: {}; refused: {why}",
                    if names.is_empty() { "nothing".into() } else { names.join(", ") }
                ),
                "run as root, or grant CAP_SYS_ADMIN, in the host's PID namespace",
            ),
            None if names.is_empty() => Availability::on(
                NAME,
                "no library of TLS that can be probed is there yet (OpenSSL, BoringSSL, GnuTLS, Go)",
            ),
            None => Availability::on(NAME, format!("probed: {}", names.join(", "))),
        }
    }

    fn probe_standing(&mut self, change: &mut Change) {
        // The host's root, also from a container; where it is closed, one's own.
        let hosts = self.proc.join("1/root");
        let root = if hosts.join("usr").is_dir() { hosts } else { PathBuf::from("/") };
        for folder in STANDING {
            let Ok(entries) = std::fs::read_dir(root.join(folder.trim_start_matches('/'))) else { continue };
            // Of the names of a library one is the file.
            let files = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
            for path in files.map(|entry| entry.path()).filter(|path| maps::may_have_tls(path)) {
                let Some(id) = FileId::at(&path) else { continue };
                if !self.standing.contains(&id) {
                    self.standing.push(id.clone());
                    self.consider(Mapped { id, name: path.clone(), path }, change);
                }
            }
        }
    }

    fn running(&self) -> Vec<u32> {
        let Ok(entries) = std::fs::read_dir(&self.proc) else { return Vec::new() };
        let mut numbers: Vec<u32> =
            entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        numbers.sort_unstable();
        numbers
    }

    /// Probe a file that is new here.
    fn consider(&mut self, file: Mapped, change: &mut Change) {
        match self.files.get(&file.id).map(|known| &known.state) {
            Some(State::Resting(until)) if *until <= self.looks => {}
            Some(_) => return,
            None => {}
        }
        let inside = File::open(&file.path).and_then(|opened| Inside::of(&opened)).unwrap_or_else(|error| {
            tracing::debug!(file = %file.name.display(), %error, "not looked at for TLS");
            Inside::default()
        });
        if self.files.len() >= KNOWN_MAX {
            self.files.retain(|_, known| !matches!(known.state, State::Nothing | State::Refused(_)));
        }
        if let Some(state) = self.probe(&file, &inside, change) {
            let Inside { library, goroutines, .. } = inside;
            self.files.insert(file.id, Known { name: file.name, library, state, goroutines });
        }
    }

    /// What becomes of a file with this inside; `None` if it is to be looked at again.
    fn probe(&mut self, file: &Mapped, inside: &Inside, change: &mut Change) -> Option<State<P::Links>> {
        if let (Some(library), Some(why)) = (inside.library, inside.why_not) {
            tracing::info!(file = %file.name.display(), library, why, "TLS of this file cannot be seen into");
            return Some(State::Refused(why.to_owned()));
        }
        if inside.probes.is_empty() {
            return Some(State::Nothing);
        }
        if self.probed() >= FILES_MAX {
            self.refused = Some(format!("{}: {FILES_MAX} files are probed already", file.name.display()));
            return None;
        }
        match self.probes.attach(&file.path, &inside.probes) {
            Ok(links) => {
                change.probed.push(file.name.clone());
                Some(State::Probed(links))
            }
            Err(refusal) => {
                self.refused = Some(format!("{}: {}", file.name.display(), refusal.why));
                Some(State::Refused(refusal.why))
            }
        }
    }

    /// Tell the kernel's part how goroutines of a process are told apart, if that is new.
    fn tell_goroutines(&mut self, number: u32, offset: Option<u32>) {
        if let Some(process) = self.processes.get_mut(&number)
            && process.goroutines != offset
        {
            process.goroutines = offset;
            self.probes.tell_goroutines(number, offset);
        }
    }

    /// Leave what a process runs that calls too often: every call costs it a trap or two.
    fn rest_hot(&mut self, change: &mut Change) {
        let most = self.calls_per_second_max * LOOK_EVERY.as_secs();
        let mut hot = Vec::new();
        for (number, process) in &mut self.processes {
            let calls = self.probes.calls(*number);
            let is_hot = process.calls > 0 && calls.saturating_sub(process.calls) > most;
            process.calls = calls;
            process.hot = if is_hot { process.hot + 1 } else { 0 };
            // Once may be a short rush.
            if process.hot > 1 {
                process.hot = 0;
                hot.extend(process.files.iter().cloned());
            }
        }
        for id in hot {
            if let Some(known) = self.files.get_mut(&id)
                && matches!(known.state, State::Probed(_))
            {
                let resting = State::Resting(self.looks + REST);
                if let State::Probed(links) = std::mem::replace(&mut known.state, resting) {
                    self.probes.detach(links);
                    change.too_hot.push(known.name.clone());
                }
            }
        }
    }

    /// Leave what nobody runs any more.
    fn leave_unused(&mut self, change: &mut Change) {
        let is_used = |id: &FileId| {
            self.standing.contains(id) || self.processes.values().any(|process| process.files.contains(id))
        };
        let probed = self.files.iter().filter(|(_, known)| matches!(known.state, State::Probed(_)));
        let unused: Vec<FileId> = probed.map(|(id, _)| id.clone()).filter(|id| !is_used(id)).collect();
        for id in unused {
            if let Some(Known { name, state: State::Probed(links), .. }) = self.files.remove(&id) {
                self.probes.detach(links);
                change.left.push(name);
            }
        }
    }
}

#[cfg(test)]
mod tests;
