//! What applications on a few hosts produce, each host with an agent of its own: lines into files, spans and samples over OTLP/HTTP.
//!
//! A host in a second: [`series::SAMPLES`](super::series::SAMPLES) samples, [`LINES`] lines over eight files, [`SPANS`] spans; an SDK sends
//! spans when it has [`SPANS_OF_REQUEST`], or after a second. Invariant: all that is due is produced; who is told to come back does so
//! until the request is taken, so that what was taken is what was produced.

use super::lines::System;
use super::series::{Meters, SAMPLES};
use super::services::Shop;
use anyhow::{Context, Result, bail, ensure};
use ollystack_tests::Agent;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Lines and spans of a host in a second.
pub(crate) const LINES: u64 = 2_000;
pub(crate) const SPANS: u64 = 1_000;
/// As SDKs have it by default.
const SPANS_OF_REQUEST: usize = 512;
const TICK: Duration = Duration::from_millis(100);
const TICKS_PER_SECOND: u64 = 10;

/// The signals, in the order of the agent's ledger and of all counts here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    Metrics,
    Logs,
    Traces,
}

/// One host's agent, and where applications write their logs.
pub(crate) struct Host {
    pub(crate) agent: Agent,
    pub(crate) logs: std::path::PathBuf,
}

/// Produces for so many seconds; how many records there were of each signal.
pub(crate) fn produce(hosts: &[Host], systems: &[System], signals: &[Signal], seconds: u64) -> Result<[u64; 3]> {
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for (number, host) in hosts.iter().enumerate() {
            for &signal in signals {
                let url = host.agent.http();
                let produced = move || match signal {
                    Signal::Metrics => samples(&url, number, begin, seconds),
                    Signal::Logs => lines(&host.logs, systems, begin, seconds),
                    Signal::Traces => spans(&url, number, begin, seconds),
                };
                threads.push((signal, scope.spawn(produced)));
            }
        }
        let mut counts = [0; 3];
        for (signal, thread) in threads {
            let Ok(count) = thread.join() else { bail!("what produces {signal:?} panicked") };
            counts[signal as usize] += count.with_context(|| format!("{signal:?}"))?;
        }
        Ok(counts)
    })
}

fn lines(folder: &Path, systems: &[System], begin: Instant, seconds: u64) -> Result<u64> {
    let file = |system: &System| File::create(folder.join(format!("{}.log", system.name)));
    let mut files = systems.iter().map(file).collect::<std::io::Result<Vec<_>>>()?;
    let mut written = 0;
    for tick in 1..=seconds * TICKS_PER_SECOND {
        wait_for(begin, tick);
        let time = time_of_day();
        let mut texts = vec![String::new(); systems.len()];
        while written < LINES * tick / TICKS_PER_SECOND {
            let (number, at) = (written as usize / systems.len(), written as usize % systems.len());
            texts[at].push_str(&systems[at].line(number, &time));
            written += 1;
        }
        for (file, text) in files.iter_mut().zip(texts) {
            file.write_all(text.as_bytes())?;
        }
    }
    Ok(written)
}

fn spans(url: &str, host: usize, begin: Instant, seconds: u64) -> Result<u64> {
    let (mut shop, sender) = (Shop::new(host), Sender::to(&format!("{url}/v1/traces")));
    let (mut made, mut sent) = (0, 0);
    for tick in 1..=seconds * TICKS_PER_SECOND {
        wait_for(begin, tick);
        while made < SPANS * tick / TICKS_PER_SECOND {
            made += shop.serve(now());
        }
        let least = if tick.is_multiple_of(TICKS_PER_SECOND) { 1 } else { SPANS_OF_REQUEST };
        while let Some((request, spans)) = shop.request(least) {
            sender.send(&request)?;
            sent += spans;
        }
    }
    ensure!(sent == made, "{made} spans were made and {sent} sent");
    Ok(sent)
}

fn samples(url: &str, host: usize, begin: Instant, seconds: u64) -> Result<u64> {
    let (mut meters, sender) = (Meters::new(host, now()), Sender::to(&format!("{url}/v1/metrics")));
    for second in 1..=seconds {
        wait_for(begin, second * TICKS_PER_SECOND);
        for request in meters.requests(now()) {
            sender.send(&request)?;
        }
    }
    Ok(seconds * SAMPLES)
}

fn wait_for(begin: Instant, tick: u64) {
    let due = begin + TICK.saturating_mul(tick as u32);
    std::thread::sleep(due.saturating_duration_since(Instant::now()));
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64
}

/// As RFC 3339 has it, in UTC. The date is by Howard Hinnant's `civil_from_days`, for days since 1970.
fn time_of_day() -> String {
    let now = now() / 1_000_000;
    let (days, ms) = (now / 86_400_000 + 719_468, now % 86_400_000);
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1_000)
}

/// A connection that stays.
struct Sender {
    client: ureq::Agent,
    url: String,
}

impl Sender {
    fn to(url: &str) -> Sender {
        let config = ureq::Agent::config_builder().http_status_as_error(false).proxy(None);
        Sender { client: config.timeout_global(Some(Duration::from_secs(60))).build().into(), url: url.to_owned() }
    }

    fn send(&self, request: &[u8]) -> Result<()> {
        loop {
            let mut answer =
                self.client.post(&self.url).header("content-type", "application/x-protobuf").send(request)?;
            let said = answer.body_mut().read_to_vec()?;
            match answer.status().as_u16() {
                200 => {
                    ensure!(said.is_empty(), "the agent left records out: {}", String::from_utf8_lossy(&said));
                    return Ok(());
                }
                429 | 503 => {
                    let after = answer.headers().get("retry-after").and_then(|after| after.to_str().ok()?.parse().ok());
                    std::thread::sleep(Duration::from_secs(after.unwrap_or(1)));
                }
                other => bail!("{} answered {other}: {}", self.url, String::from_utf8_lossy(&said)),
            }
        }
    }
}
