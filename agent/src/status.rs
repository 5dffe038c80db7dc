//! `ollystack-agent status`: asks the running agent for its report and shows it as a page that a person can read.
//!
//! Invariant: nothing is computed here that the report does not hold; what `--json` prints and what the page says agree.

use crate::admin::{Account, Report};
use crate::guard;
use crate::supervise::Phase;
use crate::table::{Align, Table, bytes, duration, grouped};
use ollystack_process::Stats as Process;
use ollystack_process::fold::Stats as Folding;
use ollystack_process::sample::Stats as Sampling;
use ollystack_record::{DropReason, Level, Place};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The longest a report may take, connecting included.
const PATIENCE: Duration = Duration::from_secs(3);
/// A report is a few KiB plus a line per followed file: 2,000 files of 200 bytes are 400 KB.
const REPORT_BYTES_MAX: u64 = 4 << 20;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StatusError {
    #[error("admin.listen is empty, so a running agent cannot be asked; set it to 127.0.0.1:8889")]
    NoAddress,
    #[error("admin.listen is `{0}`, allowed is ADDRESS:PORT; name the agent's address, for example 127.0.0.1:8889")]
    Address(String),
    #[error(
        "no agent answers on {address} ({error}): start one with `ollystack-agent run`, or name its address with --admin-listen"
    )]
    NotRunning { address: SocketAddr, error: std::io::Error },
    #[error(
        "what answers on {address} is not this version of ollystack-agent ({found}); name the agent's address with --admin-listen"
    )]
    Stranger { address: SocketAddr, found: String },
}

/// Ask the agent at `address` for its report: the JSON, and what it says.
pub(crate) fn fetch(address: &str) -> Result<(String, Report), StatusError> {
    if address.is_empty() {
        return Err(StatusError::NoAddress);
    }
    let address: SocketAddr = address.parse().map_err(|_| StatusError::Address(address.to_owned()))?;
    let answer = get(address, "/status").map_err(|error| StatusError::NotRunning { address, error })?;
    let stranger = |found: &str| StatusError::Stranger { address, found: found.chars().take(60).collect() };
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| stranger("no HTTP"))?;
    let first = head.lines().next().unwrap_or_default();
    if !first.contains(" 200 ") {
        return Err(stranger(first));
    }
    let report = serde_json::from_str(body).map_err(|error| stranger(&error.to_string()))?;
    Ok((body.to_owned(), report))
}

/// HTTP/1.0, so that the answer comes whole and the connection ends it.
fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.take(REPORT_BYTES_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}

/// The page.
pub(crate) fn render(report: &Report, now: SystemTime, width: usize) -> String {
    let mut page = format!(
        "ollystack-agent {} on {}, process {}, up {}\n\n",
        report.version,
        report.host,
        report.pid,
        duration(report.uptime_seconds)
    );
    page.push_str(&ledger(report));
    page.push('\n');
    page.push_str(&inputs(report, width));
    page.push('\n');
    let process = report.process().unwrap_or_default();
    page.push_str(&sampling(&process.sample));
    page.push_str(&rest(report, &process, now));
    page
}

/// What became of the records since the start, and beside it in all.
fn ledger(report: &Report) -> String {
    let accounts: Vec<&Account> = report.signals.iter().chain(&report.in_all.signals).collect();
    let columns = report.signals.iter().map(|account| account.signal.clone());
    let columns = columns.chain(report.in_all.signals.iter().map(|account| format!("all {}", account.signal)));
    let columns: Vec<String> = columns.collect();
    let head = columns.iter().map(|column| (column.as_str(), Align::Right));
    let mut table = Table::new([("records", Align::Left)].into_iter().chain(head));
    let mut row = |name: &str, cell: &dyn Fn(&Account) -> String| {
        table.row(std::iter::once(name.to_owned()).chain(accounts.iter().map(|account| cell(account))));
    };
    let number = |pick: fn(&Account) -> i64| move |account: &Account| grouped(pick(account));
    let any = |pick: &dyn Fn(&Account) -> i64| accounts.iter().any(|account| pick(account) != 0);
    row("seen", &number(|a| a.seen as i64));
    row("+ carried from last run", &number(|a| a.carried as i64));
    if any(&|a| a.corrected.buffer) || any(&|a| a.corrected.memory) {
        row("+ corrected at starts", &number(|a| a.corrected.buffer + a.corrected.memory));
    }
    row("= sent", &number(|a| a.sent as i64));
    row("+ folded", &number(|a| a.folded as i64));
    row("+ sampled out", &number(|a| a.sampled_out as i64));
    row("+ suppressed", &number(|a| a.suppressed as i64));
    row("+ dropped", &number(|a| a.dropped_total() as i64));
    for reason in DropReason::ALL.map(DropReason::name) {
        let count = |account: &Account| account.dropped.get(reason).copied().unwrap_or(0) as i64;
        if any(&count) {
            row(&format!("    {reason}"), &|account| grouped(count(account)));
        }
    }
    row("+ waiting", &number(Account::waiting_total));
    for place in Place::ALL.map(Place::name) {
        let count = |account: &Account| account.waiting.get(place).copied().unwrap_or(0);
        if any(&count) {
            row(&format!("    {place}"), &|account| grouped(count(account)));
        }
    }
    row("unaccounted for", &number(|a| a.balance));
    let ratio = |ratio: Option<f64>| ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.1} : 1"));
    row("reduction, records", &|account| ratio(account.reduction()));
    row("raw OTLP in", &|account| bytes(account.bytes_in));
    row("sent, compressed", &|account| bytes(account.bytes_out));
    row("reduction, bytes", &|account| ratio(account.reduction_bytes()));
    table.render(usize::MAX)
}

/// Nothing while no span has come.
fn sampling(sampling: &Sampling) -> String {
    if sampling.spans == 0 {
        return String::new();
    }
    let mut table = Table::new([
        ("traces by policy", Align::Left),
        ("kept", Align::Right),
        ("spans", Align::Right),
        ("let go", Align::Right),
        ("spans", Align::Right),
    ]);
    for policy in &sampling.policies {
        let counts = [policy.kept_traces, policy.kept_spans, policy.let_go_traces, policy.let_go_spans];
        if counts.iter().any(|count| *count > 0) {
            table.row(std::iter::once(policy.name.clone()).chain(counts.map(|count| grouped(count as i64))));
        }
    }
    let baseline = &sampling.baseline;
    let budgets = [
        (baseline.budget_spans_per_second > 0.0)
            .then(|| format!("{} spans a second", grouped(baseline.budget_spans_per_second as i64))),
        (baseline.budget_bytes_per_day > 0).then(|| format!("{} a day", bytes(baseline.budget_bytes_per_day))),
    ];
    let budgets: Vec<String> = budgets.into_iter().flatten().collect();
    let budget = if budgets.is_empty() { "none".to_owned() } else { budgets.join(" and ") };
    let asked = match baseline.scale < 1.0 {
        true => format!(", {:.0}% of it for the tenant's quota", 100.0 * baseline.scale),
        false => String::new(),
    };
    let mut text = table.render(usize::MAX);
    text.push_str(&format!(
        "baseline {:.2}% (ot=th:{}), budget {budget}{asked}; {} spans of {} traces wait in {}",
        100.0 * baseline.ratio,
        baseline.threshold,
        grouped(sampling.waiting_spans as i64),
        grouped(sampling.waiting_traces as i64),
        bytes(sampling.waiting_bytes as u64)
    ));
    if sampling.decided_early > 0 {
        text.push_str(&format!("; {} decided early for want of room", grouped(sampling.decided_early as i64)));
    }
    text.push_str("\n\n");
    text
}

fn inputs(report: &Report, width: usize) -> String {
    let mut table = Table::new([
        ("input", Align::Left),
        ("state", Align::Left),
        ("restarts", Align::Right),
        ("last failure, or why it is off", Align::Left),
    ]);
    for input in &report.inputs {
        let phase = match input.phase {
            Phase::Running => "running",
            Phase::Failing => "failing",
            Phase::Off => "off",
            Phase::Stopped => "stopped",
        };
        table.row([input.name.clone(), phase.to_owned(), input.restarts.to_string(), input.note.clone()]);
    }
    table.render(width)
}

fn rest(report: &Report, process: &Process, now: SystemTime) -> String {
    let now_ms = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    let all = now_ms / 1000 - report.in_all.begun_unix_seconds.min(now_ms / 1000);
    let ago = |at: Option<u64>| at.map(|at| format!("{} ago", duration(now_ms.saturating_sub(at) / 1000)));
    let (export, buffer, memory) = (&report.export, &report.buffer, &report.memory);
    let mut lines = vec![("all", format!("counted for {}, over every start", duration(all)))];
    lines.push(("export", format!("{} to {}", export.state, export.endpoint)));
    lines.push((
        "",
        match ago(export.last_success_unix_ms) {
            Some(ago) => format!("{} batches sent, the last {ago}", grouped(export.batches_sent as i64)),
            None => "nothing sent yet".to_owned(),
        },
    ));
    if export.batches_refused > 0 {
        lines.push(("", format!("{} batches refused for good", grouped(export.batches_refused as i64))));
    }
    if let (Some(error), Some(ago)) = (&export.last_error, ago(export.last_error_unix_ms)) {
        lines
            .push(("", format!("{} failed attempts, the last {ago}: {error}", grouped(export.attempts_failed as i64))));
    }
    let mut waiting = format!(
        "{} of {} on disk in {} segments, {} batches",
        bytes(buffer.disk_bytes),
        bytes(buffer.disk_bytes_max),
        buffer.segments,
        grouped(buffer.entries as i64)
    );
    if buffer.entries > 0 {
        waiting.push_str(&format!(", the oldest {} old", duration(buffer.oldest_age_seconds)));
    }
    if buffer.put_failures > 0 {
        waiting.push_str(&format!(", {} writes failed", grouped(buffer.put_failures as i64)));
    }
    lines.push(("buffer", waiting));
    lines.push((
        "memory",
        format!(
            "{} resident (peak {}) + {} kernel maps, limit {}, declared {}",
            bytes(memory.rss_bytes),
            bytes(memory.rss_bytes_peak),
            bytes(memory.map_bytes),
            bytes(memory.limit_bytes),
            bytes(memory.declared_bytes)
        ),
    ));
    lines.extend(pressure(&report.guard).map(|text| ("", text)));
    let share = report.cpu_seconds / report.uptime_seconds.max(1) as f64 * 100.0;
    lines.push((
        "cpu",
        format!("{:.1} s, {share:.2}% of a core since the start, {} threads", report.cpu_seconds, report.threads),
    ));
    lines.push(("series", series(&process.fold)));
    let logs = &process.logs;
    if logs.lines > 0 {
        let (taken, rows, patterns) = (logs.lines as i64, logs.rows as i64, logs.patterns as i64);
        let (taken, rows, patterns) = (grouped(taken), grouped(rows), grouped(patterns));
        let waiting = grouped(logs.waiting as i64);
        lines
            .push(("logs", format!("{taken} lines in {rows} rows and {waiting} that wait, {patterns} patterns known")));
    }
    if !process.redacted.is_empty() {
        let kinds = process.redacted.iter().map(|(kind, count)| format!("{} {kind}", grouped(*count as i64)));
        lines.push(("redacted", kinds.collect::<Vec<_>>().join(", ")));
    }
    lines.push(("agent id", report.agent_id.clone()));
    lines.into_iter().map(|(name, text)| format!("{name:<9}{text}\n")).collect()
}

/// Nothing while memory never pressed.
fn pressure(guard: &guard::Figures) -> Option<String> {
    let pressed = Level::ALL.into_iter().skip(1).filter_map(|level| {
        let seconds = guard.level_seconds.get(level.name()).filter(|seconds| **seconds > 0.0)?;
        Some(format!("{} for {}", level.name(), duration(*seconds as u64)))
    });
    let pressed: Vec<String> = pressed.collect();
    let (level, peak) = (guard.level.name(), bytes(guard.used_bytes_peak));
    (!pressed.is_empty()).then(|| format!("{level} now; {}; both together {peak} at most", pressed.join(", ")))
}

fn series(fold: &Folding) -> String {
    let known = format!(
        "{} known in {}, labels {}",
        grouped(fold.series as i64),
        bytes(fold.table_bytes as u64),
        bytes(fold.label_bytes as u64)
    );
    match fold.overflowed {
        0 => known,
        overflowed => format!("{known}; {} samples in overflow series", grouped(overflowed as i64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::example;
    use std::net::TcpListener;

    fn page() -> String {
        render(&example(), UNIX_EPOCH + Duration::from_millis(1_800_000_061_000), 100)
    }

    #[test]
    fn the_page_shows_the_ledger_the_inputs_and_how_sending_fares() {
        let page = page();
        for part in [
            "ollystack-agent 0.1.0 on web-1, process 42, up 1 min 1 s",
            "records  metrics  logs  traces  all metrics  all logs  all traces",
            "seen  61,010  12  0  161,010  1,212  0",
            "+ corrected at starts  0  0  0  0  -5  0",
            "    series_limit  7  0  0  7  0  0",
            "    crash  0  0  0  3,400  0  0",
            "    window  1,003  0  0  1,003  0  0",
            "unaccounted for  0  0  0  0  0  0",
            "reduction, records  60.0 : 1  1.0 : 1  -",
            "all counted for 1157 d 9 h, over every start",
            "traces by policy  kept  spans  let go  spans",
            "baseline 50 480 950 9,400",
            "rule:vip 2 9 0 0",
            "baseline 5.00% (ot=th:f3333), budget 50 spans a second, 50% of it for the tenant's quota; 20 spans of 3 traces wait in 12.1 KiB; 5 decided early",
            "host   failing         3  no \"proc\"",
            "ebpf   off             0  not root",
            "retrying to https://gateway:4317",
            "the last 1 s ago: connection refused",
            "20.0 MiB resident",
            "redacted 3 card, 1,234 email",
            "logs     19,200 lines in 1,900 rows and 12 that wait, 74 patterns known",
            "series   842 known in 156 KiB, labels 205 KiB",
        ] {
            let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(squeezed(&page).contains(&squeezed(part)), "{part} is missing in\n{page}");
        }
    }

    #[test]
    fn reasons_and_places_without_records_take_no_line() {
        let page = page();
        assert!(!page.contains("queue_full") && !page.contains("sampler") && !page.contains("slow"), "{page}");
    }

    #[test]
    fn how_hard_memory_pressed_takes_a_line_once_it_did() {
        let mut report = example();
        let page = |report: &Report| render(report, UNIX_EPOCH, 100);
        assert!(!page(&report).contains("at most"));
        report.guard.level_seconds = [("calm".to_owned(), 50.0), ("lean".to_owned(), 61.0)].into();
        report.guard.used_bytes_peak = 90 << 20;
        let line = "calm now; lean for 1 min 1 s; both together 90.0 MiB at most";
        assert!(page(&report).contains(line), "{}", page(&report));
    }

    #[test]
    fn no_agent_is_said_with_how_to_start_one() {
        // Bound, then closed: nobody else has this port.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let message = fetch(&address.to_string()).unwrap_err().to_string();
        assert!(message.contains("start one with `ollystack-agent run`"), "{message}");
    }

    #[test]
    fn an_address_that_is_none_is_named() {
        assert!(fetch("").unwrap_err().to_string().contains("admin.listen is empty"));
        assert!(fetch("localhost:8889").unwrap_err().to_string().starts_with("admin.listen is `localhost:8889`"));
    }

    #[test]
    fn somebody_else_on_the_port_is_not_taken_for_an_agent() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 512];
            let _ = stream.read(&mut request).unwrap();
            stream.write_all(b"HTTP/1.1 404 Not Found\r\n\r\nnope").unwrap();
        });
        let message = fetch(&address.to_string()).unwrap_err().to_string();
        server.join().unwrap();
        assert!(message.contains("404 Not Found"), "{message}");
    }
}
