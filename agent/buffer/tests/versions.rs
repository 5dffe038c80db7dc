//! Buffers of earlier versions are read; those of later ones are left as they are.
//!
//! `fixtures/format-N` is what the first release that wrote format N left when it was killed: one segment closed and with an entry
//! acked, one with everything still in its write-ahead log. A fixture is never written anew.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests; clippy knows only functions marked as one")]

mod support;

use ollystack_buffer::{Advice, Buffer, Error};
use std::path::Path;
use support::{copy, entry, lease_all, open, small};

fn fixture(format: u32) -> tempfile::TempDir {
    let directory = support::directory();
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/format-{format}")), directory.path());
    directory
}

#[tokio::test]
async fn what_an_earlier_version_left_is_read_whole_acked_and_written_to() {
    let directory = fixture(1);
    let (buffer, recovery, losses) = open(small(directory.path()));
    assert_eq!((recovery.entries, recovery.quarantined.len(), losses.total()), (4, 0, 0));
    let expected = [(0, 1, 9_000), (0, 2, 0), (1, 3, 6_000), (1, 4, 10)];
    let mut found = lease_all(&buffer).await;
    found.sort_by_key(|stored| stored.id);
    assert!(found.iter().all(|stored| stored.redelivered), "who wrote them may have sent them");
    let found_entries: Vec<_> = found.iter().map(|stored| stored.entry.clone()).collect();
    assert_eq!(found_entries, expected.map(|(class, number, bytes)| entry(class, number, bytes)));

    let fresh = buffer.put(vec![entry(0, 9, 10), entry(1, 10, 10)]).await.unwrap();
    assert!(fresh[0] > found[3].id, "ids go on where they were");
    buffer.ack(found.iter().map(|stored| stored.id).collect()).await.unwrap();
    buffer.close().await;
    let (reopened, recovery, _) = open(small(directory.path()));
    assert_eq!(recovery.entries, 2);
    assert_eq!(lease_all(&reopened).await.iter().map(|stored| stored.id).collect::<Vec<_>>(), fresh);
}

#[tokio::test]
async fn what_a_later_version_left_is_refused_by_name_and_stays_as_it_is() {
    let directory = fixture(1);
    let later = directory.path().join("00000000000009999999-1.segment2");
    std::fs::write(&later, b"from the future").unwrap();
    let losses = std::sync::Arc::new(support::Losses::default());
    let error = Buffer::open(small(directory.path()), losses.clone()).err().unwrap();
    assert!(matches!(error, Error::Version { found: 2, known: 1, .. }) && error.advice() == Advice::Stop, "{error}");
    assert!(error.to_string().contains("segment2") && error.to_string().contains("newer"), "{error}");
    assert_eq!(std::fs::read(&later).unwrap(), b"from the future");
    std::fs::remove_file(&later).unwrap();
    assert_eq!(open(small(directory.path())).1.entries, 4, "nothing else was touched");
    assert_eq!(losses.total(), 0);
}
