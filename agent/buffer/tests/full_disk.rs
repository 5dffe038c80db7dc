//! A disk without space: nothing is acknowledged falsely, the process lives, and everything goes on when space returns.
//!
//! Runs itself again inside a mount namespace with a small tmpfs; where that is not allowed it says so and passes.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests; clippy knows only functions marked as one")]

mod support;

use ollystack_buffer::{Advice, Error};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use support::{copy, entry, lease_all, number, open, segments, small};

const DIRECTORY: &str = "OLLYSTACK_TEST_FULL_DISK";

/// A guard against hanging for ever.
const GUARD: Duration = Duration::from_secs(20);

#[test]
fn a_full_disk_is_an_error_and_passes() {
    on_a_small_disk("a_full_disk_is_an_error_and_passes", fill_and_drain);
}

#[test]
fn what_was_acked_on_a_full_disk_does_not_return_after_a_crash() {
    on_a_small_disk("what_was_acked_on_a_full_disk_does_not_return_after_a_crash", ack_without_space);
}

fn on_a_small_disk<F: Future<Output = ()>>(test: &str, run: fn(PathBuf) -> F) {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(run(PathBuf::from(directory)));
    }
    let directory = tempfile::tempdir().unwrap();
    let mount = format!("mount -t tmpfs -o size=3m tmpfs {}", directory.path().display());
    let possible = Command::new("unshare").args(["-Urm", "sh", "-c", &mount]).output();
    if !possible.as_ref().is_ok_and(|output| output.status.success()) {
        return println!("skipped: cannot mount a tmpfs in a namespace of its own: {possible:?}");
    }
    let run = format!("{mount} && exec \"$0\" --exact {test} --nocapture");
    let output = Command::new("unshare")
        .args(["-Urm", "sh", "-c", &run])
        .arg(std::env::current_exe().unwrap())
        .env(DIRECTORY, directory.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// Somebody else takes the rest of the disk.
fn fill(filler: &Path) {
    while std::fs::write(filler, vec![0; std::fs::metadata(filler).map_or(0, |m| m.len() as usize) + 4096]).is_ok() {}
}

async fn ack_without_space(directory: PathBuf) {
    let buffer_directory = directory.join("buffer");
    let (buffer, ..) = open(small(&buffer_directory));
    buffer.put((0..3).map(|number| entry(1, number, 30_000)).collect()).await.unwrap();
    fill(&directory.join("filler"));
    let all = lease_all(&buffer).await;
    buffer.ack(all[..2].iter().map(|stored| stored.id).collect()).await.unwrap();
    // What a crash leaves, until the acks are among it.
    let began = Instant::now();
    loop {
        let crashed = support::directory();
        copy(&buffer_directory, crashed.path());
        let (after, recovery, _) = open(small(crashed.path()));
        if recovery.entries == 1 {
            assert_eq!(lease_all(&after).await.iter().map(number).collect::<Vec<_>>(), [2]);
            return;
        }
        assert!(began.elapsed() < GUARD, "acks are not written down on a full disk");
        tokio::task::yield_now().await;
    }
}

async fn fill_and_drain(directory: PathBuf) {
    let buffer_directory = directory.join("buffer");
    let filler = directory.join("filler");
    let (buffer, _, losses) = open(small(&buffer_directory));
    let mut expected: Vec<u64> = Vec::new();
    let mut next = 0;
    for cycle in 0..20 {
        for _ in 0..6 {
            buffer.put(vec![entry(1, next, 60_000)]).await.unwrap();
            expected.push(next);
            next += 1;
        }
        fill(&filler);
        let refused = loop {
            match buffer.put(vec![entry(1, next, 60_000)]).await {
                Ok(_) => expected.push(next),
                Err(error) => break error,
            }
            next += 1;
            assert!(expected.len() < 1000, "nothing is refused on a full disk");
        };
        assert!(matches!(refused, Error::DiskFull { .. }), "{refused}");
        assert_eq!(refused.advice(), Advice::Retry);
        next += 1;

        if cycle % 4 == 3 {
            // A restart on the full disk.
            buffer.close().await;
        }
        let reopened = (cycle % 4 == 3).then(|| open(small(&buffer_directory)).0);
        let held = reopened.as_ref().unwrap_or(&buffer);
        let all = lease_all(held).await;
        assert_eq!(all.iter().map(number).collect::<Vec<_>>(), expected, "cycle {cycle}");
        held.ack(all.iter().map(|stored| stored.id).collect()).await.unwrap();
        assert!(segments(&buffer_directory).len() <= 1, "deletes work without space");
        expected.clear();
        std::fs::remove_file(&filler).unwrap();
        if let Some(reopened) = reopened {
            reopened.close().await;
            break;
        }
    }
    let (buffer, recovery, _) = open(small(&buffer_directory));
    assert_eq!(recovery.entries, 0);
    buffer.put(vec![entry(1, 0, 100_000)]).await.unwrap();
    assert_eq!(losses.total(), 0);
}
