//! From the embedded objects to attached programs, each feature by itself.
//!
//! A feature is a set of programs that is useful only as a whole. Where it can be attached in more than one way (a rung),
//! each is tried, best first; a way is never chosen from a kernel version. Loading happens on a thread of its own, because
//! that thread may enter a private mount namespace to see tracefs: the host's mounts are never changed.
//! Invariant: a refused feature leaves nothing behind and takes nothing else down; dropping a [`Loaded`] detaches it.

use crate::btf::Btf;
use crate::config::{Config, Taps};
use crate::refusal::Refusal;
use crate::{Error, host, layouts};
use aya::maps::{MapData, MapType, PerCpuArray, RingBuf};
use aya::programs::{RawTracePoint, TracePoint};
use aya::sys::is_map_supported;
use aya::{Ebpf, EbpfLoader};
use ollystack_ebpf::{bytes_of, layout, objects};
use ollystack_record::Availability;
use std::os::fd::{AsFd as _, OwnedFd};
use tokio::io::{Interest, unix::AsyncFd};

/// The calls whose tracepoints are watched on the rung of that name.
const CALLS: [&str; 8] = ["read", "write", "readv", "writev", "sendto", "recvfrom", "sendmsg", "recvmsg"];

/// The rung of raw tracepoints: they need no tracefs.
const RAW: &str = "raw tracepoints";

/// What became of a feature.
type Outcome = Result<Loaded, Refusal>;
/// A way to attach a feature.
type Rung = fn(&mut EbpfLoader<'_>) -> Outcome;

/// An attached feature.
pub(crate) struct Loaded {
    /// Its records.
    pub(crate) records: RingBuf<MapData>,
    /// How it is attached.
    pub(crate) rung: &'static str,
    /// Records that did not fit, by reason and CPU, since loading.
    losses: PerCpuArray<MapData, u64>,
    /// What of them was reported already, by reason.
    reported: Vec<u64>,
    // Programs, links and the other maps: dropping them detaches.
    _programs: Ebpf,
}

/// All features: those that are attached, and what is to be said of each.
#[derive(Default)]
pub(crate) struct Features {
    pub(crate) process: Option<Loaded>,
    pub(crate) tcp: Option<Loaded>,
    pub(crate) http: Option<Loaded>,
    pub(crate) availability: Vec<Availability>,
    /// Bytes that the kernel holds for all maps of this process.
    pub(crate) map_bytes: u64,
}

impl Loaded {
    fn new(mut programs: Ebpf, ring: &'static str, rung: &'static str) -> Result<Loaded, Refusal> {
        let records = programs.take_map(ring).ok_or_else(|| Refusal::damaged(ring))?;
        let losses = programs.take_map("LOSSES").ok_or_else(|| Refusal::damaged("LOSSES"))?;
        let losses = PerCpuArray::try_from(losses)?;
        let reported = vec![0; losses.len() as usize];
        Ok(Loaded { records: RingBuf::try_from(records)?, rung, losses, reported, _programs: programs })
    }

    /// Records lost since this was last asked, by reason.
    pub(crate) fn losses(&mut self) -> Vec<u64> {
        let mut losses = Vec::with_capacity(self.reported.len());
        for (reason, reported) in (0..).zip(&mut self.reported) {
            let total = self.losses.get(&reason, 0).map_or(*reported, |cpus| cpus.iter().sum());
            losses.push(total.saturating_sub(*reported));
            *reported = total;
        }
        losses
    }
}

impl Features {
    /// A handle to each ring, to wait on. A ring that cannot be waited on is still drained in its time.
    #[allow(unsafe_code)] // a descriptor that changes its number while it is waited on would be unsound
    pub(crate) fn rings(&self) -> Vec<AsyncFd<OwnedFd>> {
        let loaded = [&self.process, &self.tcp, &self.http].into_iter().flatten();
        let handles = loaded.filter_map(|loaded| loaded.records.as_fd().try_clone_to_owned().ok());
        // SAFETY: an `OwnedFd` keeps its number, and stays open, as long as it lives.
        handles.filter_map(|fd| unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.ok()).collect()
    }
}

/// Load and attach whatever is wanted and allowed. Blocks for some tens of milliseconds.
pub(crate) fn load(config: &Config) -> Result<Features, Error> {
    let config = config.clone();
    let thread = std::thread::Builder::new().name("ebpf-load".into()).spawn(move || load_here(&config));
    // A panic while loading costs the features, not the agent.
    Ok(thread.map_err(Error::Thread)?.join().unwrap_or_default())
}

fn load_here(config: &Config) -> Features {
    host::lift_memory_limit();
    let layouts = Layouts::find(config);
    let (process, tcp, http) = match (layouts.process, layouts.tcp, layouts.http) {
        // Nothing to load: then not even the loader's own needs are met.
        (Err(process), Err(tcp), Err(http)) => (Err(process), Err(tcp), Err(http)),
        (process, tcp, http) => load_each(process, tcp, http, config),
    };
    let availability = [("ebpf.process", &process), ("ebpf.tcp", &tcp), ("ebpf.http", &http)].map(row).to_vec();
    Features { process: process.ok(), tcp: tcp.ok(), http: http.ok(), availability, map_bytes: host::map_bytes() }
}

fn load_each(
    process: Result<layout::Process, Refusal>,
    tcp: Result<layout::Tcp, Refusal>,
    http: Result<layout::Http, Refusal>,
    config: &Config,
) -> (Outcome, Outcome, Outcome) {
    if let Err(error) = host::hide_kernel_types() {
        tracing::debug!(%error, "loading takes more memory: no private mount");
    }
    let layouts = (
        process.as_ref().copied().unwrap_or_default(),
        tcp.as_ref().copied().unwrap_or_default(),
        http.as_ref().copied().unwrap_or_default(),
    );
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    loader.override_global("PROCESS_LAYOUT", bytes_of(&layouts.0), false);
    loader.override_global("TCP_LAYOUT", bytes_of(&layouts.1), false);
    loader.override_global("HTTP_LAYOUT", bytes_of(&layouts.2), false);
    loader.map_max_entries("HEADS", config.http_ring_bytes);
    (
        process.and_then(|_| load_process(&mut loader)),
        tcp.and_then(|_| load_tcp(&mut loader)),
        http.and_then(|_| load_http(&mut loader, config.http_taps)),
    )
}

/// One row for `doctor`.
fn row((name, loaded): (&'static str, &Outcome)) -> Availability {
    match loaded {
        Err(refusal) => Availability::off(name, &refusal.why, &refusal.remedy),
        Ok(loaded) if host::sees_all_processes() => Availability::on(name, format!("attached by {}", loaded.rung)),
        Ok(loaded) => Availability::partial(
            name,
            format!("attached by {}, but processes are numbered apart from the host's here", loaded.rung),
            "run the agent in the host's PID namespace (hostPID: true, or --pid=host)",
        ),
    }
}

/// Each feature's offsets, or why it cannot have them.
struct Layouts {
    process: Result<layout::Process, Refusal>,
    tcp: Result<layout::Tcp, Refusal>,
    http: Result<layout::Http, Refusal>,
}

impl Layouts {
    fn find(config: &Config) -> Layouts {
        let btf = match config.enabled {
            false => Err(Refusal::switched_off("ebpf.enabled")),
            true => permitted().and_then(|()| Btf::kernel().map_err(Refusal::no_types)),
        };
        let ready = |on: bool, key: &str| match &btf {
            Err(refusal) => Err(refusal.clone()),
            Ok(_) if !on => Err(Refusal::switched_off(key)),
            Ok(_) if objects::HTTP.is_empty() => Err(Refusal::no_object()),
            Ok(btf) => Ok(btf),
        };
        Layouts {
            process: ready(config.process, "ebpf.process")
                .and_then(|btf| layouts::process(btf).map_err(Refusal::no_types)),
            tcp: ready(config.tcp, "ebpf.tcp").and_then(|btf| layouts::tcp(btf).map_err(Refusal::no_types)),
            http: ready(config.http, "ebpf.http").and_then(|btf| layouts::http(btf, config).map_err(Refusal::no_types)),
        }
    }
}

/// Whether BPF is open to this process at all: asked first, as everything else costs megabytes for a while.
fn permitted() -> Result<(), Refusal> {
    if is_map_supported(MapType::RingBuf)? {
        Ok(())
    } else {
        Err(Refusal::no_types("there are no ring buffers here".into()))
    }
}

fn load_process(loader: &mut EbpfLoader<'_>) -> Outcome {
    let mut programs = loader.load(objects::PROCESS)?;
    attach_raw(&mut programs, "process_exec", "sched_process_exec")?;
    attach_raw(&mut programs, "process_exit", "sched_process_exit")?;
    Loaded::new(programs, "EVENTS", RAW)
}

fn load_tcp(loader: &mut EbpfLoader<'_>) -> Outcome {
    let mut programs = loader.load(objects::TCP)?;
    attach_raw(&mut programs, "tcp_state", "inet_sock_set_state")?;
    attach_raw(&mut programs, "tcp_retransmit", "tcp_retransmit_skb")?;
    Loaded::new(programs, "EVENTS", RAW)
}

/// The first rung that attaches; if none does, why the last was refused.
fn load_http(loader: &mut EbpfLoader<'_>, taps: Taps) -> Outcome {
    let rungs =
        [(Taps::Sockets, load_http_sockets as Rung), (Taps::Calls, load_http_calls), (Taps::Raw, load_http_raw)];
    let mut outcome = Err(Refusal::damaged("rung"));
    for (rung, load) in rungs {
        if taps == rung || (taps == Taps::Auto && outcome.is_err()) {
            outcome = load(loader);
        }
        if let Err(refusal) = &outcome {
            tracing::debug!(?rung, why = refusal.why, "ebpf.http: not by this rung");
        }
    }
    outcome
}

fn load_http_sockets(loader: &mut EbpfLoader<'_>) -> Outcome {
    let mut programs = loader.load(objects::HTTP)?;
    attach_raw(&mut programs, "socket_state", "inet_sock_set_state")?;
    attach_raw(&mut programs, "socket_received", "sock_recv_length")?;
    attach_raw(&mut programs, "socket_sent", "sock_send_length")?;
    Loaded::new(programs, "HEADS", "socket tracepoints")
}

fn load_http_calls(loader: &mut EbpfLoader<'_>) -> Result<Loaded, Refusal> {
    host::see_tracefs().map_err(Refusal::no_tracefs)?;
    let mut programs = loader.load(objects::HTTP)?;
    attach_raw(&mut programs, "socket_state", "inet_sock_set_state")?;
    for (name, event) in [("call_exit", "sys_exit"), ("call_enter", "sys_enter")] {
        let program: &mut TracePoint = program(&mut programs, name)?.try_into()?;
        program.load()?;
        for call in CALLS {
            program.attach("syscalls", &format!("{event}_{call}"))?;
        }
    }
    Loaded::new(programs, "HEADS", "call tracepoints")
}

fn load_http_raw(loader: &mut EbpfLoader<'_>) -> Outcome {
    let mut programs = loader.load(objects::HTTP)?;
    attach_raw(&mut programs, "socket_state", "inet_sock_set_state")?;
    attach_raw(&mut programs, "any_exit", "sys_exit")?;
    attach_raw(&mut programs, "any_enter", "sys_enter")?;
    Loaded::new(programs, "HEADS", RAW)
}

fn attach_raw(programs: &mut Ebpf, name: &'static str, tracepoint: &str) -> Result<(), Refusal> {
    let program: &mut RawTracePoint = program(programs, name)?.try_into()?;
    program.load()?;
    program.attach(tracepoint)?;
    Ok(())
}

fn program<'a>(programs: &'a mut Ebpf, name: &'static str) -> Result<&'a mut aya::programs::Program, Refusal> {
    programs.program_mut(name).ok_or_else(|| Refusal::damaged(name))
}
