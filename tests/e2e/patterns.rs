//! A log that repeats itself arrives as few rows that stand for all its lines: errors and rare lines whole, what repeats as its
//! pattern and a number, over a stop in the middle of a window too.

use crate::otlp::{PROTOBUF, Signal, logs};
use anyhow::{Context, Result, ensure};
use ollystack_tests::{Outcome, World, until};
use std::fs;

const LINES: usize = 20_000;
/// One line in so many is an error; each tells of another order.
const ERROR_EVERY: usize = 250;
/// Lines of which there is one each.
const RARE: [&str; 5] = [
    "the certificate of the payment provider was renewed",
    "schema migrated, three tables rewritten",
    "leader elected after a quorum came back",
    "cache warmed from yesterday's snapshot",
    "garbage collector switched to concurrent mode",
];

pub(crate) fn fold_a_log_without_losing_count_of_a_line(world: &World) -> Result<Outcome> {
    let gateway = world.gateway_with_tables()?;
    let folder = world.folder().join("logs");
    fs::create_dir(&folder)?;
    let config = world.agent(&gateway, "acme")?.set("patterns.enabled", "true").set("patterns.window_ms", "2000");
    let include = format!("[{:?}]", folder.join("*.log").display().to_string());
    let config = config.set("logs.enabled", "true").set("logs.include", &include);
    let config = config.set("logs.start_at", "\"beginning\"").set("logs.poll_interval_ms", "200");
    let time = world.sql("SELECT formatDateTime(now('UTC'), '%Y-%m-%dT%H:%i:%S')")?;
    let lines = lines(&time);
    fs::write(folder.join("shop.log"), lines[..LINES / 2].concat())?;
    let mut agent = config.start(world.binaries())?;
    stands_for(world, LINES / 2)?;
    fs::write(folder.join("more.log"), lines[LINES / 2..].concat())?;
    until("the rest is read", || Ok((agent.account("logs")?["seen"].as_u64() == Some(LINES as u64)).then_some(())))?;
    // Most likely into an open window.
    let status = agent.stop()?;
    ensure!(status.success(), "the agent ended with {status}");
    agent.restart()?;
    stands_for(world, LINES)?;
    agent.ledger_closes()?;

    let rows = world.count("SELECT count() FROM {db}.logs_raw")?;
    ensure!(rows < LINES as u64 / 50, "{rows} rows of {LINES} lines");
    let second = format!("parseDateTime64BestEffort('{time}', 9, 'UTC')");
    let wrong_times = format!("SELECT countIf(Timestamp < {second} OR Timestamp >= {second} + 1) FROM {{db}}.logs_raw");
    ensure!(world.count(&wrong_times)? == 0, "a time that is not that of its line");

    let errors = "FROM {db}.logs_raw WHERE SeverityText = 'ERROR' AND LineCount = 1";
    let distinct =
        world.count(&format!("SELECT uniqExact(Body) {errors} AND Body LIKE '%payment of order % was declined'"))?;
    ensure!(distinct == (LINES / ERROR_EVERY) as u64, "{distinct} errors are there whole");
    for rare in RARE {
        let found = world.count(&format!(
            "SELECT sum(LineCount) FROM {{db}}.logs_raw WHERE endsWith(Body, '{}')",
            rare.replace('\'', "\\'")
        ))?;
        ensure!(found == 1, "`{rare}` stands for {found} lines");
    }

    let top = "SELECT argMax(Template, Lines) AS Pattern FROM {db}.log_patterns WHERE ServiceName != '' GROUP BY PatternId \
               ORDER BY sum(Lines) DESC LIMIT 3 FORMAT TSV";
    let top = world.sql(top)?;
    let known = [
        "served order <*> of customer <*> in <*>",
        "reserved <*> pieces of article <*> in warehouse <*>",
        "session of customer <*> ended after <*>",
    ];
    for pattern in known {
        ensure!(top.lines().any(|line| line == pattern), "`{pattern}` is not among the top patterns:\n{top}");
    }
    let counted = world.count("SELECT sum(Lines) FROM {db}.log_patterns")?;
    ensure!(counted == LINES as u64, "the patterns count {counted} lines");
    let samples =
        world.sql("SELECT any(LogAttributes['ollystack.log.samples']) FROM {db}.logs_raw WHERE LineCount > 1")?;
    ensure!(samples.contains(" INFO shop: "), "a folded row shows no lines as they were: {samples}");
    Ok(Outcome::Held)
}

pub(crate) fn fold_what_comes_by_otlp_and_answer_when_it_is_safe(world: &World) -> Result<Outcome> {
    let gateway = world.gateway_with_tables()?;
    // Log files would wait for hours here: whoever sent a request is answered after `answer_ms` all the same.
    let config = world.agent(&gateway, "acme")?.set("patterns.enabled", "true").set("patterns.window_ms", "600000");
    let config = config.set("patterns.answer_ms", "400").set("otlp.enabled", "true");
    let mut agent = config.start(world.binaries())?;
    // One request with many lines, then many with few, of two services.
    let mut sent = 0;
    for (service, requests, lines) in [("shop", 1, 3_000), ("cart", 12, 250)] {
        for request in 0..requests {
            let line = |line| format!("served order {} of customer {line} in {}ms", sent + line, line % 83);
            let answer = agent.post(Signal::Logs.path(), &[PROTOBUF], &logs(service, (0..lines).map(line)))?;
            ensure!(answer.status == 200, "{service} {request}: {} {}", answer.status, answer.text());
            sent += lines;
            // What was answered is no longer in a window.
            let waiting = agent.account("logs")?["waiting"]["window"].as_u64();
            ensure!(waiting == Some(0), "{service} {request} was answered while {waiting:?} records wait in a window");
        }
    }
    stands_for(world, sent)?;
    let rows = world.count("SELECT count() FROM {db}.logs_raw")?;
    // A window of the first lines whole and one row, then a row for each request.
    ensure!(rows < 40, "{rows} rows of {sent} lines");
    for (service, lines) in [("shop", 3_000), ("cart", 12 * 250)] {
        let counted = format!("SELECT sum(LineCount) FROM {{db}}.logs_raw WHERE ServiceName = '{service}'");
        let counted = world.count(&counted)?;
        ensure!(counted == lines, "{service}: the rows stand for {counted} of {lines} lines");
    }
    let folded = "SELECT DISTINCT Body FROM {db}.logs_raw WHERE LineCount > 1 FORMAT TSV";
    let folded = world.sql(folded)?;
    ensure!(folded.trim() == "served order <*> of customer <*> in <*>", "folded rows say `{folded}`");
    let status = agent.stop()?;
    ensure!(status.success(), "the agent ended with {status}");
    agent.restart()?;
    stands_for(world, sent)?;
    agent.ledger_closes()?;
    Ok(Outcome::Held)
}

/// Waits until the rows stand for that many lines, then insists on not one more.
fn stands_for(world: &World, lines: usize) -> Result<()> {
    let mut last = 0;
    let all = until(&format!("rows stand for {lines} lines"), || {
        last = world.count("SELECT sum(LineCount) FROM {db}.logs_raw")?;
        Ok((last >= lines as u64).then_some(()))
    });
    all.with_context(|| format!("they stand for {last} of {lines}"))?;
    ensure!(last == lines as u64, "the rows stand for {last} lines, {lines} were written");
    Ok(())
}

/// The log: three kinds of lines over and over, an error now and then, and a few lines that are alone of their kind.
fn lines(time: &str) -> Vec<String> {
    let line = |number: usize| {
        let (level, text) = match number {
            _ if number % (LINES / RARE.len()) == 1 => ("INFO", RARE[number / (LINES / RARE.len())].to_owned()),
            _ if number.is_multiple_of(ERROR_EVERY) => ("ERROR", format!("payment of order {number} was declined")),
            _ if number.is_multiple_of(3) => {
                ("INFO", format!("served order {number} of customer {} in {}ms", number % 997, number % 83))
            }
            _ if number % 3 == 1 => (
                "INFO",
                format!("reserved {} pieces of article {} in warehouse {}", number % 7, number % 503, number % 4),
            ),
            _ => ("INFO", format!("session of customer {} ended after {}s", number % 997, number % 211)),
        };
        format!("{time}.{:03}Z {level} shop: {text}\n", number % 1_000)
    };
    (0..LINES).map(line).collect()
}
