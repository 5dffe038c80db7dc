//! The configuration: one section per stage, defaults that suffice, and nothing that is not known.
//!
//! Flags, environment, file and defaults are merged in `layers`; `run.rs` hands each stage its section. Invariant:
//! `agent.toml` beside this file, which `config print` shows, is this structure with its defaults, key for key.

mod check;
mod keys;
mod layers;
mod print;
mod secret;

pub(crate) use check::Unfit;
pub(crate) use layers::{ConfigError, DEFAULT_FILE, Loaded, load};
pub(crate) use print::{annotated, effective};
pub(crate) use secret::Secret;

use serde::{Deserialize, Serialize};

/// Every setting of the agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// Where to send: `https://host:4317`.
    pub(crate) endpoint: String,
    /// Who pays; or the file that says so.
    pub(crate) api_key: Secret,
    pub(crate) api_key_file: String,
    /// Empty: by user, see `state::locate`.
    pub(crate) state_dir: String,
    pub(crate) log: Log,
    pub(crate) admin: Admin,
    pub(crate) limits: Limits,
    pub(crate) telemetry: Telemetry,
    pub(crate) host: ollystack_input_host::Config,
    pub(crate) logs: ollystack_input_logs::Config,
    pub(crate) journald: ollystack_input_journald::Config,
    pub(crate) otlp: ollystack_input_otlp::Config,
    pub(crate) sockets: ollystack_input_sockets::Config,
    pub(crate) ebpf: ollystack_input_ebpf::Config,
    pub(crate) enrich: ollystack_enrich::Config,
    pub(crate) redact: ollystack_process::redact::Config,
    pub(crate) metrics: ollystack_process::fold::Config,
    pub(crate) red: ollystack_process::red::Config,
    pub(crate) traces: ollystack_process::sample::Config,
    pub(crate) patterns: ollystack_process::logs::Config,
    pub(crate) buffer: Buffer,
    pub(crate) export: ollystack_export::Config,
}

impl Default for Config {
    /// Each stage's defaults suit it alone; what is set here makes them fit into `limits.memory_bytes_max` together.
    fn default() -> Config {
        let mut config = Config {
            endpoint: String::new(),
            api_key: Secret::default(),
            api_key_file: String::new(),
            state_dir: String::new(),
            log: Log::default(),
            admin: Admin::default(),
            limits: Limits::default(),
            telemetry: Telemetry::default(),
            host: Default::default(),
            logs: Default::default(),
            journald: Default::default(),
            otlp: Default::default(),
            sockets: Default::default(),
            ebpf: Default::default(),
            enrich: Default::default(),
            redact: Default::default(),
            metrics: Default::default(),
            red: Default::default(),
            traces: Default::default(),
            patterns: Default::default(),
            buffer: Buffer::default(),
            export: Default::default(),
        };
        config.otlp.limits.in_flight_bytes_max = 12 << 20;
        config.otlp.series_max = 2_000;
        config.export.batch_bytes_max = 512 << 10;
        config
    }
}

/// The agent's own log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Log {
    pub(crate) level: String,
    pub(crate) format: LogFormat,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Default for Log {
    fn default() -> Log {
        Log { level: "info".to_owned(), format: LogFormat::Text }
    }
}

/// `/metrics`, `/healthz` and `/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Admin {
    /// Empty: none.
    pub(crate) listen: String,
}

impl Default for Admin {
    fn default() -> Admin {
        Admin { listen: "127.0.0.1:8889".to_owned() }
    }
}

/// What the agent may take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Limits {
    /// All stages together, kernel maps included.
    pub(crate) memory_bytes_max: u64,
    /// Of CPU time, before inputs slow down; 0: no limit.
    pub(crate) cpu_cores_max: f64,
    /// The queue between the inputs and `process`.
    pub(crate) queue_batches_max: usize,
    pub(crate) queue_records_max: u32,
    /// From SIGTERM to the end.
    pub(crate) shutdown_deadline_ms: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            memory_bytes_max: 100 << 20,
            cpu_cores_max: 1.0,
            queue_batches_max: 64,
            queue_records_max: 8_192,
            shutdown_deadline_ms: 10_000,
        }
    }
}

/// The agent's metrics about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Telemetry {
    pub(crate) enabled: bool,
    pub(crate) interval_ms: u64,
}

impl Default for Telemetry {
    fn default() -> Telemetry {
        Telemetry { enabled: true, interval_ms: 10_000 }
    }
}

/// The disk buffer, in `buffer/` of the state directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Buffer {
    /// All its files together.
    pub(crate) bytes_max: u64,
    /// One file; also the largest batch.
    pub(crate) segment_bytes_max: u64,
}

impl Default for Buffer {
    fn default() -> Buffer {
        Buffer { bytes_max: 256 << 20, segment_bytes_max: 8 << 20 }
    }
}
