//! While the disk buffer is nearly full: old one-minute points on it become five-minute points, before anything is lost.
//!
//! From the buffer to the buffer: batches of metrics that nobody has ever seen are read one after the other, in as many passes as
//! keeps memory bounded, and replaced by fewer in one transaction. What can be told of five minutes stays exact; what is lost
//! is which minute. When that is not enough the buffer evicts by class: debug logs, baseline traces, the rest, errors
//! last. Invariant: the points that are fewer afterwards are counted as folded, and no others.

mod point;
mod regroup;

#[cfg(test)]
mod tests;

use crate::books::measure;
use crate::config::Config;
use crate::frozen::{self, Encoding, Frozen};
use crate::pack::Packer;
use ollystack_buffer::{Advice, Buffer, Entry, EntryId, Error, Waiting};
use ollystack_record::{Class, Ledger, Signal};
use regroup::Regroup;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::{Instant, sleep};

/// From this share of the cap on.
const FULL_PERCENT: u64 = 80;
/// How often that is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Points are old when they were put so long ago: of every window that is joined, all minutes are there.
const OLD_NANOS: u64 = 600 * 1_000_000_000;
/// Batches that are joined together: 2 MiB of points before compression, 256 KiB after.
const BATCHES_MAX: usize = 64;
const PLAIN_BYTES_MAX: usize = 2 << 20;
const PACKED_BYTES_MAX: u64 = 256 << 10;
/// Fewer are worth joining if they cover so much time: a host that sends little fills the limits above in hours.
const SPAN_NANOS: u64 = 1_800 * 1_000_000_000;
/// Encoded bytes of points of one pass. Decoded, a point takes some five times as much.
const PASS_BYTES: usize = 32 << 10;
/// A result is closed at this many bytes.
const RESULT_BYTES: usize = 64 << 10;
/// Of ten batches or bytes, more than so many left is not worth the writing.
const WORTH_OF_TEN: u64 = 9;
/// For each moment of work so many of rest: at most a fifth of a core.
const REST: u32 = 4;

/// What it takes at most besides one batch, plain: that batch packed (128 KiB), the points of a pass (5 x 32 KiB), a result before it is
/// closed (96 KiB), zstd's tables (270 KiB), the results (9/10 of 256 KiB).
pub const THIN_BYTES_MAX: u64 = 896 << 10;

/// Thin out when it is needed, until the buffer is closed.
pub async fn thin(config: Config, buffer: Buffer, ledger: Arc<Ledger>) {
    let mut thinner = Thinner { config, buffer, ledger, after: EntryId(0), rest: REST };
    loop {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        match thinner.step(now).await {
            Ok(true) => {}
            Ok(false) => sleep(LOOK_EVERY).await,
            Err(error) if error.advice() == Advice::Stop => return,
            Err(error) => {
                tracing::warn!(%error, "old metrics on the disk buffer cannot be thinned out; trying again");
                sleep(LOOK_EVERY).await;
            }
        }
    }
}

struct Thinner {
    config: Config,
    buffer: Buffer,
    ledger: Arc<Ledger>,
    /// What is up to here was looked at.
    after: EntryId,
    rest: u32,
}

impl Thinner {
    /// Join one group of batches. False: nothing to do for now.
    async fn step(&mut self, now: u64) -> Result<bool, Error> {
        let stats = self.buffer.stats();
        if stats.disk_bytes * 100 < stats.disk_bytes_max * FULL_PERCENT {
            return Ok(false);
        }
        let Some(group) = self.group(now.saturating_sub(OLD_NANOS)).await? else { return Ok(false) };
        let joined = if group.len() > 1 { self.join(&group).await? } else { None };
        self.after = group.last().map_or(self.after, |last| last.id);
        if let Some(entries) = joined {
            let records = |of: &mut dyn Iterator<Item = u32>| of.map(u64::from).sum::<u64>();
            let before = records(&mut group.iter().map(|waiting| waiting.records));
            let after = records(&mut entries.iter().map(|entry| entry.records));
            if self.buffer.replace(group, entries).await? {
                self.ledger.folded(Signal::Metrics, before.saturating_sub(after));
                measure(&self.buffer, &self.ledger);
                tracing::debug!(before, after, "old points on the disk buffer were joined to five minutes");
            }
        }
        Ok(true)
    }

    /// The next batches to join: as many as the limits allow, or all of a long time. None while more may join them.
    async fn group(&self, old: u64) -> Result<Option<Vec<Waiting>>, Error> {
        let class = Class::Normal as u8;
        let mut group = self.buffer.waiting(class, Signal::Metrics as u8, self.after, BATCHES_MAX).await?;
        let mut complete = group.len() == BATCHES_MAX;
        let aged = group.iter().take_while(|waiting| waiting.put_unix_nano <= old).count();
        complete &= aged == group.len();
        group.truncate(aged);
        let (mut plain, mut packed) = (0, 0);
        let fits = |waiting: &&Waiting| {
            plain += frozen::plain_bytes(&waiting.meta).unwrap_or(PLAIN_BYTES_MAX);
            packed += waiting.bytes;
            plain <= PLAIN_BYTES_MAX && packed <= PACKED_BYTES_MAX
        };
        let fitting = group.iter().take_while(fits).count();
        complete |= fitting < group.len();
        // One alone passes unchanged, whatever its size.
        group.truncate(fitting.max(1));
        let (Some(first), Some(last)) = (group.first(), group.last()) else { return Ok(None) };
        complete |= last.put_unix_nano.saturating_sub(first.put_unix_nano) >= SPAN_NANOS;
        // A segment that others follow gets no more.
        let others = self.buffer.waiting(class, Signal::Metrics as u8, last.id, 1).await?;
        complete |= others.first().is_some_and(|other| other.put_unix_nano <= old);
        Ok(complete.then_some(group))
    }

    /// What the batches become; none if one of them is gone or unreadable, or if it is not worth it.
    async fn join(&self, group: &[Waiting]) -> Result<Option<Vec<Entry>>, Error> {
        let plain: usize = group.iter().filter_map(|waiting| frozen::plain_bytes(&waiting.meta)).sum();
        let passes = plain.div_ceil(PASS_BYTES).max(1) as u64;
        let Ok(mut packer) = Packer::frugal() else { return Ok(None) };
        let (mut entries, mut result, mut records) = (Vec::new(), Vec::new(), 0);
        let mut freeze = |records: &mut u64, result: &mut Vec<u8>| {
            let (records, result) = (std::mem::take(records), std::mem::take(result));
            entries.push(frozen::freeze(&mut packer, Signal::Metrics, Class::Normal, records, result));
        };
        for pass in 0..passes {
            let mut regroup = Regroup::new(pass, passes);
            for waiting in group {
                let Some(entry) = self.buffer.peek(waiting).await? else { return Ok(None) };
                let began = Instant::now();
                let plain = Frozen::parse(entry).ok().and_then(|frozen| frozen.encoded(Encoding::Identity).ok());
                if plain.and_then(|plain| regroup.take(plain).ok()).is_none() {
                    // Whoever sends it says so.
                    return Ok(None);
                }
                sleep(began.elapsed() * self.rest).await;
            }
            let (bytes, count) = regroup.finish();
            result.extend(bytes);
            records += count;
            if result.len() >= RESULT_BYTES || records >= self.config.batch_records_max as u64 {
                freeze(&mut records, &mut result);
            }
        }
        if records > 0 {
            freeze(&mut records, &mut result);
        }
        let bytes = entries.iter().map(|entry| (entry.payload.len() + entry.meta.len()) as u64).sum::<u64>();
        let before = group.iter().map(|waiting| waiting.bytes).sum::<u64>();
        let worth = bytes * 10 <= before * WORTH_OF_TEN && entries.len() <= group.len() && !entries.is_empty();
        Ok(worth.then_some(entries))
    }
}
