//! Signals of the kernel and the host beside processes, TCP and requests: kills for want of memory, block devices, waits for a
//! CPU, CPU profiles.
//!
//! In: records of a ring, and what kernel programs count in maps, read each interval. Out: batches. Invariant: each is loaded
//! by itself, and one that is an option and that nobody asked for has no row.

use crate::block::Block;
use crate::btf::Btf;
use crate::config::Config;
use crate::host::{Pages, epoch_offset_ns, monotonic_ns};
use crate::layouts;
use crate::load::{Loaded, RAW, attach_raw, program, row};
use crate::oom::Oom;
use crate::processes::Processes;
use crate::profile::Profile;
use crate::refusal::Refusal;
use crate::run_queue::RunQueue;
use crate::stats::Feature;
use aya::programs::PerfEvent;
use aya::programs::perf_event::{PerfEventConfig, PerfEventScope, SamplePolicy, SoftwareEvent};
use aya::util::online_cpus;
use aya::{Ebpf, EbpfLoader};
use ollystack_ebpf::block::HISTOGRAMS_MAX;
use ollystack_ebpf::profile::TICKS_PER_SECOND;
use ollystack_ebpf::{bytes_of, layout, objects};
use ollystack_record::{Availability, Intake, Resource};
use std::sync::Arc;

/// How profiles are attached.
const CLOCK: &str = "the clocks of the CPUs";

/// Each signal's offsets, or why it cannot have them; of an option, if it is wanted.
pub(crate) struct Layouts {
    /// And whether the kernel tells its victim by number alone.
    oom: Result<(layout::Oom, bool), Refusal>,
    block: Result<layout::Block, Refusal>,
    run_queue: Option<Result<layout::RunQueue, Refusal>>,
    /// It needs none.
    profile: Option<Result<(), Refusal>>,
}

impl Layouts {
    /// `ready` gives the kernel's types for what is switched on by a key.
    pub(crate) fn find<'a>(config: &Config, ready: impl Fn(bool, &str) -> Result<&'a Btf<Pages>, Refusal>) -> Layouts {
        let layout = |btf: &Btf<Pages>| {
            // The victim and its user, or a number.
            let by_number = btf.arguments("mark_victim") == Some(1);
            layouts::oom(btf).map(|layout| (layout, by_number)).map_err(Refusal::no_types)
        };
        let run_queue =
            || ready(true, "ebpf.run_queue").and_then(|btf| layouts::run_queue(btf).map_err(Refusal::no_types));
        Layouts {
            oom: ready(config.oom, "ebpf.oom").and_then(layout),
            block: ready(config.block_io, "ebpf.block_io")
                .and_then(|btf| layouts::block(btf).map_err(Refusal::no_types)),
            run_queue: config.run_queue.then(run_queue),
            profile: config.profile.then(|| ready(true, "ebpf.profile").map(|_| ())),
        }
    }

    /// Whether there is anything to load.
    pub(crate) fn any(&self) -> bool {
        self.oom.is_ok()
            || self.block.is_ok()
            || self.run_queue.as_ref().is_some_and(Result::is_ok)
            || self.profile.as_ref().is_some_and(Result::is_ok)
    }
}

/// What is attached.
#[derive(Default)]
pub(crate) struct Signals {
    oom: Option<(Loaded, Oom)>,
    block: Option<Block>,
    run_queue: Option<RunQueue>,
    profile: Option<Profile>,
    features: Vec<Feature>,
}

impl Signals {
    /// Load and attach each, and say what became of it.
    pub(crate) fn load(layouts: Layouts) -> (Signals, Vec<Availability>) {
        let now_ns = monotonic_ns() + epoch_offset_ns();
        let oom = layouts.oom.and_then(load_oom);
        let block = layouts.block.and_then(|layout| Block::new(load_block(&layout)?, now_ns));
        let run_queue = layouts.run_queue.map(|layout| RunQueue::new(load_run_queue(&layout?)?, now_ns));
        let profile = layouts.profile.map(|ready| ready.and_then(|()| Profile::new(load_profile()?, now_ns)));
        let outcomes = [
            Some(("ebpf.oom", oom.as_ref().map(|_| RAW))),
            Some(("ebpf.block_io", block.as_ref().map(|_| RAW))),
            run_queue.as_ref().map(|outcome| ("ebpf.run_queue", outcome.as_ref().map(|_| RAW))),
            profile.as_ref().map(|outcome| ("ebpf.profile", outcome.as_ref().map(|_| CLOCK))),
        ];
        let told: Vec<_> = outcomes.into_iter().flatten().collect();
        let rows = told.iter().map(|(name, outcome)| row(name, *outcome)).collect();
        let features = told.iter().map(|(name, outcome)| Feature { name, rung: outcome.unwrap_or("off") }).collect();
        let signals = Signals {
            oom: oom.ok().map(|loaded| (loaded, Oom::new(now_ns))),
            block: block.ok(),
            run_queue: run_queue.and_then(Result::ok),
            profile: profile.and_then(Result::ok),
            features,
        };
        (signals, rows)
    }

    /// What runs by itself.
    pub(crate) fn take_profile(&mut self) -> Option<Profile> {
        self.profile.take()
    }

    /// How each is attached.
    pub(crate) fn features(&self) -> Vec<Feature> {
        self.features.clone()
    }

    /// What has a ring.
    pub(crate) fn ring(&self) -> Option<&Loaded> {
        self.oom.as_ref().map(|(loaded, _)| loaded)
    }

    /// Take what is in the ring.
    pub(crate) fn drain(&mut self, offset_ns: u64, processes: &Processes) {
        let Some((loaded, oom)) = &mut self.oom else { return };
        while let Some(record) = loaded.records.next() {
            oom.take(&record, offset_ns, processes);
        }
    }

    /// Hand in the events gathered so far.
    pub(crate) fn hand_in(&mut self, intake: &Intake) {
        if let Some((_, oom)) = &mut self.oom {
            oom.hand_in(intake);
        }
    }

    /// What was counted since the last reading, and how many records did not fit the ring.
    pub(crate) fn read(&mut self, now_ns: u64, host: &Arc<Resource>, intake: &Intake) -> u64 {
        let (mut batches, mut lost) = (Vec::new(), 0);
        if let Some((loaded, oom)) = &mut self.oom {
            batches.extend(oom.read(now_ns));
            lost = loaded.losses().iter().sum();
        }
        if let Some(block) = &mut self.block {
            batches.extend(block.read(now_ns, host, intake.ledger()));
        }
        if let Some(run_queue) = &mut self.run_queue {
            batches.extend(run_queue.read(now_ns, host));
        }
        for batch in batches {
            intake.offer(batch);
        }
        lost
    }
}

fn load_oom((layout, by_number): (layout::Oom, bool)) -> Result<Loaded, Refusal> {
    let mut programs = loader("OOM_LAYOUT", bytes_of(&layout)).load(objects::OOM)?;
    if by_number {
        attach_raw(&mut programs, "signal_sent", "signal_generate")?;
        attach_raw(&mut programs, "victim_number", "mark_victim")?;
    } else {
        attach_raw(&mut programs, "victim", "mark_victim")?;
    }
    Loaded::new(programs, "EVENTS", RAW)
}

fn load_block(layout: &layout::Block) -> Result<Ebpf, Refusal> {
    // Four operations of each disk, and of a few that may come.
    let disks = std::fs::read_dir("/sys/block").map_or(0, |disks| u32::try_from(disks.count()).unwrap_or(u32::MAX));
    let mut loader = loader("BLOCK_LAYOUT", bytes_of(layout));
    loader.map_max_entries("HISTOGRAMS", disks.saturating_add(4).saturating_mul(4).min(HISTOGRAMS_MAX));
    let mut programs = loader.load(objects::BLOCK)?;
    attach_raw(&mut programs, "request_done", "block_rq_complete")?;
    Ok(programs)
}

fn load_run_queue(layout: &layout::RunQueue) -> Result<Ebpf, Refusal> {
    let mut programs = loader("RUN_QUEUE_LAYOUT", bytes_of(layout)).load(objects::RUN_QUEUE)?;
    attach_raw(&mut programs, "switched", "sched_switch")?;
    attach_raw(&mut programs, "woken", "sched_wakeup")?;
    attach_raw(&mut programs, "woken_new", "sched_wakeup_new")?;
    Ok(programs)
}

fn load_profile() -> Result<Ebpf, Refusal> {
    let mut programs = EbpfLoader::new().btf(None).load(objects::PROFILE)?;
    let tick: &mut PerfEvent = program(&mut programs, "tick")?.try_into()?;
    tick.load()?;
    // The clock of software is there on machines that show nobody the counters of their CPUs.
    let clock = PerfEventConfig::Software(SoftwareEvent::CpuClock);
    for cpu in online_cpus().map_err(|(_, error)| Refusal::no_cpus(&error))? {
        let scope = PerfEventScope::AllProcessesOneCpu { cpu };
        tick.attach(clock, scope, SamplePolicy::Frequency(TICKS_PER_SECOND), false)?;
    }
    Ok(programs)
}

fn loader<'a>(layout: &'a str, bytes: &'a [u8]) -> EbpfLoader<'a> {
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    loader.override_global(layout, bytes, false);
    loader
}
