//! The report as Prometheus text (exposition format 0.0.4).
//!
//! Invariant: each family has one HELP and one TYPE line, and label values are escaped.

use super::{Account, Report};
use crate::supervise::Phase;
use ollystack_process::Stats as Process;
use ollystack_process::redact::Stats as Redacted;
use ollystack_process::sample::{PolicyStats, Stats as Sampling};
use std::fmt::{Display, Write};

/// All families.
pub(crate) fn render(report: &Report) -> String {
    let mut text = Text::default();
    text.family("ollystack_build_info", "gauge", "The version at work.");
    text.sample("ollystack_build_info", &[("version", &report.version)], 1);
    records(&mut text, report);
    if let Some(process) = report.process() {
        folding(&mut text, &process);
        sampling(&mut text, &process.sample);
        redaction(&mut text, &process.redacted);
    }
    inputs(&mut text, report);
    buffer(&mut text, report);
    export(&mut text, report);
    process(&mut text, report);
    text.0
}

fn records(text: &mut Text, report: &Report) {
    text.family(
        "ollystack_records_total",
        "counter",
        "Records by signal and outcome; `seen` and `carried` came in, the others went out.",
    );
    for account in &report.signals {
        let carried = ("carried", account.carried);
        for (outcome, records) in account.outcomes().into_iter().chain([carried]) {
            text.sample("ollystack_records_total", &[("signal", &account.signal), ("outcome", outcome)], records);
        }
    }
    text.family("ollystack_records_dropped_total", "counter", "Records lost, by signal and reason.");
    for account in &report.signals {
        for (reason, records) in &account.dropped {
            text.sample("ollystack_records_dropped_total", &[("signal", &account.signal), ("reason", reason)], records);
        }
    }
    text.family("ollystack_records_waiting", "gauge", "Records inside the agent, by signal and place.");
    for account in &report.signals {
        for (place, records) in &account.waiting {
            text.sample("ollystack_records_waiting", &[("signal", &account.signal), ("place", place)], records);
        }
    }
    let mut per_signal = |name: &str, kind: &str, help: &str, value: fn(&Account) -> i64| {
        text.family(name, kind, help);
        for account in &report.signals {
            text.sample(name, &[("signal", &account.signal)], value(account));
        }
    };
    let bytes_in = "Bytes of the records seen, as uncompressed OTLP.";
    per_signal("ollystack_bytes_in_total", "counter", bytes_in, |account| account.bytes_in as i64);
    let bytes_out = "Bytes sent and acknowledged, compressed.";
    per_signal("ollystack_bytes_out_total", "counter", bytes_out, |account| account.bytes_out as i64);
    let balance = "Records in minus records accounted for: 0 when nothing was lost uncounted.";
    per_signal("ollystack_ledger_balance", "gauge", balance, |account| account.balance);
    in_all(text, report);
}

/// What restarts do not set back, so gauges to Prometheus.
fn in_all(text: &mut Text, report: &Report) {
    let accounts = &report.in_all.signals;
    let (name, help) =
        ("ollystack_installation_records", "Records by signal and outcome, over all starts of this installation.");
    text.family(name, "gauge", help);
    for account in accounts {
        for (outcome, records) in account.outcomes() {
            text.sample(name, &[("signal", &account.signal), ("outcome", outcome)], records);
        }
    }
    let (name, help) =
        ("ollystack_installation_records_dropped", "Records lost, by signal and reason, over all starts.");
    text.family(name, "gauge", help);
    for account in accounts {
        for (reason, records) in &account.dropped {
            text.sample(name, &[("signal", &account.signal), ("reason", reason)], records);
        }
    }
    let (name, help) = ("ollystack_installation_balance", "As ollystack_ledger_balance, over all starts.");
    text.family(name, "gauge", help);
    for account in accounts {
        text.sample(name, &[("signal", &account.signal)], account.balance);
    }
}

fn sampling(text: &mut Text, sampling: &Sampling) {
    let mut per_policy = |name: &str, help: &str, values: fn(&PolicyStats) -> [u64; 2]| {
        text.family(name, "counter", help);
        for policy in &sampling.policies {
            for (decision, count) in ["kept", "let_go"].into_iter().zip(values(policy)) {
                text.sample(name, &[("policy", &policy.name), ("decision", decision)], count);
            }
        }
    };
    let help = "Traces decided, by the policy that decided.";
    per_policy("ollystack_sampling_traces_total", help, |policy| [policy.kept_traces, policy.let_go_traces]);
    let help = "Their spans; `late` are those that came after the decision.";
    per_policy("ollystack_sampling_spans_total", help, |policy| [policy.kept_spans, policy.let_go_spans]);
    let mut one = |name: &str, kind: &str, help: &str, value: f64| text.one(name, kind, help, value);
    let baseline = "Share of ordinary traces that is kept at present.";
    one("ollystack_sampling_baseline_ratio", "gauge", baseline, sampling.baseline.ratio);
    let scale = "What the gateway has that share multiplied by, so that its tenant's quotas last.";
    one("ollystack_sampling_scale", "gauge", scale, sampling.baseline.scale);
    let early = "Traces decided before their time, for want of room.";
    one("ollystack_sampling_decided_early_total", "counter", early, sampling.decided_early as f64);
    one("ollystack_sampling_waiting_traces", "gauge", "Traces that wait.", sampling.waiting_traces as f64);
    one("ollystack_sampling_waiting_bytes", "gauge", "Bytes of their spans.", sampling.waiting_bytes as f64);
    one("ollystack_sampling_operations", "gauge", "Operations known.", sampling.operations as f64);
}

fn folding(text: &mut Text, process: &Process) {
    let Process { fold, logs, .. } = process;
    let mut gauge = |name: &str, help: &str, value: f64| text.one(name, "gauge", help, value);
    gauge("ollystack_fold_series", "Series of metrics known.", fold.series as f64);
    gauge("ollystack_fold_table_bytes", "Memory of their table, labels left out.", fold.table_bytes as f64);
    gauge("ollystack_fold_label_bytes", "Memory of their labels.", fold.label_bytes as f64);
    gauge("ollystack_log_patterns", "Patterns of log lines known.", logs.patterns as f64);
    gauge("ollystack_log_folding_bytes", "Memory of patterns and open windows of logs.", logs.bytes as f64);
    let mut counter = |name: &str, help: &str, value: u64| text.one(name, "counter", help, value as f64);
    counter("ollystack_fold_overflowed_total", "Samples that went into overflow series.", fold.overflowed);
    counter("ollystack_log_lines_total", "Log lines taken.", logs.lines);
    counter("ollystack_log_rows_total", "Records that stand for them.", logs.rows);
    counter("ollystack_log_patterns_forgotten_total", "Patterns forgotten for want of room.", logs.patterns_forgotten);
}

fn redaction(text: &mut Text, redacted: &Redacted) {
    text.family("ollystack_redacted_total", "counter", "Secrets and personal data redacted, by kind or rule.");
    for (kind, count) in redacted {
        text.sample("ollystack_redacted_total", &[("kind", kind)], *count);
    }
}

fn inputs(text: &mut Text, report: &Report) {
    text.family("ollystack_input_up", "gauge", "1 while the input is at work.");
    for input in &report.inputs {
        text.sample("ollystack_input_up", &[("input", &input.name)], u8::from(input.phase == Phase::Running));
    }
    text.family("ollystack_input_restarts_total", "counter", "Starts of the input after a failure.");
    for input in &report.inputs {
        text.sample("ollystack_input_restarts_total", &[("input", &input.name)], input.restarts);
    }
}

fn buffer(text: &mut Text, report: &Report) {
    let buffer = &report.buffer;
    text.one(
        "ollystack_buffer_entries",
        "gauge",
        "Batches on disk, not yet acknowledged by the endpoint.",
        buffer.entries,
    );
    text.one("ollystack_buffer_bytes", "gauge", "Bytes the disk buffer takes.", buffer.disk_bytes);
    text.one("ollystack_buffer_limit_bytes", "gauge", "The most it may take.", buffer.disk_bytes_max);
    text.one(
        "ollystack_buffer_oldest_age_seconds",
        "gauge",
        "Age of the oldest batch on disk.",
        buffer.oldest_age_seconds,
    );
    text.one("ollystack_buffer_put_failures_total", "counter", "Writes that the disk refused.", buffer.put_failures);
}

fn export(text: &mut Text, report: &Report) {
    let export = &report.export;
    text.one("ollystack_export_batches_total", "counter", "Batches the endpoint acknowledged.", export.batches_sent);
    text.one(
        "ollystack_export_refused_total",
        "counter",
        "Batches the endpoint refused for good.",
        export.batches_refused,
    );
    text.one("ollystack_export_failures_total", "counter", "Attempts to send that failed.", export.attempts_failed);
    let last = export.last_success_unix_ms.unwrap_or(0) as f64 / 1e3;
    text.one(
        "ollystack_export_last_success_timestamp_seconds",
        "gauge",
        "When the endpoint last acknowledged a batch; 0: not yet.",
        last,
    );
}

fn process(text: &mut Text, report: &Report) {
    let memory = &report.memory;
    text.one("process_resident_memory_bytes", "gauge", "Resident memory.", memory.rss_bytes);
    text.one("ollystack_kernel_map_bytes", "gauge", "Memory of the kernel programs' maps and rings.", memory.map_bytes);
    text.one("ollystack_memory_declared_bytes", "gauge", "What the stages' limits add up to.", memory.declared_bytes);
    text.one("ollystack_memory_limit_bytes", "gauge", "What the agent was granted.", memory.limit_bytes);
    let guard = &report.guard;
    text.one("ollystack_memory_used_bytes", "gauge", "Resident memory and kernel maps.", guard.used_bytes);
    text.one("ollystack_memory_used_peak_bytes", "gauge", "The most it was.", guard.used_bytes_peak);
    let help = "How hard memory presses: 0 calm, 1 slow, 2 shrink, 3 lean, 4 shed.";
    text.one("ollystack_memory_pressure_level", "gauge", help, guard.level as u8);
    text.family("ollystack_memory_pressure_seconds_total", "counter", "Time spent on each level.");
    for (level, seconds) in &guard.level_seconds {
        text.sample("ollystack_memory_pressure_seconds_total", &[("level", level)], seconds);
    }
    let help = "Time in which inputs rested to keep to limits.cpu_cores_max.";
    text.one("ollystack_cpu_rest_seconds_total", "counter", help, guard.cpu_rest_seconds);
    text.one("process_cpu_seconds_total", "counter", "CPU time of all threads.", report.cpu_seconds);
    text.one("process_start_time_seconds", "gauge", "Start, since the epoch.", report.start_unix_seconds);
    text.one("process_threads", "gauge", "Threads.", report.threads);
}

#[derive(Default)]
struct Text(String);

// Writing to a `String` cannot fail: the results below say nothing.
impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let mut rendered = String::new();
        for (index, (label, text)) in labels.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let _ = write!(rendered, "{comma}{label}=\"{}\"", escape(text));
        }
        let _ = match labels {
            [] => writeln!(self.0, "{name} {value}"),
            _ => writeln!(self.0, "{name}{{{rendered}}} {value}"),
        };
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_ledger_is_there_by_signal_outcome_reason_and_place() {
        let text = render(&super::super::report::example());
        for line in [
            "ollystack_records_total{signal=\"metrics\",outcome=\"folded\"} 59000",
            "ollystack_records_dropped_total{signal=\"metrics\",reason=\"series_limit\"} 7",
            "ollystack_records_waiting{signal=\"metrics\",place=\"window\"} 1003",
            "ollystack_ledger_balance{signal=\"metrics\"} 0",
            "ollystack_installation_records{signal=\"metrics\",outcome=\"seen\"} 161010",
            "ollystack_installation_records_dropped{signal=\"metrics\",reason=\"crash\"} 3400",
            "ollystack_installation_balance{signal=\"logs\"} 0",
            "ollystack_sampling_traces_total{policy=\"baseline\",decision=\"let_go\"} 950",
            "ollystack_sampling_spans_total{policy=\"rule:vip\",decision=\"kept\"} 9",
            "ollystack_sampling_baseline_ratio 0.05",
            "ollystack_sampling_scale 0.5",
            "ollystack_redacted_total{kind=\"email\"} 1234",
            "ollystack_sampling_decided_early_total 5",
            "ollystack_log_lines_total 19200",
            "ollystack_fold_series 842",
            "ollystack_input_up{input=\"host\"} 0",
            "ollystack_input_up{input=\"logs\"} 1",
            "process_resident_memory_bytes 20971520",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn every_sample_follows_its_one_help_and_type_line() {
        let text = render(&super::super::report::example());
        let (mut families, mut current) = (BTreeSet::new(), String::new());
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                current = rest.split(' ').next().unwrap().to_owned();
                assert!(families.insert(current.clone()), "{current} twice");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                assert!(rest.starts_with(&format!("{current} ")), "{line}");
            } else {
                assert_eq!(line.split(['{', ' ']).next().unwrap(), current, "{line}");
            }
        }
    }

    #[test]
    fn label_values_are_escaped() {
        assert_eq!(escape("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}
