//! The middle of the way: takes batches from the intake, completes their resource, reduces them, hands the result on.
//!
//! One task owns `enrich` and `process`, so neither needs a lock. A line of a log that a process was seen to write as it served gets that
//! request's trace and span here, before anything in it is redacted. Windows that close stay in `process` until the
//! [`Keeper`] says that the disk does not hold them open any more. Invariant: after `stop`, whatever the intake still holds is taken,
//! the open state of `process` is drained, and only then does the way to the freezer close.

use crate::books::Books;
use crate::checkpoint::Keeper;
use ollystack_enrich::Enricher;
use ollystack_export as export;
use ollystack_process::{Process, logs};
use ollystack_record::otlp::common::v1::any_value::Value;
use ollystack_record::otlp::logs::v1::LogRecord;
use ollystack_record::{Ledger, Lines, Place, Pressure, Received, Records, Reduced, Source};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// How often windows and waiting traces are looked at: well below the shortest of their times.
const TICK: Duration = Duration::from_millis(250);

/// Both stages and the books.
#[derive(Debug)]
pub(crate) struct Pipeline {
    enricher: Enricher,
    process: Process,
    keeper: Keeper,
    books: Arc<Books>,
    ledger: Arc<Ledger>,
    pulse: Arc<Pulse>,
    pressure: Arc<Pressure>,
    lines: Arc<Lines>,
    sending: Arc<export::Status>,
}

impl Pipeline {
    /// Not running yet.
    pub(crate) fn new(
        enricher: Enricher,
        process: Process,
        keeper: Keeper,
        books: Arc<Books>,
        ledger: Arc<Ledger>,
        pulse: Arc<Pulse>,
    ) -> Pipeline {
        let (pressure, lines, sending) = Default::default();
        Pipeline { enricher, process, keeper, books, ledger, pulse, pressure, lines, sending }
    }

    /// The same, asking there under which requests lines were written.
    pub(crate) fn knowing(self, lines: Arc<Lines>) -> Pipeline {
        Pipeline { lines, ..self }
    }

    /// The same, giving memory back as a guard asks for it.
    pub(crate) fn under(self, pressure: Arc<Pressure>) -> Pipeline {
        Pipeline { pressure, ..self }
    }

    /// The same, sampling as sparingly as whoever is sent to asks.
    pub(crate) fn asked_by(self, sending: Arc<export::Status>) -> Pipeline {
        Pipeline { sending, ..self }
    }

    /// Work until `stop`, or until the freezer is gone.
    pub(crate) async fn run(
        mut self,
        mut received: mpsc::Receiver<Received>,
        reduced: mpsc::Sender<Reduced>,
        stop: CancellationToken,
    ) -> Result<(), Broken> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut out = Vec::new();
        loop {
            // As when the freezer waits for the disk: the intake fills, and the inputs hold back or count what they drop.
            let goes_on = !self.keeper.is_stuck(self.process.sheltered(), tokio::time::Instant::now());
            tokio::select! {
                () = stop.cancelled() => break,
                Some(batch) = received.recv(), if goes_on => self.take(batch, &mut out).await,
                () = self.keeper.written() => self.process.let_go(),
                _ = ticks.tick(), if goes_on => {
                    let export::Sampling { ratio_max, scale } = self.sending.sampling();
                    self.process.spare(ratio_max, scale);
                    self.process.tick(now(), &mut out);
                    self.process.relieve(self.pressure.level() as u8, now(), &mut out);
                    self.pulse.beat(&self.process);
                }
            }
            self.hand_on(&mut out, &reduced).await?;
            if self.keeper.is_due(self.process.sheltered(), tokio::time::Instant::now()) {
                self.keeper.begin(self.process.checkpoint(now()), &self.ledger);
            }
            self.note();
        }
        // Closed, the intake refuses what comes now (its sender is told) and still gives out what it took.
        received.close();
        while let Some(batch) = received.recv().await {
            self.take(batch, &mut out).await;
            self.hand_on(&mut out, &reduced).await?;
        }
        // What closes of metrics stays until the next checkpoint, which holds none of it: what is killed after that and before the disk
        // has it is lost, and that must be written down.
        self.process.drain(now(), &mut out);
        let left = self.hand_on(&mut out, &reduced).await;
        self.note();
        self.keeper.finish(self.process.checkpoint(now()), &self.ledger).await;
        self.process.hold_closed(false);
        self.note();
        let left = left.and(self.hand_on(&mut out, &reduced).await);
        self.note();
        left
    }

    async fn take(&mut self, mut received: Received, out: &mut Vec<Reduced>) {
        if let (Source::Logs, Records::Logs(scopes)) = (received.batch.source, &mut received.batch.records) {
            let records = || scopes.iter().flat_map(|scope| &scope.log_records);
            // What was read was written before, and may not have been told yet.
            if let Some(read) = records().map(|record| record.observed_time_unix_nano).max() {
                self.lines.settle(read).await;
            }
            scopes.iter_mut().flat_map(|scope| &mut scope.log_records).for_each(|record| place(record, &self.lines));
        }
        // What its input counts for it until, here, `process` does.
        let _held = received.held();
        let mut batch = received.take(&self.ledger);
        if let Records::Metrics(samples) = &batch.records {
            self.keeper.took(samples.len() as u64);
        }
        self.enricher.enrich(&mut batch);
        self.process.take(batch, now(), out);
    }

    /// Hand on what `process` let go of, a portion at a time. Waits while the disk is slow; the intake fills meanwhile, and the inputs
    /// hold back or count what they drop.
    async fn hand_on(&mut self, out: &mut Vec<Reduced>, reduced: &mpsc::Sender<Reduced>) -> Result<(), Broken> {
        loop {
            let more = self.process.hand_out(now(), out);
            for batch in out.iter() {
                // In the books, too, it waits for the freezer from here on.
                self.ledger.waiting_add(batch.records.signal(), Place::Freezer, batch.records.count() as i64);
            }
            for batch in out.drain(..) {
                reduced.send(batch).await.map_err(|_| Broken)?;
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// Write down where everything is, and what a crash would take of it.
    fn note(&self) {
        self.books.note(self.keeper.risk(self.process.sheltered()));
    }
}

/// Give a line the trace and span of the request under which it was written. What its program says itself stands, and a line that was kept
/// back is of nobody: whoever wrote it served another request by then.
fn place(record: &mut LogRecord, lines: &Lines) {
    let Some(under) = lines.of(record) else { return };
    let Some(Value::StringValue(text)) = record.body.as_ref().and_then(|body| body.value.as_ref()) else { return };
    let said = logs::parse(text);
    if said.trace_id.is_none() && !said.time_unix_nano.is_some_and(|made| is_before(made, under.asked_unix_nano)) {
        (record.trace_id, record.span_id) = (under.trace.to_vec(), under.span.to_vec());
    }
}

/// Whether a line was made before a request came, by the time that it says, both in nanoseconds since the epoch. It may be of any time
/// zone: all are quarters of an hour apart. Clocks that are read seldom, and times without a fraction, are behind.
fn is_before(made: u64, asked: u64) -> bool {
    const QUARTER: i64 = 900_000_000_000;
    const SECOND: i64 = 1_000_000_000;
    let slack = if made.cast_signed() % SECOND == 0 { SECOND } else { 0 } + SECOND / 50;
    let before = asked.cast_signed().wrapping_sub(made.cast_signed()).rem_euclid(QUARTER);
    slack < before && before < QUARTER / 2
}

/// The freezer is gone: nobody takes what is reduced.
#[derive(Debug, thiserror::Error)]
#[error("the way to the disk buffer is closed")]
pub(crate) struct Broken;

/// Nanoseconds since the epoch.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// A sign of life, and what `process` holds, for whoever looks.
#[derive(Debug)]
pub(crate) struct Pulse {
    start: Instant,
    last_beat_ms: AtomicU64,
    stats: Mutex<serde_json::Value>,
}

impl Default for Pulse {
    fn default() -> Pulse {
        Pulse { start: Instant::now(), last_beat_ms: AtomicU64::new(0), stats: Mutex::new(serde_json::Value::Null) }
    }
}

impl Pulse {
    fn beat(&self, process: &Process) {
        self.last_beat_ms.store(self.start.elapsed().as_millis() as u64, Relaxed);
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner) = serde_json::json!(process.stats());
    }

    /// Since the last sign of life.
    pub(crate) fn age(&self) -> Duration {
        self.start.elapsed().saturating_sub(Duration::from_millis(self.last_beat_ms.load(Relaxed)))
    }

    /// What `process` said at the last beat.
    pub(crate) fn stats(&self) -> serde_json::Value {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{books, checkpoint};
    use ollystack_record::lines::Under;
    use ollystack_record::otlp::common::v1::AnyValue;
    use ollystack_record::otlp::logs::v1::ScopeLogs;
    use ollystack_record::{
        Ack, Batch, Intake, IntakeError, Level, ReducedRecords, Resource, Sample, Series, Value as Number, value,
    };

    fn batch() -> Batch {
        let scope = ScopeLogs { log_records: vec![LogRecord::default()], ..ScopeLogs::default() };
        let records = Records::Logs(vec![scope]);
        Batch { source: Source::Logs, resource: Arc::new(Resource::default()), records, ack: Ack::none() }
    }

    fn pipeline(dir: &std::path::Path, checkpoint_ms: u64, ledger: &Arc<Ledger>) -> Pipeline {
        let mut process = Process::new(Default::default(), Arc::new(Resource::default()), Arc::clone(ledger));
        let last = books::open(dir);
        let keeper = checkpoint::open(dir, checkpoint_ms, 1 << 20, &mut process, ledger, last.lost(), now());
        let books = Arc::new(last.settle(ledger, [0; 3], false, keeper.risk(0)));
        let enricher = Enricher::new(&Default::default());
        Pipeline::new(enricher, process, keeper, books, Arc::clone(ledger), Arc::new(Pulse::default()))
    }

    #[tokio::test]
    async fn what_the_intake_took_before_the_stop_still_reaches_the_freezer_and_then_the_way_is_closed() {
        let (dir, ledger) = (tempfile::tempdir().unwrap(), Arc::new(Ledger::default()));
        let (intake, received) = Intake::new(8, 100, Arc::clone(&ledger));
        let (reduced, mut to_freeze) = mpsc::channel(8);
        let stop = CancellationToken::new();
        intake.send(batch()).await.unwrap();
        stop.cancel();
        pipeline(dir.path(), 0, &ledger).run(received, reduced, stop).await.unwrap();
        assert_eq!(to_freeze.recv().await.unwrap().records.count(), 1);
        assert!(to_freeze.recv().await.is_none());
        assert_eq!(intake.send(batch()).await, Err(IntakeError::Closed));
    }

    #[tokio::test]
    async fn a_line_gets_the_trace_of_the_request_under_which_it_was_written_though_that_is_told_after_it_was_read() {
        let (dir, ledger) = (tempfile::tempdir().unwrap(), Arc::new(Ledger::default()));
        let (intake, received) = Intake::new(8, 100, Arc::clone(&ledger));
        let (reduced, mut to_freeze) = mpsc::channel(8);
        let (stop, lines) = (CancellationToken::new(), Arc::new(Lines::default()));
        let own = format!(r#"{{"level":"error","msg":"order 7 failed","trace_id":"{}"}}"#, "0a".repeat(16));
        let texts = ["ERROR order 17 failed", own.as_str(), "ERROR nobody saw this"];
        lines.told_until(1);
        let teller = tokio::spawn({
            let (lines, texts) = (Arc::clone(&lines), texts.map(str::to_owned));
            async move {
                lines.asked().await;
                let under = Some(Under { trace: [1; 16], span: [2; 8], asked_unix_nano: now() });
                for text in &texts[..2] {
                    let line = format!("{text}\n");
                    lines.tell(line.as_bytes(), line.len(), under, now());
                }
                lines.told_until(now());
            }
        });
        let record = |text: &str| LogRecord {
            observed_time_unix_nano: now(),
            body: Some(AnyValue { value: Some(Value::StringValue(text.to_owned())) }),
            ..LogRecord::default()
        };
        let scope = ScopeLogs { log_records: texts.map(record).to_vec(), ..ScopeLogs::default() };
        intake.send(Batch { records: Records::Logs(vec![scope]), ..batch() }).await.unwrap();
        let pipeline = pipeline(dir.path(), 0, &ledger).knowing(lines);
        let running = tokio::spawn(pipeline.run(received, reduced, stop.clone()));
        let ReducedRecords::Logs(resource) = to_freeze.recv().await.unwrap().records else { unreachable!() };
        let traces = resource.scope_logs.iter().flat_map(|scope| &scope.log_records);
        let traces: Vec<&[u8]> = traces.map(|record| &record.trace_id[..]).collect();
        assert_eq!(traces, [&[1; 16][..], &[10; 16], &[]]);
        teller.await.unwrap();
        stop.cancel();
        running.await.unwrap().unwrap();
    }

    #[test]
    fn a_line_that_was_made_before_the_request_came_was_kept_back() {
        const MS: u64 = 1_000_000;
        let asked = 1_795_165_927_500 * MS;
        for (made, expected) in [
            (asked + MS, false),
            (asked - 10 * MS, false),
            (asked - 40 * MS, true),
            (asked - 60_000 * MS, true),
            (asked + 60_000 * MS, false),
            // In other zones.
            (asked - 3_600_000 * MS - MS, false),
            (asked - 3_600_000 * MS - 40 * MS, true),
            (asked + 20_700_000 * MS - 40 * MS, true),
            // Without a fraction.
            (asked - 500 * MS, false),
            (asked - 1_500 * MS, true),
        ] {
            assert_eq!(is_before(made, asked), expected, "{made}");
        }
    }

    #[tokio::test]
    async fn a_kill_while_the_last_windows_wait_for_the_disk_is_counted() {
        let (dir, ledger) = (tempfile::tempdir().unwrap(), Arc::new(Ledger::default()));
        let (intake, received) = Intake::new(8, 100, Arc::clone(&ledger));
        let (reduced, mut to_freeze) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let series = Arc::new(Series::new(Arc::default(), Arc::default(), Vec::new()));
        for host in ["a", "b"] {
            let records = Records::Metrics(vec![Sample::number(&series, 0, now(), Number::Int(7))]);
            let resource = Arc::new(Resource::new(vec![value::string("host.name", host)]));
            intake.send(Batch { source: Source::Otlp, resource, records, ack: Ack::none() }).await.unwrap();
        }
        stop.cancel();
        let stopping = pipeline(dir.path(), 3_600_000, &ledger).run(received, reduced, stop);
        let next_run = async {
            // The second window waits for room in the channel.
            to_freeze.recv().await.unwrap();
            let ledger = Arc::new(Ledger::default());
            pipeline(dir.path(), 3_600_000, &ledger);
            drop(to_freeze);
            ledger.read().signals[0].dropped_total()
        };
        let (left, lost) = tokio::join!(stopping, next_run);
        assert!(left.is_err(), "nobody took the second");
        assert_eq!(lost, 2);
    }

    #[tokio::test]
    async fn when_memory_presses_windows_leave_before_their_time() {
        let (dir, ledger) = (tempfile::tempdir().unwrap(), Arc::new(Ledger::default()));
        let (intake, received) = Intake::new(8, 100, Arc::clone(&ledger));
        let (reduced, mut to_freeze) = mpsc::channel(8);
        let (stop, pressure) = (CancellationToken::new(), Arc::new(Pressure::default()));
        let pipeline = pipeline(dir.path(), 0, &ledger).under(Arc::clone(&pressure));
        let running = tokio::spawn(pipeline.run(received, reduced, stop.clone()));
        let series = Arc::new(Series::new(Arc::default(), Arc::default(), Vec::new()));
        let records = Records::Metrics(vec![Sample::number(&series, 0, now(), Number::Int(7))]);
        let batch = Batch { source: Source::Otlp, resource: Arc::default(), records, ack: Ack::none() };
        intake.send(batch).await.unwrap();
        pressure.set_level(Level::Shrink);
        // Its window would stay open for a minute.
        assert_eq!(to_freeze.recv().await.unwrap().records.count(), 1);
        stop.cancel();
        running.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn without_a_freezer_the_pipeline_ends_and_says_so() {
        let (dir, ledger) = (tempfile::tempdir().unwrap(), Arc::new(Ledger::default()));
        let (intake, received) = Intake::new(8, 100, Arc::clone(&ledger));
        let (reduced, to_freeze) = mpsc::channel(8);
        drop(to_freeze);
        intake.send(batch()).await.unwrap();
        assert!(pipeline(dir.path(), 0, &ledger).run(received, reduced, CancellationToken::new()).await.is_err());
    }
}
