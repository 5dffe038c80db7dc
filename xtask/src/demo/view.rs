//! The demo's page: redrawn in place each second on a terminal, a line every few seconds elsewhere.
//!
//! It computes nothing: what it shows is what the store counted, the agent said and the kernel accounted.

use super::{Reading, Summary};
use crate::stack::{DATABASE, SIGNALS, Status};
use std::io::{IsTerminal, Write, stdout};
use std::time::{Duration, Instant};

/// Between two lines where there is no terminal to redraw.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// The page on this terminal, or the lines.
pub(super) struct View {
    terminal: bool,
    drawn_lines: usize,
    last: Option<Instant>,
    shown: Duration,
}

impl View {
    /// Prints what stays: where the store is, and a line to ask it with.
    pub(super) fn new(url: &str, engine: &str) -> Self {
        println!("\n{engine}, answers on {url}; database {DATABASE}. Try:\n");
        for statement in [
            "SELECT ServiceName, MetricName, count() AS rows FROM metrics_raw GROUP BY ALL ORDER BY rows DESC LIMIT 10",
            "SELECT Timestamp, ServiceName, SpanName, Duration FROM traces_raw ORDER BY Timestamp DESC LIMIT 10",
            "SELECT Time, Source, Target, Protocol, Calls, Errors, DurationAvg FROM service_topology ORDER BY Time DESC, Calls DESC LIMIT 10",
        ] {
            println!("  curl '{url}/?database={DATABASE}' --data-binary \"{statement} FORMAT PrettyCompact\"");
        }
        println!(
            "\nMetrics are folded where they are measured: their rows come once a window, the first window after 5 s, the next"
        );
        println!("after 60 s. Ctrl-C ends the demo.\n");
        if !crate::setup::is_root() {
            println!("Not root: traces come from eBPF, which needs root. Metrics and logs arrive all the same.\n");
        }
        Self { terminal: stdout().is_terminal(), drawn_lines: 0, last: None, shown: Duration::ZERO }
    }

    /// A signal's first row has been seen.
    pub(super) fn landed(&mut self, signal: &str, after: Duration) {
        if !self.terminal {
            println!("{:>6.1} s  first row of {signal}", after.as_secs_f64());
        }
    }

    /// Shows a reading, if it is a new one and its time has come.
    pub(super) fn show(&mut self, reading: &Reading) {
        let due = self.last.is_none_or(|last| self.terminal || last.elapsed() >= LINE_EVERY);
        if !due || reading.elapsed == self.shown {
            return;
        }
        (self.last, self.shown) = (Some(Instant::now()), reading.elapsed);
        if !self.terminal {
            println!("{}", line(reading));
            return;
        }
        let page = page(reading);
        // Up to the page's first line, and clear from there; without wrapping, so that lines stay one line each.
        let up = if self.drawn_lines > 0 { format!("\x1b[{}A", self.drawn_lines) } else { String::new() };
        print!("\x1b[?7l{up}\r\x1b[J{page}\x1b[?7h");
        let _ = stdout().flush();
        self.drawn_lines = page.lines().count();
    }

    /// Leaves the terminal below the page.
    pub(super) fn close(&self) {
        println!();
    }
}

fn page(reading: &Reading) -> String {
    let mut page = format!(
        "{:>6.0} s {:>15} {:>9} {:>13} {:>11} {:>10} {:>10}\n",
        reading.elapsed.as_secs_f64(),
        "rows in store",
        "rows/s",
        "seen by agent",
        "sent",
        "records",
        "bytes"
    );
    for (index, (signal, _)) in SIGNALS.iter().enumerate() {
        let account = reading.status.signals.get(index).cloned().unwrap_or_default();
        page.push_str(&format!(
            "{signal:<8} {:>15} {:>9.1} {:>13} {:>11} {:>10} {:>10}\n",
            reading.rows[index],
            reading.rates[index],
            account.seen,
            account.sent,
            ratio(account.reduction()),
            ratio(account.reduction_bytes())
        ));
    }
    page.push_str(&format!(
        "agent    {} resident (most {}) + {} kernel maps, {:.2}% of a core on average ({:.1} s), {} threads\n",
        mib(reading.usage.rss_bytes),
        mib(reading.rss_bytes_max),
        mib(reading.status.memory.map_bytes),
        reading.cpu_percent,
        reading.usage.cpu_seconds,
        reading.usage.threads
    ));
    page.push_str(&format!("{}\n", ledger(&reading.status)));
    page.push_str(&format!("inputs   {}\n", inputs(&reading.status)));
    page
}

fn line(reading: &Reading) -> String {
    let [metrics, logs, traces] = reading.rows;
    let [m, l, t] = reading.rates;
    format!(
        "{:>6.1} s  rows: {metrics} metrics ({m:.0}/s), {logs} logs ({l:.0}/s), {traces} traces ({t:.0}/s); agent {} + {} maps, \
         {:.2}% of a core; {}",
        reading.elapsed.as_secs_f64(),
        mib(reading.usage.rss_bytes),
        mib(reading.status.memory.map_bytes),
        reading.cpu_percent,
        ledger(&reading.status)
    )
}

/// In and out of the ledger, in a few words.
fn ledger(status: &Status) -> String {
    let dropped: u64 = status.signals.iter().flat_map(|account| account.dropped.values()).sum();
    let waiting: i64 = status.signals.iter().flat_map(|account| account.waiting.values()).sum();
    let open = status.signals.iter().filter(|account| account.balance != 0);
    let open: Vec<String> = open.map(|account| format!("{} {:+}", account.signal, account.balance)).collect();
    let state = if open.is_empty() { "closed".to_owned() } else { format!("moving: {}", open.join(", ")) };
    format!("ledger {state}, {waiting} waiting, {dropped} dropped")
}

fn inputs(status: &Status) -> String {
    let inputs = status.inputs.iter().map(|input| match input.note.as_str() {
        "" => format!("{} {}", input.name, input.phase),
        note => format!("{} {} ({note})", input.name, input.phase),
    });
    inputs.collect::<Vec<_>>().join(", ")
}

/// Asks for the service map, as a table to show.
pub(super) fn map_query() -> String {
    format!(
        "SELECT Source, Target, Protocol, round(sum(e.Calls)) AS Calls, round(sum(e.Errors)) AS Errors, \
         round(sum(e.DurationAvg * e.Calls) / sum(e.Calls) * 1e3, 2) AS avg_ms, round(max(e.Connections)) AS Connections \
         FROM {DATABASE}.service_topology AS e GROUP BY ALL ORDER BY Calls DESC, Connections DESC LIMIT 10 FORMAT PrettyCompactMonoBlock"
    )
}

/// The end: what happened, in figures, and who called whom.
pub(super) fn print_summary(summary: &Summary, status: &Status, map: &str) {
    let (rows, landed) = (summary.rows, summary.landed_seconds);
    println!("\nafter {:.0} s, counted in {} at {}:", summary.seconds, summary.store.engine, summary.store.url);
    for (signal, rows, landed) in [
        ("metrics", rows.metrics, landed.metrics),
        ("logs", rows.logs, landed.logs),
        ("traces", rows.traces, landed.traces),
    ] {
        let first =
            landed.map_or("no row was seen while it ran".to_owned(), |after| format!("first row after {after:.1} s"));
        println!("  {signal:<8} {rows:>9} rows  {first}");
    }
    println!(
        "  reduction of metrics: {} in points, {} in bytes (raw OTLP uncompressed : sent compressed)",
        ratio(summary.reduction.points),
        ratio(summary.reduction.bytes)
    );
    println!(
        "  agent: {} resident at most, {} in kernel maps, {:.1} s of CPU",
        mib(summary.agent.rss_bytes_max),
        mib(summary.agent.map_bytes),
        summary.agent.cpu_seconds
    );
    println!("  {}", ledger(status));
    if !map.is_empty() {
        println!("  who called whom:\n{map}");
    }
    let missing = [("metrics", rows.metrics), ("logs", rows.logs), ("traces", rows.traces)];
    for (signal, _) in missing.iter().filter(|(_, rows)| *rows == 0) {
        println!("  no {signal} have landed: inputs were {}", inputs(status));
    }
}

fn ratio(ratio: Option<f64>) -> String {
    ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.1} : 1"))
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::Account;

    fn reading(balance: i64) -> Reading {
        let account = |signal: &str, balance| Account {
            signal: signal.to_owned(),
            sent: 10,
            folded: 590,
            balance,
            ..Account::default()
        };
        let signals = vec![account("metrics", balance), account("logs", 0), account("traces", 0)];
        Reading { rows: [11, 12, 13], status: Status { signals, ..Status::default() }, ..Reading::default() }
    }

    #[test]
    fn the_page_shows_each_signal_with_its_reduction() {
        let page = page(&reading(0));
        for part in ["metrics               11", "60.0 : 1", "logs                  12", "ledger closed"] {
            assert!(page.contains(part), "{part} is missing in\n{page}");
        }
    }

    #[test]
    fn an_open_ledger_is_said_with_what_is_missing() {
        assert!(line(&reading(-3)).contains("moving: metrics -3"));
    }
}
