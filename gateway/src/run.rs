//! `ollystack-gateway run`: wires the stages, and takes them down in the order of the data.
//!
//! receive -> ingest (admit, convert) -> batch -> write -> ClickHouse or spill. Invariant: on a signal nothing new is taken, what was
//! taken is answered after it is safe, and only then do the spill, the admin port and the embedded engine end.

use crate::admin::{self, Status};
use crate::admit::Admission;
use crate::batch::Batcher;
use crate::batch::budget::Budget;
use crate::config::{self, Config, SinkMode, StoreMode};
use crate::convert::{series::Seen, tables};
use crate::delivered::Deliveries;
use crate::engine;
use crate::ingest::{Ingest, Way};
use crate::migrate;
use crate::signals::Signals;
use crate::telemetry::metrics::Metrics;
use crate::usage::report::Reporter;
use crate::write::clickhouse::{ClickHouse, SetUpError};
use crate::write::{Disks, Losses, Writer, by_signal};
use ollystack_buffer::{Buffer, Options, Recovery, WhenFull};
use ollystack_receive::Signal;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Why the gateway does not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Receive(#[from] ollystack_receive::Error),
    #[error(transparent)]
    ClickHouse(#[from] SetUpError),
    #[error("the spill in {directory}: {source}")]
    Spill { directory: PathBuf, source: ollystack_buffer::Error },
    #[cfg(feature = "kafka")]
    #[error(transparent)]
    Kafka(#[from] crate::kafka::SetUpError),
    #[cfg(feature = "kafka")]
    #[error(transparent)]
    Consumer(#[from] crate::kafka::consume::StartError),
    #[error("the kernel gave no random bytes: {0}")]
    Random(#[from] getrandom::Error),
    #[error("signals cannot be waited for: {0}")]
    Signals(std::io::Error),
}

/// Run until a signal.
pub(crate) async fn run(config: Config) -> Result<(), Error> {
    let begun = Instant::now();
    let mut signals = Signals::new().map_err(Error::Signals)?;
    let grpc = ollystack_receive::bind(config.server.grpc_listen).await?;
    let http = ollystack_receive::bind(config.server.http_listen).await?;
    let admin = ollystack_receive::bind(config.admin.listen).await?;
    let addresses = [&grpc, &http, &admin].map(|listener| listener.local_addr().map(|address| address.to_string()));

    // `stop`: take nothing new. `taken`: every request is answered. `end`: everything that was taken is safe.
    let [stop, taken, end] = [(); 3].map(|()| CancellationToken::new());
    let metrics = Arc::new(Metrics::new());
    let admission = Arc::new(Admission::new(config.keys_file(), config.tenants));
    let url = match config.store.mode {
        StoreMode::External => config.clickhouse.url.clone(),
        StoreMode::Embedded => engine::url(&config),
    };
    let clickhouse = ClickHouse::new(&config.clickhouse, &url)?;
    let disks = disks(&config, config.spill_dir(), config.set_aside_dir(), &metrics)?;
    let in_flight_max = config.clickhouse.inserts_in_flight_max;
    let terms = config.terms();
    let writer =
        Writer::new(clickhouse.clone(), disks, tables().into(), terms, in_flight_max, metrics.clone(), stop.clone());
    let writer = Arc::new(writer);
    let budget = Budget::new(config.batch.bytes_max);
    let (batcher, mut gatherers) = Batcher::start(&config.batch, in_flight_max, &tables(), &writer, &stop)?;

    let mut until_stop = JoinSet::new();
    #[cfg(feature = "kafka")]
    let producer = match config.sink {
        SinkMode::ClickHouse => None,
        SinkMode::Kafka => Some(producer(&config, &metrics, &stop, &mut until_stop)?),
    };
    #[cfg(feature = "kafka")]
    let broker = producer.clone().map(|producer| producer as Arc<dyn admin::Broker>);
    #[cfg(not(feature = "kafka"))]
    let broker = None;
    let schema_problem: Arc<migrate::Problem> = Arc::default();
    let status = Arc::new(Status {
        admission: Some(Arc::clone(&admission)),
        writer: Arc::clone(&writer),
        broker,
        budget: budget.clone(),
        metrics: Arc::clone(&metrics),
        schema_problem: Arc::clone(&schema_problem),
        schema_seen: AtomicBool::new(false),
        stop: stop.clone(),
    });

    let mut until_end = JoinSet::new();
    if config.store.mode == StoreMode::Embedded {
        until_end.spawn(engine::run(config.clone(), end.clone()));
    }
    until_end.spawn(admin::serve(admin, status, end.clone()));
    until_stop.spawn(Arc::clone(&admission).watch(stop.clone()));
    until_stop.spawn(Arc::clone(&writer).replay());
    let ready = writer.schema_ready().clone();
    let reporter = Reporter::new(admission.accounts().clone(), clickhouse.clone(), ready.subscribe())?;
    let reporting = tokio::spawn(reporter.run(taken.clone()));
    let (keep_schema, tiers) = (stop.clone(), config.tiers.clone());
    until_stop.spawn(async move {
        migrate::keep_applied(clickhouse, tiers, ready, &schema_problem, keep_schema).await;
    });

    let seen = Arc::new(Seen::new());
    let (arrivals, deliveries) = (Arc::clone(&writer), Deliveries::default());
    #[cfg(feature = "kafka")]
    let way = producer.clone().map_or(Way::Tables(batcher), Way::Log);
    #[cfg(not(feature = "kafka"))]
    let way = Way::Tables(batcher);
    let service =
        Arc::new(Ingest { admission, way, budget, seen, arrivals, deliveries, terms, metrics: Arc::clone(&metrics) });
    let server = ollystack_receive::Server::new(service, config.server.limits(), config.tls().as_ref())?;
    let [grpc_address, http_address, admin_address] = addresses.map(|address| address.unwrap_or_default());
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        grpc = grpc_address,
        http = http_address,
        admin = admin_address,
        tls = config.tls().is_some(),
        sink = if config.sink == SinkMode::Kafka { "kafka" } else { "clickhouse" },
        clickhouse = url,
        database = config.clickhouse.database,
        "the gateway is listening"
    );
    let mut serving = JoinSet::new();
    for listener in [grpc, http] {
        let (server, stop) = (server.clone(), stop.clone());
        serving.spawn(async move { server.serve(listener, stop).await });
    }
    drop(server);

    let interrupted = signals.next().await;
    tracing::info!("stopping: finishing requests and writing what was taken; Ctrl-C twice ends at once");
    tokio::spawn(async move {
        signals.second_interrupt(interrupted).await;
        tracing::error!(
            "second SIGINT: ending at once; requests that were not answered are sent again by their senders"
        );
        std::process::exit(1);
    });
    stop.cancel();
    // The requests first: they wait for their blocks, which the gatherers freeze at once now. The batcher goes with the last one.
    while serving.join_next().await.is_some() {}
    while gatherers.join_next().await.is_some() {}
    while until_stop.join_next().await.is_some() {}
    taken.cancel();
    if let Err(error) = reporting.await {
        tracing::error!(%error, "reporting what tenants used ended before its time");
    }
    let (blocks, bytes, set_aside) = writer.waiting();
    writer.close().await;
    #[cfg(feature = "kafka")]
    if let Some(producer) = &producer {
        producer.close().await;
    }
    end.cancel();
    while until_end.join_next().await.is_some() {}
    let totals = metrics.totals();
    tracing::info!(
        seconds = begun.elapsed().as_secs(),
        metrics = totals.accepted[0],
        logs = totals.accepted[1],
        traces = totals.accepted[2],
        rejected = totals.rejected,
        spill_blocks = blocks,
        spill_bytes = bytes,
        set_aside_blocks = set_aside,
        "stopped; everything that was accepted is in ClickHouse, in Kafka or in the spill"
    );
    Ok(())
}

/// The producer, with what has to run beside it until the gateway stops.
#[cfg(feature = "kafka")]
fn producer(
    config: &Config,
    metrics: &Arc<Metrics>,
    stop: &CancellationToken,
    until_stop: &mut JoinSet<()>,
) -> Result<Arc<crate::kafka::produce::Producer>, Error> {
    use crate::kafka::SIGNALS;
    use crate::kafka::produce::{Producer, SpillLosses};
    let directory = config.kafka_spill_dir();
    let options = Options {
        directory: directory.clone(),
        bytes_max: config.spill.bytes_max,
        segment_bytes_max: config.spill.segment_bytes_max,
        when_full: WhenFull::Refuse,
    };
    let opened = Buffer::open(options, Arc::new(SpillLosses(Arc::clone(metrics))));
    let (spill, recovery) = opened.map_err(|source| Error::Spill { directory, source })?;
    let damaged = recovery.quarantined.iter().map(|segment| &segment.records_by_signal);
    for by_signal in damaged.chain([&recovery.records_by_signal]) {
        for signal in SIGNALS {
            metrics.ledger.carry(signal, by_signal.get(signal as usize).copied().unwrap_or(0));
        }
    }
    report("spill for Kafka", &recovery);
    let producer = Arc::new(Producer::new(&config.kafka, spill, Arc::clone(metrics), stop.clone())?);
    until_stop.spawn(Arc::clone(&producer).keep_reaching());
    until_stop.spawn(Arc::clone(&producer).replay());
    Ok(producer)
}

/// Open the spill and the place of blocks that ClickHouse refuses.
pub(crate) fn disks(
    config: &Config,
    spill: PathBuf,
    set_aside: PathBuf,
    metrics: &Arc<Metrics>,
) -> Result<Disks, Error> {
    let open = |directory: PathBuf, bytes_max: u64| {
        let options = Options {
            directory: directory.clone(),
            bytes_max,
            segment_bytes_max: config.spill.segment_bytes_max,
            when_full: WhenFull::Refuse,
        };
        let names = tables().iter().map(|table| table.name).collect();
        let losses = Arc::new(Losses { tables: names, metrics: Arc::clone(metrics) });
        let opened = Buffer::open(options, losses);
        opened.map_err(|source| Error::Spill { directory, source })
    };
    let (spill, recovery) = open(spill, config.spill.bytes_max)?;
    carry(&recovery, metrics);
    report("spill", &recovery);
    let set_aside_bytes_max = config.spill.segment_bytes_max * config::SET_ASIDE_SEGMENTS;
    let (set_aside, recovery) = open(set_aside, set_aside_bytes_max)?;
    carry(&recovery, metrics);
    report("set-aside", &recovery);
    Ok(Disks { spill, set_aside })
}

/// Enter in the ledger what a disk held, that of damaged segments included, of which the observer has heard.
fn carry(recovery: &Recovery, metrics: &Metrics) {
    let damaged = recovery.quarantined.iter().map(|segment| &segment.records_by_signal);
    for records in damaged.chain([&recovery.records_by_signal]).map(|by_table| by_signal(by_table)) {
        for (signal, records) in [Signal::Metrics, Signal::Logs, Signal::Traces].into_iter().zip(records) {
            metrics.ledger.carry(signal, records);
        }
    }
}

fn report(place: &str, recovery: &Recovery) {
    if recovery.entries > 0 {
        tracing::info!(
            place,
            blocks = recovery.entries,
            bytes = recovery.bytes,
            "blocks of an earlier run wait on disk"
        );
    }
    for segment in &recovery.quarantined {
        tracing::error!(
            place,
            path = %segment.path.display(),
            why = segment.why,
            blocks = segment.entries,
            exact = segment.exact,
            "a damaged segment was set aside; its blocks are lost unless the file can be repaired"
        );
    }
}
