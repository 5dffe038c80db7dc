//! The log file input as a whole, on real files: rotation, truncation, deletion, restarts, slow stages behind it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

use ollystack_input_logs::{Config, MultilineMode, StartAt, Stats, StatsReading, run};
use ollystack_record::otlp::common::v1::any_value::Value;
use ollystack_record::{
    Ack, Afterwork, Announcement, Class, Intake, Ledger, Outcome, Received, Records, Resource, value,
};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A guard against hanging for ever, far beyond what any of these takes.
const GUARD: Duration = Duration::from_secs(10);

fn in_time() -> tokio::time::Instant {
    tokio::time::Instant::now() + GUARD
}

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
            multiline_wait_ms: 50,
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
        let after = Afterwork::default();
        let task = tokio::spawn(run(config, state, host, intake, stop.clone(), after.clone(), Arc::clone(&stats)));
        Agent { receiver, ledger, stats, stop, task, after, delivered: 0, most_queued: 0 }
    }
}

struct Agent {
    receiver: Receiver<Received>,
    ledger: Arc<Ledger>,
    stats: Arc<Stats>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), ollystack_input_logs::Error>>,
    after: Afterwork,
    delivered: u64,
    most_queued: usize,
}

impl Agent {
    async fn received(&mut self) -> Option<Received> {
        self.most_queued = self.most_queued.max(self.receiver.len());
        tokio::time::timeout(GUARD, self.receiver.recv()).await.expect("nothing came")
    }

    /// The next batch's lines and its ack.
    async fn batch(&mut self) -> Option<(Vec<String>, Ack)> {
        let batch = self.received().await?.take(&self.ledger);
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

    /// Wait until the input says so of itself.
    async fn until(&self, is_so: impl Fn(&StatsReading) -> bool) {
        tokio::time::timeout(GUARD, async {
            while !is_so(&self.stats.read()) {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("it never came to be");
    }

    /// Wait until everything before `offset` of a file is committed.
    async fn committed(&self, name: &str, offset: u64) {
        let is_so =
            |stats: &StatsReading| stats.files.iter().any(|file| file.path.ends_with(name) && file.committed >= offset);
        self.until(is_so).await;
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
        assert!(self.after.finish(in_time()).await, "commits hang");
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
    agent.committed("a.log", 2).await;
    host.append("a.log", "2\n3\n");
    let (two, lost) = agent.batch().await.unwrap();
    let (three, ack) = agent.batch().await.unwrap();
    assert_eq!((two, three), (vec!["2".to_owned()], vec!["3".to_owned()]));
    // The later batch is durable and the earlier is not: that alone is read again.
    ack.resolve(Outcome::Durable);
    agent.stop.cancel();
    // The input takes nothing new from here on; its last clone of the intake goes with it.
    agent.task.await.unwrap().unwrap();
    assert!(agent.receiver.recv().await.is_none());
    drop(lost);
    assert!(agent.after.finish(in_time()).await);
    let mut agent = host.start(config);
    assert_eq!(agent.lines(1).await, ["2"]);
    let (rest, _, _) = agent.stop().await;
    assert!(rest.is_empty(), "{rest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_vanishes_while_the_agent_is_down_is_counted_as_far_as_it_was_seen() {
    let host = Host::new();
    let line = "y".repeat(99);
    host.append("a.log", &format!("{line}\n").repeat(10));
    let config = Config { batch_records_max: 10, ..host.config() };
    let mut agent = host.start(config.clone());
    agent.lines(10).await;
    agent.committed("a.log", 1_000).await;
    host.append("a.log", &format!("{line}\n").repeat(20));
    let (_, unsettled) = agent.batch().await.unwrap();
    agent.stop.cancel();
    agent.task.await.unwrap().unwrap();
    drop(unsettled);
    while let Some(received) = agent.receiver.recv().await {
        drop(received.take(&agent.ledger));
    }
    assert!(agent.after.finish(in_time()).await);
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
    let config = Config { batch_records_max: 100, batches_in_flight_max: 4, ..host.config() };
    let mut agent = host.start(config);
    // Nobody takes: four batches come, and no fifth although there is room in the queue.
    agent.until(|stats| stats.records == 400).await;
    assert_eq!(agent.ledger.read().signals[1].seen, 400);
    let expected: Vec<String> = (0..5_000).map(|number| number.to_string()).collect();
    assert_eq!(agent.lines(5_000).await, expected);
    assert_eq!(agent.most_queued, 4);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn verdicts_that_take_long_do_not_hold_up_reading_and_offsets_wait_for_them() {
    let host = Host::new();
    let config = Config { batch_records_max: 10, batches_in_flight_max: 2, ..host.config() };
    let text: String = (0..5_000).map(|number| format!("{number}\n")).collect();
    host.append("a.log", &text);
    let mut agent = host.start(config.clone());
    let (mut lines, mut acks) = (Vec::new(), Vec::new());
    while lines.len() < 5_000 {
        let (batch, ack) = agent.batch().await.unwrap();
        lines.extend(batch);
        acks.push(ack);
    }
    // As killed: nothing was committed, so all of it is read again.
    agent.until(|stats| stats.unsettled > 0).await;
    assert_eq!(agent.stats.read().files[0].committed, 0);
    agent.task.abort();
    let saved = std::fs::read(host.folder.path().join("state/log-offsets.json")).unwrap();
    // Stopped instead: the input returns although nothing is settled, and verdicts that come then are still committed.
    agent.stop.cancel();
    while agent.receiver.recv().await.is_some() {}
    acks.into_iter().for_each(|ack| ack.resolve(Outcome::Durable));
    assert!(agent.after.finish(in_time()).await);
    let (rest, _, _) = host.start(config.clone()).stop().await;
    assert!(rest.is_empty(), "{rest:?}");
    std::fs::write(host.folder.path().join("state/log-offsets.json"), saved).unwrap();
    let mut agent = host.start(config);
    assert_eq!(agent.lines(5_000).await, lines);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_reads_to_its_end_what_was_deleted_and_nobody_can_read_later() {
    let host = Host::new();
    // What follows the first line is not read before the stop.
    let config = Config { line_wait_ms: 600_000, ..host.config() };
    host.append("a.log", "1\n2");
    let mut agent = host.start(Config { multiline: MultilineMode::Off, ..config });
    assert_eq!(agent.lines(1).await, ["1"]);
    std::fs::remove_file(host.path("a.log")).unwrap();
    let (rest, _, _) = agent.stop().await;
    assert_eq!(rest, ["2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_a_rotation_made_while_the_agent_was_down_doubles_no_line() {
    let host = Host::new();
    let include = vec![host.path("*.log*").display().to_string()];
    let config = Config { include, ..host.config() };
    host.append("a.log", "1\n2\n");
    let mut agent = host.start(config.clone());
    assert_eq!(agent.lines(2).await, ["1", "2"]);
    agent.stop().await;
    host.append("a.log", "3\n");
    std::fs::copy(host.path("a.log"), host.path("a.log.1")).unwrap();
    std::fs::write(host.path("a.log"), "4\n").unwrap();
    let mut agent = host.start(config.clone());
    let mut lines = agent.lines(2).await;
    lines.sort();
    assert_eq!(lines, ["3", "4"]);
    // Truncated under its eyes, and the copy found by the next run.
    std::fs::copy(host.path("a.log"), host.folder.path().join("copy")).unwrap();
    std::fs::write(host.path("a.log"), "five\n").unwrap();
    assert_eq!(agent.lines(1).await, ["five"]);
    agent.stop().await;
    std::fs::copy(host.folder.path().join("copy"), host.path("a.log.2")).unwrap();
    let (rest, _, _) = host.start(config).stop().await;
    assert!(rest.is_empty(), "{rest:?}");
}

/// Killed: what is on disk at this moment is what the next run finds, with these ids in the buffer.
async fn kill(host: &Host, mut agent: Agent, last_ids: &[u64]) {
    let [state, copy, dead] = ["state", "copy", "dead"].map(|name| host.folder.path().join(name));
    std::fs::create_dir_all(&copy).unwrap();
    for file in std::fs::read_dir(&state).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), copy.join(file.file_name())).unwrap();
    }
    // What it does on its end leaves no trace.
    std::fs::rename(&state, dead).unwrap();
    agent.stop.cancel();
    agent.task.await.unwrap().unwrap();
    assert!(agent.receiver.recv().await.is_none());
    agent.after.finish(tokio::time::Instant::now()).await;
    std::fs::rename(&copy, &state).unwrap();
    ollystack_input_logs::recover(&state, last_ids);
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_that_went_on_before_others_of_their_batch_are_not_read_again_after_a_kill() {
    let host = Host::new();
    host.append("a.log", "1\n\n2\n3\n4\n5\n");
    let config = Config { multiline: MultilineMode::Off, ..host.config() };
    let mut agent = host.start(config.clone());
    let (lines, ack) = agent.batch().await.unwrap();
    assert_eq!(lines.len(), 5);
    let [waiting, done] = ack.split::<2>(&[0, 1, 0, 1, 0]);
    done.unwrap().resolve(Outcome::Durable);
    let saved = || std::fs::read_to_string(host.folder.path().join("state/log-offsets.json")).unwrap_or_default();
    tokio::time::timeout(GUARD, async {
        while !saved().contains(r#""done":[[3,5],[7,9]]"#) {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    kill(&host, agent, &[0, 0, 0]).await;
    drop(waiting);
    host.append("a.log", "6\n");
    let mut agent = host.start(config);
    assert_eq!(agent.lines(4).await, ["1", "3", "5", "6"]);
    agent.committed("a.log", 13).await;
    let (rest, _, _) = agent.stop().await;
    assert!(rest.is_empty(), "{rest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_between_a_put_and_its_verdict_doubles_and_loses_no_line() {
    for (last_ids, expected) in [([0, 8, 0], &["3"][..]), ([0, 7, 99], &["1", "2", "3"][..])] {
        let host = Host::new();
        host.append("a.log", "1\n2\n");
        let config = Config { multiline: MultilineMode::Off, ..host.config() };
        let mut agent = host.start(config.clone());
        let (_, ack) = agent.batch().await.unwrap();
        Announcement::of([(Class::Normal, &ack)].into_iter()).announce(7);
        kill(&host, agent, &last_ids).await;
        drop(ack);
        host.append("a.log", "3\n");
        let mut agent = host.start(config);
        assert_eq!(agent.lines(expected.len()).await, expected);
        let (rest, _, _) = agent.stop().await;
        assert!(rest.is_empty(), "{rest:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_records_of_two_streams_that_interleave_neither_is_done_before_the_other() {
    let host = Host::new();
    for text in ["stderr P one ", "stdout F two", "stderr F more"] {
        host.append("a.log", &format!("2026-11-20T09:12:07.123456789Z {text}\n"));
    }
    let mut agent = host.start(host.config());
    let (lines, ack) = agent.batch().await.unwrap();
    assert_eq!(lines, ["one more", "two"]);
    let [first, second] = ack.split::<2>(&[0, 1]);
    Announcement::of(second.iter().map(|ack| (Class::Normal, ack))).announce(7);
    kill(&host, agent, &[0, 8, 0]).await;
    drop((first, second));
    let mut agent = host.start(host.config());
    assert_eq!(agent.lines(2).await, ["one more", "two"]);
    let (rest, _, _) = agent.stop().await;
    assert!(rest.is_empty(), "{rest:?}");
}

const TRACE: [&str; 3] =
    ["ERROR no stock\n", "\tat org.acme.Shop.store(Shop.java:12)\n", "\tat org.acme.Shop.main(Shop.java:3)\n"];

#[tokio::test(flavor = "multi_thread")]
async fn a_stack_trace_is_one_record_and_counts_as_one() {
    let host = Host::new();
    host.append("a.log", &format!("INFO a\n{}INFO b\n", TRACE.concat()));
    let mut agent = host.start(Config { multiline_wait_ms: 500, ..host.config() });
    assert_eq!(agent.lines(2).await, ["INFO a", TRACE.concat().trim_end()]);
    assert_eq!(agent.lines(1).await, ["INFO b"], "nothing follows it");
    let (_, stats, ledger) = agent.stop().await;
    assert_eq!((stats.lines, stats.records, ledger.read().signals[1].seen), (5, 3, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_waits_for_more_is_neither_lost_nor_doubled_by_restart_rotation_or_truncation() {
    let host = Host::new();
    // So long that only what the test does ends it.
    let config = Config { multiline_wait_ms: 60_000, line_wait_ms: 600_000, ..host.config() };
    host.append("a.log", &format!("INFO 1\n{}", TRACE[..2].concat()));
    let mut agent = host.start(config.clone());
    assert_eq!(agent.lines(1).await, ["INFO 1"]);
    let (rest, ..) = agent.stop().await;
    assert!(rest.is_empty(), "{rest:?}");
    // Restart: it is read again from its first line, with what came meanwhile.
    host.append("a.log", &format!("{}INFO 2\n", TRACE[2]));
    let mut agent = host.start(config.clone());
    assert_eq!(agent.lines(1).await, [TRACE.concat().trim_end()]);
    // Rotation: the writer goes on in the old file.
    let mut writer = OpenOptions::new().append(true).open(host.path("a.log")).unwrap();
    host.rename("a.log", "a.log.1");
    host.append("a.log", &TRACE[..2].concat());
    write!(writer, "\tof two\nINFO 3\n").unwrap();
    assert_eq!(agent.lines(1).await, ["INFO 2\n\tof two"]);
    // Truncation: what was read of it and waited comes, and the new content for itself.
    // Both files have a last record that waits.
    agent.until(|stats| stats.files.iter().filter(|file| file.lag > 0).count() == 2).await;
    std::fs::copy(host.path("a.log"), host.path("a.log.2")).unwrap();
    OpenOptions::new().write(true).open(host.path("a.log")).unwrap().set_len(0).unwrap();
    host.append("a.log", "INFO 4\nINFO 5\n");
    assert_eq!(agent.lines(2).await, [TRACE[..2].concat().trim_end(), "INFO 4"]);
    let (rest, stats, ledger) = agent.stop().await;
    assert!(rest.is_empty(), "{rest:?}");
    assert_eq!((stats.truncations, dropped(&ledger, "source_vanished")), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_comes_once_though_its_copy_is_seen_before_the_truncation() {
    let host = Host::new();
    let include = vec![host.path("a.log*").display().to_string()];
    let config = Config { include, multiline_wait_ms: 60_000, line_wait_ms: 600_000, ..host.config() };
    host.append("a.log", "INFO 0\nINFO 1\n\tof one\n");
    let mut agent = host.start(config);
    assert_eq!(agent.lines(1).await, ["INFO 0"]);
    agent.until(|stats| stats.files.iter().any(|file| file.read > 0)).await;
    std::fs::copy(host.path("a.log"), host.path("a.log.1")).unwrap();
    agent.until(|stats| stats.files.len() == 2).await;
    OpenOptions::new().write(true).open(host.path("a.log")).unwrap().set_len(0).unwrap();
    host.append("a.log", "INFO 2\nINFO 3\n");
    assert_eq!(agent.lines(2).await, ["INFO 1\n\tof one", "INFO 2"]);
    host.append("a.log.1", "INFO 4\nINFO 5\n");
    assert_eq!(agent.lines(1).await, ["INFO 4"]);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_s_file_gives_time_stream_and_who_it_is() {
    let host = Host::new();
    let folder = "pods/shop_checkout-x_0a1b/server";
    std::fs::create_dir_all(host.path(folder)).unwrap();
    let line = |stream: &str, tag: &str, text: &str| format!("2026-11-20T09:12:07.5Z {stream} {tag} {text}\n");
    let text = [
        line("stderr", "F", "ERROR"),
        line("stdout", "P", "a"),
        line("stderr", "F", "\tat x"),
        line("stdout", "F", "b"),
    ];
    host.append(&format!("{folder}/0.log"), &text.concat());
    let config = Config { include: vec![host.path("pods/*/*/*.log").display().to_string()], ..host.config() };
    let mut agent = host.start(config);
    let mut found = Vec::new();
    while found.len() < 2 {
        let received = agent.received().await.unwrap().take(&agent.ledger);
        assert_eq!(
            (received.resource.service_name(), received.resource.get("k8s.namespace.name")),
            ("server", Some("shop"))
        );
        let Records::Logs(scopes) = received.records else { panic!("not logs") };
        for record in &scopes[0].log_records {
            assert_eq!(record.time_unix_nano, 1_795_165_927_500_000_000);
            let stream = value::string_attribute(&record.attributes, "log.iostream").unwrap().to_owned();
            found.push((stream, record.body.clone().unwrap().value.unwrap()));
        }
        agent.delivered += scopes[0].log_records.len() as u64;
        received.ack.resolve(Outcome::Durable);
    }
    let text = |text: &str| Value::StringValue(text.into());
    assert_eq!(found, [("stderr".into(), text("ERROR\n\tat x")), ("stdout".into(), text("ab"))]);
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
