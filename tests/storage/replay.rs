//! What an agent would send: recorded batches through all of processing, as export requests of the exporter's own code.
//!
//! Batches come at their recorded times, `tick` is called every 200 ms of virtual time, `drain` at the end. Invariant: the requests are
//! those that an agent with the default configuration would send for the same input, byte for byte.

use anyhow::{Context, Result, ensure};
use flate2::read::GzDecoder;
use ollystack_export::{Gather, Gathered};
use ollystack_process::{Config, Process};
use ollystack_record::otlp::common::v1::{AnyValue, any_value};
use ollystack_record::otlp::logs::v1::{LogRecord, ScopeLogs};
use ollystack_record::value::string;
use ollystack_record::{Ack, Batch, Ledger, Records, Reduced, Resource, Signal, Source};
use ollystack_recording::{Reader, Recorded};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const TICK_NANOS: u64 = 200_000_000;
/// Lines of a file come so many a second.
const LINES_PER_BATCH: usize = 1_000;
const NANOS_PER_BATCH: u64 = 1_000_000_000;
/// When lines without a recorded time are said to come.
const START_UNIX_NANO: u64 = 1_795_000_000_000_000_000;

/// What went in, and the requests that came out of it, in order.
#[derive(Default)]
pub(crate) struct Replay {
    /// Samples, lines or spans.
    pub(crate) records: u64,
    /// Of lines, with the line's end.
    pub(crate) line_bytes: u64,
    /// Signal and OTLP, zstd.
    pub(crate) requests: Vec<(Signal, Vec<u8>)>,
}

/// All batches of one signal of the recordings of a folder.
pub(crate) fn recorded(folder: &Path, signal: Signal) -> Result<Vec<Recorded>> {
    let mut files = paths(folder)?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "zst"));
    ensure!(!files.is_empty(), "{}: no recording (*.zst) is there", folder.display());
    let mut batches = Vec::new();
    for path in files {
        let reader = Reader::new(File::open(&path)?).with_context(|| path.display().to_string())?;
        for recorded in reader {
            let recorded = recorded.with_context(|| path.display().to_string())?;
            if recorded.batch.records.signal() == signal {
                batches.push(recorded);
            }
        }
    }
    Ok(batches)
}

/// The lines of all `*.log.gz` of a folder's folders, each line a record as the log input makes them.
pub(crate) fn lines(folder: &Path) -> Result<Vec<Recorded>> {
    let mut batches = Vec::new();
    for system in paths(folder)?.into_iter().filter(|path| path.is_dir()) {
        for path in paths(&system)?.into_iter().filter(|path| path.to_string_lossy().ends_with(".log.gz")) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let service = name.trim_end_matches("_2k.log.gz").to_lowercase();
            let resource = Arc::new(Resource::new(vec![
                string("service.name", service.clone()),
                string("host.name", "bench"),
                string("log.file.path", format!("/var/log/{service}.log")),
            ]));
            let mut records = Vec::new();
            for line in BufReader::new(GzDecoder::new(File::open(&path)?)).split(b'\n') {
                records.push(record(String::from_utf8_lossy(&line?).trim_end()));
            }
            for lines in records.chunks(LINES_PER_BATCH) {
                let came_unix_nano = START_UNIX_NANO + batches.len() as u64 * NANOS_PER_BATCH;
                let mut log_records = lines.to_vec();
                log_records.iter_mut().for_each(|record| record.observed_time_unix_nano = came_unix_nano);
                let records = Records::Logs(vec![ScopeLogs { log_records, ..ScopeLogs::default() }]);
                let resource = Arc::clone(&resource);
                let batch = Batch { source: Source::Logs, resource, records, ack: Ack::none() };
                batches.push(Recorded { came_unix_nano, batch });
            }
        }
    }
    ensure!(!batches.is_empty(), "{}: no log files (*/*.log.gz) are there", folder.display());
    Ok(batches)
}

/// With every line a row of its own.
pub(crate) fn unfolded() -> Config {
    let mut config = Config::default();
    config.patterns.enabled = false;
    config
}

/// Through an agent's processing with this configuration.
pub(crate) fn through(config: Config, batches: Vec<Recorded>) -> Result<Replay> {
    let ledger = Arc::new(Ledger::default());
    let agent = vec![string("host.name", "bench"), string("service.name", "ollystack-agent")];
    let mut process = Process::new(config, Arc::new(Resource::new(agent)), Arc::clone(&ledger));
    let mut replay = Replay::default();
    // As the agent sets it where it differs from the stage's own default.
    let export = ollystack_export::Config { batch_bytes_max: 512 << 10, ..ollystack_export::Config::default() };
    let mut gather = Gather::new(&export)?;
    let interval = export.batch_interval_ms * 1_000_000;
    let first = batches.first().map_or(0, |first| first.came_unix_nano);
    let (mut now, mut next_tick, mut next_flush) = (first, first + TICK_NANOS, first + interval);
    let mut reduced = Vec::new();
    for Recorded { came_unix_nano, batch } in batches {
        while next_tick <= came_unix_nano {
            process.tick(next_tick, &mut reduced);
            while process.hand_out(next_tick, &mut reduced) {}
            replay.gather(&mut gather, &mut reduced)?;
            if next_flush <= next_tick {
                replay.requests.extend(gather.flush().into_iter().map(request));
                next_flush = next_tick + interval;
            }
            next_tick += TICK_NANOS;
        }
        now = now.max(came_unix_nano);
        ledger.seen(batch.records.signal(), batch.records.count());
        replay.records += batch.records.count();
        replay.line_bytes += bytes_of_lines(&batch.records);
        process.take(batch, now, &mut reduced);
        replay.gather(&mut gather, &mut reduced)?;
    }
    process.drain(now, &mut reduced);
    while process.hand_out(now, &mut reduced) {}
    replay.gather(&mut gather, &mut reduced)?;
    replay.requests.extend(gather.flush().into_iter().map(request));
    Ok(replay)
}

impl Replay {
    fn gather(&mut self, gather: &mut Gather, reduced: &mut Vec<Reduced>) -> Result<()> {
        let (mut full, mut too_large) = (Vec::new(), Vec::new());
        reduced.drain(..).for_each(|reduced| gather.take(reduced, &mut full, &mut too_large));
        ensure!(too_large.is_empty(), "a record of the recording is too large to be sent");
        self.requests.extend(full.into_iter().map(request));
        Ok(())
    }
}

fn request(gathered: Gathered) -> (Signal, Vec<u8>) {
    (gathered.signal, gathered.entry.payload.to_vec())
}

fn bytes_of_lines(records: &Records) -> u64 {
    let Records::Logs(scopes) = records else { return 0 };
    let lines = scopes.iter().flat_map(|scope| &scope.log_records);
    let bytes = lines.map(|line| match line.body.as_ref().and_then(|body| body.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => text.len() as u64 + 1,
        _ => 0,
    });
    bytes.sum()
}

fn record(line: &str) -> LogRecord {
    let body = Some(AnyValue { value: Some(any_value::Value::StringValue(line.to_owned())) });
    LogRecord { body, ..LogRecord::default() }
}

fn paths(folder: &Path) -> Result<Vec<PathBuf>> {
    let listed = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut paths = listed.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}
