//! `ollystack-gateway consume`: wires the consumer of Kafka's topics with ClickHouse, and takes them down.
//!
//! topics -> consumer -> write -> ClickHouse. Invariant: on a signal nothing new is begun, what was begun is finished or left to whoever takes the
//! partitions over, and only then the admin port ends.

use crate::admin::{self, Status};
use crate::batch::budget::Budget;
use crate::config::{Config, StoreMode};
use crate::convert::tables;
use crate::engine;
use crate::kafka::consume::start;
use crate::migrate;
use crate::run::{self, Error};
use crate::signals::Signals;
use crate::telemetry::metrics::Metrics;
use crate::write::Writer;
use crate::write::clickhouse::ClickHouse;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// On stop the consumer has so long; a broker that is away must not keep it. What it leaves undone is done by its successor.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Consume until a signal.
pub(crate) async fn run(config: Config) -> Result<(), Error> {
    let begun = Instant::now();
    let mut signals = Signals::new().map_err(Error::Signals)?;
    let admin = ollystack_receive::bind(config.admin.listen).await?;
    let admin_address = admin.local_addr().map(|address| address.to_string()).unwrap_or_default();
    let [stop, end] = [(); 2].map(|()| CancellationToken::new());
    let metrics = Arc::new(Metrics::new());
    let url = match config.store.mode {
        StoreMode::External => config.clickhouse.url.clone(),
        StoreMode::Embedded => engine::url(&config),
    };
    let clickhouse = ClickHouse::new(&config.clickhouse, &url)?;
    let directory = config.consumer_dir();
    let disks = run::disks(&config, directory.join("spill"), directory.join("set-aside"), &metrics)?;
    let in_flight_max = config.clickhouse.inserts_in_flight_max;
    let (terms, tables) = (config.terms(), tables().into());
    let writer = Writer::new(clickhouse.clone(), disks, tables, terms, in_flight_max, metrics.clone(), stop.clone());
    let writer = Arc::new(writer);
    let (consumer, thread) = start(&config, Arc::clone(&writer), metrics.clone(), stop.clone())?;

    let schema_problem: Arc<migrate::Problem> = Arc::default();
    let status = Arc::new(Status {
        admission: None,
        writer: Arc::clone(&writer),
        broker: Some(consumer),
        budget: Budget::new(config.batch.bytes_max),
        metrics: Arc::clone(&metrics),
        schema_problem: Arc::clone(&schema_problem),
        schema_seen: AtomicBool::new(false),
        stop: stop.clone(),
    });
    let mut until_stop = JoinSet::new();
    let mut until_end = JoinSet::new();
    if config.store.mode == StoreMode::Embedded {
        until_end.spawn(engine::run(config.clone(), end.clone()));
    }
    until_end.spawn(admin::serve(admin, status, end.clone()));
    // For what was set aside.
    until_stop.spawn(Arc::clone(&writer).replay());
    let (ready, keep_schema, tiers) = (writer.schema_ready().clone(), stop.clone(), config.tiers.clone());
    until_stop.spawn(async move {
        migrate::keep_applied(clickhouse, tiers, ready, &schema_problem, keep_schema).await;
    });
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        admin = admin_address,
        brokers = config.kafka.brokers,
        group = config.kafka.group,
        topics = config.kafka.topic_prefix,
        clickhouse = url,
        database = config.clickhouse.database,
        "consuming"
    );

    signals.next().await;
    tracing::info!("stopping: finishing the blocks that are being written");
    stop.cancel();
    let by = Instant::now() + STOP_TIMEOUT;
    while !thread.is_finished() && Instant::now() < by {
        sleep(Duration::from_millis(20)).await;
    }
    while until_stop.join_next().await.is_some() {}
    writer.close().await;
    end.cancel();
    while until_end.join_next().await.is_some() {}
    tracing::info!(seconds = begun.elapsed().as_secs(), "stopped; what was not finished is in the topics");
    Ok(())
}
