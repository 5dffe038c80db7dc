//! The report: what went in, what came out, and what stayed exact.

use crate::Replay;
use crate::wire::Sum;
use ollystack_record::Signal;
use serde_json::{Map, Value, json};

#[derive(Default)]
struct Report {
    rows: Vec<[String; 4]>,
    figures: Map<String, Value>,
}

pub(crate) fn of(host: &Replay, lines: &Replay) -> Value {
    let mut report = Report::default();
    let (metrics_in, metrics_out) = (host.into.of(Signal::Metrics), host.out.of(Signal::Metrics));
    let (folded, alike) = (host.folded.of(Signal::Metrics), host.folded_alike.of(Signal::Metrics));
    report.volume("metrics", "points", "metric_points", metrics_in, folded);
    let [steady_in, steady_out] = host.steady;
    report.figure(
        "metric_points_bytes_zstd_ratio_at_equal_levels",
        metrics_in.packed_bytes as f64 / alike.packed_bytes.max(1) as f64,
    );
    report.volume("metrics, whole minutes", "points", "metric_points_steady", steady_in, steady_out);
    let [red_in, red_out] = host.derived;
    report.volume("RED, each second and folded", "points", "red_points", red_in, red_out);
    report.volume("metrics with RED", "points", "metric_points_with_red", metrics_in, metrics_out);
    report.volume("logs", "lines and rows", "log_records", host.into.of(Signal::Logs), host.out.of(Signal::Logs));
    report.volume("traces", "spans", "spans", host.into.of(Signal::Traces), host.out.of(Signal::Traces));
    report.volume(
        "log files",
        "lines and rows",
        "log_file_records",
        lines.into.of(Signal::Logs),
        lines.out.of(Signal::Logs),
    );

    let metrics = host.metrics.verdict();
    report.kept("points whose count, sum, min, max and last are exact", metrics.points, metrics.points - metrics.wrong);
    report.kept("samples that are in a point", metrics.samples, metrics.samples - metrics.uncovered);
    report.figure("points_wrong", metrics.wrong as f64);
    report.figure("samples_uncovered", metrics.uncovered as f64);
    report.figure("sum_error_relative_max", metrics.sum_error_max);
    report.figure("series", metrics.series as f64);
    let red = host.red.verdict();
    report.kept("spans counted in RED metrics", red.spans, red.counted);
    report.figure("red_spans_missing", red.spans as f64 - red.counted as f64);
    report.figure("red_series_wrong", red.series_wrong as f64);
    report.figure("quantile_error_relative_max", red.quantile_error_max);
    let spans = host.spans.verdict();
    report.kept("spans with an error, kept", spans.errors as u64, spans.errors_kept as u64);
    report.kept("slow requests, kept", spans.slow as u64, spans.slow_kept as u64);
    report.figure("error_spans_lost", (spans.errors - spans.errors_kept) as f64);
    report.figure("slow_spans_lost", (spans.slow - spans.slow_kept) as f64);
    let (logs, files) = (host.logs, lines.logs);
    report.kept("lines that rows stand for", logs.lines, logs.counted);
    report.kept("lines of log files that rows stand for", files.lines, files.counted);
    report.figure("log_lines_uncounted", logs.lines as f64 - logs.counted as f64);
    report.figure("log_file_lines_uncounted", files.lines as f64 - files.counted as f64);
    let unaccounted = host.unaccounted + lines.unaccounted;
    report.figure("records_unaccounted", unaccounted as f64);

    let per = |bytes: u64, records: u64| bytes as f64 / records as f64;
    let notes = [
        format!(
            "{:.0} s of a recorded host, {} series at 1 s; default configuration; virtual time",
            host.seconds, metrics.series
        ),
        "in: the samples as they were taken, in export requests of our own exporter (1 s, 512 KiB, zstd level 3, its default)".to_owned(),
        format!(
            "out: likewise, metrics at level 15; at level 3 they would be {} bytes: {:.1} times fewer",
            alike.packed_bytes,
            metrics_in.packed_bytes as f64 / alike.packed_bytes.max(1) as f64
        ),
        "whole minutes: from the first to the last, without the short window of the start and the one that the end cuts off".to_owned(),
        "RED: derived from the spans, as an agent that folds nothing would send it, and as it is; no sample stands against it in the rows with RED".to_owned(),
        format!(
            "bytes of a point as OTLP+zstd: {:.1} in, {:.1} out; requests of metrics: {} in, {} out",
            per(metrics_in.packed_bytes, metrics_in.records),
            per(folded.packed_bytes, folded.records),
            metrics_in.requests,
            metrics_out.requests
        ),
        format!(
            "worst error of p50, p90 and p99 of span durations, by service, kind and status: {:.2}%; of a sum: {:.0e}",
            100.0 * red.quantile_error_max,
            metrics.sum_error_max
        ),
        "slow: longer than 99% of the same operation's spans before it, by exact rank, once 100 are known".to_owned(),
        format!("rows of logs that are a line as it came: {} of the host, {} of log files", logs.whole, files.whole),
        format!("records that the ledger cannot account for: {unaccounted}"),
    ];
    json!({"columns": ["", "in", "out", "ratio"], "rows": report.rows, "notes": notes, "figures": report.figures})
}

impl Report {
    fn volume(&mut self, signal: &str, unit: &str, figure: &str, into: Sum, out: Sum) {
        let rows = [
            (unit, figure.to_owned(), into.records, out.records),
            ("bytes of OTLP", format!("{figure}_bytes"), into.plain_bytes, out.plain_bytes),
            ("bytes of OTLP+zstd", format!("{figure}_bytes_zstd"), into.packed_bytes, out.packed_bytes),
        ];
        for (unit, figure, into, out) in rows {
            let ratio = into as f64 / out.max(1) as f64;
            self.rows.push([format!("{signal}: {unit}"), into.to_string(), out.to_string(), format!("{ratio:.1}")]);
            self.figure(&format!("{figure}_in"), into as f64);
            self.figure(&format!("{figure}_out"), out as f64);
            self.figure(&format!("{figure}_ratio"), ratio);
        }
    }

    fn kept(&mut self, what: &str, all: u64, kept: u64) {
        let share = if all == 0 { "-".to_owned() } else { format!("{:.2}%", 100.0 * kept as f64 / all as f64) };
        self.rows.push([what.to_owned(), all.to_string(), kept.to_string(), share]);
    }

    fn figure(&mut self, name: &str, value: f64) {
        self.figures.insert(name.to_owned(), json!(value));
    }
}
