//! How fast the buffer stores, gives and forgets, beside what the disk can do, and what it takes to start on a full backlog.
//!
//! `cargo xtask bench buffer` builds this, runs it and shows what it prints: one JSON object. Each case runs in turn with
//! the disk itself: a plain file in the same folder to which the same bytes are appended with one `fdatasync` per group. No
//! queue that syncs before it answers can be faster on a growing file, so that is the limit the ratio is of. One case alone, to be profiled:
//! `buffer case 131072x8`; a start on a full backlog: `buffer fill DIRECTORY` and `buffer open DIRECTORY`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a bench may stop")]

use bytes::Bytes;
use ollystack_buffer::{Buffer, Entry, Loss, Observer, Options};
use serde_json::{Map, Value as Json, json};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Each case is measured so many times for so long, in turn with the disk alone; the longer where one group takes long.
const SLICES: u32 = 6;
const SLICE: Duration = Duration::from_millis(400);
const LONG_SLICE: Duration = Duration::from_millis(1_600);
/// Until one is done before the other is measured.
const SETTLING: Duration = Duration::from_millis(100);
/// A plain file is begun anew at this size, as segments are; and so much is the most that one sync covers.
const FILE_BYTES_MAX: usize = 8 << 20;
const SIZES: [(&str, usize); 4] = [("1KiB", 1 << 10), ("16KiB", 16 << 10), ("128KiB", 128 << 10), ("1MiB", 1 << 20)];
/// Callers at once, each of which waits for its answers.
const DEPTHS: [usize; 3] = [1, 8, 64];
/// A backlog is filled to this share of the cap, in percent.
const BACKLOG_PERCENT: u64 = 95;

fn main() {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next()) {
        (Some("open"), Some(directory)) => println!("{}", open(Path::new(&directory))),
        (Some("fill"), Some(directory)) => fill(Path::new(&directory), 100),
        (Some("case"), Some(case)) => {
            let (bytes, depth) = case.split_once('x').unwrap();
            let m = run(&std::env::temp_dir(), bytes.parse().unwrap(), depth.parse().unwrap());
            println!(
                "{:.0}/s, {:.0}/s of the disk alone, {:.1} a commit, {:.0} us of CPU each",
                m.batches_per_second, m.disk_batches_per_second, m.batches_per_commit, m.cpu_us_per_batch
            );
        }
        (directory, _) => println!("{}", report(directory.map_or_else(std::env::temp_dir, PathBuf::from))),
    }
}

fn report(parent: PathBuf) -> Json {
    let folder = tempfile::tempdir_in(&parent).unwrap();
    let (mut rows, mut figures) = (Vec::new(), Map::new());
    let sequential = sequential_mb_per_second(folder.path());
    for (name, bytes) in SIZES {
        for depth in DEPTHS {
            eprintln!("{depth} at once of {name}");
            let run = run(folder.path(), bytes, depth);
            let megabytes = |batches: f64| batches * bytes as f64 / 1e6;
            let limit = run.disk_batches_per_second;
            let ratio = run.batches_per_second / limit;
            rows.push(json!([
                format!("{name} x {depth}"),
                format!("{:.0}", run.batches_per_second),
                format!("{:.1}", megabytes(run.batches_per_second)),
                format!("{:.0}", limit),
                format!("{:.1}", megabytes(limit)),
                format!("{:.0}%", 100.0 * ratio),
                format!("{:.1}", run.batches_per_commit),
                format!("{:.1}", run.cpu_us_per_batch),
            ]));
            for (figure, value) in [
                ("batches_per_second", run.batches_per_second),
                ("mb_per_second", megabytes(run.batches_per_second)),
                ("disk_batches_per_second", limit),
                ("ratio", ratio),
                ("cpu_us_per_batch", run.cpu_us_per_batch),
            ] {
                figures.insert(format!("{name}_x{depth}_{figure}"), json!(value));
            }
        }
    }
    let mut notes = vec![
        format!("in {}; the disk alone writes {sequential:.0} MB/s in sequence, one sync at the end", parent.display()),
        "put, sync, lease and ack of one entry each; the limit is a plain file, begun anew every 8 MiB, to which the same bytes are appended, one write and one fdatasync per group (as many as are at once, 8 MiB at most), 400 ms of it before each 400 ms of the buffer (1,600 ms from 8 MiB at once on); over 100% where writing over a WAL's blocks is faster than growing a file".to_owned(),
        format!("load {}", std::fs::read_to_string("/proc/loadavg").unwrap().trim()),
    ];
    figures.insert("disk_sequential_mb_per_second".to_owned(), json!(sequential));
    for (name, bytes) in [("100 B", 100), ("1 KiB", 1 << 10), ("64 KiB", 64 << 10)] {
        eprintln!("a full backlog of {name}");
        let directory = folder.path().join("backlog");
        fill(&directory, bytes);
        let own = Command::new(std::env::current_exe().unwrap()).arg("open").arg(&directory).output().unwrap();
        assert!(own.status.success(), "{}", String::from_utf8_lossy(&own.stderr));
        let opened: Json = serde_json::from_slice(&own.stdout).unwrap();
        notes.push(format!(
            "a start on a backlog of {} MB in entries of {name}: {} entries, {:.2} s, {:.1} MB of memory more than before",
            opened["disk_bytes"].as_u64().unwrap() / 1_000_000,
            opened["entries"],
            opened["seconds"].as_f64().unwrap(),
            opened["rss_bytes_grown"].as_f64().unwrap() / 1e6,
        ));
        figures.insert(format!("backlog_of_{bytes}_bytes"), opened);
        std::fs::remove_dir_all(&directory).unwrap();
    }
    json!({
        "columns": ["entries x at once", "batches/s", "MB/s", "disk batches/s", "disk MB/s", "of the disk", "batches/commit", "CPU us/batch"],
        "rows": rows,
        "notes": notes,
        "figures": figures,
    })
}

/// Nothing may be lost here.
struct Nothing;

impl Observer for Nothing {
    fn lost(&self, _: u8, records: u64, _: u64, reason: Loss) {
        panic!("{records} records lost: {reason:?}");
    }
}

fn entry(random: u64, bytes: usize) -> Entry {
    Entry {
        class: 1,
        signal: 1,
        records: 1,
        meta: Bytes::copy_from_slice(&random.to_le_bytes()[..6]),
        payload: noise(random, bytes).into(),
    }
}

/// Bytes that no file system compresses.
fn noise(mut random: u64, bytes: usize) -> Vec<u8> {
    let words = std::iter::repeat_with(|| {
        random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (random ^ (random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)).to_le_bytes()
    });
    words.take(bytes.div_ceil(8)).flatten().take(bytes).collect()
}

struct Measured {
    batches_per_second: f64,
    disk_batches_per_second: f64,
    batches_per_commit: f64,
    cpu_us_per_batch: f64,
}

/// `depth` callers put an entry, lease one and ack it, over and over; in turn with the disk alone, as its speed changes by the second.
fn run(folder: &Path, bytes: usize, depth: usize) -> Measured {
    let directory = folder.join("buffer");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let measured = runtime.block_on(async {
        let (buffer, _) = Buffer::open(Options::new(&directory), Arc::new(Nothing)).unwrap();
        let acked = Arc::new(AtomicU64::new(0));
        let entries: Vec<Entry> = (0..16).map(|n| entry(n, bytes)).collect();
        let mut tasks = tokio::task::JoinSet::new();
        for caller in 0..depth {
            let (buffer, acked) = (buffer.clone(), Arc::clone(&acked));
            let entry = entries[caller % entries.len()].clone();
            tasks.spawn(async move {
                loop {
                    buffer.put(vec![entry.clone()]).await.unwrap();
                    // As many are leased as were put, by whomever.
                    let stored = buffer.next().await.unwrap().unwrap();
                    buffer.ack(vec![stored.id]).await.unwrap();
                    acked.fetch_add(1, Relaxed);
                }
            });
        }
        tokio::time::sleep(SETTLING).await;
        let look = || (Instant::now(), acked.load(Relaxed), buffer.stats().commits, cpu_seconds());
        let (mut seconds, mut batches, mut commits, mut cpu, mut limit) = (0.0, 0, 0, 0.0, 0.0);
        let mut plain = Plain::new(folder, bytes * depth);
        let slice = if bytes * depth < FILE_BYTES_MAX { SLICE } else { LONG_SLICE };
        for _ in 0..SLICES {
            // On the callers' one thread: none of them goes on meanwhile.
            std::thread::sleep(SETTLING);
            limit += plain.bytes_per_second() / bytes as f64 / f64::from(SLICES);
            tokio::time::sleep(SETTLING).await;
            let before = look();
            tokio::time::sleep(slice).await;
            let after = look();
            seconds += (after.0 - before.0).as_secs_f64();
            batches += after.1 - before.1;
            commits += after.2 - before.2;
            cpu += after.3 - before.3;
        }
        tasks.shutdown().await;
        buffer.close().await;
        let batches = batches as f64;
        Measured {
            batches_per_second: batches / seconds,
            disk_batches_per_second: limit,
            batches_per_commit: batches / commits as f64,
            cpu_us_per_batch: cpu * 1e6 / batches,
        }
    });
    std::fs::remove_dir_all(directory).unwrap();
    measured
}

/// A plain file: groups of bytes, each appended and synced before the next.
struct Plain {
    path: PathBuf,
    group: Vec<u8>,
}

impl Plain {
    fn new(folder: &Path, bytes: usize) -> Plain {
        Plain { path: folder.join("plain"), group: noise(1, bytes.min(FILE_BYTES_MAX)) }
    }

    fn bytes_per_second(&mut self) -> f64 {
        let (began, mut written, mut total) = (Instant::now(), 0, 0);
        let mut file = File::create(&self.path).unwrap();
        while began.elapsed() < SLICE {
            if written + self.group.len() > FILE_BYTES_MAX {
                (file, written) = (File::create(&self.path).unwrap(), 0);
            }
            file.write_all(&self.group).unwrap();
            file.sync_data().unwrap();
            written += self.group.len();
            total += self.group.len();
        }
        let rate = total as f64 / began.elapsed().as_secs_f64();
        std::fs::remove_file(&self.path).unwrap();
        rate
    }
}

fn sequential_mb_per_second(folder: &Path) -> f64 {
    let path = folder.join("plain");
    let chunk = noise(2, 1 << 20);
    let began = Instant::now();
    let mut file = File::create(&path).unwrap();
    (0..256).for_each(|_| file.write_all(&chunk).unwrap());
    file.sync_data().unwrap();
    let rate = 256.0 * chunk.len() as f64 / 1e6 / began.elapsed().as_secs_f64();
    std::fs::remove_file(&path).unwrap();
    rate
}

/// A buffer that is full of entries of `bytes`.
fn fill(directory: &Path, bytes: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let options = Options::new(directory);
        let bytes_max = options.bytes_max;
        let (buffer, _) = Buffer::open(options, Arc::new(Nothing)).unwrap();
        let entries: Vec<Entry> = (0..(1 << 20) / bytes as u64).map(|n| entry(n, bytes)).collect();
        while buffer.stats().disk_bytes * 100 < bytes_max * BACKLOG_PERCENT {
            buffer.put(entries.clone()).await.unwrap();
        }
        buffer.close().await;
    });
}

/// What a start takes, in a process of its own.
fn open(directory: &Path) -> Json {
    let before = peak_rss_bytes();
    let began = Instant::now();
    let (buffer, recovery) = Buffer::open(Options::new(directory), Arc::new(Nothing)).unwrap();
    let seconds = began.elapsed().as_secs_f64();
    json!({
        "entries": recovery.entries,
        "disk_bytes": buffer.stats().disk_bytes,
        "seconds": seconds,
        "rss_bytes_grown": peak_rss_bytes() - before,
    })
}

fn peak_rss_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

/// Of this process, all threads.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
