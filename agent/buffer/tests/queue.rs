//! The queue as its callers see it: order, leases, acks, restarts.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests; clippy knows only functions marked as one")]

mod support;

use ollystack_buffer::{Advice, Entry, Error, Loss, Options, WhenFull};
use std::time::{Duration, Instant};
use support::{copy, entry, lease_all, number, open, segments, small};

/// Against waiting for ever.
const GUARD: Duration = Duration::from_secs(20);

#[tokio::test]
async fn what_is_put_comes_out_whole_and_each_class_in_order() {
    let directory = support::directory();
    let (buffer, recovery, _) = open(small(directory.path()));
    assert_eq!(recovery.entries, 0);
    let entries: Vec<Entry> = (0..50).map(|n| entry((n % 3) as u8, n, n as usize * 400)).collect();
    let ids = buffer.put(entries.clone()).await.unwrap();
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
    let mut all = lease_all(&buffer).await;
    all.sort_by_key(|stored| stored.entry.class);
    assert!(all.windows(2).all(|pair| pair[0].entry.class < pair[1].entry.class || pair[0].id < pair[1].id));
    all.sort_by_key(|stored| stored.id);
    assert_eq!(all.iter().map(|stored| stored.id).collect::<Vec<_>>(), ids);
    assert_eq!(all.iter().map(|stored| stored.entry.clone()).collect::<Vec<_>>(), entries);
    assert!(all.iter().all(|stored| !stored.redelivered));
}

#[tokio::test]
async fn new_errors_pass_a_backlog_which_goes_on_meanwhile() {
    let directory = support::directory();
    let (buffer, ..) = open(small(directory.path()));
    buffer.put((0..100).map(|n| entry(2, n, 1_000)).collect()).await.unwrap();
    buffer.put((100..130).map(|n| entry(0, n, 10)).collect()).await.unwrap();
    let classes: Vec<u8> = lease_all(&buffer).await.iter().map(|stored| stored.entry.class).collect();
    assert_eq!(classes.len(), 130);
    let first_40: Vec<_> = classes[..40].iter().filter(|class| **class == 0).collect();
    assert_eq!(first_40.len(), 30, "three in four go to errors while there are any: {classes:?}");
}

#[tokio::test]
async fn a_lease_that_was_given_back_comes_first_and_says_so() {
    let directory = support::directory();
    let (buffer, ..) = open(small(directory.path()));
    buffer.put((0..3).map(|n| entry(1, n, 10)).collect()).await.unwrap();
    let first = buffer.next().await.unwrap().unwrap();
    let second = buffer.next().await.unwrap().unwrap();
    buffer.release(first.id);
    let again = buffer.next().await.unwrap().unwrap();
    assert_eq!((number(&again), again.redelivered), (0, true));
    assert_eq!(number(&buffer.next().await.unwrap().unwrap()), 2);
    assert_eq!(buffer.next().await.unwrap(), None);
    buffer.ack(vec![again.id, second.id]).await.unwrap();
    assert_eq!(buffer.stats().entries, 1);
}

#[tokio::test]
async fn what_is_left_is_given_to_the_next_process_only_and_goes_when_room_is_needed() {
    let directory = support::directory();
    let (buffer, ..) = open(small(directory.path()));
    buffer.put((0..2).map(|n| entry(1, n, 10)).collect()).await.unwrap();
    let [first, second] = [buffer.next().await.unwrap().unwrap(), buffer.next().await.unwrap().unwrap()];
    buffer.leave(first.id).await.unwrap();
    buffer.release(first.id);
    buffer.ack(vec![first.id, second.id]).await.unwrap();
    assert_eq!(buffer.next().await.unwrap(), None);
    let stats = buffer.stats();
    assert_eq!((stats.entries, stats.leased, stats.left), (1, 0, 1));
    buffer.close().await;

    let (buffer, recovery, losses) = open(small(directory.path()));
    assert_eq!((recovery.entries, buffer.stats().left), (1, 0));
    let again = buffer.next().await.unwrap().unwrap();
    assert_eq!((number(&again), again.redelivered), (0, true));
    buffer.leave(again.id).await.unwrap();
    for n in 0..40 {
        buffer.put(vec![entry(0, n, 200_000)]).await.unwrap();
    }
    assert_eq!((losses.records(1, Loss::Evicted), buffer.stats().left), (3, 0), "told once");
}

#[tokio::test]
async fn an_answer_that_comes_after_the_lease_was_given_back_still_counts() {
    let directory = support::directory();
    let (buffer, ..) = open(small(directory.path()));
    buffer.put(vec![entry(1, 0, 10)]).await.unwrap();
    let stored = buffer.next().await.unwrap().unwrap();
    buffer.release(stored.id);
    buffer.ack(vec![stored.id, stored.id]).await.unwrap();
    assert_eq!(buffer.next().await.unwrap(), None);
    assert_eq!(buffer.stats().entries, 0);
}

#[tokio::test]
async fn what_was_put_survives_a_kill_and_what_was_acked_before_a_stop_does_not_return() {
    let directory = support::directory();
    let killed = support::directory();
    let (buffer, ..) = open(small(directory.path()));
    let ids = buffer.put((0..20).map(|n| entry((n % 2) as u8, n, 20_000)).collect()).await.unwrap();
    copy(directory.path(), killed.path());

    let (after, recovery, losses) = open(small(killed.path()));
    assert_eq!((recovery.entries, recovery.records_by_signal[0] + recovery.records_by_signal[1]), (20, 60));
    assert_eq!(after.last_ids()[..3], [ids[18].0, ids[19].0, 0]);
    let mut all = lease_all(&after).await;
    all.sort_by_key(|stored| stored.id);
    assert_eq!(all.iter().map(number).collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
    assert!(all.iter().all(|stored| stored.redelivered));
    let fresh = after.put(vec![entry(0, 99, 10)]).await.unwrap()[0];
    assert!(fresh > *ids.last().unwrap(), "an id is given once, across a kill too");
    after.ack(all[..13].iter().map(|stored| stored.id).collect()).await.unwrap();
    after.close().await;
    assert!(matches!(after.put(vec![]).await, Err(Error::Closed)));

    let (reopened, recovery, _) = open(small(killed.path()));
    assert_eq!(recovery.entries, 8);
    let mut left: Vec<u64> = lease_all(&reopened).await.iter().map(number).collect();
    left.sort_unstable();
    assert_eq!(left, (13..20).chain([99]).collect::<Vec<_>>());
    assert_eq!(losses.total(), 0);
}

#[tokio::test]
async fn ids_grow_although_everything_was_acked_and_every_file_deleted() {
    let directory = support::directory();
    let mut highest = None;
    for _ in 0..3 {
        let (buffer, ..) = open(small(directory.path()));
        let id = buffer.put(vec![entry(0, 1, 10)]).await.unwrap()[0];
        assert!(Some(id) > highest);
        highest = Some(id);
        let stored = buffer.next().await.unwrap().unwrap();
        buffer.ack(vec![stored.id]).await.unwrap();
        buffer.close().await;
        assert_eq!(segments(directory.path()), Vec::<std::path::PathBuf>::new());
    }
}

#[tokio::test]
async fn a_segment_goes_when_its_last_entry_is_acked() {
    let directory = support::directory();
    let (buffer, ..) = open(small(directory.path()));
    for n in 0..10 {
        buffer.put(vec![entry(1, n, 100_000)]).await.unwrap();
    }
    let before = segments(directory.path());
    assert!(before.len() >= 3, "{before:?}");
    let all = lease_all(&buffer).await;
    buffer.ack(all[..5].iter().map(|stored| stored.id).collect()).await.unwrap();
    let after = segments(directory.path());
    assert!(after.len() < before.len() && !after.contains(&before[0]), "{after:?}");
    buffer.ack(all[5..].iter().map(|stored| stored.id).collect()).await.unwrap();
    let began = Instant::now();
    while buffer.stats().disk_bytes >= 256 << 10 {
        assert!(began.elapsed() < GUARD, "an empty segment keeps its room: {:?}", buffer.stats());
        tokio::task::yield_now().await;
    }
    let killed = support::directory();
    copy(directory.path(), killed.path());
    let last = all.iter().map(|stored| stored.id.0).max().unwrap();
    assert_eq!(open(small(killed.path())).0.last_ids()[1], last, "that it was put is known although it is gone");
}

#[tokio::test]
async fn what_was_just_put_is_given_without_the_disk() {
    let directory = support::directory();
    let (buffer, ..) = open(small(directory.path()));
    buffer.put(vec![entry(1, 1, 30_000)]).await.unwrap();
    let wal = segments(directory.path())[0].with_extension("segment1-wal");
    let bytes = std::fs::read(&wal).unwrap();
    let spoilt: Vec<u8> = bytes.iter().enumerate().map(|(at, byte)| if at > 32 { !byte } else { *byte }).collect();
    std::fs::write(&wal, spoilt).unwrap();
    // Its payload; where the next one is, is in the page cache.
    assert_eq!(buffer.next().await.unwrap().map(|stored| stored.entry), Some(entry(1, 1, 30_000)));
}

#[tokio::test]
async fn a_full_segment_that_lives_on_leaves_its_wal() {
    let directory = support::directory();
    let (buffer, ..) = open(small(directory.path()));
    for n in 0..3 {
        buffer.put(vec![entry(1, n, 130_000)]).await.unwrap();
    }
    let full = segments(directory.path())[0].clone();
    let wal_bytes = || std::fs::metadata(full.with_extension("segment1-wal")).map_or(0, |wal| wal.len());
    assert!(wal_bytes() > 0, "what may be gone in a moment is not moved");
    let began = Instant::now();
    while wal_bytes() > 0 {
        assert!(began.elapsed() < GUARD, "a full segment keeps its WAL");
        tokio::task::yield_now().await;
    }
    assert_eq!(lease_all(&buffer).await.iter().map(number).collect::<Vec<_>>(), (0..3).collect::<Vec<_>>());
}

#[tokio::test]
async fn of_many_full_segments_few_are_in_their_wals() {
    let directory = support::directory();
    let (buffer, ..) = open(small(directory.path()));
    for n in 0..16 {
        buffer.put(vec![entry(1, n, 130_000)]).await.unwrap();
        let segments = segments(directory.path());
        let wals = segments.iter().map(|path| path.with_extension("segment1-wal"));
        let in_wals: u64 = wals.map(|wal| std::fs::metadata(wal).map_or(0, |wal| wal.len())).sum();
        assert!(in_wals < 768 << 10, "{in_wals} bytes in the WALs of {} segments", segments.len());
    }
}

#[tokio::test]
async fn puts_that_wait_together_share_a_commit() {
    let directory = support::directory();
    let (buffer, ..) = open(small(directory.path()));
    let puts: Vec<_> = (0..64)
        .map(|n| {
            let buffer = buffer.clone();
            tokio::spawn(async move { buffer.put(vec![entry(1, n, 100)]).await.unwrap() })
        })
        .collect();
    let mut ids = Vec::new();
    for put in puts {
        ids.extend(put.await.unwrap());
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 64);
    assert!(buffer.stats().commits < 64, "{:?}", buffer.stats());
}

#[tokio::test]
async fn a_waiter_hears_of_a_put_of_a_release_and_of_the_end() {
    let directory = support::directory();
    let (buffer, ..) = open(small(directory.path()));
    let waiting = |buffer: &ollystack_buffer::Buffer| {
        let buffer = buffer.clone();
        tokio::spawn(async move { buffer.changed().await })
    };
    let waiter = waiting(&buffer);
    buffer.put(vec![entry(1, 0, 10)]).await.unwrap();
    waiter.await.unwrap();
    let stored = buffer.next().await.unwrap().unwrap();
    let waiter = waiting(&buffer);
    buffer.release(stored.id);
    waiter.await.unwrap();
    drop(buffer.next().await.unwrap());
    let waiter = waiting(&buffer);
    buffer.close().await;
    waiter.await.unwrap();
}

#[tokio::test]
async fn a_lease_nobody_took_is_given_back() {
    let directory = support::directory();
    let (buffer, ..) = open(small(directory.path()));
    buffer.put(vec![entry(1, 0, 10)]).await.unwrap();
    for _ in 0..20 {
        // Polled once, so that the call goes out, and dropped before or after the writer answers.
        let taken = tokio::select! {
            biased;
            taken = buffer.next() => taken.unwrap(),
            () = std::future::ready(()) => None,
        };
        taken.into_iter().for_each(|stored| buffer.release(stored.id));
    }
    let stored = loop {
        match buffer.next().await.unwrap() {
            Some(stored) => break stored,
            None => buffer.changed().await,
        }
    };
    assert_eq!(number(&stored), 0);
}

#[tokio::test]
async fn a_second_process_is_refused() {
    let directory = support::directory();
    let (buffer, ..) = open(small(directory.path()));
    let losses = std::sync::Arc::new(support::Losses::default());
    let second = ollystack_buffer::Buffer::open(small(directory.path()), losses);
    let error = second.err().unwrap();
    assert!(matches!(error, Error::Locked { .. }) && error.advice() == Advice::Stop, "{error}");
    buffer.close().await;
    drop(open(small(directory.path())));
}

#[tokio::test]
async fn what_can_never_be_stored_is_refused_by_name() {
    let directory = support::directory();
    let (buffer, ..) = open(small(directory.path()));
    for bad in [entry(8, 0, 1), Entry { signal: 9, ..entry(0, 0, 1) }, entry(0, 0, 257 << 10)] {
        let error = buffer.put(vec![entry(0, 7, 1), bad]).await.unwrap_err();
        assert!(matches!(error, Error::Entry { .. }) && error.advice() == Advice::Drop, "{error}");
    }
    assert_eq!(buffer.next().await.unwrap(), None, "a refused put leaves nothing behind");
    buffer
        .put(vec![entry(0, 0, 256 << 10)].into_iter().map(|e| Entry { meta: Default::default(), ..e }).collect())
        .await
        .unwrap();
}

#[tokio::test]
async fn options_out_of_range_are_refused_by_name() {
    let directory = support::directory();
    let losses = || std::sync::Arc::new(support::Losses::default());
    for (options, field) in [
        (Options { bytes_max: 1 << 20, ..small(directory.path()) }, "bytes_max"),
        (Options { segment_bytes_max: 2 << 20, ..small(directory.path()) }, "segment_bytes_max"),
        (Options { segment_bytes_max: 1, ..small(directory.path()) }, "segment_bytes_max"),
    ] {
        let error = ollystack_buffer::Buffer::open(options, losses()).err().unwrap().to_string();
        assert!(error.starts_with(field), "{error}");
    }
}

#[tokio::test]
async fn a_put_larger_than_a_segment_is_stored_in_parts() {
    let directory = support::directory();
    let options = Options { when_full: WhenFull::Refuse, ..small(directory.path()) };
    let (buffer, ..) = open(options);
    let ids = buffer.put((0..15).map(|n| entry(1, n, 100_000)).collect()).await.unwrap();
    assert_eq!(ids.len(), 15);
    assert_eq!(lease_all(&buffer).await.iter().map(number).collect::<Vec<_>>(), (0..15).collect::<Vec<_>>());
}
