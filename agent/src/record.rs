//! `record`: the inputs run as configured, and what they hand in is written to a file, redacted, instead of reduced and sent.
//!
//! It shows what would be sent without reduction, and gives benches a real host to replay. The file is in the format of
//! `ollystack_recording`. Positions in log files are kept in a folder of its own and forgotten, so an agent that runs beside it
//! misses nothing; its OTLP addresses are taken, though, and so not recorded from. Invariant: nothing leaves the host, and what
//! is accepted from an application is in the file, unless its signal was not asked for.

use crate::config::{Loaded, Unfit};
use crate::supervise::{Board, Phase, Supervisor};
use crate::table::{Align, Table, bytes};
use crate::{inputs, log, runtime, signals};
use clap::Args;
use ollystack_enrich::Enricher;
use ollystack_process::redact::Redactor;
use ollystack_record::request::scope_spans;
use ollystack_record::{Batch, Intake, Ledger, Outcome, Records, Sample, Series, Signal};
use ollystack_recording::Writer;
use std::collections::HashMap;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Series whose redaction is remembered; past it they are looked at again.
const SERIES_MAX: usize = 20_000;

/// zstd's: a few per cent of a core at the rates of a busy host.
const COMPRESSION_LEVEL: i32 = 9;

/// Flags.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How long; Ctrl-C ends it sooner
    #[arg(long = "for", value_name = "SECONDS")]
    seconds: u64,
    /// The file to make; it must not be there yet
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// What to record
    #[arg(long, value_name = "SIGNALS", value_delimiter = ',', default_value = "metrics,logs,traces", value_parser = signal)]
    signals: Vec<Signal>,
}

fn signal(name: &str) -> Result<Signal, String> {
    let known = Signal::ALL.into_iter().find(|signal| signal.name() == name);
    known.ok_or_else(|| "write metrics, logs or traces, with commas between several".to_owned())
}

/// Why there is no recording, or only a part of one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    #[error(transparent)]
    Unfit(#[from] Unfit),
    #[error("--out {}: {error}; choose a new file in a folder that this user may write to", path.display())]
    Out { path: PathBuf, error: std::io::Error },
    #[error(
        "{}: {error}; log positions are kept there while a recording is made: remove the folder if one that was killed left it, or choose another --out",
        path.display()
    )]
    Scratch { path: PathBuf, error: std::io::Error },
    #[error("--out {}: {error}; what came before is in the file", path.display())]
    Write { path: PathBuf, error: ollystack_recording::Error },
    #[error("the system refuses what recording needs: {0}")]
    System(#[from] std::io::Error),
}

/// Record, and say what was recorded. The log is on stderr.
pub(crate) fn record(loaded: Loaded, options: &Options) -> Result<String, RecordError> {
    runtime::tune_allocator();
    log::start(&loaded.config.log);
    if let Some(fault) = loaded.config.faults().into_iter().next() {
        return Err(fault.into());
    }
    let path = options.out.clone();
    let scratch = Scratch::new(&path)?;
    // 0600: it holds whatever the inputs saw.
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    let file = made.map_err(|error| RecordError::Out { path: path.clone(), error })?;
    let writer = Writer::new(BufWriter::new(file), COMPRESSION_LEVEL);
    let writer = writer.map_err(|error| RecordError::Write { path: path.clone(), error })?;
    // No API key is needed here, so hashes are keyed by chance: they tell values apart within this file.
    let redact = loaded.config.redact.clone().keyed(&Uuid::new_v4().to_string());
    let mut recorder = Recorder {
        enricher: Enricher::new(&loaded.config.enrich),
        redactor: Redactor::new(&redact),
        series: HashMap::new(),
        writer,
        signals: options.signals.clone(),
        counts: [Count::default(); 3],
    };
    let time = Duration::from_secs(options.seconds);
    runtime::build()?.block_on(run(&loaded.config, time, &mut recorder, &scratch)).map_err(|error| match error {
        Failed::System(error) => RecordError::System(error),
        Failed::Write(error) => RecordError::Write { path: path.clone(), error },
    })?;
    let Recorder { writer, counts, .. } = recorder;
    let size = writer.finish().and_then(|file| Ok(file.get_ref().metadata()?.len()));
    let size = size.map_err(|error| RecordError::Write { path: path.clone(), error })?;
    Ok(summary(&counts, size, &path))
}

enum Failed {
    System(std::io::Error),
    Write(ollystack_recording::Error),
}

/// Run the inputs for `time` or until a signal, then as long as they need to hand in what they have.
async fn run<W: Write>(
    config: &crate::config::Config,
    time: Duration,
    recorder: &mut Recorder<W>,
    scratch: &Scratch,
) -> Result<(), Failed> {
    let mut signals = signals::listen().map_err(Failed::System)?;
    let ledger = Arc::new(Ledger::default());
    let limits = &config.limits;
    let (intake, mut received) = Intake::new(limits.queue_batches_max, limits.queue_records_max, Arc::clone(&ledger));
    let (stop, board, figures) =
        (CancellationToken::new(), Arc::new(Board::default()), Arc::new(inputs::Figures::default()));
    let mut supervisor = Supervisor::new(Arc::clone(&board), stop.clone());
    let host = recorder.enricher.host_resource();
    inputs::start(&mut supervisor, config, &scratch.0, &host, &intake, &stop, &figures);
    // The inputs have the others: when the last of them ends, so does the way.
    drop(intake);
    let running = board.read().iter().filter(|input| input.phase == Phase::Running).count();
    tracing::info!(inputs = running, seconds = time.as_secs(), "recording; Ctrl-C ends it");
    let mut deadline = Box::pin(sleep(time));
    let mut over = false;
    loop {
        tokio::select! {
            received = received.recv() => match received {
                Some(received) => recorder.take(received.take(&ledger), now()).map_err(Failed::Write)?,
                None => return Ok(()),
            },
            () = &mut deadline => over = true,
            _ = signals.next(), if !stop.is_cancelled() => over = true,
        }
        if over && stop.is_cancelled() {
            tracing::warn!("an input did not end in time; going on without");
            return Ok(());
        }
        if std::mem::take(&mut over) {
            stop.cancel();
            deadline.as_mut().reset(Instant::now() + Duration::from_millis(limits.shutdown_deadline_ms));
        }
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// What was written of one signal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    records: u64,
    /// As OTLP, uncompressed.
    bytes: u64,
}

struct Recorder<W: Write> {
    enricher: Enricher,
    redactor: Redactor,
    /// As they came, and redacted.
    series: HashMap<Arc<Series>, Arc<Series>>,
    writer: Writer<W>,
    signals: Vec<Signal>,
    counts: [Count; 3],
}

impl<W: Write> Recorder<W> {
    fn take(&mut self, mut batch: Batch, now: u64) -> Result<(), ollystack_recording::Error> {
        let signal = batch.records.signal();
        if self.signals.contains(&signal) {
            self.enricher.enrich(&mut batch);
            self.redact(&mut batch);
            let count = &mut self.counts[signal as usize];
            count.records += batch.records.count();
            count.bytes += batch.records.wire_bytes();
            self.writer.write(&batch, now)?;
        }
        batch.ack.resolve(Outcome::Accepted);
        Ok(())
    }

    fn redact(&mut self, batch: &mut Batch) {
        batch.resource = self.redactor.resource(&batch.resource);
        match &mut batch.records {
            Records::Metrics(samples) => {
                self.redactor.samples(samples);
                samples.iter_mut().for_each(|sample| self.redact_series(sample));
            }
            Records::Logs(scopes) => self.redactor.logs(scopes),
            Records::Traces(scopes) => self.redactor.spans(scopes),
            Records::Requests(requests) => {
                let mut scopes = scope_spans(requests);
                self.redactor.spans(&mut scopes);
                batch.records = Records::Traces(scopes);
            }
        }
    }

    fn redact_series(&mut self, sample: &mut Sample) {
        if let Some(known) = self.series.get(&sample.series) {
            sample.series = Arc::clone(known);
            return;
        }
        if self.series.len() >= SERIES_MAX {
            self.series.clear();
        }
        let redacted = self.redactor.series(&sample.series).map_or_else(|| Arc::clone(&sample.series), Arc::new);
        let came = std::mem::replace(&mut sample.series, Arc::clone(&redacted));
        self.series.insert(came, redacted);
    }
}

fn summary(counts: &[Count; 3], file_bytes: u64, path: &Path) -> String {
    let mut table = Table::new([("signal", Align::Left), ("records", Align::Right), ("as OTLP", Align::Right)]);
    for (signal, count) in Signal::ALL.into_iter().zip(counts) {
        table.row([signal.name().to_owned(), count.records.to_string(), bytes(count.bytes)]);
    }
    format!("{}{}: {}\n", table.render(80), path.display(), bytes(file_bytes))
}

/// Where log positions are kept meanwhile; removed with what is in it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(out: &Path) -> Result<Scratch, RecordError> {
        let mut name = out.as_os_str().to_owned();
        name.push(".state");
        let path = PathBuf::from(name);
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => Ok(Scratch(path)),
            Err(error) => Err(RecordError::Scratch { path, error }),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "the folder of log positions could not be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollystack_record::otlp::logs::v1::{LogRecord, ScopeLogs};
    use ollystack_record::otlp::trace::v1::{ScopeSpans, Span};
    use ollystack_record::{Ack, Resource, Source, Value, value};
    use ollystack_recording::Reader;

    fn recorder(signals: &[Signal]) -> Recorder<Vec<u8>> {
        Recorder {
            enricher: Enricher::new(&Default::default()),
            redactor: Redactor::new(&Default::default()),
            series: HashMap::new(),
            writer: Writer::new(Vec::new(), 1).unwrap(),
            signals: signals.to_vec(),
            counts: Default::default(),
        }
    }

    #[tokio::test]
    async fn what_was_asked_for_is_in_the_file_with_its_resource_completed_and_all_is_accepted() {
        let mut recorder = recorder(&[Signal::Logs]);
        let scope = ScopeLogs { log_records: vec![LogRecord::default(); 3], ..ScopeLogs::default() };
        for records in [Records::Logs(vec![scope]), Records::Metrics(Vec::new())] {
            let (ack, pending) = Ack::new();
            let batch = Batch { source: Source::Otlp, resource: Arc::new(Resource::default()), records, ack };
            recorder.take(batch, 5).unwrap();
            assert_eq!(pending.outcome().await, Outcome::Accepted);
        }
        let [metrics, logs, _] = recorder.counts;
        assert_eq!((metrics.records, logs.records), (0, 3));
        let file = recorder.writer.finish().unwrap();
        let found: Vec<_> = Reader::new(&file[..]).unwrap().map(Result::unwrap).collect();
        assert_eq!(found.iter().map(|found| found.batch.records.count()).collect::<Vec<_>>(), [3]);
        assert!(found[0].batch.resource.get("host.name").is_some());
        assert_eq!(found[0].came_unix_nano, 5);
    }

    #[test]
    fn a_secret_is_not_in_the_file() {
        const SECRET: &str = "hunter2hunter2";
        let url = value::string("url", format!("https://u:{SECRET}@shop.example/"));
        let series = Arc::new(Series::new(Arc::default(), Arc::default(), vec![url.clone()]));
        let sample = Sample::number(&series, 0, 1, Value::Int(1));
        let line = LogRecord { attributes: vec![url.clone()], ..LogRecord::default() };
        let span = Span { attributes: vec![url.clone()], ..Span::default() };
        let mut recorder = recorder(&Signal::ALL);
        for records in [
            Records::Metrics(vec![sample.clone(), sample]),
            Records::Logs(vec![ScopeLogs { log_records: vec![line], ..ScopeLogs::default() }]),
            Records::Traces(vec![ScopeSpans { spans: vec![span], ..ScopeSpans::default() }]),
        ] {
            let resource = Arc::new(Resource::new(vec![url.clone()]));
            recorder.take(Batch { source: Source::Otlp, resource, records, ack: Ack::none() }, 5).unwrap();
        }
        let file = recorder.writer.finish().unwrap();
        let found: Vec<_> = Reader::new(&file[..]).unwrap().map(Result::unwrap).collect();
        assert_eq!(found.len(), 3);
        let said = format!("{found:?}");
        assert!(said.contains("shop.example") && !said.contains(SECRET), "{said}");
    }

    #[test]
    fn positions_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(&folder.path().join("a.rec")).unwrap();
        std::fs::write(scratch.0.join("offsets"), "x").unwrap();
        drop(scratch);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_a_killed_recording_left_is_named_and_no_file_is_begun() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("a.rec");
        std::fs::create_dir(folder.path().join("a.rec.state")).unwrap();
        let loaded =
            Loaded { config: Default::default(), file: None, origins: Default::default(), warnings: Vec::new() };
        let options = Options { seconds: 0, out: out.clone(), signals: Vec::new() };
        let message = record(loaded, &options).unwrap_err().to_string();
        assert!(message.contains("a.rec.state") && message.contains("remove the folder"), "{message}");
        assert!(!out.exists());
    }

    #[test]
    fn a_signal_that_is_not_known_is_refused_with_those_that_are() {
        assert_eq!(signal("traces"), Ok(Signal::Traces));
        assert!(signal("trace").unwrap_err().contains("metrics, logs or traces"));
    }
}
