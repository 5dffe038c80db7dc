//! What the signals of the host cost: kernel time a hook, hooks a second, bytes of maps and the agent's CPU time, each signal by itself
//! under a load that makes it work.
//!
//! `cargo run --release -p ollystack-input-ebpf --example signals [SECONDS]`, as root. Prints one JSON object with a table and figures.
#![allow(clippy::unwrap_used, reason = "a bench may stop")]

#[path = "common/hooks.rs"]
mod hooks;

use hooks::hooks;
use ollystack_input_ebpf::{Config, Stats, run};
use ollystack_record::{Intake, Ledger, Resource};
use serde_json::{Map, json};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

const BLOCK: usize = 4_096;

/// What is switched on, and what makes it work.
type Case = (&'static str, &'static str, fn(&mut Config), fn(&Path, Arc<AtomicBool>) -> Vec<JoinHandle<()>>);

const CASES: [Case; 4] = [
    ("kills, at rest", "oom", |config| config.oom = true, |_, _| Vec::new()),
    ("block devices, direct writes and reads of 4 KiB", "block_io", |config| config.block_io = true, direct),
    ("waits for a CPU, two threads that wake each other", "run_queue", |config| config.run_queue = true, ping_pong),
    ("profiles, two busy threads", "profile", |config| config.profile = true, busy),
];

fn main() {
    let seconds: u64 = std::env::args().nth(1).map_or(10, |text| text.parse().unwrap());
    let folder = tempfile::tempdir_in(".").unwrap();
    // The kernel counts the programs' time only while somebody asks for it, and that costs some itself.
    let _counting = aya::sys::enable_stats(aya::sys::Stats::RunTime).ok();
    let (mut rows, mut figures) = (Vec::new(), Map::new());
    for (title, key, switch, load) in CASES {
        eprintln!("{title}");
        let mut config =
            Config { process: false, tcp: false, requests: false, oom: false, block_io: false, ..Config::default() };
        switch(&mut config);
        let (stop, stats) = (CancellationToken::new(), Arc::new(Stats::default()));
        let input = input(config, stop.clone(), Arc::clone(&stats));
        while stats.read().features.is_empty() {
            std::thread::sleep(Duration::from_millis(5));
        }
        if stats.read().features.iter().all(|feature| feature.rung == "off") {
            rows.push(json!([title, "refused", "", "", "", ""]));
            stop.cancel();
            input.join().unwrap();
            continue;
        }
        let over = Arc::new(AtomicBool::new(false));
        let loads = load(folder.path(), Arc::clone(&over));
        let (before, cpu) = (hooks(), agent_seconds());
        let began = Instant::now();
        std::thread::sleep(Duration::from_secs(seconds));
        let (after, cpu) = (hooks(), agent_seconds() - cpu);
        let elapsed = began.elapsed().as_secs_f64();
        over.store(true, Relaxed);
        loads.into_iter().for_each(|thread| thread.join().unwrap());
        let (time_ns, count) = ((after.0 - before.0) as f64, (after.1 - before.1) as f64);
        let hook_ns = if count > 0.0 { time_ns / count } else { 0.0 };
        let (map_bytes, cpu) = (stats.map_bytes(), cpu / elapsed * 100.0);
        stop.cancel();
        input.join().unwrap();
        rows.push(json!([
            title,
            format!("{hook_ns:.0}"),
            format!("{:.0}", count / elapsed),
            format!("{:.3}", time_ns / elapsed / 1e7),
            format!("{cpu:.3}"),
            format!("{:.0}", map_bytes as f64 / 1_024.0),
        ]));
        for (figure, value) in [("hook_ns", hook_ns), ("map_bytes", map_bytes as f64), ("agent_cpu_percent", cpu)] {
            figures.insert(format!("{key}_{figure}"), json!(value));
        }
    }
    let columns =
        ["signal", "ns a hook", "hooks a second", "% of a core in hooks", "% of a core in the agent", "KiB of maps"];
    println!("{}", json!({ "columns": columns, "rows": rows, "notes": [NOTE], "figures": figures }));
}

const NOTE: &str = "load and agent share this machine with whatever else it does, whose block requests and changes of threads are counted, too; ns a hook \
                    by the kernel's statistics, which cost some themselves; of a profile the hook is a whole stack in the program and one in the \
                    kernel; the agent's CPU time is that of its own threads";

/// The input on a thread of its own, as it runs in the agent; what it hands in is thrown away.
fn input(config: Config, stop: CancellationToken, stats: Arc<Stats>) -> JoinHandle<()> {
    std::thread::Builder::new()
        .name(AGENT.into())
        .spawn(move || {
            let ledger = Arc::new(Ledger::default());
            let (intake, mut receiver) = Intake::new(4_096, 1_000_000, Arc::clone(&ledger));
            let runtime =
                tokio::runtime::Builder::new_current_thread().thread_name(AGENT).enable_all().build().unwrap();
            runtime.block_on(async {
                let input = tokio::spawn(run(config, Arc::new(Resource::default()), intake, stop, stats));
                while let Some(received) = receiver.recv().await {
                    drop(received.take(&ledger));
                }
                input.await.unwrap().unwrap();
            });
        })
        .unwrap()
}

/// The name of the agent's threads.
const AGENT: &str = "bench-agent";

/// CPU time of the threads of that name, as far as they still are.
fn agent_seconds() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten().map(|task| task.path());
    let own = tasks.filter(|task| std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == AGENT));
    let spent = own.filter_map(|task| {
        std::fs::read_to_string(task.join("schedstat")).ok()?.split(' ').next()?.parse::<f64>().ok()
    });
    spent.sum::<f64>() / 1e9
}

/// Writes and reads past the page cache, in a file here.
fn direct(folder: &Path, over: Arc<AtomicBool>) -> Vec<JoinHandle<()>> {
    let path = folder.join("blocks");
    vec![spawn(move || {
        let direct = rustix::fs::OFlags::DIRECT.bits() as i32;
        let mut options = std::fs::OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).custom_flags(direct).open(path).unwrap();
        let mut room = vec![0u8; 2 * BLOCK];
        let at = room.as_ptr().align_offset(BLOCK);
        let block = &mut room[at..at + BLOCK];
        for number in 0.. {
            if over.load(Relaxed) {
                return;
            }
            let offset = number % 4_096 * BLOCK as u64;
            file.write_all_at(block, offset).unwrap();
            file.read_exact_at(block, offset).unwrap();
        }
    })]
}

fn ping_pong(_: &Path, over: Arc<AtomicBool>) -> Vec<JoinHandle<()>> {
    let (mut one, mut other) = UnixStream::pair().unwrap();
    let answers = spawn(move || {
        let mut byte = [0];
        while other.read_exact(&mut byte).is_ok() && other.write_all(&byte).is_ok() {}
    });
    let asks = spawn(move || {
        let mut byte = [0];
        while !over.load(Relaxed) {
            one.write_all(&byte).unwrap();
            one.read_exact(&mut byte).unwrap();
        }
    });
    vec![asks, answers]
}

fn busy(_: &Path, over: Arc<AtomicBool>) -> Vec<JoinHandle<()>> {
    let threads = (0..2).map(|_| {
        let over = Arc::clone(&over);
        spawn(move || {
            while !over.load(Relaxed) {
                std::hint::spin_loop();
            }
        })
    });
    threads.collect()
}
