//! From the embedded objects to attached programs, each feature by itself.
//!
//! A feature is a set of programs that is useful only as a whole. Where it can be attached in more than one way (a rung),
//! each is tried, best first; a way is never chosen from a kernel version. Loading happens on a thread of its own, because
//! that thread may enter a private mount namespace to see tracefs: the host's mounts are never changed.
//! Invariant: a refused feature leaves nothing behind and takes nothing else down; dropping a [`Loaded`] detaches it.

mod requests;

use crate::btf::{self, Btf};
use crate::config::Config;
use crate::lines::Lines;
use crate::losses::Losses;
use crate::refusal::Refusal;
use crate::signals::{self, Signals};
use crate::tls::{Kernel, Programs, Tls};
use crate::{Error, host, layouts};
use aya::maps::{MapData, MapType, RingBuf};
use aya::programs::RawTracePoint;
use aya::sys::is_map_supported;
use aya::{Ebpf, EbpfLoader};
use ollystack_ebpf::{bytes_of, layout, objects};
use ollystack_record::Availability;
use std::fmt::Display;
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex};
use tokio::io::{Interest, unix::AsyncFd};

/// The rung of raw tracepoints: they need no tracefs.
pub(crate) const RAW: &str = "raw tracepoints";

/// What became of a feature.
type Outcome = Result<Loaded, Refusal>;

/// An attached feature.
pub(crate) struct Loaded {
    /// Its records.
    pub(crate) records: RingBuf<MapData>,
    /// How it is attached.
    pub(crate) rung: &'static str,
    /// Why not in one of the ways that are better, each in a few words.
    instead: Vec<String>,
    /// Records that did not fit.
    losses: Losses,
    /// Programs, links and the other maps: dropping them detaches.
    programs: Programs,
}

/// All features: those that are attached, and what is to be said of each.
#[derive(Default)]
pub(crate) struct Features {
    pub(crate) process: Option<Loaded>,
    pub(crate) tcp: Option<Loaded>,
    pub(crate) requests: Option<Loaded>,
    pub(crate) tls: Option<Tls>,
    pub(crate) lines: Option<Lines>,
    pub(crate) signals: Signals,
    pub(crate) availability: Vec<Availability>,
    /// Bytes that the kernel holds for all maps of this process.
    pub(crate) map_bytes: u64,
}

impl Loaded {
    pub(crate) fn new(mut programs: Ebpf, ring: &'static str, rung: &'static str) -> Result<Loaded, Refusal> {
        let records = programs.take_map(ring).ok_or_else(|| Refusal::damaged(ring))?;
        let losses = programs.take_map("LOSSES").ok_or_else(|| Refusal::damaged("LOSSES"))?;
        let (records, losses) = (RingBuf::try_from(records)?, Losses::new(losses)?);
        Ok(Loaded { records, rung, instead: Vec::new(), losses, programs: Arc::new(Mutex::new(programs)) })
    }

    /// How it is attached, and why not better.
    fn how(&self) -> String {
        let parts: Vec<&str> = std::iter::once(self.rung).chain(self.instead.iter().map(String::as_str)).collect();
        parts.join("; ")
    }

    /// Records lost since this was last asked, by reason.
    pub(crate) fn losses(&mut self) -> Vec<u64> {
        self.losses.read()
    }
}

impl Features {
    /// A handle to each ring, to wait on. A ring that cannot be waited on is still drained in its time.
    #[allow(unsafe_code)] // a descriptor that changes its number while it is waited on would be unsound
    pub(crate) fn rings(&self) -> Vec<AsyncFd<OwnedFd>> {
        let loaded = [&self.process, &self.tcp, &self.requests].into_iter().flatten().chain(self.signals.ring());
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
    let kernel = requests::Kernel {
        tells_bytes: layouts.requests.as_ref().is_ok_and(|layout| layout.iter.kind_mask != 0),
        types: File::open(btf::KERNEL),
    };
    if layouts.any()
        && let Err(error) = host::hide_kernel_types()
    {
        tracing::debug!(%error, "loading takes more memory: no private mount");
    }
    let (signals, rows) = Signals::load(layouts.signals);
    let (process, tcp, requests) = match (layouts.process, layouts.tcp, layouts.requests) {
        // Nothing to load: then not even the loader's own needs are met.
        (Err(process), Err(tcp), Err(requests)) => (Err(process), Err(tcp), Err(requests)),
        (process, tcp, requests) => load_each(process, tcp, requests, &kernel, config),
    };
    let mut availability = [("ebpf.process", &process), ("ebpf.tcp", &tcp), ("ebpf.requests", &requests)]
        .map(|(name, outcome)| row(name, outcome.as_ref().map(Loaded::how)))
        .to_vec();
    let mut tls = load_tls(&requests, config);
    if let Ok(tls) = &mut tls {
        tls.look();
    }
    availability.push(match &tls {
        Ok(tls) => tls.availability(),
        Err(refusal) => Availability::off("ebpf.tls", &refusal.why, &refusal.remedy),
    });
    let lines = load_lines(&requests, config);
    let how = |lines: &Lines| format!("{} while a process serves that logs on the thread which was asked", lines.rung);
    availability.push(row("ebpf.log_traces", lines.as_ref().map(how)));
    availability.extend(rows);
    Features {
        process: process.ok(),
        tcp: tcp.ok(),
        requests: requests.ok(),
        tls: tls.ok(),
        lines: lines.ok(),
        signals,
        availability,
        map_bytes: host::map_bytes(),
    }
}

fn load_each(
    process: Result<layout::Process, Refusal>,
    tcp: Result<layout::Tcp, Refusal>,
    requests: Result<layout::Flow, Refusal>,
    kernel: &requests::Kernel,
    config: &Config,
) -> (Outcome, Outcome, Outcome) {
    let layouts = (
        process.as_ref().copied().unwrap_or_default(),
        tcp.as_ref().copied().unwrap_or_default(),
        requests.as_ref().copied().unwrap_or_default(),
    );
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    loader.override_global("PROCESS_LAYOUT", bytes_of(&layouts.0), false);
    loader.override_global("TCP_LAYOUT", bytes_of(&layouts.1), false);
    loader.override_global("FLOW_LAYOUT", bytes_of(&layouts.2), false);
    loader.map_max_entries("RECORDS", config.ring_bytes);
    (
        process.and_then(|_| load_process(&mut loader)),
        tcp.and_then(|_| load_tcp(&mut loader)),
        requests.and_then(|_| requests::load(&mut loader, kernel, config.taps)),
    )
}

/// One row for `doctor`, of what is attached by some rung or refused.
pub(crate) fn row(name: &str, outcome: Result<impl Display, &Refusal>) -> Availability {
    match outcome {
        Err(refusal) => Availability::off(name, &refusal.why, &refusal.remedy),
        Ok(rung) if host::sees_all_processes() => Availability::on(name, format!("attached by {rung}")),
        Ok(rung) => Availability::partial(
            name,
            format!("processes are numbered apart from the host's here; attached by {rung}"),
            "run the agent in the host's PID namespace (hostPID: true, or --pid=host)",
        ),
    }
}

/// Each feature's offsets, or why it cannot have them.
struct Layouts {
    process: Result<layout::Process, Refusal>,
    tcp: Result<layout::Tcp, Refusal>,
    requests: Result<layout::Flow, Refusal>,
    signals: signals::Layouts,
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
            Ok(_) if objects::FLOW.is_empty() => Err(Refusal::no_object()),
            Ok(btf) => Ok(btf),
        };
        Layouts {
            process: ready(config.process, "ebpf.process")
                .and_then(|btf| layouts::process(btf).map_err(Refusal::no_types)),
            tcp: ready(config.tcp, "ebpf.tcp").and_then(|btf| layouts::tcp(btf).map_err(Refusal::no_types)),
            requests: ready(config.requests, "ebpf.requests")
                .and_then(|btf| layouts::flow(btf, config).map_err(Refusal::no_types)),
            signals: signals::Layouts::find(config, ready),
        }
    }

    /// Whether there is anything to load.
    fn any(&self) -> bool {
        self.process.is_ok() || self.tcp.is_ok() || self.requests.is_ok() || self.signals.any()
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

/// The probes of TLS, which bring their data to the ring of `ebpf.requests`.
fn load_tls(requests: &Outcome, config: &Config) -> Result<Tls, Refusal> {
    match requests {
        Err(refusal) => Err(refusal.clone()),
        Ok(_) if !config.tls => Err(Refusal::switched_off("ebpf.tls")),
        Ok(loaded) => Ok(Tls::new(Kernel::load(Arc::clone(&loaded.programs))?, config.tls_calls_per_second_max)),
    }
}

/// The look at lines, which come through the ring of `ebpf.requests`, too.
fn load_lines(requests: &Outcome, config: &Config) -> Result<Lines, Refusal> {
    match requests {
        Err(refusal) => Err(refusal.clone()),
        Ok(_) if !config.log_traces => Err(Refusal::switched_off("ebpf.log_traces")),
        Ok(loaded) => Lines::load(Arc::clone(&loaded.programs), config.taps),
    }
}

pub(crate) fn attach_raw(programs: &mut Ebpf, name: &'static str, tracepoint: &str) -> Result<(), Refusal> {
    let program: &mut RawTracePoint = program(programs, name)?.try_into()?;
    program.load()?;
    program.attach(tracepoint)?;
    Ok(())
}

pub(crate) fn program<'a>(
    programs: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut aya::programs::Program, Refusal> {
    programs.program_mut(name).ok_or_else(|| Refusal::damaged(name))
}
