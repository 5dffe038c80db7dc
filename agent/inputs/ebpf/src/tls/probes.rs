//! The kernel's part of seeing into TLS: programs at the entries and returns of a file's functions.
//!
//! Invariant: a file has all its probes or none.

use crate::refusal::Refusal;
use aya::Ebpf;
use aya::maps::{HashMap, MapData, PerCpuHashMap};
use aya::programs::uprobe::{UProbeLinkId, UProbeScope};
use aya::programs::{Program, UProbe};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Functions of libraries in C, with the programs at their entry and at their return.
pub(super) const FUNCTIONS: [(&str, &str, Option<&str>); 8] = [
    ("SSL_write", "tls_write", RETURN),
    ("SSL_write_ex", "tls_write_ex", RETURN),
    ("SSL_read", "tls_read", RETURN),
    ("SSL_read_ex", "tls_read_ex", RETURN),
    ("SSL_free", "tls_free", None),
    ("gnutls_record_send", "tls_write", RETURN),
    ("gnutls_record_recv", "tls_read", RETURN),
    ("gnutls_deinit", "tls_free", None),
];
const RETURN: Option<&str> = Some("tls_return");
const PROGRAMS: [&str; 6] = ["tls_write", "tls_write_ex", "tls_read", "tls_read_ex", "tls_free", "tls_return"];

/// Functions of Go programs, with the programs at their entry and at each of their returns.
pub(super) const GO_FUNCTIONS: [(&str, &str, Option<&str>); 7] = [
    ("crypto/tls.(*Conn).Write", "go_tls_write", None),
    ("crypto/tls.(*Conn).Read", "go_tls_read", Some("go_tls_return")),
    ("crypto/tls.(*Conn).Close", "go_tls_close", None),
    ("crypto/tls.(*Conn).clientHandshake", "go_tls_handshake", None),
    ("crypto/tls.(*Conn).serverHandshake", "go_tls_handshake", None),
    ("net/http.(*persistConn).roundTrip", "go_http_give", None),
    ("net/http.(*Request).write", "go_http_take", None),
];
const GO_PROGRAMS: [&str; 7] = [
    "go_tls_write",
    "go_tls_read",
    "go_tls_return",
    "go_tls_handshake",
    "go_tls_close",
    "go_http_give",
    "go_http_take",
];

/// A probe: which program, and where in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) program: &'static str,
    pub(crate) offset: u64,
}

/// The kernel's part, shared with what reads its ring.
pub(crate) type Programs = Arc<Mutex<Ebpf>>;

/// Where probes are put.
pub(crate) trait Probes {
    /// The probes of a file.
    type Links;

    /// Put probes into the file at `path`.
    fn attach(&mut self, path: &Path, probes: &[Probe]) -> Result<Self::Links, Refusal>;

    /// Take probes out.
    fn detach(&mut self, links: Self::Links);

    /// Calls that a process made since it was first probed.
    fn calls(&self, process: u32) -> u64;

    /// Tell goroutines of a process apart by the number at this offset of theirs; no more with `None`.
    fn tell_goroutines(&mut self, process: u32, offset: Option<u32>);
}

/// The real one.
pub(crate) struct Kernel {
    programs: Programs,
    calls: PerCpuHashMap<MapData, u32, u64>,
    goroutines: HashMap<MapData, u32, u32>,
}

impl Kernel {
    /// Load what is attached later. Where the kernel refuses what is for Go, attaching it is refused.
    pub(crate) fn load(programs: Programs) -> Result<Kernel, Refusal> {
        const CALLS: &str = "OPERATIONS_BY_PROCESS";
        const GOROUTINES: &str = "GO_PROGRAMS";
        let mut held = programs.lock().unwrap_or_else(PoisonError::into_inner);
        for name in PROGRAMS {
            probe(&mut held, name)?.load()?;
        }
        for name in GO_PROGRAMS {
            let loaded = probe(&mut held, name).and_then(|program| Ok(program.load()?));
            if let Err(refusal) = loaded {
                tracing::warn!(program = name, why = refusal.why, "TLS of Go programs is not seen into");
            }
        }
        let mut map = |name| held.take_map(name).ok_or_else(|| Refusal::damaged(name));
        let (calls, goroutines) = (map(CALLS)?, map(GOROUTINES)?);
        drop(held);
        Ok(Kernel { programs, calls: PerCpuHashMap::try_from(calls)?, goroutines: HashMap::try_from(goroutines)? })
    }
}

impl Probes for Kernel {
    type Links = Vec<(&'static str, UProbeLinkId)>;

    fn attach(&mut self, path: &Path, probes: &[Probe]) -> Result<Self::Links, Refusal> {
        let mut links = Vec::new();
        let mut programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
        for Probe { program: name, offset } in probes {
            let attached = probe(&mut programs, name)
                .and_then(|program| Ok(program.attach(*offset, path, UProbeScope::AllProcesses)?));
            match attached {
                Ok(link) => links.push((*name, link)),
                Err(refusal) => {
                    drop(programs);
                    self.detach(links);
                    return Err(refusal);
                }
            }
        }
        Ok(links)
    }

    fn detach(&mut self, links: Self::Links) {
        let mut programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, link) in links {
            // It fails for a link that is not there, which is what is wanted.
            let _ = probe(&mut programs, name).map(|program| program.detach(link));
        }
    }

    fn calls(&self, process: u32) -> u64 {
        self.calls.get(&process, 0).map_or(0, |processors| processors.iter().sum())
    }

    fn tell_goroutines(&mut self, process: u32, offset: Option<u32>) {
        // With the map full, or nothing to take out, they are not told apart.
        let _ = match offset {
            Some(offset) => self.goroutines.insert(process, offset, 0),
            None => self.goroutines.remove(&process),
        };
    }
}

fn probe<'a>(programs: &'a mut Ebpf, name: &'static str) -> Result<&'a mut UProbe, Refusal> {
    match programs.program_mut(name) {
        Some(Program::UProbe(program)) => Ok(program),
        _ => Err(Refusal::damaged(name)),
    }
}
