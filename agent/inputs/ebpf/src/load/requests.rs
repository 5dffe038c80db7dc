//! The ways in which requests are watched, and which is taken.
//!
//! Each is a rung: programs of one object, which all lead to the same core in the kernel. Invariant: a rung is attached as a whole, or
//! leaves nothing behind.

use super::{Loaded, Outcome, RAW, attach_raw, program};
use crate::config::Taps;
use crate::refusal::Refusal;
use crate::{btf, host};
use aya::programs::{FEntry, FExit, KProbe, TracePoint};
use aya::util::KernelVersion;
use aya::{Btf as Types, Ebpf, EbpfLoader, Endianness};
use ollystack_ebpf::objects;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

/// The calls whose tracepoints are watched on the rung of that name.
const CALLS: [&str; 8] = ["read", "write", "readv", "writev", "sendto", "recvfrom", "sendmsg", "recvmsg"];

/// The functions in which TCP and UDP send and receive, with the programs at their entry and return: on the rung of functions, and
/// at their entry on that of kprobes. A kernel may lack those of IPv6, the last two.
const FUNCTIONS: [(&str, &str, &str, &str); 6] = [
    ("tcp_sendmsg", "tcp_send", "tcp_sent", "probe_send"),
    ("tcp_recvmsg", "tcp_receive", "tcp_received", "probe_receive"),
    ("udp_sendmsg", "udp_send", "udp_sent", "probe_send"),
    ("udp_recvmsg", "udp_receive", "udp_received", "probe_receive"),
    ("udpv6_sendmsg", "udp6_send", "udp6_sent", "probe_send"),
    ("udpv6_recvmsg", "udp6_receive", "udp6_received", "probe_receive"),
];

/// A way to attach a feature.
type Rung = fn(&mut EbpfLoader<'_>, &Kernel) -> Outcome;

/// What some rungs need to know of the running kernel.
pub(super) struct Kernel {
    /// Whether it is known where a message has its bytes.
    pub(super) tells_bytes: bool,
    /// Its type information, open: by its path it is hidden from here on.
    pub(super) types: io::Result<File>,
}

/// The first rung that attaches; if none does, why the last was refused.
///
/// The tracepoints of sockets are first: one program a call, and they tell of every socket whoever moves its bytes; of what io_uring
/// moves they tell the number alone. `fentry` and `fexit` see that payload too, at the cost of two programs a call, and miss what TCP
/// carries for others (MPTCP, TLS in the kernel). Where there is neither, the tracepoints of calls miss io_uring, but lose nothing;
/// kprobes can, and raw tracepoints run at every call of the host.
pub(super) fn load(loader: &mut EbpfLoader<'_>, kernel: &Kernel, taps: Taps) -> Outcome {
    let rungs = [
        (Taps::Sockets, "sockets", sockets as Rung),
        (Taps::Functions, "functions", functions),
        (Taps::Calls, "calls", calls),
        (Taps::Probes, "probes", probes),
        (Taps::Raw, "raw", raw),
    ];
    let mut instead = Vec::new();
    let mut outcome = Err(Refusal::damaged("rung"));
    for (rung, name, load) in rungs {
        if taps == rung || (taps == Taps::Auto && outcome.is_err()) {
            outcome = load(loader, kernel);
            match &mut outcome {
                Ok(loaded) => loaded.instead = std::mem::take(&mut instead),
                Err(refusal) => instead.push(format!("not by {name}: {}", refusal.why)),
            }
        }
    }
    outcome
}

fn sockets(loader: &mut EbpfLoader<'_>, _: &Kernel) -> Outcome {
    let mut programs = loader.load(objects::FLOW)?;
    attach_raw(&mut programs, "socket_state", "inet_sock_set_state")?;
    attach_raw(&mut programs, "socket_received", "sock_recv_length")?;
    attach_raw(&mut programs, "socket_sent", "sock_send_length")?;
    Loaded::new(programs, "RECORDS", "socket tracepoints")
}

fn calls(loader: &mut EbpfLoader<'_>, _: &Kernel) -> Outcome {
    host::see_tracefs().map_err(Refusal::no_tracefs)?;
    let mut programs = loader.load(objects::FLOW)?;
    attach_raw(&mut programs, "socket_state", "inet_sock_set_state")?;
    for (name, event) in [("call_exit", "sys_exit"), ("call_enter", "sys_enter")] {
        let program: &mut TracePoint = program(&mut programs, name)?.try_into()?;
        program.load()?;
        for call in CALLS {
            program.attach("syscalls", &format!("{event}_{call}"))?;
        }
    }
    Loaded::new(programs, "RECORDS", "call tracepoints")
}

fn functions(loader: &mut EbpfLoader<'_>, kernel: &Kernel) -> Outcome {
    // The one thing that trying does not show: up to Linux 6.8 a function's return that is waited for while its program is taken
    // out can stand still for good.
    if KernelVersion::current().is_ok_and(|version| version < KernelVersion::new(6, 9, 0)) {
        return Err(Refusal::no_functions("fexit is not safe before Linux 6.9"));
    }
    let types = kernel.types()?;
    let mut programs = loader.load(objects::FLOW)?;
    attach_raw(&mut programs, "socket_state", "inet_sock_set_state")?;
    for (function, entry, leave, _) in FUNCTIONS {
        or_without_ipv6(function, attach_function(&mut programs, &types, function, entry, leave))?;
    }
    Loaded::new(programs, "RECORDS", "fentry and fexit")
}

fn probes(loader: &mut EbpfLoader<'_>, kernel: &Kernel) -> Outcome {
    kernel.tells_bytes()?;
    let mut programs = loader.load(objects::FLOW)?;
    attach_raw(&mut programs, "socket_state", "inet_sock_set_state")?;
    for name in ["probe_return", "probe_send", "probe_receive"] {
        probe(&mut programs, name)?.load()?;
    }
    for (function, _, _, entry) in FUNCTIONS {
        // Returns first: a call is told of only if both are seen.
        let attached = ["probe_return", entry].into_iter().try_for_each(|name| {
            probe(&mut programs, name)?.attach(function, 0)?;
            Ok(())
        });
        or_without_ipv6(function, attached)?;
    }
    Loaded::new(programs, "RECORDS", "kprobes")
}

/// What became of a function's programs; a kernel without IPv6 is no refusal.
fn or_without_ipv6(function: &str, attached: Result<(), Refusal>) -> Result<(), Refusal> {
    match attached {
        Err(refusal) if function.starts_with("udpv6_") => {
            tracing::debug!(function, why = refusal.why, "ebpf.requests: datagrams of IPv6 are not seen");
            Ok(())
        }
        attached => attached,
    }
}

fn attach_function(
    programs: &mut Ebpf,
    types: &Types,
    function: &str,
    entry: &'static str,
    leave: &'static str,
) -> Result<(), Refusal> {
    // The return first, as above.
    let at_return: &mut FExit = program(programs, leave)?.try_into()?;
    at_return.load(function, types)?;
    at_return.attach()?;
    let at_entry: &mut FEntry = program(programs, entry)?.try_into()?;
    at_entry.load(function, types)?;
    at_entry.attach()?;
    Ok(())
}

impl Kernel {
    fn tells_bytes(&self) -> Result<(), Refusal> {
        let why = "this kernel's types do not tell where a message has its bytes";
        if self.tells_bytes { Ok(()) } else { Err(Refusal::no_functions(why)) }
    }

    /// All of the kernel's types, as the loader reads them: 20 MB for a while, which only this rung needs.
    fn types(&self) -> Result<Types, Refusal> {
        self.tells_bytes()?;
        let types = self.types.as_ref().map_err(|error| Refusal::no_types(format!("{}: {error}", btf::KERNEL)))?;
        let bytes = host::Pages::read(&format!("/proc/self/fd/{}", types.as_raw_fd()));
        let bytes = bytes.map_err(|error| Refusal::no_types(format!("{}: {error}", btf::KERNEL)))?;
        Ok(Types::parse(&bytes, Endianness::default())?)
    }
}

fn raw(loader: &mut EbpfLoader<'_>, _: &Kernel) -> Outcome {
    let mut programs = loader.load(objects::FLOW)?;
    attach_raw(&mut programs, "socket_state", "inet_sock_set_state")?;
    attach_raw(&mut programs, "any_exit", "sys_exit")?;
    attach_raw(&mut programs, "any_enter", "sys_enter")?;
    Loaded::new(programs, "RECORDS", RAW)
}

fn probe<'a>(programs: &'a mut Ebpf, name: &'static str) -> Result<&'a mut KProbe, Refusal> {
    Ok(program(programs, name)?.try_into()?)
}
