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
        Rows { table, count, bytes: bytes.to_vec(), hold: self.budget.hold(bytes.len()).unwrap() }
    }
}

fn fresh(rows: Vec<Rows>) -> Request {
    Request { rows, under_way: None, token: None }
}

const HOUR_MS: u64 = 3_600_000;

#[tokio::test]
async fn a_block_is_frozen_when_it_has_enough_rows() {
    let mut rig = rig(3, HOUR_MS);
    let one = rig.batcher.add(fresh(vec![rig.rows(0, 2, b"ab")])).await.unwrap();
    let two = rig.batcher.add(fresh(vec![rig.rows(0, 1, b"c")])).await.unwrap();
    let frozen = rig.blocks.recv().await.unwrap();
    assert_eq!((frozen.block.head.count, &frozen.block.rows[..]), (3, &b"abc"[..]));
    assert_eq!(frozen.block.head.table, "logs");
    assert_eq!(rig.budget.used(), 3, "held until it is safe");
    frozen.safe();
    assert!(one.all_safe().await && two.all_safe().await);
    assert_eq!(rig.budget.used(), 0);
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
    one.safe();
    drop(two);
    assert!(!verdict.all_safe().await);
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
    rig.blocks.recv().await.unwrap().safe();
    let second = rig.batcher.add(fresh(vec![rig.rows(0, 1, b"b")])).await.unwrap();
    rig.blocks.recv().await.unwrap().safe();
    assert!(first.all_safe().await && second.all_safe().await);
    drop(rig.batcher);
    while rig.gatherers.join_next().await.is_some() {}
}

#[tokio::test]
async fn the_end_of_the_batcher_freezes_what_is_left() {
    let mut rig = rig(1000, HOUR_MS);
    let verdict = rig.batcher.add(fresh(vec![rig.rows(0, 1, b"a")])).await.unwrap();
    drop(rig.batcher);
    rig.blocks.recv().await.unwrap().safe();
    assert!(verdict.all_safe().await);
    while rig.gatherers.join_next().await.is_some() {}
}

#[tokio::test]
async fn a_repeated_delivery_goes_alone_under_its_own_token() {
    let mut rig = rig(1000, HOUR_MS);
    let _waiting = rig.batcher.add(fresh(vec![rig.rows(0, 1, b"a")])).await.unwrap();
    let token = Some("t/a/1/logs".to_owned());
    let rows = vec![rig.rows(0, 1, b"b"), rig.rows(0, 1, b"c")];
    let verdict = rig.batcher.add(Request { rows, under_way: None, token }).await.unwrap();
    let (one, two) = (rig.blocks.recv().await.unwrap(), rig.blocks.recv().await.unwrap());
    let mut tokens = [one.block.head.token.as_str(), two.block.head.token.as_str()];
    tokens.sort_unstable();
    assert_eq!(tokens, ["t/a/1/logs/0", "t/a/1/logs/1"]);
    one.safe();
    two.safe();
    assert!(verdict.all_safe().await);
}

#[tokio::test]
async fn a_delivery_is_under_way_until_its_block_is_settled_whoever_waits() {
    let mut rig = rig(1, HOUR_MS);
    let deliveries = Deliveries::default();
    let identity = Identity { tenant: "t".into(), agent: "a".into(), sequence: 1, signal: Signal::Logs };
    let under_way = deliveries.begin(&identity);
    let request = Request { under_way, ..fresh(vec![rig.rows(0, 1, b"a")]) };
    drop(rig.batcher.add(request).await.unwrap());
    let frozen = rig.blocks.recv().await.unwrap();
    assert!(deliveries.begin(&identity).is_none(), "the sender hung up, the rows are on their way");
    frozen.safe();
    // The gatherer lets its own share go in its own time.
    while deliveries.begin(&identity).is_none() {
        tokio::task::yield_now().await;
    }
}
