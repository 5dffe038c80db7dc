//! The journal input as a whole: against a journalctl that does as it is told, and against the real one if it is there.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

use ollystack_input_journald::{Config, Enabled, Error, StartAt, Stats, StatsReading, run};
use ollystack_record::otlp::common::v1::any_value::Value;
use ollystack_record::otlp::logs::v1::LogRecord;
use ollystack_record::{Ack, Afterwork, Intake, Ledger, Outcome, Pressure, Received, Records, Resource, value};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A guard against hanging for ever, far beyond what any of these takes.
const GUARD: Duration = Duration::from_secs(20);

/// A journal of numbered entries, and a journalctl that prints it.
struct Host {
    folder: tempfile::TempDir,
}

impl Host {
    /// `script` is the body of journalctl: `$from` is the cursor that it was given, `$journal` the file of all lines. By default
    /// it prints from there on, and follows.
    fn new(script: &str) -> Host {
        let folder = tempfile::tempdir().unwrap();
        let host = Host { folder };
        let head = format!(
            r#"#!/bin/sh
journal={journal}; from=; since=; last=
echo "$@" >> {folder}/calls
for argument in "$@"; do case "$argument" in
    --cursor=*) from="${{argument#--cursor=}}";; --since=*) since=1;; --lines=1) last=1;; esac; done
line() {{ grep -n "\"__CURSOR\":\"$1\"" "$journal" | cut -d: -f1; }}
begin=1; [ -n "$from" ] && begin=$(line "$from"); [ -n "$begin" ] || begin=1
if [ -n "$last" ]; then tail -n 1 "$journal"; exit 0; fi
"#,
            journal = host.path("journal").display(),
            folder = host.folder.path().display(),
        );
        host.append("");
        std::fs::write(host.path("journalctl"), head + script).unwrap();
        std::fs::set_permissions(host.path("journalctl"), std::fs::Permissions::from_mode(0o755)).unwrap();
        host
    }

    fn follows() -> Host {
        Host::new("exec tail -n +$begin -f \"$journal\"\n")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn append(&self, text: &str) {
        use std::io::Write;
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(self.path("journal")).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    /// What a service printed.
    fn log(&self, number: u32, message: &str) {
        self.append(&entry(
            number,
            &format!(r#""MESSAGE":{message:?},"_TRANSPORT":"stdout","_STREAM_ID":"a","_SYSTEMD_UNIT":"shop.service""#),
        ));
    }

    fn config(&self) -> Config {
        let journalctl = self.path("journalctl").display().to_string();
        Config { enabled: Enabled::True, start_at: StartAt::Beginning, journalctl, ..Config::default() }
    }

    fn start(&self, config: Config) -> Agent {
        self.start_under(config, Arc::default())
    }

    fn start_under(&self, config: Config, pressure: Arc<Pressure>) -> Agent {
        let (ledger, stats, stop) = (Arc::new(Ledger::default()), Arc::new(Stats::default()), CancellationToken::new());
        let (intake, receiver) = Intake::new(64, 10_000, Arc::clone(&ledger));
        let intake = intake.under(pressure);
        let host = Arc::new(Resource::new(vec![value::string("host.name", "h")]));
        let (after, state) = (Afterwork::default(), self.path("state"));
        let task = tokio::spawn(run(config, state, host, intake, stop.clone(), after.clone(), Arc::clone(&stats)));
        Agent { receiver, ledger, stats, stop, task, after }
    }
}

fn entry(number: u32, fields: &str) -> String {
    format!(
        "{{\"__CURSOR\":\"c{number}\",\"__REALTIME_TIMESTAMP\":\"{}\",{fields}}}\n",
        1_795_165_927_000_000_u64 + u64::from(number)
    )
}

struct Agent {
    receiver: Receiver<Received>,
    ledger: Arc<Ledger>,
    stats: Arc<Stats>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
    after: Afterwork,
}

impl Agent {
    async fn batch(&mut self) -> Option<(Arc<Resource>, Vec<LogRecord>, Ack)> {
        let received = tokio::time::timeout(GUARD, self.receiver.recv()).await.expect("nothing came")?;
        let batch = received.take(&self.ledger);
        let Records::Logs(mut scopes) = batch.records else { panic!("not logs") };
        Some((batch.resource, scopes.remove(0).log_records, batch.ack))
    }

    /// At least so many messages, made durable as they come.
    async fn messages(&mut self, count: usize) -> Vec<String> {
        let mut all = Vec::new();
        while all.len() < count {
            let (_, records, ack) = self.batch().await.expect("ended early");
            all.extend(records.into_iter().map(text));
            ack.resolve(Outcome::Durable);
        }
        all
    }

    async fn until(&self, is_so: impl Fn(&StatsReading) -> bool) {
        let wait = async {
            while !is_so(&self.stats.read()) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(GUARD, wait).await.expect("it never came to be");
    }

    /// Stop, and make durable what still comes.
    async fn stop(mut self) -> (Vec<String>, StatsReading, Arc<Ledger>) {
        self.stop.cancel();
        let mut rest = Vec::new();
        while let Some((_, records, ack)) = self.batch().await {
            rest.extend(records.into_iter().map(text));
            ack.resolve(Outcome::Durable);
        }
        self.task.await.unwrap().unwrap();
        assert!(self.after.finish(Instant::now() + GUARD).await, "commits hang");
        (rest, self.stats.read(), self.ledger)
    }
}

fn text(record: LogRecord) -> String {
    match record.body.unwrap().value.unwrap() {
        Value::StringValue(text) => text,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_are_read_once_and_a_restart_goes_on_after_the_last_durable_one() {
    let host = Host::follows();
    host.log(1, "one");
    host.log(2, "two");
    let mut agent = host.start(host.config());
    assert_eq!(agent.messages(2).await, ["one", "two"]);
    host.log(3, "three");
    assert_eq!(agent.messages(1).await, ["three"]);
    let (rest, stats, _) = agent.stop().await;
    assert_eq!((rest.len(), stats.committed.as_str()), (0, "c3"));
    host.log(4, "four");
    let mut agent = host.start(host.config());
    assert_eq!(agent.messages(1).await, ["four"]);
    let (rest, stats, ledger) = agent.stop().await;
    assert_eq!((rest.len(), stats.places_lost, ledger.read().signals[1].seen), (0, 0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_it_is_to_pause_entries_stay_in_the_journal() {
    let host = Host::follows();
    host.log(1, "one");
    let pressure = Arc::new(Pressure::default());
    pressure.rest(Duration::from_millis(500));
    let mut agent = host.start_under(host.config(), Arc::clone(&pressure));
    assert_eq!(agent.messages(1).await, ["one"]);
    assert!(pressure.pause().is_zero(), "it was read before its time");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_settled_is_read_again_and_a_stop_does_not_wait_for_it() {
    let host = Host::follows();
    host.log(1, "one");
    let mut agent = host.start(host.config());
    assert_eq!(agent.messages(1).await, ["one"]);
    agent.until(|stats| stats.committed == "c1").await;
    host.log(2, "two");
    let (_, records, ack) = agent.batch().await.unwrap();
    assert_eq!(records.len(), 1);
    agent.stop.cancel();
    agent.task.await.unwrap().unwrap();
    drop(ack);
    assert!(agent.after.finish(Instant::now() + GUARD).await);
    let mut agent = host.start(host.config());
    assert_eq!(agent.messages(1).await, ["two"]);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_at_the_end_reads_only_what_comes_even_if_that_is_after_a_restart() {
    let host = Host::follows();
    host.log(1, "old");
    let config = Config { start_at: StartAt::End, ..host.config() };
    let agent = host.start(config.clone());
    agent.until(|stats| stats.committed == "c1").await;
    agent.stop().await;
    host.log(2, "while down");
    let mut agent = host.start(config);
    assert_eq!(agent.messages(1).await, ["while down"]);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stack_trace_is_one_record_and_services_are_told_apart() {
    let host = Host::follows();
    host.log(1, "ERROR no stock");
    host.append(&entry(
        2,
        r#""MESSAGE":"other","_TRANSPORT":"syslog","PRIORITY":"4","SYSLOG_IDENTIFIER":"cron","_PID":"7""#,
    ));
    host.log(3, "\tat org.acme.Shop.store(Shop.java:12)");
    host.append(&entry(4, r#""MESSAGE":"not read","_SYSTEMD_UNIT":"ollystack-agent.service""#));
    let mut agent = host.start(host.config());
    let (shop, records, ack) = agent.batch().await.unwrap();
    assert_eq!((shop.service_name(), shop.get("host.name")), ("shop", Some("h")));
    assert_eq!((records[0].time_unix_nano, records[0].severity_number), (1_795_165_927_000_001_000, 0));
    assert_eq!(records[0].attributes, [value::int("ollystack.log.lines", 2)]);
    assert_eq!(text(records[0].clone()), "ERROR no stock\n\tat org.acme.Shop.store(Shop.java:12)");
    ack.resolve(Outcome::Durable);
    let (cron, records, ack) = agent.batch().await.unwrap();
    assert_eq!((cron.service_name(), records[0].severity_number), ("cron", 13));
    assert_eq!(records[0].attributes, [value::int("process.pid", 7)]);
    ack.resolve(Outcome::Durable);
    let (rest, stats, _) = agent.stop().await;
    assert!(rest.is_empty(), "{rest:?}");
    assert_eq!((stats.entries, stats.records, stats.passed_over, stats.committed.as_str()), (4, 2, 1, "c4"));
}

#[tokio::test(flavor = "multi_thread")]
async fn journalctl_that_dies_is_started_again_from_where_it_was() {
    // Prints one entry after the one that it was told, complains, and is gone.
    let host = Host::new(
        "[ -n \"$from\" ] && begin=$((begin + 1))\nsed -n \"${begin}p\" \"$journal\"; echo broken >&2; exit 3\n",
    );
    host.log(1, "one");
    host.log(2, "two");
    let mut agent = host.start(host.config());
    assert_eq!(agent.messages(2).await, ["one", "two"]);
    let (_, stats, _) = agent.stop().await;
    assert!(stats.restarts >= 1);
    assert_eq!(stats.last_error, "broken");
}

#[tokio::test(flavor = "multi_thread")]
async fn junk_and_huge_lines_are_counted_and_messages_beyond_the_limit_cut() {
    let host = Host::follows();
    host.append("junk\n\n{\"half\":\n");
    host.append(&format!("{}\n", "x".repeat(5 << 20)));
    host.log(1, &"ä".repeat(2_000));
    let mut agent = host.start(Config { message_bytes_max: 1_025, ..host.config() });
    assert_eq!(agent.messages(1).await, ["ä".repeat(512)]);
    host.log(2, &"y".repeat(5 << 20));
    assert_eq!(agent.messages(1).await, ["y".repeat(1_025)]);
    let (_, stats, ledger) = agent.stop().await;
    assert_eq!((stats.malformed, stats.messages_cut), (4, 2));
    let account = &ledger.read().signals[1];
    assert_eq!((account.seen, account.dropped_total()), (8, 6), "every line is delivered or counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_is_gone_loses_nothing_that_is_there() {
    // Vacuumed: it begins with what there is.
    let host = Host::follows();
    host.log(1, "one");
    let mut agent = host.start(host.config());
    assert_eq!(agent.messages(1).await, ["one"]);
    agent.stop().await;
    std::fs::write(host.path("journal"), "").unwrap();
    host.log(5, "five");
    let mut agent = host.start(host.config());
    assert_eq!(agent.messages(1).await, ["five"]);
    assert_eq!(agent.stop().await.1.places_lost, 1);
    // Refused: it begins with the second, and what was read of that is left out.
    let refuses =
        "if [ -n \"$from\" ]; then echo 'Failed to seek to cursor' >&2; exit 1; fi\nexec tail -n +1 -f \"$journal\"\n";
    let script = std::fs::read_to_string(host.path("journalctl")).unwrap();
    std::fs::write(host.path("journalctl"), script.replace("exec tail", &format!("{refuses}exec tail"))).unwrap();
    host.log(6, "six");
    let mut agent = host.start(host.config());
    assert_eq!(agent.messages(1).await, ["six"]);
    // The clock was set back: what is stamped before the place that is gone was written after it all the same.
    host.log(4, "set back");
    assert_eq!(agent.messages(1).await, ["set back"]);
    let (rest, stats, _) = agent.stop().await;
    assert_eq!((rest.len(), stats.places_lost), (0, 1));
    assert!(std::fs::read_to_string(host.path("calls")).unwrap().contains("--since=@1795165927"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journalctl_that_does_not_answer_keeps_nobody_from_stopping() {
    let host = Host::follows();
    let script = std::fs::read_to_string(host.path("journalctl")).unwrap();
    std::fs::write(host.path("journalctl"), script.replace("tail -n 1 \"$journal\"", "exec sleep 3600")).unwrap();
    let agent = host.start(Config { start_at: StartAt::End, ..host.config() });
    while !host.path("calls").exists() {
        tokio::task::yield_now().await;
    }
    agent.stop().await;
}

#[tokio::test]
async fn a_program_that_is_not_there_is_refused_by_name() {
    let host = Host::follows();
    let agent = host.start(Config { journalctl: "/nowhere/journalctl".into(), ..host.config() });
    let error = agent.task.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("/nowhere/journalctl") && error.contains("install"), "{error}");
}
