//! The log file input as a whole, on real files: rotation, truncation, deletion, restarts, slow stages behind it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

use ollystack_input_logs::{Config, StartAt, Stats, StatsReading, run};
use ollystack_record::otlp::common::v1::any_value::Value;
use ollystack_record::{Ack, Intake, Ledger, Outcome, Received, Records, Resource, value};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A guard against hanging for ever, far beyond what any of these takes.
const GUARD: Duration = Duration::from_secs(30);

struct Host {
    folder: tempfile::TempDir,
}

impl Host {
    fn new() -> Host {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("log")).unwrap();
        Host { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("log").join(name)
    }

    fn append(&self, name: &str, text: &str) {
        let mut file = OpenOptions::new().append(true).create(true).open(self.path(name)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn rename(&self, from: &str, to: &str) {
        std::fs::rename(self.path(from), self.path(to)).unwrap();
    }

    fn config(&self) -> Config {
        Config {
            include: vec![self.path("*.log").display().to_string()],
            start_at: StartAt::Beginning,
            line_wait_ms: 100,
            poll_interval_ms: 500,
            ..Config::default()
        }
    }

    fn start(&self, config: Config) -> Agent {
        self.start_with(config, 64, 100_000)
    }

    fn start_with(&self, config: Config, batches_max: usize, records_max: u32) -> Agent {
        let (ledger, stats, stop) = (Arc::new(Ledger::default()), Arc::new(Stats::default()), CancellationToken::new());
        let (intake, receiver) = Intake::new(batches_max, records_max, Arc::clone(&ledger));
        let host = Arc::new(Resource::new(vec![value::string("host.name", "h")]));
        let state = self.folder.path().join("state");
        let task = tokio::spawn(run(config, state, host, intake, stop.clone(), Arc::clone(&stats)));
        Agent { receiver, ledger, stats, stop, task, delivered: 0 }
    }
}

struct Agent {
    receiver: Receiver<Received>,
    ledger: Arc<Ledger>,
    stats: Arc<Stats>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), ollystack_input_logs::Error>>,
    delivered: u64,
}

impl Agent {
    /// The next batch's lines and its ack.
    async fn batch(&mut self) -> Option<(Vec<String>, Ack)> {
        let received = tokio::time::timeout(GUARD, self.receiver.recv()).await.expect("nothing came")?;
        let batch = received.take(&self.ledger);
        assert_eq!(batch.resource.get("host.name"), Some("h"));
        let Records::Logs(scopes) = batch.records else { panic!("not logs") };
        let records = scopes.into_iter().flat_map(|scope| scope.log_records);
        let lines: Vec<String> = records
            .map(|record| match record.body.unwrap().value.unwrap() {
                Value::StringValue(text) => text,
                other => panic!("{other:?}"),
            })
            .collect();
        self.delivered += lines.len() as u64;
        Some((lines, batch.ack))
    }

    /// At least so many lines, made durable as they come.
    async fn lines(&mut self, count: usize) -> Vec<String> {
        let mut all = Vec::new();
        while all.len() < count {
            let (lines, ack) = self.batch().await.expect("ended early");
            all.extend(lines);
            ack.resolve(Outcome::Durable);
        }
        all
    }

    /// Stop, make durable what still comes, and give it with the last stats.
    async fn stop(mut self) -> (Vec<String>, StatsReading, Arc<Ledger>) {
        self.stop.cancel();
        let mut rest = Vec::new();
        while let Some((lines, ack)) = self.batch().await {
            rest.extend(lines);
            ack.resolve(Outcome::Durable);
        }
        self.task.await.unwrap().unwrap();
        let account = &self.ledger.read().signals[1];
        assert_eq!(account.seen, self.delivered + account.dropped_total(), "every line is delivered or counted");
        (rest, self.stats.read(), self.ledger)
    }
}

fn dropped(ledger: &Ledger, reason: &str) -> u64 {
    ledger.read().signals[1].dropped.iter().find(|(name, _)| *name == reason).unwrap().1
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_is_read_once_and_in_order() {
    let host = Host::new();
    host.append("a.log", "one\ntwo\r\n\nthree\n");
    let mut agent = host.start(host.config());
    assert_eq!(agent.lines(3).await, ["one", "two", "three"]);
    host.append("a.log", "four\n");
    host.append("late.log", "five\n");
    let mut later = agent.lines(2).await;
    later.sort();
    assert_eq!(later, ["five", "four"]);
    let (rest, stats, _) = agent.stop().await;
    assert!(rest.is_empty());
    assert_eq!((stats.lines, stats.files.len()), (5, 2));
    assert!(stats.files.iter().all(|file| file.lag == 0 && file.committed == file.read));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_at_the_end_reads_only_what_comes_and_a_restart_what_came_meanwhile() {
    let host = Host::new();
    host.append("a.log", "old\n");
    let config = Config { start_at: StartAt::End, ..host.config() };
    let agent = host.start(config.clone());
    // Once its place is saved, a stop cannot lose it.
    let state = host.folder.path().join("state/log-offsets.json");
    tokio::time::timeout(GUARD, async {
        while !state.exists() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    let (rest, _, _) = agent.stop().await;
    assert!(rest.is_empty(), "{rest:?}");
    host.append("a.log", "while down\n");
    host.append("new.log", "new while down\n");
    let mut agent = host.start(config);
    let mut lines = agent.lines(2).await;
    lines.sort();
    assert_eq!(lines, ["new while down", "while down"]);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_file_is_read_to_its_end_beside_its_successor() {
    let host = Host::new();
    host.append("a.log", "1\n");
    let mut agent = host.start(host.config());
    assert_eq!(agent.lines(1).await, ["1"]);
    let mut expected = Vec::new();
    for round in 0..20 {
        // The writer holds the old file and writes on for a while, as servers do until they are told.
        let mut writer = OpenOptions::new().append(true).open(host.path("a.log")).unwrap();
        writeln!(writer, "before {round}").unwrap();
        host.rename("a.log", &format!("a.log.{round}"));
        host.append("a.log", &format!("successor {round}\n"));
        writeln!(writer, "after {round}").unwrap();
        expected.extend([format!("after {round}"), format!("before {round}"), format!("successor {round}")]);
    }
    let mut lines = agent.lines(expected.len()).await;
    lines.sort();
    expected.sort();
    assert_eq!(lines, expected);
    let (rest, stats, _) = agent.stop().await;
    assert!(rest.is_empty(), "{rest:?}");
    assert_eq!((stats.truncations, stats.vanished), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_within_the_globs_reads_nothing_twice() {
    let host = Host::new();
    let config = Config { include: vec![host.path("a.log*").display().to_string()], ..host.config() };
    host.append("a.log", "one\ntwo\n");
    let mut agent = host.start(config);
    assert_eq!(agent.lines(2).await, ["one", "two"]);
    host.rename("a.log", "a.log.1");
    host.append("a.log", "three\n");
    assert_eq!(agent.lines(1).await, ["three"]);
    // Copy and truncate: the copy begins like the file that was read, and is as long.
    std::fs::copy(host.path("a.log"), host.path("a.log.2")).unwrap();
    OpenOptions::new().write(true).open(host.path("a.log")).unwrap().set_len(0).unwrap();
    host.append("a.log", "4\n");
    assert_eq!(agent.lines(1).await, ["4"]);
    let (rest, stats, _) = agent.stop().await;
    assert!(rest.is_empty(), "{rest:?}");
    assert_eq!((stats.truncations, stats.vanished), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_file_is_read_anew_and_what_was_not_read_of_it_is_counted() {
    let host = Host::new();
    let line = "x".repeat(99);
    host.append("a.log", &format!("{line}\n").repeat(1_000));
    // Room for one batch in the queue: most of the file is not read.
    let config = Config { batch_records_max: 10, batches_in_flight_max: 2, ..host.config() };
    let mut agent = host.start_with(config, 1, 10);
    let (lines, ack) = agent.batch().await.unwrap();
    assert_eq!(lines.len(), 10);
    std::fs::write(host.path("a.log"), "anew\n").unwrap();
    ack.resolve(Outcome::Durable);
    let mut seen = 10;
    loop {
        let lines = agent.lines(1).await;
        if lines.last().is_some_and(|line| line == "anew") {
            break;
        }
        seen += lines.len() as u64;
    }
    let (_, stats, ledger) = agent.stop().await;
    assert_eq!((stats.truncations, stats.vanished), (1, 1));
    assert_eq!(dropped(&ledger, "source_vanished"), 1_000 - seen, "lines of equal length are counted exactly");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_file_that_is_open_is_read_to_its_end() {
    let host = Host::new();
    let text: String = (0..1_000).map(|number| format!("{number}\n")).collect();
    host.append("a.log", &text);
    let config = Config { batch_records_max: 10, ..host.config() };
    let mut agent = host.start_with(config, 1, 10);
    let (mut lines, ack) = agent.batch().await.unwrap();
    ack.resolve(Outcome::Durable);
    std::fs::remove_file(host.path("a.log")).unwrap();
    lines.extend(agent.lines(990).await);
    let expected: Vec<String> = (0..1_000).map(|number| number.to_string()).collect();
    assert_eq!(lines, expected);
    let (_, stats, _) = agent.stop().await;
    assert_eq!(stats.vanished, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_goes_on_after_the_last_durable_line_through_a_rotation() {
    let host = Host::new();
    host.append("a.log", "1\n2\n");
    let mut agent = host.start(host.config());
    assert_eq!(agent.lines(2).await, ["1", "2"]);
    agent.stop().await;
    host.append("a.log", "3\n");
    host.rename("a.log", "a.log.old");
    host.append("a.log", "4\n");
    let mut agent = host.start(host.config());
    let mut lines = agent.lines(2).await;
    lines.sort();
    assert_eq!(lines, ["3", "4"]);
    let (rest, _, _) = agent.stop().await;
    assert!(rest.is_empty(), "{rest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_durable_before_a_stop_is_read_again() {
    let host = Host::new();
    host.append("a.log", "1\n");
    let config = Config { batch_records_max: 1, ..host.config() };
    let mut agent = host.start(config.clone());
    assert_eq!(agent.lines(1).await, ["1"]);
    host.append("a.log", "2\n3\n");
    let (two, lost) = agent.batch().await.unwrap();
    let (three, ack) = agent.batch().await.unwrap();
    assert_eq!((two, three), (vec!["2".to_owned()], vec!["3".to_owned()]));
    // The later batch is durable and the earlier is not: the offset may not pass the earlier one.
    ack.resolve(Outcome::Durable);
    agent.stop.cancel();
    // The input takes nothing new from here on; its last clone of the intake goes with it.
    let (task, mut receiver) = (agent.task, agent.receiver);
    drop(lost);
    task.await.unwrap().unwrap();
    assert!(receiver.recv().await.is_none());
    let mut agent = host.start(config);
    assert_eq!(agent.lines(2).await, ["2", "3"]);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_vanishes_while_the_agent_is_down_is_counted_as_far_as_it_was_seen() {
    let host = Host::new();
    let line = "y".repeat(99);
    host.append("a.log", &format!("{line}\n").repeat(30));
    let config = Config { batch_records_max: 10, batches_in_flight_max: 1, ..host.config() };
    let mut agent = host.start(config.clone());
    let (_, ack) = agent.batch().await.unwrap();
    ack.resolve(Outcome::Durable);
    let (_, unsettled) = agent.batch().await.unwrap();
    agent.stop.cancel();
    drop(unsettled);
    agent.task.await.unwrap().unwrap();
    std::fs::remove_file(host.path("a.log")).unwrap();
    let agent = host.start(config);
    let (_, stats, ledger) = agent.stop().await;
    assert_eq!(stats.vanished, 1);
    assert_eq!(dropped(&ledger, "source_vanished"), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_is_too_long_is_cut_and_counted_and_an_unfinished_one_waits_for_its_end() {
    let host = Host::new();
    let config = Config { line_bytes_max: 1_024, ..host.config() };
    host.append("a.log", &format!("{}\nshort\nunfinish", "z".repeat(300_000)));
    let mut agent = host.start(Config { line_wait_ms: 600_000, ..config.clone() });
    assert_eq!(agent.lines(2).await, ["z".repeat(1_024), "short".to_owned()]);
    host.append("a.log", "ed\nsilent");
    assert_eq!(agent.lines(1).await, ["unfinished"]);
    let (rest, stats, ledger) = agent.stop().await;
    assert!(rest.is_empty(), "{rest:?}");
    assert_eq!((stats.lines_cut, dropped(&ledger, "malformed")), (1, 1));
    let mut agent = host.start(config);
    assert_eq!(agent.lines(1).await, ["silent"]);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_stage_behind_holds_the_input_back_within_its_bounds() {
    let host = Host::new();
    let text: String = (0..5_000).map(|number| format!("{number}\n")).collect();
    host.append("a.log", &text);
    host.append("b.log", "b\n");
    let config = Config { batch_records_max: 100, batches_in_flight_max: 4, ..host.config() };
    let mut agent = host.start(config);
    let mut held = Vec::new();
    // Two of one file may wait, and one of the other: then nothing comes until a verdict does.
    for _ in 0..3 {
        held.push(agent.batch().await.unwrap());
    }
    assert!(agent.receiver.try_recv().is_err());
    let mut lines = Vec::new();
    for (batch, ack) in held {
        lines.extend(batch);
        ack.resolve(Outcome::Durable);
    }
    lines.extend(agent.lines(5_001 - lines.len()).await);
    lines.retain(|line| line != "b");
    let expected: Vec<String> = (0..5_000).map(|number| number.to_string()).collect();
    assert_eq!(lines, expected);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_files_than_may_be_open_are_all_followed() {
    let host = Host::new();
    let config = Config { files_open_max: 3, ..host.config() };
    let names: Vec<String> = (0..20).map(|number| format!("{number:02}.log")).collect();
    names.iter().for_each(|name| host.append(name, &format!("first {name}\n")));
    let mut agent = host.start(config);
    agent.lines(20).await;
    names.iter().for_each(|name| host.append(name, &format!("second {name}\n")));
    let mut lines = agent.lines(20).await;
    lines.sort();
    let expected: Vec<String> = names.iter().map(|name| format!("second {name}")).collect();
    assert_eq!(lines, expected);
    tokio::time::timeout(GUARD, async {
        while open_files(host.folder.path()) > 3 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    agent.stop().await;
}

/// This process' descriptors of log files below a folder.
fn open_files(folder: &Path) -> usize {
    let links = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let targets = links.filter_map(|link| std::fs::read_link(link.path()).ok());
    targets.filter(|target| target.starts_with(folder.join("log")) && target.extension().is_some()).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn binary_files_links_and_damaged_offsets_stop_nothing() {
    let host = Host::new();
    std::fs::write(host.path("binary.log"), b"\x7fELF\0\0").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", host.path("link.log")).unwrap();
    File::create(host.path("empty.log")).unwrap();
    host.append("a.log", "text\n");
    std::fs::create_dir(host.folder.path().join("state")).unwrap();
    std::fs::write(host.folder.path().join("state/log-offsets.json"), "{torn").unwrap();
    let mut agent = host.start(host.config());
    assert_eq!(agent.lines(1).await, ["text"]);
    let (rest, stats, _) = agent.stop().await;
    assert!(rest.is_empty(), "{rest:?}");
    assert_eq!((stats.binary, stats.files.len()), (1, 1));
    assert!(host.folder.path().join("state/log-offsets.damaged").exists());
}

#[tokio::test]
async fn a_state_folder_that_cannot_be_written_is_refused_with_its_path() {
    let host = Host::new();
    std::fs::write(host.folder.path().join("state"), "a file").unwrap();
    let agent = host.start(host.config());
    let error = agent.task.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("state") && error.contains("make the state directory writable"), "{error}");
}
