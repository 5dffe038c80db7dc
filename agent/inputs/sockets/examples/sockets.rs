//! What a look at the sockets of a host costs: CPU time a look with 100, 1,000 and 10,000 of them, when nothing changed and when half of
//! all connections are new.
//!
//! The sockets are this program's own, both ends of connections over loopback, beside those that the host has anyway. Prints one JSON object.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench ends where it fails")]

use ollystack_input_sockets::{Config, Reading, Stats, run};
use ollystack_record::{Intake, Peers, Resource};
use rustix::process::{Resource as Limit, Rlimit, getrlimit, setrlimit};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const LOOKS: usize = 3;

#[tokio::main]
async fn main() {
    let limit = getrlimit(Limit::Nofile);
    setrlimit(Limit::Nofile, Rlimit { current: limit.maximum, ..limit }).expect("more open files");
    let mut rows = Vec::new();
    let mut most = 0.0;
    for sockets in [100, 1_000, 10_000] {
        let (steady, changed) = measure(sockets / 2).await;
        let ms = |readings: &[Reading]| {
            let mut costs: Vec<u64> = readings.iter().map(|reading| reading.last_cpu_us).collect();
            costs.sort_unstable();
            costs[costs.len() / 2] as f64 / 1e3
        };
        let (still, moving) = (ms(&steady), ms(&changed));
        most = moving.max(still);
        let seen = steady.last().map_or(0, |reading| reading.connections);
        rows.push(serde_json::json!([sockets, seen, format!("{still:.2}"), format!("{moving:.2}")]));
    }
    let report = serde_json::json!({
        "columns": ["sockets", "connected, with the host's own", "ms of CPU a look, nothing new", "ms of CPU a look, half is new"],
        "rows": rows,
        "notes": ["medians; a look comes every 15 s, or so seldom that it takes 0.25% of a core"],
        "figures": {"look_ms_at_10000": most},
    });
    println!("{report}");
}

/// Looks while nothing changes, and while half of all connections are made anew between two.
async fn measure(connections: usize) -> (Vec<Reading>, Vec<Reading>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let connect = || {
        let client = TcpStream::connect(address).expect("a connection");
        (client, listener.accept().expect("its other end").0)
    };
    let mut held: Vec<(TcpStream, TcpStream)> = (0..connections).map(|_| connect()).collect();
    let (stats, stop) = (Arc::new(Stats::default()), CancellationToken::new());
    let (intake, mut received) = Intake::new(8, 100_000, Arc::default());
    let config = Config { interval_ms: 250, sockets_max: 200_000, ..Config::default() };
    let peers = Arc::new(Peers::default());
    let input =
        tokio::spawn(run(config, Arc::new(Resource::default()), intake, peers, stop.clone(), Arc::clone(&stats)));
    let ledger = Arc::default();
    let mut look = async || {
        received.recv().await.expect("a batch of each look").take(&ledger);
        // The reading is there right after.
        tokio::time::sleep(Duration::from_millis(20)).await;
        stats.read()
    };
    look().await;
    let (mut steady, mut changed) = (Vec::new(), Vec::new());
    for _ in 0..LOOKS {
        steady.push(look().await);
    }
    for _ in 0..LOOKS {
        held.drain(..connections / 2);
        held.extend((0..connections / 2).map(|_| connect()));
        changed.push(look().await);
    }
    stop.cancel();
    input.await.expect("the input").expect("runs");
    (steady, changed)
}
