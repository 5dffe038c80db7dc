//! Runs one after the other in one directory: how each ended, what the next finds, and what the account says of both.

use super::*;
use ollystack_record::ledger::Corrected;

/// A run that has seen, sent and left waiting what a test says.
struct Run {
    ledger: Arc<Ledger>,
    books: Books,
}

/// Begins a run that finds so many log records on disk, and loses what a crash took of the one before.
fn run(dir: &Path, on_disk: u64, damaged: bool) -> Run {
    let (ledger, last) = (Arc::new(Ledger::default()), open(dir));
    ledger.carried(Signal::Logs, on_disk);
    ledger.waiting_set(Signal::Logs, Place::Buffer, on_disk);
    let Lost { samples, points, spans, .. } = last.lost();
    for (signal, lost) in [(Signal::Metrics, samples + points), (Signal::Traces, spans)] {
        ledger.carried(signal, lost);
        ledger.dropped(signal, DropReason::Crash, lost);
    }
    let books = last.settle(&ledger, [0, on_disk, 0], damaged, Risk::default());
    Run { ledger, books }
}

impl Run {
    /// 100 log records come; 60 leave, 10 are lost, 30 are on disk.
    fn works(&self) {
        let (ledger, logs) = (&self.ledger, Signal::Logs);
        ledger.seen(logs, 100);
        ledger.sent(logs, 60);
        ledger.dropped(logs, DropReason::Refused, 10);
        ledger.waiting_set(logs, Place::Buffer, 30);
        self.books.note(Risk::default());
    }

    /// The account of logs over all runs, which balances.
    fn all(&self) -> SignalReading {
        let all = self.books.in_all().signals[Signal::Logs as usize].clone();
        assert_eq!(all.balance(), 0, "{all:?}");
        all
    }
}

#[tokio::test]
async fn a_run_goes_on_where_the_one_before_stopped_and_nothing_is_corrected() {
    let dir = tempfile::tempdir().unwrap();
    for runs in 1..4 {
        let run = run(dir.path(), if runs == 1 { 0 } else { 30 }, false);
        run.ledger.seen(Signal::Logs, 100);
        run.ledger.sent(Signal::Logs, if runs == 1 { 70 } else { 100 });
        run.ledger.waiting_set(Signal::Logs, Place::Buffer, 30);
        let all = run.all();
        assert_eq!((all.seen, all.sent, all.waiting_total()), (100 * runs, 100 * runs - 30, 30));
        assert_eq!(all.corrected, Corrected::default());
        run.books.close().await;
    }
}

#[test]
fn what_the_last_entry_of_a_killed_run_does_not_know_is_corrected_by_where_it_was() {
    // On disk in the end, and the correction: 4 more than booked were put, or sent and not yet acknowledged; 5 were sent.
    for (found, expected) in [(30, 0), (34, 4), (25, -5)] {
        let dir = tempfile::tempdir().unwrap();
        run(dir.path(), 0, false).works();
        let second = run(dir.path(), found, false);
        let all = second.all();
        assert_eq!((all.seen, all.sent, all.dropped_total()), (100, 60, 10), "counters never go down");
        assert_eq!(all.corrected, Corrected { buffer: expected, memory: 0 });
    }
}

#[tokio::test]
async fn books_go_on_when_the_disk_does() {
    let dir = tempfile::tempdir().unwrap();
    let first = run(dir.path(), 0, false);
    first.works();
    let exchange = |file| first.books.desk().slots.as_mut().map(|slots| slots.exchange(file)).unwrap();
    let file = exchange(std::fs::File::open("/dev/null").unwrap());
    first.works();
    first.works();
    exchange(file);
    first.books.close().await;
    let last = open(dir.path()).entry.unwrap();
    assert!(last.clean);
    assert_eq!(last.reading.signals[Signal::Logs as usize].seen, 300);
}

#[test]
fn log_records_that_a_killed_run_had_in_memory_come_again_and_are_taken_out_of_the_account() {
    let dir = tempfile::tempdir().unwrap();
    let first = run(dir.path(), 0, false);
    first.works();
    first.ledger.seen(Signal::Logs, 7);
    first.ledger.waiting_add(Signal::Logs, Place::Queue, 7);
    first.books.note(Risk::default());
    let second = run(dir.path(), 30, false);
    assert_eq!(second.all().corrected, Corrected { buffer: 0, memory: -7 });
    assert_eq!(second.all().dropped_total(), 10);
}

#[test]
fn spans_and_samples_that_a_killed_run_had_in_memory_are_lost_and_need_no_correction() {
    let dir = tempfile::tempdir().unwrap();
    let first = run(dir.path(), 0, false);
    first.ledger.seen(Signal::Traces, 9);
    first.ledger.waiting_set(Signal::Traces, Place::Sampler, 9);
    // Six samples since the checkpoint went into two windows.
    first.ledger.seen(Signal::Metrics, 6);
    first.ledger.folded(Signal::Metrics, 4);
    first.ledger.waiting_set(Signal::Metrics, Place::Window, 2);
    first.books.note(Risk { checkpointed: true, samples_since: 6, ..Risk::default() });
    let all = run(dir.path(), 0, false).books.in_all();
    let [metrics, _, traces] = &all.signals;
    assert_eq!((traces.balance(), traces.dropped_total(), traces.corrected), (0, 9, Corrected::default()));
    assert_eq!((metrics.balance(), metrics.dropped_total()), (0, 6));
    assert_eq!(
        metrics.corrected,
        Corrected { buffer: 0, memory: 4 },
        "the four that were folded are lost all the same"
    );
}

#[tokio::test]
async fn what_is_missing_on_disk_after_a_stop_or_in_a_damaged_buffer_is_lost_and_said_so() {
    for (stopped, damaged, lost) in [(true, false, 18), (false, true, 18), (false, false, 0)] {
        let dir = tempfile::tempdir().unwrap();
        let first = run(dir.path(), 0, false);
        first.works();
        if stopped {
            first.books.close().await;
        }
        drop(first);
        let second = run(dir.path(), 12, damaged);
        let dropped = second.ledger.read().signals[1].dropped[DropReason::BufferCorrupt as usize].1;
        assert_eq!(dropped, lost, "stopped {stopped}, damaged {damaged}");
        assert_eq!(second.all().corrected.buffer, if lost > 0 { 0 } else { -18 });
        assert_eq!(second.ledger.read().signals[1].balance(), 0);
    }
}

#[tokio::test]
async fn a_fault_in_the_books_themselves_stays_in_sight_over_a_stop() {
    let dir = tempfile::tempdir().unwrap();
    let first = run(dir.path(), 0, false);
    first.works();
    first.ledger.seen(Signal::Logs, 1);
    first.books.close().await;
    assert_eq!(run(dir.path(), 30, false).books.in_all().signals[1].balance(), 1);
}

#[tokio::test]
async fn after_a_stop_a_crash_can_take_nothing_and_nothing_is_written_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let run = run(dir.path(), 0, false);
    run.ledger.seen(Signal::Metrics, 5);
    run.ledger.waiting_set(Signal::Metrics, Place::Queue, 5);
    run.books.note(Risk { checkpointed: true, samples_since: 3, ..Risk::default() });
    assert_eq!(open(dir.path()).lost().samples, 8);
    run.books.close().await;
    run.books.note(Risk { samples_since: 100, ..Risk::default() });
    assert_eq!(open(dir.path()).lost(), Lost::default());
    Arc::new(run.books).keep().await;
}

#[test]
fn an_account_that_cannot_be_read_begins_anew_with_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), 0, false).works();
    std::fs::write(dir.path().join("ledger"), [1; 5000]).unwrap();
    let all = run(dir.path(), 30, false).all();
    assert_eq!((all.seen, all.waiting_total(), all.corrected), (30, 30, Corrected::default()));
}

#[test]
fn a_place_that_refuses_it_is_no_reason_not_to_run() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("ledger")).unwrap();
    run(dir.path(), 0, false).works();
    assert_eq!(open(dir.path()).lost(), Lost::default());
}
