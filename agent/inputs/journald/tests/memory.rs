//! What an entry takes while it is read, against a counting allocator.
//!
//! A test of its own, as nothing else may allocate beside it. Anybody on the host can write such an entry.

#![allow(clippy::unwrap_used)]

use ollystack_input_journald::{Config, Enabled, StartAt, Stats, run};
use ollystack_record::{Afterwork, Intake, Ledger};
use peak_alloc::PeakAlloc;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// Far more than is kept of a message.
const BYTES: usize = 4_000_000;
/// What the budget declares for the entry that is read and the batch that it joins (2 x 128 KiB), and the pipe's buffer.
const PEAK_MAX: usize = (256 + 64) << 10;

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_bytes_takes_no_more_than_its_line_and_itself() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let line = format!("{{\"__CURSOR\":\"c\",\"MESSAGE\":[{}1]}}\n", "7,".repeat(BYTES));
    std::fs::write(path("journal"), &line).unwrap();
    drop(line);
    std::fs::write(path("journalctl"), format!("#!/bin/sh\nexec tail -n +1 -f {}\n", path("journal").display()))
        .unwrap();
    std::fs::set_permissions(path("journalctl"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let config = Config {
        enabled: Enabled::True,
        start_at: StartAt::Beginning,
        journalctl: path("journalctl").display().to_string(),
        ..Config::default()
    };
    let (intake, mut receiver) = Intake::new(8, 100, Arc::new(Ledger::default()));
    let (stop, after) = (CancellationToken::new(), Afterwork::default());
    HEAP.reset_peak_usage();
    let before = HEAP.current_usage();
    let stats = Arc::new(Stats::default());
    let input = run(config, path("state"), Arc::default(), intake, stop.clone(), after, Arc::clone(&stats));
    let input = tokio::spawn(input);
    let received = receiver.recv().await.unwrap();
    let peak = HEAP.peak_usage() - before;
    assert_eq!((received.batch.records.count(), stats.read().messages_cut), (1, 1));
    assert!(peak <= PEAK_MAX, "{peak} bytes for a line of {} bytes", 2 * BYTES);
    stop.cancel();
    drop(received);
    input.await.unwrap().unwrap();
}
