//! The books: the ledger of the installation's whole life, over every end that the agent may come to.
//!
//! A run goes on where the last entry of the one before stands. What that run left waiting is compared with what is really there: on
//! disk, in restored windows. What is missing is booked as lost if it must be (`crash`, `buffer_corrupt`); what moved after the last entry
//! is booked as a correction, openly. Entries are made several times a second and whenever the pipeline has moved something.
//!
//! Invariant: what is in all never goes down, and balances whenever this run does.

mod slots;

pub(crate) use slots::Risk;
use slots::{Entry, Slots};

use ollystack_record::ledger::{Reading, SignalReading};
use ollystack_record::{DropReason, Ledger, Place, Signal};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::{MissedTickBehavior, interval};

/// How often an entry is made whatever the pipeline does: what the last one does not know is corrected at the next start.
const ENTRY_EVERY: Duration = Duration::from_millis(250);

/// How many entries to a sync: a power cut takes back at most the last 15 s, and what they say is corrected, too.
const ENTRIES_PER_SYNC: u64 = 60;

/// The run before this one, as its last entry has it.
#[derive(Debug)]
pub(crate) struct LastRun {
    slots: Option<Slots>,
    entry: Option<Entry>,
}

/// What it had in memory only, when it ended without a stop. In records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lost {
    /// Samples that came since the last checkpoint.
    pub(crate) samples: u64,
    /// Points, each of a window's samples, that had left for the disk buffer and were not in it.
    pub(crate) points: u64,
    /// Spans of traces that were not decided, or not in the disk buffer.
    pub(crate) spans: u64,
    /// Points in the checkpoint: lost as well if that is gone or cannot be used.
    pub(crate) kept: u64,
}

/// Read the last entry in this state directory. One that cannot be read begins a new account, and that is said.
pub(crate) fn open(dir: &Path) -> LastRun {
    let (slots, last) = Slots::open(dir);
    let entry = last.unwrap_or_else(|why| {
        tracing::warn!(%why, "the ledger of this installation cannot be read: it begins anew, and what a crash took is not counted");
        None
    });
    LastRun { slots, entry }
}

impl LastRun {
    /// What a crash took of it: nothing, after a stop.
    pub(crate) fn lost(&self) -> Lost {
        self.entry.as_ref().filter(|entry| !entry.clean).map(Entry::lost).unwrap_or_default()
    }

    /// Begin this run's part. By now `ledger` has as carried what the run before left: of each signal `on_disk`, and what was restored
    /// and lost besides. `damaged`: the disk buffer could not read all of it.
    pub(crate) fn settle(self, ledger: &Arc<Ledger>, on_disk: [u64; 3], damaged: bool, risk: Risk) -> Books {
        let LastRun { slots, entry } = self;
        let Some(entry) = entry else {
            // A new account begins with what is there, as if it had come now.
            let mut earlier = Reading::default();
            for (account, this) in earlier.signals.iter_mut().zip(ledger.read().signals) {
                account.seen = this.carried;
            }
            return Books::begin(slots, ledger, earlier, seconds_now(), risk);
        };
        let Entry { begun_unix_seconds, clean, reading: mut earlier, .. } = entry;
        for (signal, last) in Signal::ALL.into_iter().zip(&mut earlier.signals) {
            let mut on_disk = on_disk[signal as usize];
            let missing = u64::try_from(last.waiting(Place::Buffer)).unwrap_or(0).saturating_sub(on_disk);
            if missing > 0 && (clean || damaged) {
                ledger.carried(signal, missing);
                ledger.dropped(signal, DropReason::BufferCorrupt, missing);
                on_disk += missing;
                tracing::error!(
                    signal = signal.name(),
                    records = missing,
                    "the disk buffer held more when the last run ended; counted as dropped, reason buffer_corrupt"
                );
            }
            let carried = ledger.read().signals[signal as usize].carried;
            correct(last, clean, on_disk as i64, carried as i64);
        }
        Books::begin(slots, ledger, earlier, begun_unix_seconds, risk)
    }
}

/// Make what `last` left waiting equal to what is carried on.
fn correct(last: &mut SignalReading, clean: bool, on_disk: i64, carried: i64) {
    // A reading made while records move is off by them. After a stop nothing moved: what does not balance then is a fault, and stays
    // for everybody to see.
    let open = if clean { last.waiting_total() } else { last.open() };
    let was_on_disk = last.waiting(Place::Buffer);
    let (buffer, memory) = (on_disk - was_on_disk, (carried - on_disk) - (open - was_on_disk));
    last.corrected.buffer += buffer;
    last.corrected.memory += memory;
    if (buffer, memory) != (0, 0) {
        tracing::info!(
            signal = last.signal.name(),
            buffer,
            memory,
            "the last run ended without its last entry in the ledger: put right by what was found there less what it said"
        );
    }
}

/// The account of all runs, this one among them.
#[derive(Debug)]
pub(crate) struct Books {
    ledger: Arc<Ledger>,
    /// All runs before this one, corrected.
    earlier: Reading,
    begun_unix_seconds: u64,
    desk: Mutex<Desk>,
}

#[derive(Debug)]
struct Desk {
    /// None: the file could not be opened, and what this run does is forgotten at its end.
    slots: Option<Slots>,
    risk: Risk,
    closed: bool,
    /// The last entry could not be written: said once, not four times a second.
    failing: bool,
}

impl Books {
    fn begin(
        slots: Option<Slots>,
        ledger: &Arc<Ledger>,
        earlier: Reading,
        begun_unix_seconds: u64,
        risk: Risk,
    ) -> Books {
        let desk = Mutex::new(Desk { slots, risk, closed: false, failing: false });
        let books = Books { ledger: Arc::clone(ledger), earlier, begun_unix_seconds, desk };
        books.note(risk);
        books
    }

    /// All runs as one account.
    pub(crate) fn in_all(&self) -> Reading {
        self.ledger.read().in_all(&self.earlier)
    }

    /// When it began.
    pub(crate) fn begun_unix_seconds(&self) -> u64 {
        self.begun_unix_seconds
    }

    /// Make an entry: the pipeline moved something, and a crash would take `risk` now.
    pub(crate) fn note(&self, risk: Risk) {
        let mut desk = self.desk();
        desk.risk = risk;
        self.enter(&mut desk, false);
    }

    /// Make entries until [`Books::close`].
    pub(crate) async fn keep(self: Arc<Self>) {
        let mut ticks = interval(ENTRY_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for entries in 1_u64.. {
            ticks.tick().await;
            {
                let mut desk = self.desk();
                if desk.closed {
                    return;
                }
                self.enter(&mut desk, false);
            }
            if entries.is_multiple_of(ENTRIES_PER_SYNC) {
                self.sync().await;
            }
        }
    }

    /// The last entry: this run has come to its end, and what still waits is on disk.
    pub(crate) async fn close(&self) {
        {
            let mut desk = self.desk();
            desk.risk = Risk::default();
            self.enter(&mut desk, true);
            desk.closed = true;
        }
        self.sync().await;
    }

    /// The ledger is read under the lock, so that a later entry is never overtaken by an earlier one.
    fn enter(&self, desk: &mut Desk, clean: bool) {
        let Desk { slots, risk, closed, failing } = desk;
        let Some(open) = slots.as_mut().filter(|_| !*closed) else { return };
        let entry = Entry { begun_unix_seconds: self.begun_unix_seconds, clean, risk: *risk, reading: self.in_all() };
        let was_failing = std::mem::take(failing);
        match open.write(entry) {
            Ok(()) if was_failing => tracing::info!("the ledger in the state directory is written again"),
            Ok(()) => {}
            Err(error) => {
                *failing = true;
                if !was_failing {
                    tracing::warn!(
                        %error,
                        "the ledger in the state directory cannot be written and is tried again with every entry: free space, check the \
                         disk; what happens until then is put right at the next start"
                    );
                }
            }
        }
    }

    async fn sync(&self) {
        let file = self.desk().slots.as_ref().map(Slots::file);
        if let Some(Ok(file)) = file {
            // A disk that cannot sync the books fails the buffer's syncs, too, which is where it is told.
            let _ = tokio::task::spawn_blocking(move || file.sync_data()).await;
        }
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn lost(&self) -> Lost {
        let waiting = |signal: Signal, places: &[Place]| -> u64 {
            let account = &self.reading.signals[signal as usize];
            places.iter().map(|place| u64::try_from(account.waiting(*place)).unwrap_or(0)).sum()
        };
        let Risk { checkpointed, samples_since, kept, sheltered } = self.risk;
        let in_windows: &[Place] = if checkpointed { &[] } else { &[Place::Window] };
        Lost {
            samples: samples_since + waiting(Signal::Metrics, &[Place::Queue]),
            points: waiting(Signal::Metrics, &[Place::Freezer]).saturating_sub(sheltered)
                + waiting(Signal::Metrics, in_windows),
            spans: waiting(Signal::Traces, &[Place::Queue, Place::Sampler, Place::Freezer]),
            kept,
        }
    }
}

fn seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
