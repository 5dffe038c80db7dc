//! Work for a real buffer in a process of its own, and the books of what it was told.
//!
//! The torture starts its own binary again with [`DIRECTORY`] set; that process puts, leases, acks, releases, closes and opens by a
//! seed, and says each step on standard output before and after it ([`Step`]). The torture replays those lines up to the moment
//! of the crash and asks the directory that is left. Invariant: what an entry holds follows from its number.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use fastrand::Rng;
use ollystack_buffer::{Buffer, Entry, EntryId, Loss, Observer, Options, Recovery, Stored, WhenFull};
use std::collections::{BTreeMap, BTreeSet};
use std::io::IoSlice;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const DIRECTORY: &str = "OLLYSTACK_TORTURE_DIRECTORY";
const PLAN: &str = "OLLYSTACK_TORTURE_PLAN";

/// Payload that may wait at a time, under the cap with all that surrounds it: nothing is evicted unless that is asked for.
const WAITING_BYTES_MAX: u64 = 1 << 20;
/// Opening may take so long, whatever it finds.
const OPEN_MAX: Duration = Duration::from_secs(5);
/// Tries to open again after an error of the disk: faults are single.
const OPEN_TRIES: usize = 3;
/// Tries to put: one call of each kind fails in a thread, and a put makes both kinds of sync.
const PUT_TRIES: usize = 3;
/// Tries to read: the buffer gives a segment up after three.
const READ_TRIES: usize = 10;

/// What the process is to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) steps: u64,
    /// The first number; those below were used before.
    pub(crate) first: u64,
    /// Put more than fits, so that the least valuable goes.
    pub(crate) overfill: bool,
}

/// The command that does it.
pub(crate) fn command(directory: &Path, plan: Plan) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("the path of the running program is unknown")?);
    let text = format!("{} {} {} {}", plan.seed, plan.steps, plan.first, u8::from(plan.overfill));
    command.env(DIRECTORY, directory).env(PLAN, text);
    Ok(command)
}

/// The smallest buffer there may be.
pub(crate) fn options(directory: &Path) -> Options {
    Options {
        directory: directory.to_owned(),
        bytes_max: 4 << 20,
        segment_bytes_max: 256 << 10,
        when_full: WhenFull::Evict,
    }
}

/// If this process was started to work: its exit code, when done.
pub(crate) fn asked() -> Option<Result<ExitCode>> {
    let directory = std::env::var_os(DIRECTORY)?;
    let numbers = std::env::var(PLAN).unwrap_or_default();
    let numbers: Vec<u64> = numbers.split(' ').filter_map(|number| number.parse().ok()).collect();
    let &[seed, steps, first, overfill] = &numbers[..] else { return None };
    let plan = Plan { seed, steps, first, overfill: overfill == 1 };
    Some(on_a_thread_of_its_own(work(Path::new(&directory), plan)).map(|()| ExitCode::SUCCESS))
}

/// Runs what is asynchronous to its end.
pub(crate) fn on_a_thread_of_its_own<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// Said in one call that nothing else here makes, so that faults for other writes leave it alone.
fn say(line: &str) {
    // Nobody may listen any more; the work goes on.
    let _ = rustix::io::writev(std::io::stdout(), &[IoSlice::new(line.as_bytes()), IoSlice::new(b"\n")]);
}

/// Tells of losses by signal, which is the class here.
struct Sayer;

impl Observer for Sayer {
    fn lost(&self, signal: u8, records: u64, _: u64, reason: Loss) {
        say(&format!("{} {signal} {records}", if reason == Loss::Evicted { "evicted" } else { "damaged" }));
    }
}

async fn work(directory: &Path, plan: Plan) -> Result<()> {
    let mut random = Rng::with_seed(plan.seed);
    let mut buffer = open(directory)?;
    let (mut leased, mut waiting_bytes, mut next) =
        (Vec::<(EntryId, u64)>::new(), buffer.stats().payload_bytes, plan.first);
    for _ in 0..plan.steps {
        let full = waiting_bytes > WAITING_BYTES_MAX && !plan.overfill;
        match random.u8(..100) {
            0..45 if !full => {
                let numbers: Vec<u64> = (next..next + random.u64(1..4)).collect();
                next += numbers.len() as u64;
                say(&format!("put {} {}", numbers[0], numbers.len()));
                let entries: Vec<Entry> = numbers.iter().map(|number| entry(*number)).collect();
                let bytes: u64 = entries.iter().map(size).sum();
                match buffer.put(entries).await {
                    Ok(ids) => {
                        let pairs = ids.iter().zip(&numbers).map(|(id, number)| format!(" {} {number}", id.0));
                        say(&format!("stored{}", pairs.collect::<String>()));
                        waiting_bytes += bytes;
                    }
                    Err(error) => say(&format!("refused {error}")),
                }
            }
            0..70 => {
                let count = if full { 8 } else { random.usize(1..4) };
                for _ in 0..count {
                    match buffer.next().await {
                        Ok(Some(stored)) => leased.push((stored.id, size(&stored.entry))),
                        Ok(None) => {}
                        Err(error) => say(&format!("unread {error}")),
                    }
                }
            }
            70..90 => {
                let count = if full { 6 } else { random.usize(1..3) }.min(leased.len());
                let acked: Vec<(EntryId, u64)> =
                    (0..count).map(|_| leased.swap_remove(random.usize(..leased.len()))).collect();
                say(&format!("ack{}", acked.iter().map(|(id, _)| format!(" {}", id.0)).collect::<String>()));
                buffer.ack(acked.iter().map(|(id, _)| *id).collect()).await?;
                waiting_bytes = waiting_bytes.saturating_sub(acked.iter().map(|(_, bytes)| bytes).sum());
            }
            90..92 => {
                let class = random.u8(..3);
                let Ok(old) = buffer.waiting(class, class, EntryId(0), 4).await else { continue };
                let count = random.usize(..old.len().max(1));
                if count == 0 {
                    continue;
                }
                let numbers: Vec<u64> = (next..).filter(|number| entry(*number).class == class).take(count).collect();
                next = numbers[count - 1] + 1;
                // They take the highest of the ids.
                let ids = old.iter().map(|old| old.id.0);
                let pairs =
                    ids.clone().skip(old.len() - count).zip(&numbers).map(|(id, number)| format!(" {id} {number}"));
                let gone = ids.take(old.len() - count).map(|id| format!(" {id}")).collect::<String>();
                say(&format!("gone{gone}"));
                say(&format!("replacing{}", pairs.collect::<String>()));
                match buffer.replace(old, numbers.iter().map(|number| entry(*number)).collect()).await {
                    Ok(true) => say("replaced"),
                    Ok(false) => say("kept"),
                    Err(error) => say(&format!("unreplaced {error}")),
                }
                waiting_bytes = buffer.stats().payload_bytes;
            }
            92..96 => {
                // Each class has a segment that goes when it is empty.
                for class in 0..3 {
                    let large = |number: &u64| entry(*number).class == class && size(&entry(*number)) > 36 << 10;
                    let number = (next..).find(large).unwrap_or(next);
                    next = number + 1;
                    say(&format!("put {number} 1"));
                    match buffer.put(vec![entry(number)]).await {
                        Ok(ids) => say(&format!("stored {} {number}", ids[0].0)),
                        Err(error) => say(&format!("refused {error}")),
                    }
                }
                while let Ok(Some(stored)) = buffer.next().await {
                    leased.push((stored.id, size(&stored.entry)));
                }
                say(&format!("ack{}", leased.iter().map(|(id, _)| format!(" {}", id.0)).collect::<String>()));
                buffer.ack(leased.drain(..).map(|(id, _)| id).collect()).await?;
                waiting_bytes = 0;
            }
            96..98 => {
                if !leased.is_empty() {
                    buffer.release(leased.swap_remove(random.usize(..leased.len())).0);
                }
            }
            _ => {
                buffer.close().await;
                say("closed");
                leased.clear();
                buffer = open(directory)?;
                waiting_bytes = buffer.stats().payload_bytes;
            }
        }
    }
    // What failed before works again.
    let class = entry(next).class;
    let mut tries = 0;
    let ids = loop {
        tries += 1;
        say(&format!("put {next} 1"));
        match buffer.put(vec![entry(next)]).await {
            Ok(ids) => break ids,
            // This very call was the one. What was refused may be there after a loss of power: another number, of the same class.
            Err(error) if tries < PUT_TRIES => {
                say(&format!("refused {error}"));
                next = (next + 1..).find(|number| entry(*number).class == class).unwrap_or(next + 1);
            }
            Err(error) => return Err(error).context("nothing can be put after the fault"),
        }
    };
    say(&format!("stored {} {next}", ids[0].0));
    say("end");
    Ok(())
}

fn open(directory: &Path) -> Result<Buffer> {
    let mut tries = 0;
    loop {
        tries += 1;
        match Buffer::open(options(directory), Arc::new(Sayer)) {
            Ok((buffer, _)) => {
                say("opened");
                return Ok(buffer);
            }
            Err(error) if tries < OPEN_TRIES => say(&format!("unopened {error}")),
            Err(error) => return Err(error).context("the buffer does not open after the fault"),
        }
    }
}

/// Mostly small, some of several pages, a few large; of three classes.
pub(crate) fn entry(number: u64) -> Entry {
    let mut random = Rng::with_seed(number);
    let bytes = match random.u8(..20) {
        0..12 => random.usize(..1500),
        12..19 => random.usize(1500..20_000),
        _ => random.usize(30_000..90_000),
    };
    let payload: Vec<u8> = std::iter::repeat_with(|| random.u64(..).to_le_bytes()).flatten().take(bytes).collect();
    let class = random.u8(..3);
    Entry {
        class,
        signal: class,
        records: 1,
        meta: Bytes::from(number.to_le_bytes().to_vec()),
        payload: payload.into(),
    }
}

fn size(entry: &Entry) -> u64 {
    (entry.meta.len() + entry.payload.len()) as u64
}

/// What was promised so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Books {
    /// Acknowledged, and not handed back: number by id.
    owed: BTreeMap<u64, u64>,
    /// Handed back: these may be there again.
    acked: BTreeMap<u64, u64>,
    /// Put, and not answered or refused: these may be there.
    open: BTreeSet<u64>,
    /// Entries that took the place of others, or did not: one or the other is there.
    replacements: Vec<Replacement>,
    /// Evicted, by class.
    evicted: [u64; 3],
    highest_id: Option<u64>,
    /// The first number that was never put.
    next: u64,
    /// Everything ever owed.
    pub(crate) acknowledged: u64,
    /// Puts that were refused.
    pub(crate) refused: u64,
    /// Records that were told to be damaged.
    pub(crate) damaged: u64,
    pub(crate) ended: bool,
}

/// Entries put in the place of others; number by id.
#[derive(Clone, Debug, Default)]
struct Replacement {
    old: BTreeMap<u64, u64>,
    new: BTreeMap<u64, u64>,
}

/// What a directory held.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Found {
    pub(crate) opened: Duration,
    pub(crate) entries: u64,
    /// Without acknowledgement, or acked already.
    pub(crate) beyond: u64,
    /// Told to be damaged.
    pub(crate) damaged: u64,
}

impl Books {
    /// Takes down what the process said, line by line.
    pub(crate) fn hear(&mut self, text: &[u8]) {
        for line in String::from_utf8_lossy(text).lines() {
            let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
            let numbers: Vec<u64> = rest.split(' ').map_while(|word| word.parse().ok()).collect();
            match (verb, &numbers[..]) {
                ("put", &[first, count]) => {
                    self.open.extend(first..first + count);
                    self.next = first + count;
                }
                ("stored", pairs) => {
                    for pair in pairs.chunks_exact(2) {
                        self.open.remove(&pair[1]);
                        self.owed.insert(pair[0], pair[1]);
                        self.highest_id = self.highest_id.max(Some(pair[0]));
                        self.acknowledged += 1;
                    }
                }
                ("ack", ids) => ids.iter().for_each(|id| {
                    if let Some(number) = self.owed.remove(id) {
                        self.acked.insert(*id, number);
                    }
                }),
                ("gone", ids) => {
                    let old = ids.iter().filter_map(|id| Some((*id, *self.owed.get(id)?))).collect();
                    self.replacements.push(Replacement { old, new: BTreeMap::new() });
                }
                ("replacing", pairs) => self.replacing(pairs),
                ("replaced", _) => {
                    if let Some(Replacement { old, new }) = self.replacements.pop() {
                        self.owed.retain(|id, _| !old.contains_key(id));
                        self.owed.extend(new);
                    }
                }
                ("kept", _) => drop(self.replacements.pop()),
                ("evicted", &[class, records]) => self.evicted[class as usize % 3] += records,
                ("damaged", &[_, records]) => self.damaged += records,
                ("refused", _) => self.refused += 1,
                ("end", _) => self.ended = true,
                _ => {}
            }
        }
    }

    fn replacing(&mut self, pairs: &[u64]) {
        let Some(replacement) = self.replacements.last_mut() else { return };
        for pair in pairs.chunks_exact(2) {
            let old = self.owed.get(&pair[0]).map(|number| (pair[0], *number));
            replacement.old.extend(old);
            replacement.new.insert(pair[0], pair[1]);
            self.next = self.next.max(pair[1] + 1);
        }
    }

    /// What is owed, with each open replacement as it was found: all of it, or none.
    fn owed_as_found(&self, there: &BTreeMap<u64, u64>) -> BTreeMap<u64, u64> {
        let mut owed = self.owed.clone();
        for Replacement { old, new } in &self.replacements {
            if new.iter().any(|(id, number)| there.get(id) == Some(number)) {
                let acked: Vec<u64> = old.keys().filter(|id| !owed.contains_key(id)).copied().collect();
                owed.retain(|id, _| !old.contains_key(id));
                owed.extend(new.iter().filter(|(id, _)| !acked.contains(id)));
            }
        }
        owed
    }

    /// The first number that was never put.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Those of a process that begins with what is there: all of that is owed, whatever it was.
    pub(crate) fn going_on(&self, there: &[(u64, u64)]) -> Books {
        Books {
            owed: there.iter().copied().collect(),
            highest_id: self.highest_id,
            // Judging has put one.
            next: self.fresh() + 1,
            ..Books::default()
        }
    }

    /// A number of the class that stays when nothing else does.
    fn fresh(&self) -> u64 {
        (self.next..).find(|number| entry(*number).class == 0).unwrap_or(self.next)
    }

    /// Opens the directory with the real buffer and compares. An error is a broken promise.
    pub(crate) fn judge(&self, directory: &Path) -> Result<(Found, Vec<(u64, u64)>)> {
        on_a_thread_of_its_own(self.compare(directory))
    }

    async fn compare(&self, directory: &Path) -> Result<(Found, Vec<(u64, u64)>)> {
        let losses = Arc::new(Losses::default());
        let begin = Instant::now();
        let (buffer, recovery) = Buffer::open(options(directory), losses.clone()).context("it does not open")?;
        let mut found = Found { opened: begin.elapsed(), ..Found::default() };
        ensure!(found.opened <= OPEN_MAX, "opening took {:?}", found.opened);
        let there = drain(&buffer).await?;
        found.entries = there.len() as u64;
        ensure!(
            recovery.entries == found.entries + losses.records(Loss::Corrupt) - quarantined(&recovery),
            "{} entries were announced, {} are there, {losses:?}",
            recovery.entries,
            found.entries
        );
        let owed = self.owed_as_found(&there.iter().copied().collect());
        for (id, number) in &there {
            match owed.get(id).or(self.acked.get(id)) {
                Some(known) => ensure!(known == number, "id {id} holds {number}, was given for {known}"),
                None => ensure!(self.open.contains(number), "id {id} holds {number}, which was never put"),
            }
            found.beyond += u64::from(!owed.contains_key(id));
        }
        let numbers: BTreeSet<u64> = there.iter().map(|(_, number)| *number).collect();
        ensure!(numbers.len() == there.len(), "{} entries are there twice", there.len() - numbers.len());
        let mut missing = [0; 3];
        let ids: BTreeSet<u64> = there.iter().map(|(id, _)| *id).collect();
        let gone: Vec<(&u64, &u64)> = owed.iter().filter(|(id, _)| !ids.contains(id)).collect();
        gone.iter().for_each(|(_, number)| missing[usize::from(entry(**number).class)] += 1);
        let allowed = missing.iter().zip(self.evicted).all(|(missing, evicted)| *missing <= evicted);
        ensure!(
            allowed,
            "acknowledged and gone, by class {missing:?}, where {:?} were evicted: {gone:.5?}; {recovery:?}",
            self.evicted
        );
        let fresh = buffer.put(vec![entry(self.fresh())]).await.context("nothing can be put afterwards")?[0];
        let highest = self.highest_id.max(ids.last().copied());
        ensure!(Some(fresh.0) > highest, "id {} is given after {highest:?}", fresh.0);
        ensure!(buffer.next().await?.is_some_and(|stored| stored.id == fresh), "what was put afterwards does not come");
        found.damaged = losses.records(Loss::Corrupt);
        // Not acked, what was leased is there for the next who opens; what is new is not.
        buffer.ack(vec![fresh]).await?;
        buffer.close().await;
        Ok((found, there))
    }
}

/// All there is, by id and number, each as it was put and marked as given before.
pub(crate) async fn drain(buffer: &Buffer) -> Result<Vec<(u64, u64)>> {
    let mut there = Vec::new();
    while let Some(Stored { id, redelivered, entry: stored }) = next(buffer).await? {
        let number = u64::from_le_bytes(stored.meta[..].try_into().context("meta is not a number")?);
        ensure!(stored == entry(number), "entry {number} is not as it was put");
        ensure!(redelivered, "entry {number} may have been sent by the process that is gone, and is not marked so");
        there.push((id.0, number));
    }
    Ok(there)
}

/// As a sender does it: an error is worth another try. One that stays is the segment's end.
async fn next(buffer: &Buffer) -> Result<Option<Stored>> {
    let mut tries = 0;
    loop {
        tries += 1;
        match buffer.next().await {
            Err(_) if tries < READ_TRIES => {}
            answer => return answer.context("nothing can be read"),
        }
    }
}

/// Records told as lost, by reason; one record an entry.
#[derive(Debug, Default)]
pub(crate) struct Losses(Mutex<Vec<(u8, u64, Loss)>>);

impl Observer for Losses {
    fn lost(&self, signal: u8, records: u64, _: u64, reason: Loss) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((signal, records, reason));
    }
}

impl Losses {
    pub(crate) fn records(&self, reason: Loss) -> u64 {
        let losses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        losses.iter().filter(|(_, _, why)| *why == reason).map(|(_, records, _)| records).sum()
    }
}

/// Entries in segments that were set aside at the start.
pub(crate) fn quarantined(recovery: &Recovery) -> u64 {
    recovery.quarantined.iter().map(|segment| segment.entries).sum()
}
