//! Batching as sentences: when blocks freeze, what they hold, and what is refused when too much waits.

use super::budget::Budget;
use super::*;
use crate::config::{Flags, Layers};
use crate::delivered::{Deliveries, Identity};
use ollystack_receive::Signal;
use tokio::sync::mpsc::{Receiver, Sender};

/// Hands every block to the test.
struct ToTest(Sender<Frozen>);

impl Sink for ToTest {
    async fn write(&self, frozen: Frozen) {
        self.0.send(frozen).await.unwrap();
    }
}

struct Rig {
    batcher: Batcher,
    gatherers: JoinSet<()>,
    blocks: Receiver<Frozen>,
    budget: Budget,
    stop: CancellationToken,
}

fn rig(rows_max: usize, wait_ms: u64) -> Rig {
    let keys = [("batch.rows_max", rows_max as u64), ("batch.wait_ms", wait_ms)];
    let keys = keys.map(|(key, value)| (key.to_owned(), value.to_string())).to_vec();
    let layers = Layers::new(None, std::iter::empty(), &Flags { file: None, keys }).unwrap();
    let tables = ["logs", "traces"].map(|name| Table { name, columns: "`a`".to_owned() });
    let (sender, blocks) = mpsc::channel(16);
    let stop = CancellationToken::new();
    let config = layers.config().unwrap().batch;
    let (batcher, gatherers) = Batcher::start(&config, 4, &tables, &Arc::new(ToTest(sender)), &stop).unwrap();
    Rig { batcher, gatherers, blocks, budget: Budget::new(1000), stop }
}

impl Rig {
    fn rows(&self, table: usize, count: u32, bytes: &[u8]) -> Rows {
        let columns = Columns::of_bytes(count, bytes);
        Rows { table, columns, hold: self.budget.hold(bytes.len()).unwrap(), held: None }
    }
}

/// What a block holds behind the head of its one column.
fn bytes(frozen: &Frozen) -> &[u8] {
    frozen.block.rows.split_at("12.a.UInt8".len()).1
}

fn fresh(rows: Vec<Rows>) -> Request {
    Request { rows, kept: None }
}

fn identity(sequence: u64) -> Identity {
    Identity { tenant: "t".into(), agent: "a".into(), sequence, signal: Signal::Logs }
}

fn kept(rows: Vec<Rows>, sequence: u64, left: Duration, repeated: bool) -> Request {
    let under_way = Deliveries::default().begin(&identity(sequence), 7).unwrap();
    Request { rows, kept: Some(Kept { under_way, begin_by: Deadline::after(left), repeated }) }
}

const HOUR: Duration = Duration::from_secs(3_600);

const HOUR_MS: u64 = 3_600_000;

#[tokio::test]
async fn a_block_is_frozen_when_it_has_enough_rows() {
    let mut rig = rig(3, HOUR_MS);
    let one = rig.batcher.add(fresh(vec![rig.rows(0, 2, b"ab")])).await.unwrap();
    let two = rig.batcher.add(fresh(vec![rig.rows(0, 1, b"c")])).await.unwrap();
    let frozen = rig.blocks.recv().await.unwrap();
    assert_eq!((frozen.block.head.count, bytes(&frozen)), (3, &b"abc"[..]));
    assert_eq!(frozen.block.head.table, "logs");
    assert_eq!(rig.budget.used(), 3, "held until it is safe");
    frozen.settle(Fate::Safe);
    assert_eq!((one.fate().await, two.fate().await), (Fate::Safe, Fate::Safe));
    assert_eq!(rig.budget.used(), 0);
}

#[tokio::test]
async fn a_block_grows_while_another_is_on_its_way() {
    let mut rig = rig(1, HOUR_MS);
    let _ = rig.batcher.add(fresh(vec![rig.rows(0, 1, b"a")])).await.unwrap();
    let first = rig.blocks.recv().await.unwrap();
    for _ in 0..3 {
        let _ = rig.batcher.add(fresh(vec![rig.rows(0, 1, b"b")])).await.unwrap();
    }
    while rig.batcher.tables[0][1].capacity() < QUEUE_MAX {
        tokio::task::yield_now().await;
    }
    assert!(rig.blocks.try_recv().is_err(), "it has rows enough, and time");
    first.settle(Fate::Safe);
    let grown = rig.blocks.recv().await.unwrap();
    assert_eq!((grown.block.head.count, bytes(&grown)), (3, &b"bbb"[..]));
}

#[tokio::test]
async fn a_block_whose_time_is_up_goes_beside_another() {
    let mut rig = rig(1, 1);
    let mut under_way = Vec::new();
    for _ in 0..4 {
        let _ = rig.batcher.add(fresh(vec![rig.rows(0, 1, b"a")])).await.unwrap();
        under_way.push(rig.blocks.recv().await.unwrap());
    }
    assert!(under_way.iter().all(|frozen| frozen.block.head.count == 1));
}

#[tokio::test]
async fn a_block_that_must_wait_for_its_turn_goes_on_growing() {
    let mut rig = rig(1, 1);
    let mut under_way = Vec::new();
    for _ in 0..4 {
        let _ = rig.batcher.add(fresh(vec![rig.rows(0, 1, b"a")])).await.unwrap();
        under_way.push(rig.blocks.recv().await.unwrap());
    }
    for _ in 0..3 {
        let _ = rig.batcher.add(fresh(vec![rig.rows(0, 1, b"b")])).await.unwrap();
    }
    while rig.batcher.tables[0][1].capacity() < QUEUE_MAX {
        tokio::task::yield_now().await;
    }
    assert!(rig.blocks.try_recv().is_err(), "four are being written, as many as may be");
    under_way.remove(0).settle(Fate::Safe);
    let grown = rig.blocks.recv().await.unwrap();
    assert_eq!((grown.block.head.count, bytes(&grown)), (3, &b"bbb"[..]));
}

#[tokio::test]
async fn a_block_that_must_wait_for_its_turn_grows_to_what_fits_and_no_further() {
    let mut rig = rig(1, 1);
    rig.budget = Budget::new(1 << 30);
    let half = vec![b'a'; BLOCK_BYTES_MAX / 2];
    let mut under_way = Vec::new();
    for _ in 0..4 {
        let _ = rig.batcher.add(fresh(vec![rig.rows(0, 1, b"a")])).await.unwrap();
        under_way.push(rig.blocks.recv().await.unwrap());
    }
    for _ in 0..5 {
        let _ = rig.batcher.add(fresh(vec![rig.rows(0, 1, &half)])).await.unwrap();
    }
    // What a full block cannot take stays in the queue.
    for (left, count) in [(3, 2), (1, 2), (0, 1)] {
        while rig.batcher.tables[0][1].capacity() < QUEUE_MAX - left {
            tokio::task::yield_now().await;
        }
        under_way.remove(0).settle(Fate::Safe);
        under_way.push(rig.blocks.recv().await.unwrap());
        assert_eq!(under_way.last().unwrap().block.head.count, count);
    }
}

#[tokio::test]
async fn a_block_is_frozen_when_its_first_row_has_waited_long_enough() {
    let mut rig = rig(1000, 1);
    let _one = rig.batcher.add(fresh(vec![rig.rows(0, 1, b"a")])).await.unwrap();
    assert_eq!(rig.blocks.recv().await.unwrap().block.head.count, 1);
}

#[tokio::test]
async fn a_request_waits_for_all_of_its_tables() {
    let mut rig = rig(1, HOUR_MS);
    let verdict = rig.batcher.add(fresh(vec![rig.rows(1, 1, b"a"), rig.rows(0, 1, b"b")])).await.unwrap();
    let (one, two) = (rig.blocks.recv().await.unwrap(), rig.blocks.recv().await.unwrap());
    assert_ne!(one.table, two.table);
    one.settle(Fate::Safe);
    drop(two);
    assert_eq!(verdict.fate().await, Fate::Doubtful);
}

#[tokio::test]
async fn no_two_blocks_share_a_token() {
    let mut rig = rig(1, HOUR_MS);
    let mut tokens = std::collections::BTreeSet::new();
    for table in [0, 1, 0, 1] {
        let _ = rig.batcher.add(fresh(vec![rig.rows(table, 1, b"a")])).await.unwrap();
        assert!(tokens.insert(rig.blocks.recv().await.unwrap().block.head.token));
    }
    let mut other = super::tests::rig(1, HOUR_MS);
    let _ = other.batcher.add(fresh(vec![other.rows(0, 1, b"a")])).await.unwrap();
    assert!(tokens.insert(other.blocks.recv().await.unwrap().block.head.token), "of another process start");
}

#[tokio::test]
async fn stopping_freezes_at_once_and_loses_nothing() {
    let mut rig = rig(1000, HOUR_MS);
    let first = rig.batcher.add(fresh(vec![rig.rows(0, 1, b"a")])).await.unwrap();
    rig.stop.cancel();
    rig.blocks.recv().await.unwrap().settle(Fate::Safe);
    let second = rig.batcher.add(fresh(vec![rig.rows(0, 1, b"b")])).await.unwrap();
    rig.blocks.recv().await.unwrap().settle(Fate::Safe);
    assert_eq!((first.fate().await, second.fate().await), (Fate::Safe, Fate::Safe));
    drop(rig.batcher);
    while rig.gatherers.join_next().await.is_some() {}
}

#[tokio::test]
async fn the_end_of_the_batcher_freezes_what_is_left() {
    let mut rig = rig(1000, HOUR_MS);
    let verdict = rig.batcher.add(fresh(vec![rig.rows(0, 1, b"a")])).await.unwrap();
    drop(rig.batcher);
    rig.blocks.recv().await.unwrap().settle(Fate::Safe);
    assert_eq!(verdict.fate().await, Fate::Safe);
    while rig.gatherers.join_next().await.is_some() {}
}

#[tokio::test]
async fn a_repeated_delivery_goes_alone_and_whole_under_its_own_token() {
    let mut rig = rig(1000, HOUR_MS);
    let _waiting = rig.batcher.add(kept(vec![rig.rows(0, 1, b"a")], 1, HOUR, false)).await.unwrap();
    let rows = vec![rig.rows(0, 1, b"b"), rig.rows(0, 1, b"c")];
    let verdict = rig.batcher.add(kept(rows, 2, HOUR, true)).await.unwrap();
    let frozen = rig.blocks.recv().await.unwrap();
    assert_eq!((frozen.block.head.token.as_str(), bytes(&frozen)), ("t/a/2/logs", &b"bc"[..]));
    frozen.settle(Fate::Safe);
    assert_eq!(verdict.fate().await, Fate::Safe);
}

#[tokio::test]
async fn what_agents_have_on_disk_and_what_others_may_not_are_never_in_one_block() {
    let mut rig = rig(2, HOUR_MS);
    let _kept = rig.batcher.add(kept(vec![rig.rows(0, 1, b"a")], 1, HOUR, false)).await.unwrap();
    let _other = rig.batcher.add(fresh(vec![rig.rows(0, 2, b"b")])).await.unwrap();
    let of_others = rig.blocks.recv().await.unwrap();
    assert_eq!((of_others.begin_by, bytes(&of_others)), (None, &b"b"[..]));
    let _more = rig.batcher.add(kept(vec![rig.rows(0, 1, b"c")], 2, HOUR, false)).await.unwrap();
    let of_agents = rig.blocks.recv().await.unwrap();
    assert!(of_agents.begin_by.is_some());
    assert_eq!(bytes(&of_agents), b"ac");
    let sequences: Vec<u64> = of_agents.deliveries().iter().map(|under_way| under_way.identity().sequence).collect();
    assert_eq!(sequences, [1, 2]);
}

#[tokio::test]
async fn an_agents_delivery_is_in_one_block_whatever_its_size() {
    let mut rig = rig(2, HOUR_MS);
    let chunks = |rig: &Rig| vec![rig.rows(0, 2, b"a"), rig.rows(0, 2, b"b"), rig.rows(0, 1, b"c")];
    let _kept = rig.batcher.add(kept(chunks(&rig), 1, HOUR, false)).await.unwrap();
    let frozen = rig.blocks.recv().await.unwrap();
    assert_eq!((frozen.block.head.count, bytes(&frozen), frozen.deliveries().len()), (5, &b"abc"[..], 1));
    // Others need not be whole, but must fit into the spill.
    let _other = rig.batcher.add(fresh(chunks(&rig))).await.unwrap();
    assert_eq!(rig.blocks.recv().await.unwrap().block.head.count, 2);
}

#[tokio::test]
async fn a_block_must_begin_in_time_for_the_first_of_its_deliveries() {
    let mut rig = rig(2, HOUR_MS);
    for (sequence, left) in [(1, 2 * HOUR), (2, HOUR)] {
        let _ = rig.batcher.add(kept(vec![rig.rows(0, 1, b"a")], sequence, left, false)).await.unwrap();
    }
    let begin_by = rig.blocks.recv().await.unwrap().begin_by.unwrap();
    assert!(begin_by <= Deadline::after(HOUR));
}

#[tokio::test]
async fn a_delivery_is_under_way_until_its_block_is_settled_whoever_waits() {
    let mut rig = rig(1, HOUR_MS);
    let deliveries = Deliveries::default();
    let under_way = deliveries.begin(&identity(1), 7).unwrap();
    let kept = Some(Kept { under_way, begin_by: Deadline::after(HOUR), repeated: false });
    drop(rig.batcher.add(Request { rows: vec![rig.rows(0, 1, b"a")], kept }).await.unwrap());
    let frozen = rig.blocks.recv().await.unwrap();
    assert!(deliveries.begin(&identity(1), 7).is_none(), "the sender hung up, the rows are on their way");
    frozen.settle(Fate::Safe);
    // The gatherer lets its own share go in its own time.
    while deliveries.begin(&identity(1), 7).is_none() {
        tokio::task::yield_now().await;
    }
}
