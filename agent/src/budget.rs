//! What each stage may hold at most, by its limits, added up and compared with the grant before anything starts.
//!
//! Read from the configuration alone. Where a stage limits bytes, those count; where it limits numbers, each counts with a
//! typical size, given here. Invariant: every stage has a line, and the line shows its arithmetic, so that whoever is
//! refused knows which limit to lower.

use crate::config::Config;
use crate::guard;
use crate::table::{Align, Table, bytes};
use ollystack_process::logs::RULE_BYTES_MAX as LINE_RULE_BYTES_MAX;
use ollystack_process::redact::RULE_BYTES_MAX;
use ollystack_process::sample::rule::PATTERN_BYTES_MAX;

/// The program's own pages (measured 15 MiB of a 13 MiB file and its libraries), its stacks and what the libraries hold.
const PROGRAM_BYTES: u64 = 16 << 20;
/// A sample or small span in the intake. Logs and OTLP requests are counted where they enter.
const RECORD_BYTES: u64 = 512;
/// Series of this host's devices, processes and containers, all capped by the host input itself.
const HOST_BYTES: u64 = 2 << 20;
/// A log line is held raw and decoded; batches end at this many bytes or one line.
const LOG_BATCH_BYTES_MIN: u64 = 128 << 10;
/// Commits that wait for verdicts (4,096 x 200 B) and records that may go on (256 KiB), of log files.
const LOG_WAITING_BYTES: u64 = 1_088 << 10;
/// Batches of journal entries end at this many bytes or one message.
const JOURNAL_BATCH_BYTES_MIN: u64 = 128 << 10;
/// What a followed log file, a process, a TCP series take in their tables.
const ENTRY_BYTES: u64 = 512;
/// A connection's own buffers, its window aside, which is drawn only while a body is read.
const CONNECTION_BYTES: u64 = 16 << 10;
/// A series of an application, with its attributes.
const SERIES_BYTES: u64 = 1 << 10;
/// A connection while it is looked at: its ends (112 B), its owner and what it carried, in tables that are up to half empty.
const SOCKET_BYTES: u64 = 256;
/// An edge with its four series.
const EDGE_BYTES: u64 = 2 << 10;
/// The kernel maps of `ebpf.run_queue`.
const RUN_QUEUE_BYTES: u64 = 1 << 20;
/// Of `ebpf.profile`: maps 2.5 MiB, a window's frames and stacks 3 MiB, names of functions 2 MiB, what processes run 0.5 MiB.
const PROFILE_BYTES: u64 = 8 << 20;
/// A connection whose answers are awaited, with its parser.
const EXCHANGE_BYTES: u64 = 512;
/// 64 resources as they came and redacted, 4 KiB each; the tables that are searched with, and room to write a text anew.
const REDACT_BYTES: u64 = 1 << 20;
/// A portion of points on its way out, and one of spans, which is half as large (measured: at most 1.4 times what it aims at).
const PORTION_BYTES: u64 = 3 * ollystack_process::PORTION_BYTES as u64 / 2;
/// Of what metrics take: a checkpoint, before and after it is packed (measured 10 to 20% before; of nothing but long names 90%).
const CHECKPOINT_SHARE: (u64, u64) = (3, 8);
/// A RED series in the table of its operation, names included; what is counted in it is part of what metrics take.
const RED_BYTES: u64 = 768;
/// A quantile sketch of sampling with the name of its operation.
const SKETCH_BYTES: u64 = 1_280;
const DECISION_BYTES: u64 = 32;
/// Rows of a closing window, before the freezer has them.
const LINES_BYTES: u64 = 512 << 10;
/// Groups that fill at once: metrics, and logs and traces in three classes each.
const GROUPS: u64 = 7;
/// zstd's tables: 1,273 KiB at level 3 for a batch of 512 KiB, and 1,237 KiB while metrics are packed.
const ZSTD_BYTES: u64 = 2_510 << 10;
/// The same with up to 5,625 KiB for levels above.
const ZSTD_HIGH_BYTES: u64 = 8 << 20;
/// SQLite's page caches: six segments open, 128 KiB each; and the batch being written.
const BUFFER_BYTES: u64 = 1_792 << 10;

/// One stage's line.
#[derive(Debug)]
struct Line {
    stage: &'static str,
    bytes: u64,
    arithmetic: String,
}

/// All stages.
#[derive(Debug)]
pub(crate) struct Budget(Vec<Line>);

/// The limits add up to more than was granted.
#[derive(Debug, thiserror::Error)]
#[error(
    "the limits of the stages add up to {declared} bytes, limits.memory_bytes_max grants {grant}: raise the grant, lower a limit or turn an input off\n\n{table}"
)]
pub(crate) struct Overdrawn {
    declared: u64,
    grant: u64,
    table: String,
}

/// Add up, and refuse what does not fit.
pub(crate) fn check(config: &Config) -> Result<Budget, Overdrawn> {
    let budget = declare(config);
    let (declared, grant) = (budget.total(), config.limits.memory_bytes_max);
    if declared > grant {
        return Err(Overdrawn { declared, grant, table: budget.render() });
    }
    Ok(budget)
}

fn declare(config: &Config) -> Budget {
    let Config {
        limits,
        host,
        logs,
        journald,
        otlp,
        sockets,
        ebpf,
        redact,
        metrics,
        red,
        traces,
        patterns,
        export,
        ..
    } = config;
    let mut lines = Vec::new();
    let mut line = |stage, on: bool, bytes, arithmetic: &str| {
        let (bytes, arithmetic) = if on { (bytes, arithmetic.to_owned()) } else { (0, "off".to_owned()) };
        lines.push(Line { stage, bytes, arithmetic });
    };
    let log_batch = (logs.line_bytes_max as u64).max(LOG_BATCH_BYTES_MIN);
    let frozen = export.batch_bytes_max as u64;
    line("program", true, PROGRAM_BYTES, "code, stacks, libraries");
    line("intake", true, u64::from(limits.queue_records_max) * RECORD_BYTES, "limits.queue_records_max x 512 B");
    line("host", host.enabled, HOST_BYTES, "its own caps");
    line(
        "logs",
        logs.enabled,
        (2 * logs.batches_in_flight_max as u64 + 2) * log_batch
            + logs.files_max as u64 * ENTRY_BYTES
            + LOG_WAITING_BYTES,
        "(2 x logs.batches_in_flight_max + 2) x max(logs.line_bytes_max, 128 KiB) + logs.files_max x 512 B + 1,088 KiB",
    );
    line(
        "journald",
        journald.enabled != ollystack_input_journald::Enabled::False,
        (2 * journald.batches_in_flight_max as u64 + 2)
            * (journald.message_bytes_max as u64).max(JOURNAL_BATCH_BYTES_MIN),
        "(2 x journald.batches_in_flight_max + 2) x max(journald.message_bytes_max, 128 KiB)",
    );
    line(
        "otlp",
        otlp.enabled,
        // These have no upper limit but this one.
        (otlp.limits.in_flight_bytes_max as u64)
            .saturating_add((otlp.limits.connections_max as u64).saturating_mul(CONNECTION_BYTES))
            .saturating_add((otlp.series_max as u64).saturating_mul(SERIES_BYTES)),
        "otlp.limits.in_flight_bytes_max + otlp.limits.connections_max x 16 KiB + otlp.series_max x 1 KiB",
    );
    line(
        "sockets",
        sockets.enabled,
        sockets.sockets_max as u64 * SOCKET_BYTES + (sockets.edges_max + sockets.endpoints_max) as u64 * EDGE_BYTES,
        "sockets.sockets_max x 256 B + (sockets.edges_max + sockets.endpoints_max) x 2 KiB",
    );
    line(
        "ebpf",
        ebpf.enabled,
        ollystack_input_ebpf::MAP_BYTES_MAX
            + if ebpf.log_traces { ollystack_record::lines::BYTES_MAX } else { 0 }
            + u64::from(ebpf.ring_bytes)
            + if ebpf.run_queue { RUN_QUEUE_BYTES } else { 0 }
            + if ebpf.profile { PROFILE_BYTES } else { 0 }
            + ebpf.connections_max as u64 * EXCHANGE_BYTES
            + (ebpf.processes_max + ebpf.tcp_series_max) as u64 * ENTRY_BYTES,
        "5,085 KiB of maps (with ebpf.log_traces 83 KiB of lines more, with ebpf.run_queue 1 MiB more, with ebpf.profile 8) + ebpf.ring_bytes + ebpf.connections_max x 512 B + (ebpf.processes_max + ebpf.tcp_series_max) x 512 B",
    );
    line(
        "requests",
        ebpf.enabled,
        (ollystack_input_ebpf::TEMPLATE_BYTES_MAX + ollystack_process::KNOWN_BYTES_MAX) as u64,
        "what requests have in common: 384 KiB where they are seen, 512 KiB where they are reduced",
    );
    line(
        "redact",
        redact.enabled,
        REDACT_BYTES + redact.rules.len() as u64 * RULE_BYTES_MAX as u64,
        "1 MiB + redact.rules x 128 KiB",
    );
    line("metrics", true, metrics.bytes_max as u64 + PORTION_BYTES, "metrics.bytes_max + 768 KiB");
    line(
        "checkpoint",
        metrics.checkpoint_ms > 0,
        metrics.bytes_max as u64 * CHECKPOINT_SHARE.0 / CHECKPOINT_SHARE.1,
        "metrics.bytes_max x 3 / 8",
    );
    line(
        "red",
        red.enabled,
        (red.series_max + red.edges_max + red.lookups_max) as u64 * RED_BYTES,
        "(red.series_max + red.edges_max + red.lookups_max) x 768 B",
    );
    line(
        "traces",
        true,
        traces.bytes_max as u64
            + PORTION_BYTES / 2
            + traces.decisions_max as u64 * DECISION_BYTES
            + traces.operations_max as u64 * SKETCH_BYTES
            + traces.rules.len() as u64 * 2 * PATTERN_BYTES_MAX as u64,
        "traces.bytes_max + 384 KiB + traces.decisions_max x 32 B + traces.operations_max x 1.25 KiB + traces.rules x 512 KiB",
    );
    line(
        "patterns",
        patterns.enabled,
        (patterns.patterns_bytes_max + patterns.window_bytes_max) as u64
            + LINES_BYTES
            + patterns.rules.len() as u64 * LINE_RULE_BYTES_MAX as u64,
        "patterns.patterns_bytes_max + patterns.window_bytes_max + 512 KiB + patterns.rules x 256 KiB",
    );
    let zstd = if export.compression_level <= 3 { ZSTD_BYTES } else { ZSTD_HIGH_BYTES };
    line(
        "freeze",
        true,
        GROUPS * 2 * frozen + zstd,
        "7 groups x 2 x export.batch_bytes_max + 2,510 KiB, or 8 MiB if export.compression_level is above 3",
    );
    line("buffer", true, BUFFER_BYTES, "6 page caches x 128 KiB + 1 MiB");
    line(
        "thin",
        true,
        (frozen + ollystack_export::THIN_BYTES_MAX).max(ollystack_buffer::RECENT_BYTES_MAX),
        "export.batch_bytes_max + 896 KiB, while the buffer is nearly full; while it is nearly empty, the 1,280 KiB that were just put",
    );
    line("send", true, export.in_flight_max as u64 * frozen, "export.in_flight_max x export.batch_bytes_max");
    Budget(lines)
}

impl Budget {
    /// All stages.
    pub(crate) fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, line| sum.saturating_add(line.bytes))
    }

    /// What to say where less is allowed, as by a control group. Limits are seldom reached all at once, so the agent runs all the
    /// same, under its guard.
    pub(crate) fn beyond(&self, allowed: u64) -> Option<String> {
        let (declared, share) = (self.total(), 100 - guard::OTHERS_PERCENT);
        if declared <= allowed {
            return None;
        }
        // What the program itself takes cannot be lowered.
        let mut lines: Vec<&Line> = self.0.iter().skip(1).collect();
        lines.sort_by_key(|line| std::cmp::Reverse(line.bytes));
        let most =
            lines.iter().take(4).map(|line| format!("{} {} ({})", line.stage, bytes(line.bytes), line.arithmetic));
        Some(format!(
            "the control group allows {} of memory ({share}% of its limit), the limits of the stages add up to {}: under load the agent slows down and refuses earlier, to stay below; raise the group's limit to {}, or lower limits by {}, which most of it is: {}",
            bytes(allowed),
            bytes(declared),
            bytes(declared / share * 100),
            bytes(declared - allowed),
            most.collect::<Vec<_>>().join(", ")
        ))
    }

    fn render(&self) -> String {
        let mut table = Table::new([("stage", Align::Left), ("at most", Align::Right), ("because", Align::Left)]);
        for line in &self.0 {
            table.row([line.stage.to_owned(), bytes(line.bytes), line.arithmetic.clone()]);
        }
        table.row(["sum".to_owned(), bytes(self.total()), String::new()]);
        table.render(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_fit_the_default_grant() {
        let budget = check(&Config::default()).unwrap();
        assert!(budget.total() > 50 << 20, "{}", budget.render());
    }

    #[test]
    fn limits_that_do_not_fit_are_refused_with_the_table() {
        let mut config = Config::default();
        config.traces.bytes_max = 90 << 20;
        let message = check(&config).unwrap_err().to_string();
        assert!(message.contains("limits.memory_bytes_max grants 104857600"), "{message}");
        let row = message.lines().find(|line| line.starts_with("traces")).unwrap();
        assert!(row.contains("92.9 MiB") && row.contains("traces.bytes_max"), "{row}");
    }

    #[test]
    fn a_limit_that_no_sum_holds_is_refused() {
        let absurd: [fn(&mut Config); 3] = [
            |config| config.otlp.series_max = (usize::MAX >> 10) + 1,
            |config| config.otlp.limits.connections_max = (usize::MAX >> 14) + 1,
            |config| config.otlp.limits.in_flight_bytes_max = usize::MAX,
        ];
        for set in absurd {
            let mut config = Config::default();
            set(&mut config);
            check(&config).unwrap_err();
        }
    }

    #[test]
    fn a_group_that_allows_less_is_told_with_what_to_lower() {
        let budget = declare(&Config::default());
        assert_eq!(budget.beyond(budget.total()), None);
        let advice = budget.beyond(50 << 20).unwrap();
        for part in ["allows 50.0 MiB", "otlp 18.0 MiB (otlp.limits.in_flight_bytes_max", "traces.bytes_max"] {
            assert!(advice.contains(part), "{part} is missing in {advice}");
        }
        assert!(!advice.contains("code, stacks"), "what nobody can lower: {advice}");
    }

    #[test]
    fn long_messages_of_the_journal_are_declared() {
        let mut config = Config::default();
        let before = declare(&config).total();
        config.journald.message_bytes_max = 1 << 18;
        assert_eq!(declare(&config).total() - before, 6 * (128 << 10));
    }

    #[test]
    fn an_input_that_is_off_takes_nothing() {
        let mut config = Config::default();
        let all = check(&config).unwrap().total();
        config.otlp.enabled = false;
        let expected = (12 << 20) + 256 * CONNECTION_BYTES + 2_000 * SERIES_BYTES;
        assert_eq!(all - check(&config).unwrap().total(), expected);
    }
}
