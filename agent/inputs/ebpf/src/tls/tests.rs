//! Which files are probed and left, by a /proc of processes that are made up.

use super::probes::{GO_FUNCTIONS, Probe};
use super::*;
use crate::refusal::Refusal;
use std::os::unix::fs::symlink;
use std::path::Path;
use tempfile::TempDir;

/// Probes that are only remembered.
#[derive(Default)]
struct Remembered {
    attached: usize,
    calls: HashMap<u32, u64>,
    goroutines: HashMap<u32, u32>,
    refuses: bool,
}

impl Probes for Remembered {
    type Links = usize;

    fn attach(&mut self, _: &Path, probes: &[Probe]) -> Result<usize, Refusal> {
        if self.refuses {
            return Err(Refusal::damaged("anything"));
        }
        self.attached += probes.len();
        Ok(probes.len())
    }

    fn detach(&mut self, links: usize) {
        self.attached -= links;
    }

    fn calls(&self, process: u32) -> u64 {
        self.calls.get(&process).copied().unwrap_or(0)
    }

    fn tell_goroutines(&mut self, process: u32, offset: Option<u32>) {
        match offset {
            Some(offset) => self.goroutines.insert(process, offset),
            None => self.goroutines.remove(&process),
        };
    }
}

/// A file with one function of TLS, and who runs it.
struct Host {
    folder: TempDir,
    tls: Tls<Remembered>,
}

impl Host {
    fn new() -> Host {
        let folder = tempfile::tempdir().unwrap();
        // One's own root is not looked at: nothing stands in this one.
        std::fs::create_dir_all(folder.path().join("1").join("root").join("usr")).unwrap();
        std::fs::write(folder.path().join("libssl.so"), elf::with_function("SSL_free")).unwrap();
        let mut tls = Tls::new(Remembered::default(), 1_000);
        tls.proc = folder.path().to_owned();
        Host { folder, tls }
    }

    fn start(&self, number: u32, inode: u64) {
        let process = self.folder.path().join(number.to_string());
        std::fs::create_dir_all(process.join("map_files")).unwrap();
        symlink("/usr/bin/shop", process.join("exe")).unwrap();
        symlink(self.folder.path().join("libssl.so"), process.join("map_files/1-2")).unwrap();
        std::fs::write(process.join("maps"), format!("1-2 r-xp 0 fd:01 {inode} /opt/libssl.so\n")).unwrap();
    }

    fn end(&self, number: u32) {
        std::fs::remove_dir_all(self.folder.path().join(number.to_string())).unwrap();
    }

    /// Files probed, left and too hot at a look, and probes that there are.
    fn look(&mut self) -> (usize, usize, usize, usize) {
        let change = self.tls.look();
        (change.probed.len(), change.left.len(), change.too_hot.len(), self.tls.probes.attached)
    }
}

/// Of the only file: why it is not seen into.
fn why_not(host: &Host) -> Option<String> {
    let [told] = &host.tls.told()[..] else { return None };
    assert_eq!((told.file.as_path(), told.library), (Path::new("/opt/libssl.so"), "OpenSSL or BoringSSL"));
    told.why_not.clone()
}

#[test]
fn a_go_program_is_probed_only_if_its_tls_can_be_followed_and_its_goroutines_are_told_apart_while_it_runs() {
    let all = GO_FUNCTIONS.map(|(name, ..)| name);
    // Entries, and two returns of what reads.
    for (functions, probes) in [(&all[..], 9), (&all[..4], 6), (&all[..3], 0), (&all[1..], 0)] {
        let mut host = Host::new();
        std::fs::write(host.folder.path().join("libssl.so"), go::with_functions(functions)).unwrap();
        host.start(7, 9);
        assert_eq!(host.look(), (usize::from(probes > 0), 0, 0, probes));
        assert_eq!(host.tls.told().first().map(|told| told.library), (probes > 0).then_some("Go crypto/tls"));
        assert_eq!(host.tls.probes.goroutines.get(&7), Some(&152));
        host.end(7);
        host.look();
        assert_eq!((host.tls.probes.attached, host.tls.probes.goroutines.len()), (0, 0));
    }
}

#[test]
fn a_file_is_probed_once_for_all_that_run_it_and_left_when_the_last_has_ended() {
    let mut host = Host::new();
    host.start(7, 9);
    host.start(8, 9);
    assert_eq!(host.look(), (1, 0, 0, 1));
    host.end(7);
    assert_eq!(host.look(), (0, 0, 0, 1));
    host.end(8);
    assert_eq!(host.look(), (0, 1, 0, 0));
    host.start(9, 9);
    assert_eq!(host.look(), (1, 0, 0, 1), "it is run again");
}

#[test]
fn a_library_that_is_loaded_late_is_found() {
    let mut host = Host::new();
    host.start(7, 9);
    let maps = host.folder.path().join("7/maps");
    let later = std::fs::read(&maps).unwrap();
    std::fs::write(&maps, "").unwrap();
    assert_eq!(host.look(), (0, 0, 0, 0));
    std::fs::write(&maps, later).unwrap();
    assert_eq!(host.look(), (1, 0, 0, 1));
}

#[test]
fn what_is_called_too_often_is_left_alone_for_a_while() {
    let mut host = Host::new();
    host.start(7, 9);
    let mut look = |calls: u64| {
        host.tls.probes.calls.insert(7, calls);
        host.look()
    };
    assert_eq!(look(1_000_000), (1, 0, 0, 1), "since when is not known yet");
    assert_eq!(look(1_002_000), (0, 0, 0, 1), "as many as are allowed");
    assert_eq!(look(1_004_001), (0, 0, 0, 1), "once");
    assert_eq!(look(1_006_002), (0, 0, 1, 0));
    assert!(why_not(&host).unwrap().contains("called too often"));
    let mut look = |calls: u64| {
        host.tls.probes.calls.insert(7, calls);
        host.look()
    };
    let again = (0..REST + WAIT_MAX).map(|_| look(1_006_002)).filter(|(probed, ..)| *probed == 1).count();
    assert_eq!((again, host.tls.probes.attached), (1, 1));
}

#[test]
fn no_more_files_are_probed_than_allowed_and_a_refusal_is_told() {
    let mut host = Host::new();
    for number in 0..FILES_MAX as u32 + 3 {
        host.start(10 + number, u64::from(number));
    }
    assert_eq!(host.look(), (FILES_MAX, 0, 0, FILES_MAX));
    assert!(host.tls.availability().why.contains("are probed already"));
    let mut host = Host::new();
    host.tls.probes.refuses = true;
    host.start(7, 9);
    assert_eq!(host.look(), (0, 0, 0, 0));
    assert!(host.tls.availability().why.contains("nothing; refused: /opt/libssl.so"));
    assert!(why_not(&host).unwrap().contains("has no anything"));
}
