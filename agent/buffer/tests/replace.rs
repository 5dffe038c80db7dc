//! Putting what waits in fewer entries: never what anybody may have seen, all or nothing, and the room comes back.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests; clippy knows only functions marked as one")]

mod support;

use ollystack_buffer::{EntryId, Waiting};
use support::{copy, disk_bytes, entry, lease_all, number, open, small};

const FROM_THE_FIRST: EntryId = EntryId(0);

#[tokio::test]
async fn the_room_of_replaced_entries_is_free_at_once_and_what_replaced_them_is_sent_in_their_place() {
    let directory = support::directory();
    let (buffer, ..) = open(small(directory.path()));
    let mut ids = Vec::new();
    for n in 0..30 {
        ids.extend(buffer.put(vec![entry(1, n, 60_000)]).await.unwrap());
    }
    let before = disk_bytes(directory.path());
    let (mut after, mut kept) = (FROM_THE_FIRST, Vec::new());
    loop {
        let old = buffer.waiting(1, 1, after, 64).await.unwrap();
        let Some(last) = old.last() else { break };
        after = last.id;
        kept.push(last.id);
        assert!(buffer.replace(old, vec![entry(1, 100 + kept.len() as u64, 10_000)]).await.unwrap());
        assert!(disk_bytes(directory.path()) <= 4 << 20);
    }
    assert!(kept.len() > 4 && kept.iter().all(|id| ids.contains(id)), "{kept:?}");
    buffer.ack(vec![]).await.unwrap();
    let now = disk_bytes(directory.path());
    assert!(now < before / 2, "{now} of {before} bytes");
    assert_eq!(buffer.stats().disk_bytes, now);
    assert_eq!(buffer.stats().entries, kept.len() as u64);
    let all = lease_all(&buffer).await;
    assert_eq!(all.iter().map(|stored| stored.id).collect::<Vec<_>>(), kept);
    assert!(all.iter().all(|stored| !stored.redelivered));
    let numbers: Vec<u64> = all.iter().map(number).collect();
    assert_eq!(numbers, (101..101 + kept.len() as u64).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_was_leased_or_left_by_an_earlier_process_stays_as_it_is() {
    let directory = support::directory();
    let (buffer, ..) = open(small(directory.path()));
    buffer.put((0..6).map(|n| entry(1, n, 1_000)).collect()).await.unwrap();
    let old = buffer.waiting(1, 1, FROM_THE_FIRST, 64).await.unwrap();
    let leased = buffer.next().await.unwrap().unwrap();
    assert!(!buffer.replace(old.clone(), vec![entry(1, 9, 10)]).await.unwrap(), "one of them is on lease");
    buffer.release(leased.id);
    assert!(
        !buffer.replace(old.clone(), vec![entry(1, 9, 10)]).await.unwrap(),
        "it was given back, and may have arrived"
    );
    assert_eq!(buffer.peek(&old[0]).await.unwrap(), None);
    let rest = buffer.waiting(1, 1, FROM_THE_FIRST, 64).await.unwrap();
    assert_eq!(rest, old[1..]);
    let unfit: [(&[Waiting], Vec<_>); 4] = [
        (&rest, vec![]),
        (&rest[..1], vec![entry(1, 9, 10), entry(1, 9, 10)]),
        (&rest, vec![entry(2, 9, 10)]),
        (&rest, vec![entry(1, 9, 300 << 10)]),
    ];
    for (old, entries) in unfit {
        assert!(!buffer.replace(old.to_vec(), entries).await.unwrap());
    }
    assert!(buffer.replace(rest[..2].to_vec(), vec![entry(1, 7, 10)]).await.unwrap());
    assert!(!buffer.replace(rest[..2].to_vec(), vec![entry(1, 8, 10)]).await.unwrap(), "they are others now");
    assert_eq!((buffer.stats().entries, buffer.stats().records[1]), (5, 15));

    let killed = support::directory();
    copy(directory.path(), killed.path());
    let all: Vec<u64> = lease_all(&buffer).await.iter().map(number).collect();
    assert_eq!(all, [0, 7, 3, 4, 5], "nothing remembers what was replaced");
    let (after, recovery, losses) = open(small(killed.path()));
    assert_eq!((recovery.entries, recovery.quarantined.len(), losses.total()), (5, 0, 0));
    assert_eq!(after.waiting(1, 1, FROM_THE_FIRST, 64).await.unwrap(), vec![]);
    assert_eq!(lease_all(&after).await.iter().map(number).collect::<Vec<_>>(), [0, 7, 3, 4, 5]);
}

#[tokio::test]
async fn what_comes_after_a_restart_does_not_go_where_the_oldest_were_replaced_and_is_evicted_last() {
    let directory = support::directory();
    let (buffer, ..) = open(small(directory.path()));
    // More than one segment, of which the first is made small and the last stays full.
    for n in 0..13 {
        buffer.put(vec![entry(1, n, 60_000)]).await.unwrap();
    }
    let old = buffer.waiting(1, 1, FROM_THE_FIRST, 64).await.unwrap();
    assert!((2..6).contains(&old.len()), "{old:?}");
    assert!(buffer.replace(old, vec![entry(1, 100, 10)]).await.unwrap());
    buffer.close().await;

    let (buffer, ..) = open(small(directory.path()));
    buffer.put(vec![entry(1, 200, 10)]).await.unwrap();
    // So much that is worth more, that something of the rest has to go.
    let (mut n, before) = (300, buffer.stats().entries);
    while buffer.stats().entries == before + n - 300 {
        buffer.put(vec![entry(0, n, 60_000)]).await.unwrap();
        n += 1;
    }
    let left: Vec<u64> = lease_all(&buffer).await.iter().map(number).filter(|n| *n < 300).collect();
    assert!(!left.contains(&100) && left.contains(&200), "{left:?}");
}
