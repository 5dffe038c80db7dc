//! The cap: never passed, and what goes first to stay under it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests; clippy knows only functions marked as one")]

mod support;

use ollystack_buffer::{Advice, Error, Loss, Options, WhenFull};
use support::{disk_bytes, entry, lease_all, number, open, segments, small};

#[tokio::test]
async fn the_files_never_take_more_than_the_cap() {
    let directory = support::directory();
    let options = small(directory.path());
    let bytes_max = options.bytes_max;
    let (buffer, _, losses) = open(options);
    let mut put = 0;
    // Sizes around the page, the leaf and the segment, 20 MiB in all.
    for (round, bytes) in [10, 100, 3_900, 4_100, 50_000, 250_000].into_iter().cycle().take(240).enumerate() {
        let entries: Vec<_> = (0..1 + 40_000 / bytes as u64).map(|n| entry((round % 3) as u8, n, bytes)).collect();
        put += 3 * buffer.put(entries).await.unwrap().len() as u64;
        if round % 7 == 0
            && let Some(stored) = buffer.next().await.unwrap()
        {
            put -= 3;
            buffer.ack(vec![stored.id]).await.unwrap();
        }
        let used = disk_bytes(directory.path());
        assert!(used <= bytes_max, "{used} bytes on disk in round {round}");
    }
    assert!(losses.total() > 0, "the cap was not reached");
    assert_eq!(buffer.stats().records.iter().sum::<u64>() + losses.total(), put, "every loss is counted");
    buffer.close().await;
    assert_eq!(disk_bytes(directory.path()), buffer.stats().disk_bytes, "what is counted is what is there");
}

#[tokio::test]
async fn the_least_valuable_goes_first_and_of_it_the_oldest() {
    let directory = support::directory();
    let (buffer, _, losses) = open(small(directory.path()));
    // 1.2 MB of each class, then errors until nothing else is left.
    for n in 0..12 {
        buffer.put((0..3).map(|class| entry(class, n, 100_000)).collect()).await.unwrap();
    }
    let mut steps = Vec::new();
    for n in 12..100 {
        buffer.put(vec![entry(0, n, 100_000)]).await.unwrap();
        steps.push([0, 1, 2].map(|class| losses.records(class, Loss::Evicted)));
    }
    for step in &steps {
        assert!(step[1] == 0 || step[2] == 36, "class 1 went before all of class 2 was gone: {step:?}");
        assert!(step[0] == 0 || step[1] == 36, "class 0 went before all of class 1 was gone: {step:?}");
    }
    let left: Vec<u64> = lease_all(&buffer).await.iter().map(number).collect();
    assert!(
        left.len() < 100 && left == (100 - left.len() as u64..100).collect::<Vec<_>>(),
        "the newest stay: {left:?}"
    );
}

#[tokio::test]
async fn what_is_worth_less_than_all_that_is_stored_goes_itself() {
    let directory = support::directory();
    let (buffer, _, losses) = open(small(directory.path()));
    for n in 0..60 {
        buffer.put(vec![entry(0, n, 100_000)]).await.unwrap();
    }
    let before = buffer.stats().entries;
    for n in 0..10 {
        buffer.put(vec![entry(2, n, 200_000)]).await.unwrap();
    }
    let evicted = losses.records(2, Loss::Evicted);
    assert!(evicted >= 27, "{evicted} of 30 baseline records evicted");
    assert!(buffer.stats().entries <= before + 1);
    assert_eq!(buffer.stats().records[0], 3 * before, "no error went for them");
}

#[tokio::test]
async fn a_buffer_that_may_not_evict_refuses_until_there_is_room() {
    let directory = support::directory();
    let (buffer, _, losses) = open(Options { when_full: WhenFull::Refuse, ..small(directory.path()) });
    let mut stored = 0;
    let error = loop {
        match buffer.put(vec![entry(1, stored, 100_000)]).await {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Full { .. }) && error.advice() == Advice::Retry, "{error}");
    let all = lease_all(&buffer).await;
    assert_eq!(all.len() as u64, stored);
    buffer.ack(all[..5].iter().map(|stored| stored.id).collect()).await.unwrap();
    buffer.put(vec![entry(1, 99, 100_000)]).await.unwrap();
    assert_eq!(losses.total(), 0);
    assert_eq!(buffer.stats().put_failures, 1);
}

#[tokio::test]
async fn an_entry_on_lease_is_lost_only_if_its_answer_never_comes() {
    let directory = support::directory();
    let (buffer, _, losses) = open(small(directory.path()));
    buffer.put(vec![entry(1, 0, 1_000), entry(1, 1, 1_000), entry(1, 2, 1_000)]).await.unwrap();
    let (first, second) = (buffer.next().await.unwrap().unwrap(), buffer.next().await.unwrap().unwrap());
    let oldest = segments(directory.path())[0].clone();
    let mut put = 3;
    while oldest.exists() {
        buffer.put(vec![entry(1, put, 100_000)]).await.unwrap();
        put += 1;
    }
    let evicted = losses.total();
    assert_eq!(buffer.stats().records[1] + evicted, 3 * put, "leased ones still count as held");
    buffer.ack(vec![first.id]).await.unwrap();
    assert_eq!(losses.total(), evicted, "it arrived: not lost");
    buffer.release(second.id);
    buffer.ack(vec![]).await.unwrap();
    assert_eq!(losses.total(), evicted + 3);
    assert_eq!(buffer.stats().records[1] + losses.total(), 3 * put - 3);
}

#[tokio::test]
async fn an_evicted_entry_that_is_on_lease_at_the_end_is_counted_as_lost() {
    let directory = support::directory();
    let (buffer, _, losses) = open(small(directory.path()));
    buffer.put(vec![entry(1, 0, 1_000)]).await.unwrap();
    buffer.next().await.unwrap().unwrap();
    let oldest = segments(directory.path())[0].clone();
    let mut put = 1;
    while oldest.exists() {
        buffer.put(vec![entry(1, put, 100_000)]).await.unwrap();
        put += 1;
    }
    buffer.close().await;
    let (_, recovery, _) = open(small(directory.path()));
    assert_eq!(recovery.records_by_signal[1] + losses.total(), 3 * put);
}

#[tokio::test]
async fn one_put_does_not_give_what_is_stored_for_less_of_its_own() {
    let directory = support::directory();
    let (buffer, _, losses) = open(small(directory.path()));
    let mut stored = 0;
    // Errors and baseline in each put, on a buffer full of what is in between.
    while losses.total() == 0 {
        buffer.put(vec![entry(1, stored, 100_000)]).await.unwrap();
        stored += 1;
        assert!(stored < 1000, "nothing that was evicted is told");
    }
    let before = losses.records(1, Loss::Evicted);
    for n in 0..8 {
        buffer.put(vec![entry(0, n, 120_000), entry(2, n, 120_000)]).await.unwrap();
        let [_, normal, baseline] = [0, 1, 2].map(|class| buffer.stats().records[class]);
        let gone = losses.records(1, Loss::Evicted) > before;
        assert!(
            !gone || baseline == 0 || normal == 0,
            "put {n} kept {baseline} baseline records and evicted better ones"
        );
        if gone {
            return;
        }
    }
    panic!("nothing was evicted");
}

#[tokio::test]
async fn a_smaller_cap_than_last_time_holds_from_the_start() {
    let directory = support::directory();
    let (buffer, ..) = open(Options { bytes_max: 16 << 20, ..small(directory.path()) });
    for n in 0..100 {
        buffer.put(vec![entry(1, n, 100_000)]).await.unwrap();
    }
    buffer.close().await;
    let (buffer, recovery, losses) = open(small(directory.path()));
    assert!(disk_bytes(directory.path()) <= 4 << 20);
    assert_eq!(recovery.records_by_signal[1] + losses.records(1, Loss::Evicted), 300);
    assert_eq!(lease_all(&buffer).await.last().map(number), Some(99));
}

#[tokio::test]
async fn a_steady_flow_reuses_its_pages() {
    let directory = support::directory();
    let (buffer, ..) = open(small(directory.path()));
    for n in 0..300 {
        buffer.put(vec![entry(1, n, 20_000)]).await.unwrap();
        let stored = buffer.next().await.unwrap().unwrap();
        buffer.ack(vec![stored.id]).await.unwrap();
        assert!(segments(directory.path()).len() <= 1);
    }
    assert!(buffer.stats().disk_bytes < 1 << 20, "{:?}", buffer.stats());
}
