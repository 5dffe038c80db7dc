//! Why a feature cannot be loaded, in words for a person, and what would help.

use aya::maps::MapError;
use aya::programs::ProgramError;
use aya::sys::SyscallError;
use aya::{BtfError, EbpfError};
use rustix::io::Errno;
use std::io;

/// Characters of an error that are shown: some carry the verifier's whole log.
const TEXT_MAX: usize = 200;

/// A feature that is off.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) why: String,
    pub(crate) remedy: String,
}

impl Refusal {
    pub(crate) fn switched_off(key: &str) -> Refusal {
        Refusal { why: "switched off".into(), remedy: format!("set {key} = true") }
    }

    /// There is no type information, or it lacks something.
    pub(crate) fn no_types(why: String) -> Refusal {
        Refusal { why, remedy: "run a kernel of 5.8 or newer that is built with CONFIG_DEBUG_INFO_BTF=y".into() }
    }

    /// The agent was built for an architecture without kernel programs.
    pub(crate) fn no_object() -> Refusal {
        Refusal { why: format!("there are no kernel programs for {}", std::env::consts::ARCH), remedy: String::new() }
    }

    /// An embedded object lacks something that the loader relies on.
    pub(crate) fn damaged(what: &str) -> Refusal {
        Refusal {
            why: format!("the embedded object has no {what}"),
            remedy: "rebuild it with `cargo xtask ebpf`".into(),
        }
    }

    /// The CPUs that there are cannot be told.
    pub(crate) fn no_cpus(error: &io::Error) -> Refusal {
        Refusal { why: format!("the list of CPUs cannot be read: {error}"), remedy: "mount sysfs at /sys".into() }
    }

    /// Tracefs cannot be seen.
    pub(crate) fn no_tracefs(error: Errno) -> Refusal {
        Refusal {
            why: format!("tracefs is not mounted, and a private mount was refused: {error}"),
            remedy: "mount -t tracefs tracefs /sys/kernel/tracing, or grant CAP_SYS_ADMIN".into(),
        }
    }

    /// Functions of the kernel cannot be watched at their entry and return.
    pub(crate) fn no_functions(why: &str) -> Refusal {
        Refusal { why: why.into(), remedy: "set ebpf.taps = \"auto\", which takes another way".into() }
    }

    /// Any refusal by kernel or loader. The verifier's log is for the debug log, not for a person.
    fn of(error: &(dyn std::error::Error + 'static)) -> Refusal {
        tracing::debug!(%error, "the kernel refused a program");
        let causes = std::iter::successors(Some(error), |error| error.source());
        let cause = causes.filter_map(|error| error.downcast_ref::<io::Error>()).last();
        let what = match error.downcast_ref::<ProgramError>() {
            Some(ProgramError::LoadError { .. }) => "the kernel refused to load a program".to_owned(),
            _ => error.to_string().chars().take(TEXT_MAX).collect(),
        };
        let why = cause.map_or_else(|| what.clone(), |cause| format!("{what}: {cause}"));
        let code = cause.and_then(io::Error::raw_os_error);
        let forbidden = [Errno::PERM, Errno::ACCESS].map(|errno| Some(errno.raw_os_error())).contains(&code);
        let remedy = if forbidden {
            "run as root, or grant CAP_BPF and CAP_PERFMON; before Linux 5.11 CAP_SYS_RESOURCE too"
        } else {
            "this kernel lacks what the feature needs; switch it off or report the line above with `uname -r`"
        };
        Refusal { why, remedy: remedy.into() }
    }
}

macro_rules! from {
    ($($error:ty),*) => { $(
        impl From<$error> for Refusal {
            fn from(error: $error) -> Refusal {
                Refusal::of(&error)
            }
        }
    )* };
}
from!(BtfError, EbpfError, MapError, ProgramError, SyscallError);
