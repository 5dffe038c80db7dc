//! Looks at every stage and writes down what it sees: the one place where a [`Report`] is made.
//!
//! Reads shared counters only. Invariant: looking never waits for a stage.

use crate::admin::{self, Account, Report, View};
use crate::books::Books;
use crate::budget::Budget;
use crate::config::Config;
use crate::guard;
use crate::inputs::Figures;
use crate::pipeline::Pulse;
use crate::state::State;
use crate::supervise::Board;
use crate::usage;
use ollystack_buffer::Buffer;
use ollystack_export as export;
use ollystack_record::{Ledger, Resource};
use ollystack_schema::names::semconv;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Processing ticks several times a second. When it has not for this long, only a restart helps.
const STANDSTILL: Duration = Duration::from_secs(60);

/// What never changes while the agent runs.
#[derive(Debug)]
pub(crate) struct Identity {
    agent_id: String,
    host: String,
    endpoint: String,
    disk_bytes_max: u64,
    declared_bytes: u64,
    limit_bytes: u64,
    start: SystemTime,
}

impl Identity {
    /// As configured.
    pub(crate) fn new(config: &Config, state: &State, host: &Resource, budget: &Budget) -> Identity {
        Identity {
            agent_id: state.agent_id.to_string(),
            host: host.get(semconv::HOST_NAME).unwrap_or_default().to_owned(),
            endpoint: config.endpoint.clone(),
            disk_bytes_max: config.buffer.bytes_max,
            declared_bytes: budget.total(),
            limit_bytes: config.limits.memory_bytes_max,
            start: SystemTime::now(),
        }
    }
}

/// What is looked at.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) books: Arc<Books>,
    pub(crate) buffer: Buffer,
    pub(crate) sending: Arc<export::Status>,
    pub(crate) pulse: Arc<Pulse>,
    pub(crate) board: Arc<Board>,
    pub(crate) figures: Arc<Figures>,
    pub(crate) guard: Arc<Mutex<guard::Figures>>,
}

/// Who looks.
#[derive(Debug)]
pub(crate) struct Observatory {
    identity: Identity,
    parts: Parts,
    started: Instant,
}

impl Observatory {
    /// From now on.
    pub(crate) fn new(identity: Identity, parts: Parts) -> Observatory {
        Observatory { identity, parts, started: Instant::now() }
    }
}

impl View for Observatory {
    fn report(&self) -> Report {
        let Parts { ledger, books, buffer, sending, pulse, board, figures, guard } = &self.parts;
        let own = &self.identity;
        let usage = usage::read();
        // The buffer measures itself: enter its records before the ledger is read.
        export::measure(buffer, ledger);
        let stats = buffer.stats();
        let mut stages = figures.read();
        stages.insert("process".to_owned(), pulse.stats());
        Report {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            agent_id: own.agent_id.clone(),
            pid: std::process::id(),
            host: own.host.clone(),
            start_unix_seconds: own.start.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            uptime_seconds: self.started.elapsed().as_secs(),
            signals: ledger.read().signals.iter().map(Account::from).collect(),
            in_all: admin::InAll {
                begun_unix_seconds: books.begun_unix_seconds(),
                signals: books.in_all().signals.iter().map(Account::from).collect(),
            },
            inputs: figures.remark(board.read()),
            buffer: admin::Buffer {
                entries: stats.entries,
                disk_bytes: stats.disk_bytes,
                disk_bytes_max: own.disk_bytes_max,
                segments: stats.segments,
                oldest_age_seconds: age_seconds(stats.oldest_unix_nano),
                put_failures: stats.put_failures,
            },
            export: export_report(&own.endpoint, sending),
            memory: admin::Memory {
                rss_bytes: usage.rss_bytes,
                rss_bytes_peak: usage.rss_bytes_peak,
                map_bytes: figures.map_bytes(),
                declared_bytes: own.declared_bytes,
                limit_bytes: own.limit_bytes,
            },
            guard: guard.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            cpu_seconds: usage.cpu_seconds,
            threads: usage.threads,
            stages,
        }
    }

    fn ailment(&self) -> Option<String> {
        let still = self.parts.pulse.age();
        (still > STANDSTILL).then(|| format!("processing has stood still for {} s", still.as_secs()))
    }
}

/// Zero when there is nothing, or when the clock was set back since.
fn age_seconds(unix_nano: u64) -> u64 {
    if unix_nano == 0 {
        return 0;
    }
    let then = UNIX_EPOCH + Duration::from_nanos(unix_nano);
    SystemTime::now().duration_since(then).map_or(0, |age| age.as_secs())
}

fn export_report(endpoint: &str, sending: &export::Status) -> admin::Export {
    let reading = sending.read();
    admin::Export {
        endpoint: endpoint.to_owned(),
        state: reading.state.to_owned(),
        batches_sent: reading.batches_sent,
        batches_refused: reading.batches_refused,
        attempts_failed: reading.attempts_failed,
        last_success_unix_ms: reading.last_success_unix_ms,
        last_error_unix_ms: reading.last_error_unix_ms,
        last_error: reading.last_error,
    }
}
