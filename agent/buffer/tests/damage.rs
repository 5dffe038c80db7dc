//! Damaged files: what is lost is at most the segment, and is counted.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests; clippy knows only functions marked as one")]

mod support;

use ollystack_buffer::{Buffer, Loss};
use std::path::Path;
use support::{copy, disk_bytes, entry, lease_all, number, open, segments, small};

/// Several segments of class 1, closed.
async fn filled(directory: &Path) -> u64 {
    let (buffer, ..) = open(small(directory));
    for n in 0..20 {
        buffer.put(vec![entry(1, n, 60_000)]).await.unwrap();
    }
    buffer.close().await;
    20
}

async fn numbers(buffer: &Buffer) -> Vec<u64> {
    lease_all(buffer).await.iter().map(number).collect()
}

#[tokio::test]
async fn a_segment_that_cannot_be_read_is_set_aside_and_counted_exactly() {
    for damage in [0, 1, 2, 3] {
        let directory = support::directory();
        let put = filled(directory.path()).await;
        let victim = segments(directory.path())[1].clone();
        let mut bytes = std::fs::read(&victim).unwrap();
        match damage {
            // The version that SQLite needs to write: it would read, and refuse every put.
            3 => {
                bytes[18] = 3;
                std::fs::write(&victim, &bytes).unwrap();
            }
            0 => std::fs::write(&victim, b"not a database at all").unwrap(),
            1 => std::fs::write(&victim, []).unwrap(),
            _ => std::fs::write(&victim, [&[0; 4096], &bytes[4096..]].concat()).unwrap(),
        }
        let (buffer, recovery, losses) = open(small(directory.path()));
        assert_eq!(recovery.quarantined.len(), 1, "damage {damage}");
        let quarantined = &recovery.quarantined[0];
        assert!(quarantined.exact && quarantined.entries > 0, "{quarantined:?}");
        assert_eq!(recovery.entries + quarantined.entries, put);
        assert_eq!(losses.records(1, Loss::Corrupt), 3 * quarantined.entries);
        assert!(directory.path().join("quarantine").join(victim.file_name().unwrap()).exists());
        assert_eq!(numbers(&buffer).await.len() as u64, recovery.entries);
        assert!(buffer.put(vec![entry(1, 99, 10)]).await.is_ok());
    }
}

#[tokio::test]
async fn any_flipped_byte_or_cut_costs_at_most_its_segment_and_is_counted() {
    let whole = support::directory();
    let put = filled(whole.path()).await;
    let count = segments(whole.path()).len();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..60 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let directory = support::directory();
        copy(whole.path(), directory.path());
        let victim = &segments(directory.path())[(random >> 20) as usize % count];
        let mut bytes = std::fs::read(victim).unwrap();
        // Half of the flips into the pages that hold the structure.
        let within = if round % 2 == 0 { bytes.len() } else { 2 * 4096 };
        let at = (random >> 33) as usize % within;
        if round % 5 == 0 {
            bytes.truncate(at)
        } else {
            bytes[at] ^= 1 << (random >> 13 & 7)
        }
        std::fs::write(victim, &bytes).unwrap();

        let (buffer, recovery, losses) = open(small(directory.path()));
        let left = numbers(&buffer).await;
        assert!(left.windows(2).all(|pair| pair[0] < pair[1]), "round {round}: {left:?}");
        let lost = put - left.len() as u64;
        assert!(lost <= put.div_ceil(count as u64) + 1, "round {round}: {lost} of {put} lost");
        assert_eq!(losses.records(1, Loss::Corrupt), 3 * lost, "round {round}: {recovery:?}");
        assert_eq!(buffer.stats().records[1], 3 * left.len() as u64, "round {round}");
    }
}

#[tokio::test]
async fn what_a_damaged_wal_loses_is_counted_exactly() {
    let (work, directory) = (support::directory(), support::directory());
    let (buffer, ..) = open(small(work.path()));
    for n in 0..10 {
        buffer.put(vec![entry(1, n, 10_000)]).await.unwrap();
    }
    copy(work.path(), directory.path());
    let wal = segments(directory.path())[0].with_extension("segment1-wal");
    let bytes = std::fs::read(&wal).unwrap();
    std::fs::write(&wal, &bytes[..bytes.len() / 2]).unwrap();
    let (buffer, recovery, losses) = open(small(directory.path()));
    let left = numbers(&buffer).await.len() as u64;
    assert!((1..9).contains(&left), "{left}");
    assert_eq!((recovery.entries, losses.records(1, Loss::Corrupt)), (left, 3 * (10 - left)));
    assert_eq!(recovery.quarantined.iter().map(|lost| lost.entries).sum::<u64>(), 10 - left);
}

#[tokio::test]
async fn a_damaged_payload_is_dropped_alone() {
    let directory = support::directory();
    filled(directory.path()).await;
    let victim = &segments(directory.path())[0];
    let mut bytes = std::fs::read(victim).unwrap();
    let last = bytes.len() - 100;
    bytes[last] ^= 0x40;
    std::fs::write(victim, &bytes).unwrap();
    let (buffer, recovery, losses) = open(small(directory.path()));
    assert_eq!((recovery.entries, recovery.quarantined.len()), (20, 0));
    assert_eq!(numbers(&buffer).await.len(), 19);
    assert_eq!(losses.records(1, Loss::Corrupt), 3);
    assert_eq!(buffer.stats().entries, 19);
}

#[tokio::test]
async fn the_quarantine_stays_under_the_cap_and_goes_when_room_is_needed() {
    let directory = support::directory();
    for _ in 0..4 {
        filled(directory.path()).await;
        for victim in segments(directory.path()) {
            let bytes = std::fs::read(&victim).unwrap();
            std::fs::write(&victim, [&[0; 4096], &bytes[4096..]].concat()).unwrap();
        }
        open(small(directory.path())).0.close().await;
        assert!(disk_bytes(&directory.path().join("quarantine")) <= 512 << 10);
    }
    let (buffer, ..) = open(small(directory.path()));
    for n in 0..60 {
        buffer.put(vec![entry(1, n, 100_000)]).await.unwrap();
        assert!(disk_bytes(directory.path()) <= 4 << 20);
    }
    assert_eq!(disk_bytes(&directory.path().join("quarantine")), 0);
}

#[tokio::test]
async fn ids_do_not_return_when_the_state_file_is_lost() {
    let directory = support::directory();
    let mut highest = None;
    for round in 0..4 {
        let (buffer, recovery, _) = open(small(directory.path()));
        assert_eq!(recovery.entries, round);
        let id = buffer.put(vec![entry(1, round, 10)]).await.unwrap()[0];
        assert!(Some(id) > highest, "{id:?} after {highest:?}");
        highest = Some(id);
        buffer.close().await;
        std::fs::remove_file(directory.path().join("state")).unwrap();
    }
}
