//! Open metric windows outlive the process: a clean stop, a crash and a power cut.
//!
//! What `process` holds of metrics is written to `windows.checkpoint` every interval by a thread of its own. Windows that
//! close wait in `process` until a checkpoint without them is on disk, and only then go on to the freezer. Invariant: nothing has
//! left that the checkpoint on disk still holds, so whatever is restored from it was never sent, and nothing shows twice.
//!
//! What a crash takes is therefore what came after the last checkpoint, and what had left but was not in the disk buffer yet;
//! [`Keeper::risk`] says how much that is, for the books.

mod file;

use crate::books::{Lost, Risk};
use file::CheckpointFile;
use ollystack_process::Process;
use ollystack_process::fold::Restored;
use ollystack_record::{DropReason, Ledger, Place, Signal};
use std::path::Path;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Windows that closed make a checkpoint due this many times sooner: at the default interval they wait a second and a half at most.
const SOONER: u32 = 10;

/// A disk that takes longer for a checkpoint does not answer: what closes meanwhile would gather without end.
const STUCK_AFTER: Duration = Duration::from_secs(10);

/// Writes checkpoints, and keeps back what may not leave before.
#[derive(Debug)]
pub(crate) struct Keeper {
    file: CheckpointFile,
    /// Zero: no checkpoints, and nothing is held back.
    every: Duration,
    /// When the last one was begun; before the first, when this began.
    last: Instant,
    writing: Option<Writing>,
    /// What the file holds, and what came since. None: there is no checkpoint.
    safe: Option<Safe>,
}

/// How much of what `process` holds is on disk.
#[derive(Clone, Copy, Debug, Default)]
struct Safe {
    /// Points that wait: open windows, and runs of windows that did not move.
    points: u64,
    /// Samples taken since.
    samples_since: u64,
}

/// A checkpoint on its way to the disk.
#[derive(Debug)]
struct Writing {
    task: JoinHandle<bool>,
    /// As it will be then.
    safe: Safe,
}

/// Give `process` back what the last run left in this directory, enter in the ledger what a crash took of it (`lost`, and what turns
/// out to be gone), and keep what comes from now on: every so many milliseconds, 0 for never. A checkpoint has at most `bytes_max` bytes.
pub(crate) fn open(
    dir: &Path,
    every_ms: u64,
    bytes_max: u64,
    process: &mut Process,
    ledger: &Ledger,
    mut lost: Lost,
    now: u64,
) -> Keeper {
    // Inputs open soon, and the first tick comes when it comes.
    process.begin(now);
    let file = CheckpointFile::new(dir, bytes_max);
    let restored = match file.read() {
        Ok(Some(bytes)) => process.restore(&bytes, now).map_err(|error| error.to_string()),
        Ok(None) => {
            lost.points += lost.kept;
            Ok(Restored::default())
        }
        Err(error) => Err(error.to_string()),
    };
    let points = match restored {
        Ok(restored) => {
            let Restored { series, points, refused, .. } = restored;
            if series > 0 {
                tracing::info!(series, points, refused, "metrics go on where the last run left them");
            }
            points
        }
        Err(why) => {
            file.set_aside(&why);
            lost.points += lost.kept;
            0
        }
    };
    count(lost, ledger);
    let every = Duration::from_millis(every_ms);
    if every.is_zero() {
        // It would be taken for the last run's one day.
        file.remove();
    }
    let safe = (!every.is_zero()).then_some(Safe { points, samples_since: 0 });
    process.hold_closed(!every.is_zero());
    Keeper { file, every, last: Instant::now(), writing: None, safe }
}

/// What the last run had in memory only when it ended without a stop.
fn count(lost: Lost, ledger: &Ledger) {
    let Lost { samples, points, spans, .. } = lost;
    if samples + points + spans == 0 {
        return;
    }
    for (signal, records) in [(Signal::Metrics, samples + points), (Signal::Traces, spans)] {
        ledger.carried(signal, records);
        ledger.dropped(signal, DropReason::Crash, records);
    }
    tracing::error!(
        samples,
        points,
        spans,
        "the last run ended without a stop (crash, kill, power): so much at most was in memory only and is lost; counted as dropped, reason crash"
    );
}

impl Keeper {
    /// So many samples were taken.
    pub(crate) fn took(&mut self, samples: u64) {
        if let Some(safe) = &mut self.safe {
            safe.samples_since += samples;
        }
        if let Some(writing) = &mut self.writing {
            writing.safe.samples_since += samples;
        }
    }

    /// Whether [`Keeper::begin`] should be called. Sooner if something waits for it.
    pub(crate) fn is_due(&self, sheltered: u64, now: Instant) -> bool {
        let wait = if sheltered == 0 { self.every } else { self.every / SOONER };
        !self.every.is_zero() && self.writing.is_none() && now.duration_since(self.last) >= wait
    }

    /// Whether nothing more should be taken before [`Keeper::written`].
    pub(crate) fn is_stuck(&self, sheltered: u64, now: Instant) -> bool {
        self.writing.is_some() && sheltered > 0 && now.duration_since(self.last) >= STUCK_AFTER
    }

    /// Write what `process` holds now, as these bytes.
    pub(crate) fn begin(&mut self, bytes: Vec<u8>, ledger: &Ledger) {
        let points = u64::try_from(ledger.waiting(Signal::Metrics, Place::Window)).unwrap_or(0);
        self.last = Instant::now();
        let file = self.file.clone();
        let task = tokio::task::spawn_blocking(move || file.write(&bytes));
        self.writing = Some(Writing { task, safe: Safe { points, samples_since: 0 } });
    }

    /// Wait for the checkpoint that is being written; for ever if there is none. Then [`Process::let_go`] is due: if it is not there,
    /// the former one is gone too, and nothing on disk holds what leaves. Can be cancelled and called again.
    pub(crate) async fn written(&mut self) {
        let Some(Writing { task, .. }) = &mut self.writing else { return std::future::pending().await };
        // A thread that panicked has not written.
        let is_there = task.await.unwrap_or(false);
        if let Some(Writing { safe, .. }) = self.writing.take() {
            self.safe = is_there.then_some(safe);
        }
    }

    /// The agent stops: write what `process`, drained, still knows. After that nothing needs to be held back any more.
    pub(crate) async fn finish(&mut self, bytes: Vec<u8>, ledger: &Ledger) {
        if self.writing.is_some() {
            self.written().await;
        }
        if !self.every.is_zero() {
            self.begin(bytes, ledger);
            self.written().await;
            self.every = Duration::ZERO;
        }
    }

    /// What a crash at this moment would take besides what waits for the freezer, in it, and in traces.
    pub(crate) fn risk(&self, sheltered: u64) -> Risk {
        let Some(Safe { points: kept, samples_since }) = self.safe else { return Risk::default() };
        // While a checkpoint is being written nobody knows whether the former one, which has them, is still there.
        let sheltered = if self.writing.is_some() { 0 } else { sheltered };
        Risk { checkpointed: true, samples_since, kept, sheltered }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::books::{self, Books};
    use ollystack_record::{Ack, Batch, Kind, Metric, Records, Reduced, Sample, Scope, Series, Source, Value, value};
    use std::sync::Arc;

    const NOW: u64 = 1_800_000_000_000_000_000;

    const HOUR: Duration = Duration::from_secs(3_600);

    /// A run, as the agent begins it.
    struct Run {
        process: Process,
        keeper: Keeper,
        ledger: Arc<Ledger>,
        books: Books,
    }

    fn run(dir: &Path, every: Duration) -> Run {
        let (ledger, last) = (Arc::new(Ledger::default()), books::open(dir));
        let mut process = Process::new(Default::default(), Arc::default(), Arc::clone(&ledger));
        let keeper = open(dir, every.as_millis() as u64, 1 << 20, &mut process, &ledger, last.lost(), NOW);
        let books = last.settle(&ledger, [0; 3], false, keeper.risk(0));
        Run { process, keeper, ledger, books }
    }

    impl Run {
        /// Samples of as many series, as the pipeline takes them.
        fn take(&mut self, count: usize) {
            let metric = Arc::new(Metric { name: "test.level".into(), kind: Kind::Gauge, ..Metric::default() });
            let series = |n: usize| {
                let label = value::int("n", n as i64);
                Arc::new(Series::new(Arc::new(Scope::default()), Arc::clone(&metric), vec![label]))
            };
            let samples: Vec<Sample> = (0..count).map(|n| Sample::number(&series(n), 0, NOW, Value::Int(7))).collect();
            self.ledger.seen(Signal::Metrics, count as u64);
            self.keeper.took(count as u64);
            let records = Records::Metrics(samples);
            let batch = Batch { source: Source::Otlp, resource: Arc::default(), records, ack: Ack::none() };
            self.process.take(batch, NOW, &mut Vec::new());
            self.note();
        }

        async fn checkpoint(&mut self) {
            self.keeper.begin(self.process.checkpoint(NOW), &self.ledger);
            self.keeper.written().await;
            self.process.let_go();
            self.note();
        }

        /// Close everything, and hand out what may leave: so many points.
        fn drain(&mut self) -> u64 {
            let mut out = Vec::new();
            self.process.drain(NOW, &mut out);
            self.leave(out)
        }

        /// Hand out what may leave, as the pipeline does.
        fn leave(&mut self, mut out: Vec<Reduced>) -> u64 {
            while self.process.hand_out(NOW, &mut out) {}
            let points: u64 = out.iter().map(|reduced| reduced.records.count()).sum();
            self.ledger.waiting_add(Signal::Metrics, Place::Freezer, points as i64);
            points
        }

        fn note(&self) {
            self.books.note(self.keeper.risk(self.process.sheltered()));
        }

        /// What metrics carried over, lost to the crash, and hold now; none of it is unaccounted for, now or in all.
        fn account(&self) -> (u64, u64, i64) {
            let [now, all] = [self.ledger.read(), self.books.in_all()].map(|reading| reading.signals[0].clone());
            assert_eq!((now.balance(), all.balance()), (0, 0));
            (now.carried, now.dropped_total(), now.waiting_total())
        }

        /// What a crash now would take.
        fn at_risk(&self, dir: &Path) -> Lost {
            self.note();
            books::open(dir).lost()
        }
    }

    #[tokio::test]
    async fn closed_windows_leave_only_after_a_checkpoint_without_them_is_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let mut run = run(dir.path(), HOUR);
        let soon = run.keeper.last + HOUR / SOONER;
        assert!(!run.keeper.is_due(0, soon) && run.keeper.is_due(0, run.keeper.last + HOUR), "nothing is held");
        run.take(2);
        assert_eq!((run.drain(), run.process.sheltered()), (0, 2));
        assert!(run.keeper.is_due(2, soon), "something is held");
        run.keeper.begin(run.process.checkpoint(NOW), &run.ledger);
        // These close while it is being written: it still holds them.
        run.take(3);
        assert_eq!((run.drain(), run.process.sheltered()), (0, 5));
        assert!(!run.keeper.is_due(5, run.keeper.last + HOUR));
        let stuck = run.keeper.last + STUCK_AFTER;
        assert!(
            run.keeper.is_stuck(5, stuck) && !run.keeper.is_stuck(5, run.keeper.last),
            "nothing gathers without end"
        );
        run.keeper.written().await;
        run.process.let_go();
        assert!(!run.keeper.is_stuck(5, stuck));
        assert_eq!((run.leave(Vec::new()), run.process.sheltered()), (2, 3));
        run.keeper.finish(run.process.checkpoint(NOW), &run.ledger).await;
        run.process.hold_closed(false);
        assert_eq!((run.leave(Vec::new()), run.process.sheltered()), (3, 0));
        let bytes = run.keeper.file.read().unwrap().unwrap();
        let mut next = Process::new(Default::default(), Arc::default(), Arc::default());
        assert_eq!(next.restore(&bytes, NOW).unwrap().points, 0);
    }

    #[tokio::test]
    async fn after_a_crash_the_checkpoint_goes_on_and_what_came_later_is_counted_as_lost_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = run(dir.path(), HOUR);
        first.take(5);
        first.checkpoint().await;
        first.take(3);
        drop(first);
        let mut second = run(dir.path(), HOUR);
        assert_eq!(second.account(), (8, 3, 5));
        assert_eq!(second.drain(), 0);
        second.keeper.finish(second.process.checkpoint(NOW), &second.ledger).await;
        second.process.hold_closed(false);
        assert_eq!(second.leave(Vec::new()), 5);
        second.ledger.waiting_add(Signal::Metrics, Place::Freezer, -5);
        second.ledger.sent(Signal::Metrics, 5);
        second.books.close().await;
        let third = run(dir.path(), HOUR);
        assert_eq!(third.account(), (0, 0, 0), "a clean stop loses nothing and leaves nothing");
        let all = third.books.in_all().signals[0].clone();
        assert_eq!((all.seen, all.sent, all.dropped_total()), (8, 5, 3));
    }

    #[tokio::test]
    async fn a_checkpoint_that_cannot_be_used_is_lost_in_the_books_too_and_no_reason_not_to_run() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = run(dir.path(), HOUR);
        first.take(5);
        first.keeper.begin(b"from a version to come".to_vec(), &first.ledger);
        first.keeper.written().await;
        first.note();
        drop(first);
        assert_eq!(run(dir.path(), HOUR).account(), (5, 5, 0));
        assert!(dir.path().join("windows.checkpoint.unusable").exists());
        assert!(!dir.path().join("windows.checkpoint").exists());
    }

    #[tokio::test]
    async fn a_checkpoint_that_is_gone_is_lost_in_the_books_too() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = run(dir.path(), HOUR);
        first.take(5);
        first.checkpoint().await;
        first.keeper.file.remove();
        drop(first);
        assert_eq!(run(dir.path(), HOUR).account(), (5, 5, 0));
    }

    #[tokio::test]
    async fn turned_off_it_leaves_no_checkpoint_that_would_be_taken_for_a_later_run_s() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = run(dir.path(), HOUR);
        first.take(5);
        first.checkpoint().await;
        drop(first);
        let second = run(dir.path(), Duration::ZERO);
        assert_eq!((second.account().2, second.keeper.file.read().unwrap()), (5, None));
        assert_eq!(second.at_risk(dir.path()).points, 5, "all that is open");
    }

    #[tokio::test]
    async fn what_is_held_back_is_not_at_risk_but_while_the_checkpoint_that_has_it_may_be_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let mut run = run(dir.path(), HOUR);
        run.take(5);
        run.checkpoint().await;
        assert_eq!((run.drain(), run.process.sheltered()), (0, 5));
        assert_eq!(run.at_risk(dir.path()).points, 0, "the checkpoint on disk has them");
        run.keeper.begin(run.process.checkpoint(NOW), &run.ledger);
        assert_eq!(run.at_risk(dir.path()).points, 5, "that checkpoint may be gone by now");
        run.keeper.written().await;
        run.process.let_go();
        assert_eq!(run.leave(Vec::new()), 5);
        assert_eq!(run.at_risk(dir.path()).points, 5, "they are on their way, and no checkpoint has them");
    }

    #[tokio::test]
    async fn without_a_disk_nothing_is_held_for_ever_and_nothing_outdated_stays() {
        let dir = tempfile::tempdir().unwrap();
        let mut run = run(dir.path(), HOUR);
        run.keeper.begin(b"former".to_vec(), &run.ledger);
        run.keeper.written().await;
        std::fs::create_dir(dir.path().join("windows.checkpoint.new")).unwrap();
        run.take(1);
        assert_eq!(run.drain(), 0);
        run.checkpoint().await;
        assert_eq!((run.leave(Vec::new()), run.keeper.file.read().unwrap()), (1, None));
    }

    #[tokio::test]
    async fn with_an_interval_of_zero_nothing_is_written_and_nothing_waits() {
        let dir = tempfile::tempdir().unwrap();
        let mut run = run(dir.path(), Duration::ZERO);
        run.take(1);
        assert!(run.drain() == 1 && !run.keeper.is_due(1, run.keeper.last + HOUR));
        run.keeper.finish(b"totals".to_vec(), &run.ledger).await;
        assert_eq!(run.keeper.file.read().unwrap(), None);
    }

    #[tokio::test]
    async fn at_risk_are_the_samples_since_the_checkpoint_and_what_is_on_its_way() {
        let dir = tempfile::tempdir().unwrap();
        let Run { mut keeper, ledger, books, .. } = run(dir.path(), HOUR);
        let at_risk = |keeper: &Keeper| {
            books.note(keeper.risk(0));
            books::open(dir.path()).lost()
        };
        ledger.waiting_set(Signal::Metrics, Place::Window, 5);
        ledger.waiting_set(Signal::Metrics, Place::Freezer, 2);
        ledger.waiting_set(Signal::Metrics, Place::Buffer, 90);
        ledger.waiting_set(Signal::Traces, Place::Sampler, 4);
        ledger.waiting_set(Signal::Logs, Place::Window, 70);
        keeper.took(100);
        assert_eq!(at_risk(&keeper), Lost { samples: 100, points: 2, spans: 4, kept: 0 });
        keeper.begin(b"five windows".to_vec(), &ledger);
        keeper.took(30);
        assert_eq!(at_risk(&keeper).samples, 130, "not yet on disk");
        keeper.written().await;
        assert_eq!(at_risk(&keeper), Lost { samples: 30, points: 2, spans: 4, kept: 5 });
    }
}
