//! The gateway's own metrics, served at `/metrics` in the OpenMetrics text format.
//!
//! Stages count here as things happen; gauges of state that lives elsewhere (spill, memory, process) are read when somebody
//! asks. Invariant: labels take values of ours or tenant names from the key file, never anything a sender wrote.

use super::ledger::Ledger;
use ollystack_receive::{Event, Signal};
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TenantSignal {
    tenant: String,
    pub(crate) signal: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Quota {
    tenant: String,
    period: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SignalReason {
    pub(crate) signal: &'static str,
    pub(crate) reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfSignal {
    pub(crate) signal: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OfTable {
    pub(crate) table: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct TableKind {
    pub(crate) table: &'static str,
    pub(crate) kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfOutcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfReason {
    pub(crate) reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    pub(crate) transport: &'static str,
    pub(crate) signal: &'static str,
    pub(crate) code: &'static str,
}

type Seconds = Family<OfTable, Histogram, fn() -> Histogram>;
type RequestSeconds = Family<OfSignal, Histogram, fn() -> Histogram>;
type RealCounter = Counter<f64, AtomicU64>;

/// All of them. Cheap to count on from any task.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) ledger: Ledger,
    #[cfg(feature = "kafka")]
    pub(crate) kafka: super::kafka::Kafka,
    /// Records accepted: their rows are in ClickHouse or on a synced disk.
    points: Family<TenantSignal, Counter>,
    /// Bytes charged for them.
    tenant_bytes: Family<TenantSignal, Counter>,
    /// What there is of each quota of bytes, and what is used of it, through all gateways. Read when somebody asks.
    quota_bytes: Family<Quota, Gauge>,
    quota_used_bytes: Family<Quota, Gauge>,
    /// Records refused, by reason.
    rejected: Family<SignalReason, Counter>,
    accepted: [Counter; 3],
    rejected_in_all: Counter,
    bytes: Family<OfSignal, Counter>,
    decoded_bytes: Family<OfSignal, Counter>,
    requests: Family<Request, Counter>,
    /// By the face or the stages behind it, whatever was in them.
    requests_refused: Family<OfReason, Counter>,
    values_cut: Counter,
    request_seconds: RequestSeconds,
    connections: Gauge,
    connections_refused: Family<OfReason, Counter>,
    handshakes_failed: Counter,
    /// From the start of an insert to ClickHouse's confirmation.
    pub(crate) write_seconds: Seconds,
    /// Rows that ClickHouse confirmed.
    pub(crate) rows: Family<OfTable, Counter>,
    /// Inserts that failed, by kind.
    pub(crate) write_errors: Family<TableKind, Counter>,
    /// Blocks written to the spill, and read back and delivered.
    pub(crate) spilled: Family<OfTable, Counter>,
    pub(crate) replayed: Family<OfTable, Counter>,
    rows_lost: Family<TableKind, Counter>,
    redelivered: Family<OfOutcome, Counter>,
    /// Read when somebody asks.
    pub(crate) pending_bytes: Gauge,
    pub(crate) spill_entries: Gauge,
    pub(crate) spill_bytes: Gauge,
    pub(crate) set_aside_entries: Gauge,
    pub(crate) keys: Gauge,
    resident_bytes: Gauge,
    cpu_seconds: RealCounter,
}

impl Metrics {
    pub(crate) fn new() -> Metrics {
        // 1 ms to 32 s: an insert of 10,000 rows takes tens of milliseconds, its timeout is 10 s.
        let seconds: fn() -> Histogram = || Histogram::new(exponential_buckets(0.001, 2.0, 16));
        let mut metrics = Metrics {
            registry: Registry::default(),
            #[cfg(feature = "kafka")]
            kafka: super::kafka::Kafka::new(),
            ledger: Ledger::default(),
            points: Family::default(),
            tenant_bytes: Family::default(),
            quota_bytes: Family::default(),
            quota_used_bytes: Family::default(),
            rejected: Family::default(),
            accepted: Default::default(),
            rejected_in_all: Counter::default(),
            bytes: Family::default(),
            decoded_bytes: Family::default(),
            requests: Family::default(),
            requests_refused: Family::default(),
            values_cut: Counter::default(),
            request_seconds: Family::new_with_constructor(seconds),
            connections: Gauge::default(),
            connections_refused: Family::default(),
            handshakes_failed: Counter::default(),
            write_seconds: Family::new_with_constructor(seconds),
            rows: Family::default(),
            write_errors: Family::default(),
            spilled: Family::default(),
            replayed: Family::default(),
            rows_lost: Family::default(),
            redelivered: Family::default(),
            pending_bytes: Gauge::default(),
            spill_entries: Gauge::default(),
            spill_bytes: Gauge::default(),
            set_aside_entries: Gauge::default(),
            keys: Gauge::default(),
            resident_bytes: Gauge::default(),
            cpu_seconds: RealCounter::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let start_time: Gauge = Gauge::default();
        start_time.set(i64::try_from(started).unwrap_or(i64::MAX));
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);

        let ours = self.registry.sub_registry_with_prefix("ollystack");
        ours.register("gateway_build", "The running version", build);
        ours.register("ingestion_data_points", "Records accepted, by tenant and signal", self.points.clone());
        let help = "Bytes of requests accepted, once decompressed, by tenant and signal";
        ours.register("tenant_bytes", help, self.tenant_bytes.clone());
        ours.register("tenant_quota_bytes", "Bytes that a tenant may send a day or month", self.quota_bytes.clone());
        let help = "Of those, used in this day or month (UTC) through all gateways";
        ours.register("tenant_quota_used_bytes", help, self.quota_used_bytes.clone());
        ours.register("ingestion_rejected", "Records refused, by signal and reason", self.rejected.clone());
        ours.register("ingestion_bytes", "Request bytes on the wire, by signal", self.bytes.clone());
        ours.register("ingestion_decoded_bytes", "Request bytes after decompression", self.decoded_bytes.clone());
        ours.register("requests", "Requests answered, by transport, signal and gRPC code", self.requests.clone());
        ours.register("requests_refused", "Requests refused, by reason", self.requests_refused.clone());
        ours.register("values_cut", "Lists and maps left out: nested too deeply", self.values_cut.clone());
        let help = "From a request's head to its answer";
        ours.register_with_unit("request_duration", help, Unit::Seconds, self.request_seconds.clone());
        ours.register("connections", "Open connections", self.connections.clone());
        ours.register("connections_refused", "Connections closed at once, by reason", self.connections_refused.clone());
        ours.register("handshakes_failed", "TLS handshakes that failed", self.handshakes_failed.clone());
        let help = "From the start of an insert to its confirmation, by table";
        ours.register_with_unit("clickhouse_write_latency", help, Unit::Seconds, self.write_seconds.clone());
        ours.register("clickhouse_rows", "Rows confirmed by ClickHouse, by table", self.rows.clone());
        ours.register("clickhouse_write_errors", "Inserts that failed, by table and kind", self.write_errors.clone());
        ours.register("spill_blocks_written", "Blocks written to the spill, by table", self.spilled.clone());
        ours.register("spill_blocks_replayed", "Blocks delivered from the spill, by table", self.replayed.clone());
        ours.register("rows_lost", "Accepted rows that are gone, by table and reason", self.rows_lost.clone());
        let help = "Deliveries that said they may have been made before: known, new, or told to come back";
        ours.register("redelivered_batches", help, self.redelivered.clone());
        ours.register("pending_bytes", "Rows in memory that nothing has confirmed", self.pending_bytes.clone());
        ours.register("spill_entries", "Blocks waiting in the spill", self.spill_entries.clone());
        ours.register("spill_bytes", "Bytes of the spill on disk", self.spill_bytes.clone());
        ours.register("set_aside_entries", "Blocks that ClickHouse refused for good", self.set_aside_entries.clone());
        self.ledger.register(ours);
        #[cfg(feature = "kafka")]
        self.kafka.register(ours);
        ours.register("keys", "Valid API keys", self.keys.clone());

        let process = self.registry.sub_registry_with_prefix("process");
        process.register("resident_memory_bytes", "Resident memory", self.resident_bytes.clone());
        process.register("cpu_seconds", "User and system time so far", self.cpu_seconds.clone());
        process.register("start_time_seconds", "Start, in seconds since the epoch", start_time);
    }

    /// Count what happened at the OTLP face.
    pub(crate) fn observe(&self, event: Event) {
        match event {
            Event::ConnectionOpened => drop(self.connections.inc()),
            Event::ConnectionClosed => drop(self.connections.dec()),
            Event::ConnectionRefused(too_many) => {
                self.connections_refused.get_or_create(&OfReason { reason: too_many.name() }).inc();
            }
            Event::HandshakeFailed => drop(self.handshakes_failed.inc()),
            Event::Answered { signal, transport, code, reason, wire_bytes, decoded_bytes, values_cut, elapsed } => {
                if !reason.is_empty() {
                    // A reason is one of ours, never a sender's words; their number is that of the ways to refuse.
                    self.requests_refused.get_or_create(&OfReason { reason }).inc();
                }
                self.values_cut.inc_by(values_cut);
                let signal = signal.map_or("unknown", Signal::name);
                let transport = transport.map_or("unknown", |transport| transport.name());
                self.requests.get_or_create(&Request { transport, signal, code: code_name(code) }).inc();
                let of_signal = OfSignal { signal };
                self.request_seconds.get_or_create(&of_signal).observe(elapsed.as_secs_f64());
                self.bytes.get_or_create(&of_signal).inc_by(wire_bytes);
                self.decoded_bytes.get_or_create(&of_signal).inc_by(decoded_bytes);
            }
        }
    }

    /// Count records that were refused.
    pub(crate) fn reject(&self, signal: Signal, reason: &'static str, records: u64) {
        self.rejected.get_or_create(&SignalReason { signal: signal.name(), reason }).inc_by(records);
        self.rejected_in_all.inc_by(records);
    }

    /// What was taken and refused since the start, over all tenants.
    pub(crate) fn totals(&self) -> Totals {
        Totals { accepted: self.accepted.each_ref().map(Counter::get), rejected: self.rejected_in_all.get() }
    }

    /// Count records whose rows are safe, and the bytes that their tenant is charged for them.
    pub(crate) fn accept(&self, tenant: &str, signal: Signal, records: u64, bytes: u64) {
        let label = TenantSignal { tenant: tenant.to_owned(), signal: signal.name() };
        self.tenant_bytes.get_or_create(&label).inc_by(bytes);
        self.points.get_or_create(&label).inc_by(records);
        self.accepted[signal as usize].inc_by(records);
    }

    /// Show a tenant's quota of bytes, 0 for none, and what is used of it.
    pub(crate) fn show_quota(&self, tenant: &str, period: &'static str, bytes_max: u64, used: u64) {
        let label = Quota { tenant: tenant.to_owned(), period };
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.quota_bytes.get_or_create(&label).set(gauge(bytes_max));
        self.quota_used_bytes.get_or_create(&label).set(gauge(used));
    }

    /// Count a delivery that may have been made before.
    pub(crate) fn redelivered(&self, outcome: &'static str) {
        self.redelivered.get_or_create(&OfOutcome { outcome }).inc();
    }

    /// Count accepted rows that are gone.
    pub(crate) fn add_lost(&self, table: &'static str, kind: &'static str, rows: u64) {
        self.rows_lost.get_or_create(&TableKind { table, kind }).inc_by(rows);
    }

    /// The text of `/metrics`.
    pub(crate) fn encode(&self) -> Result<String, std::fmt::Error> {
        let (resident, cpu) = process_use().unwrap_or_default();
        self.resident_bytes.set(resident);
        self.cpu_seconds.inner().store(cpu.to_bits(), Relaxed);
        let mut out = String::new();
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }
}

/// What the last line of a run says.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    /// Data points, log records, spans.
    pub(crate) accepted: [u64; 3],
    pub(crate) rejected: u64,
}

/// Shared by all stages.
pub(crate) type SharedMetrics = Arc<Metrics>;

/// The OpenTelemetry name of a gRPC code.
fn code_name(code: tonic::Code) -> &'static str {
    use tonic::Code::*;
    match code {
        Ok => "OK",
        Cancelled => "CANCELLED",
        Unknown => "UNKNOWN",
        InvalidArgument => "INVALID_ARGUMENT",
        DeadlineExceeded => "DEADLINE_EXCEEDED",
        NotFound => "NOT_FOUND",
        AlreadyExists => "ALREADY_EXISTS",
        PermissionDenied => "PERMISSION_DENIED",
        ResourceExhausted => "RESOURCE_EXHAUSTED",
        FailedPrecondition => "FAILED_PRECONDITION",
        Aborted => "ABORTED",
        OutOfRange => "OUT_OF_RANGE",
        Unimplemented => "UNIMPLEMENTED",
        Internal => "INTERNAL",
        Unavailable => "UNAVAILABLE",
        DataLoss => "DATA_LOSS",
        Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Resident bytes and CPU seconds of this process, from /proc. `None` where there is no /proc.
fn process_use() -> Option<(i64, f64)> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The command name may hold spaces: fields are counted after its closing bracket (proc_pid_stat(5)).
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: f64 = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    let pages: i64 = fields.get(21)?.parse().ok()?;
    let page_size = i64::try_from(rustix::param::page_size()).ok()?;
    Some((pages * page_size, ticks / rustix::param::clock_ticks_per_second() as f64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_text_has_the_names_that_dashboards_use() {
        let metrics = Metrics::new();
        metrics.accept("acme", Signal::Logs, 7, 900);
        metrics.write_seconds.get_or_create(&OfTable { table: "logs_raw" }).observe(0.5);
        metrics.reject(Signal::Traces, "trace_id", 2);
        metrics.observe(Event::Answered {
            signal: Some(Signal::Logs),
            transport: None,
            code: tonic::Code::Ok,
            reason: "",
            wire_bytes: 10,
            decoded_bytes: 20,
            values_cut: 0,
            elapsed: Duration::from_millis(3),
        });
        let text = metrics.encode().unwrap();
        for line in [
            "ollystack_ingestion_data_points_total{tenant=\"acme\",signal=\"logs\"} 7",
            "ollystack_tenant_bytes_total{tenant=\"acme\",signal=\"logs\"} 900",
            "ollystack_ingestion_rejected_total{signal=\"traces\",reason=\"trace_id\"} 2",
            "ollystack_ingestion_bytes_total{signal=\"logs\"} 10",
            "ollystack_requests_total{transport=\"unknown\",signal=\"logs\",code=\"OK\"} 1",
            "ollystack_clickhouse_write_latency_seconds_count{table=\"logs_raw\"} 1",
            "ollystack_spill_entries 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in:\n{text}");
        }
        let resident = text.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes ")).unwrap();
        assert!(resident.parse::<u64>().unwrap() > 0);
    }
}
