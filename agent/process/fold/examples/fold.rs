//! How many samples one core folds a second, and what a series takes in memory and in a checkpoint.
//!
//! `cargo xtask bench fold` builds this, runs it and shows what it prints: one JSON object. Each number of series is measured in a
//! process of its own, so that none finds the memory that another left. Samples are made before the clock starts, and are the
//! host's: half levels, half running totals, one a second, none of them constant.
#![allow(clippy::unwrap_used, reason = "a bench may stop")]

use ollystack_fold::{Config, Fold, Measurement};
use ollystack_record::{Kind, Ledger, Metric, Resource, Sample, Scope, Series, Source, Value, value};
use peak_alloc::PeakAlloc;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value as Json, json};
use std::process::Command;
use std::sync::Arc;

/// Counts what is allocated and not freed.
#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

const SECOND: u64 = 1_000_000_000;
const START: u64 = 1_700_000_040 * SECOND;

/// Samples folded in one measurement, however many series share them.
const SAMPLES: usize = 20_000_000;

/// What leaves at once, as the agent has it.
const PORTION_BYTES: usize = 512 << 10;

/// The table is weighed late in a window, when every series has one open and nothing else.
const WEIGHED_AT_SECOND: u64 = 50;

fn main() {
    match std::env::args().nth(1).as_deref() {
        None => println!("{}", report()),
        Some("measurements") => println!("{}", measurements()),
        Some(series) => println!("{}", measure(series.parse().unwrap())),
    }
}

/// What this program says with an argument, in a process of its own.
fn ask(argument: &str) -> Json {
    eprintln!("{argument}");
    let own = Command::new(std::env::current_exe().unwrap()).arg(argument).output().unwrap();
    assert!(own.status.success(), "{}", String::from_utf8_lossy(&own.stderr));
    serde_json::from_slice(&own.stdout).unwrap()
}

fn report() -> Json {
    let (mut rows, mut figures) = (Vec::new(), serde_json::Map::new());
    for (series, name) in [(1_000, "1k"), (10_000, "10k"), (20_000, "20k"), (100_000, "100k")] {
        let measured = ask(&series.to_string());
        let show =
            |key: &str, scale: f64, digits: usize| format!("{:.digits$}", measured[key].as_f64().unwrap() / scale);
        rows.push(json!([
            series.to_string(),
            show("samples_per_core_second", 1e6, 1),
            show("table_bytes_per_series", 1.0, 0),
            show("label_bytes_per_series", 1.0, 0),
            show("samples_per_point", 1.0, 1),
            show("longest_tick_ms", 1.0, 1),
            show("checkpoint_bytes", 1e3, 0),
            show("checkpoint_ms", 1.0, 1),
            show("restore_ms", 1.0, 1),
        ]));
        for (key, value) in measured.as_object().unwrap() {
            figures.insert(format!("{key}_{name}"), value.clone());
        }
    }
    let measured = ask("measurements");
    let measurements = format!(
        "measurements into exponential histograms of scale 6, as RED metrics make them: {:.1} M per core-second, {:.0} bytes for a series of 600 within a decade, labels excluded",
        measured["measurements_per_core_second"].as_f64().unwrap() / 1e6,
        measured["measured_bytes_per_series"].as_f64().unwrap(),
    );
    figures.extend(measured.as_object().unwrap().clone());
    json!({
        "columns": [
            "series", "M samples/core-s", "table B/series", "label B/series", "samples/point",
            "longest tick ms", "checkpoint kB", "checkpoint ms", "restore ms",
        ],
        "rows": rows,
        "notes": [
            "CPU time of one thread for taking samples and for ticks, building the points that leave included; sending them not",
            "table: bytes allocated by folding with one window open per series, labels excluded, by a counting allocator",
            "labels: bytes allocated for series and attributes, held once and shared with the input",
            "checkpoint: open windows and last totals of all series, labels included, not compressed",
            measurements,
        ],
        "figures": figures,
    })
}

/// Labels as the host input has them.
fn series(count: usize) -> Vec<Arc<Series>> {
    let scope = Arc::new(Scope::default());
    let metric =
        |name: &str, kind| Arc::new(Metric { name: name.into(), unit: "By".into(), kind, ..Metric::default() });
    let metrics = [
        metric("system.memory.usage", Kind::Gauge),
        metric("system.disk.io", Kind::Sum { monotonic: true, delta: false }),
    ];
    let one = |n: usize| {
        let labels = vec![
            value::string("system.device", format!("dm-{}", n / 2)),
            value::string("disk.io.direction", if n % 4 < 2 { "read" } else { "write" }),
        ];
        Arc::new(Series::new(Arc::clone(&scope), Arc::clone(&metrics[n % 2]), labels))
    };
    (0..count).map(one).collect()
}

fn measure(count: usize) -> Json {
    let before = HEAP.current_usage();
    let series = series(count);
    let labels = HEAP.current_usage() - before;
    let resource = Arc::new(Resource::default());
    let max = 2 * count;
    let config = Config {
        series_max: max,
        series_per_source_max: max,
        series_per_metric_max: max,
        bytes_max: 1 << 30,
        ..Config::default()
    };
    let mut fold = Fold::new(config.clone(), Arc::new(Ledger::default()));
    let (mut spent, mut points, mut longest_tick) = (0.0, 0, 0.0_f64);
    let (mut table, mut checkpoint) = (0, Json::Null);
    let mut out = Vec::new();
    let before = HEAP.current_usage();
    let seconds = (SAMPLES / count).clamp(65, 1_200) as u64;
    for second in 0..seconds {
        let now = START + second * SECOND;
        let samples: Vec<Sample> =
            series.iter().map(|s| Sample::number(s, START, now, Value::Double(second as f64 * 1.5))).collect();
        let begun = thread_seconds();
        fold.take(Source::Host, &resource, samples, now);
        let taken = thread_seconds();
        fold.tick(now);
        while fold.hand_out(now, PORTION_BYTES, &mut out) {}
        let ended = thread_seconds();
        spent += ended - begun;
        longest_tick = longest_tick.max(ended - taken);
        points += out.drain(..).map(|reduced| reduced.records.count()).sum::<u64>();
        if second == WEIGHED_AT_SECOND {
            table = HEAP.current_usage() - before - out.capacity() * size_of::<ollystack_record::Reduced>();
            checkpoint = checkpointed(&mut fold, config.clone(), now);
        }
    }
    let samples = count as f64 * seconds as f64;
    let mut figures = json!({
        "samples_per_core_second": (samples / spent).round(),
        "table_bytes_per_series": table as f64 / count as f64,
        "label_bytes_per_series": labels as f64 / count as f64,
        "samples_per_point": samples / points as f64,
        "longest_tick_ms": longest_tick * 1e3,
    });
    figures.as_object_mut().unwrap().append(checkpoint.as_object_mut().unwrap());
    figures
}

/// As RED metrics are made: durations within a decade, in 1,000 series.
fn measurements() -> Json {
    const SERIES: usize = 1_000;
    const PER_SERIES: usize = 600;
    let metric = Metric { kind: Kind::ExponentialHistogram { delta: true }, ..Metric::default() };
    let (scope, metric) = (Arc::new(Scope::default()), Arc::new(metric));
    let series: Vec<Arc<Series>> = (0..SERIES)
        .map(|n| Arc::new(Series::new(Arc::clone(&scope), Arc::clone(&metric), vec![value::int("n", n as i64)])))
        .collect();
    let (resource, trace_id, span_id) = (Arc::new(Resource::default()), [7; 16], [7; 8]);
    let mut fold = Fold::new(Config::default(), Arc::new(Ledger::default()));
    let (before, begun) = (HEAP.current_usage(), thread_seconds());
    let mut random = 1_u64;
    for n in 0..SERIES * PER_SERIES {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let decades = (random >> 11) as f64 / (1_u64 << 53) as f64;
        let (value, time_unix_nano) = (0.001 * 10_f64.powf(decades), START + n as u64);
        let measurement = Measurement { value, time_unix_nano, trace_id: &trace_id, span_id: &span_id };
        fold.observe(&resource, &series[n % SERIES], &measurement, time_unix_nano);
    }
    let spent = thread_seconds() - begun;
    json!({
        "measurements_per_core_second": ((SERIES * PER_SERIES) as f64 / spent).round(),
        "measured_bytes_per_series": (HEAP.current_usage() - before) as f64 / SERIES as f64,
    })
}

fn checkpointed(fold: &mut Fold, config: Config, now: u64) -> Json {
    let begun = thread_seconds();
    let bytes = fold.checkpoint(now);
    let written = thread_seconds();
    let mut again = Fold::new(config, Arc::new(Ledger::default()));
    let restored = again.restore(&bytes, now).unwrap();
    let read = thread_seconds();
    assert_eq!(restored.series, fold.stats().series);
    json!({
        "checkpoint_bytes": bytes.len(),
        "checkpoint_ms": (written - begun) * 1e3,
        "restore_ms": (read - written) * 1e3,
    })
}

/// CPU time of this thread.
fn thread_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
