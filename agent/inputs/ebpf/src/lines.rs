//! The kernel's part of lines: whose are told of, and when it is looked at all.
//!
//! A look at `write` costs every call of every process on the host a little, so it is attached only while a process serves of whose lines
//! something can be said. In: the processes whose lines are wanted, from `flow`. Invariant: a process that is not wanted has no line told,
//! but for those that share its mark; where nothing is attached nobody waits for lines.

use crate::config::Taps;
use crate::host;
use crate::load::{RAW, program};
use crate::refusal::Refusal;
use crate::tls::Programs;
use aya::maps::{Array, MapData};
use aya::programs::raw_trace_point::RawTracePointLinkId;
use aya::programs::trace_point::TracePointLinkId;
use aya::programs::{RawTracePoint, TracePoint};
use ollystack_ebpf::flow::{MARKS, mark};
use std::sync::PoisonError;
use tokio::task::JoinHandle;

/// The rung of tracepoints.
const CALLS: &str = "call tracepoints";
/// The calls that are looked at there.
const WRITES: [&str; 2] = ["sys_enter_write", "sys_enter_writev"];
const BY_CALL: &str = "line_enter";
const BY_ANY: &str = "line_any";

/// The kernel's part.
pub(crate) struct Lines {
    tap: Option<Tap>,
    /// What is under way: attaching and detaching make the kernel wait.
    turning: Option<JoinHandle<Tap>>,
    marks: Array<MapData, u64>,
    marked: [u64; MARKS as usize],
    pub(crate) rung: &'static str,
}

/// The programs, loaded.
struct Tap {
    programs: Programs,
    rung: &'static str,
    links: Links,
    /// It could not be attached although it could before: not tried again.
    is_refused: bool,
}

#[derive(Default)]
struct Links {
    calls: Vec<TracePointLinkId>,
    any: Option<RawTracePointLinkId>,
}

impl Lines {
    /// Load the programs, and attach them for a moment to see whether they can be.
    pub(crate) fn load(programs: Programs, taps: Taps) -> Result<Lines, Refusal> {
        let marks = programs.lock().unwrap_or_else(PoisonError::into_inner).take_map("LINES");
        let marks = Array::try_from(marks.ok_or_else(|| Refusal::damaged("LINES"))?)?;
        let mut tap = Tap {
            programs,
            rung: if taps == Taps::Raw { RAW } else { CALLS },
            links: Links::default(),
            is_refused: false,
        };
        let mut tried = tap.load();
        if tap.rung == CALLS
            && let Err(refusal) = &tried
        {
            tracing::debug!(why = refusal.why, "ebpf.log_traces: not by the tracepoints of calls");
            tap.rung = RAW;
            tried = tap.load();
        }
        tried?;
        let (rung, marked) = (tap.rung, [0; MARKS as usize]);
        Ok(Lines { tap: Some(tap), turning: None, marks, marked, rung })
    }

    /// Look at the lines of these processes. Whether they are looked at by now.
    pub(crate) async fn follow(&mut self, wanted: &[u32]) -> bool {
        let mut marked = [0; MARKS as usize];
        for process in wanted {
            let (word, bit) = mark(*process);
            marked[word as usize] |= bit;
        }
        for (word, (new, old)) in (0..).zip(marked.iter().zip(&self.marked)) {
            if new != old {
                // Refused, it is as it was: what is not wanted costs a little, what is not told is not known.
                let _ = self.marks.set(word, *new, 0);
            }
        }
        self.marked = marked;
        if let Some(turned) = self.turning.take_if(|turning| turning.is_finished()) {
            self.tap = turned.await.ok();
        }
        let is_wanted = !wanted.is_empty();
        let Some(tap) = &self.tap else { return false };
        let is_attached = tap.links.any.is_some() || !tap.links.calls.is_empty();
        if is_attached != is_wanted
            && !tap.is_refused
            && let Some(tap) = self.tap.take()
        {
            self.turning = Some(tokio::task::spawn_blocking(move || tap.turn(is_wanted)));
            return false;
        }
        is_attached
    }

    /// Nobody is to be looked at any more: what is under way comes to its end.
    pub(crate) async fn end(self) {
        if let Some(turning) = self.turning {
            let _ = turning.await;
        }
    }
}

impl Tap {
    fn load(&mut self) -> Result<(), Refusal> {
        {
            let mut programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
            match self.rung {
                CALLS => tracepoint(&mut programs)?.load()?,
                _ => raw(&mut programs)?.load()?,
            }
        }
        let tried = self.attach();
        self.detach();
        tried
    }

    fn turn(mut self, on: bool) -> Tap {
        if !on {
            self.detach();
            return self;
        }
        // Tracefs may have to be mounted, for a thread of its own alone.
        let attached = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("ebpf-lines".into());
            thread.spawn_scoped(scope, || self.attach()).map(|thread| thread.join())
        });
        self.is_refused = !matches!(attached, Ok(Ok(Ok(()))));
        match attached {
            Ok(Ok(Ok(()))) => tracing::info!(by = self.rung, "lines of logs are looked at as they are written"),
            Ok(Ok(Err(refusal))) => tracing::warn!(why = refusal.why, "lines of logs are not looked at"),
            Ok(Err(_)) | Err(_) => tracing::warn!("lines of logs are not looked at: the system gave no thread"),
        }
        if self.is_refused {
            self.detach();
        }
        self
    }

    fn attach(&mut self) -> Result<(), Refusal> {
        let mut programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
        if self.rung == RAW {
            self.links.any = Some(raw(&mut programs)?.attach("sys_enter")?);
            return Ok(());
        }
        host::see_tracefs().map_err(Refusal::no_tracefs)?;
        for call in WRITES {
            self.links.calls.push(tracepoint(&mut programs)?.attach("syscalls", call)?);
        }
        Ok(())
    }

    fn detach(&mut self) {
        let mut programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
        let Links { calls, any } = std::mem::take(&mut self.links);
        // What is gone already is gone.
        for link in calls {
            let _ = tracepoint(&mut programs).map(|program| program.detach(link));
        }
        if let Some(link) = any {
            let _ = raw(&mut programs).map(|program| program.detach(link));
        }
    }
}

fn tracepoint(programs: &mut aya::Ebpf) -> Result<&mut TracePoint, Refusal> {
    Ok(program(programs, BY_CALL)?.try_into()?)
}

fn raw(programs: &mut aya::Ebpf) -> Result<&mut RawTracePoint, Refusal> {
    Ok(program(programs, BY_ANY)?.try_into()?)
}
