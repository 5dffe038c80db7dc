//! Senders: gRPC calls on a few connections, each sending the next of the prepared requests as soon as its last one was answered, or
//! at a pace.
//!
//! Invariant: an answer counts only if it is a success without a refused record.

use crate::payload::{Payload, RECORDS, Signal};
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceResponse};
use prost::Message as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Each is an HTTP/2 connection.
const CONNECTIONS: usize = 4;
/// Larger than a request: what is measured is no sender that waits for windows.
const WINDOW_BYTES: u32 = 1 << 20;

/// What was sent while it was counted.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    /// Records that were acknowledged.
    pub(crate) records: u64,
    /// From a request to its acknowledgement, sorted.
    pub(crate) times: Vec<Duration>,
}

impl Sent {
    /// The time within which this part of all requests was acknowledged.
    pub(crate) fn quantile(&self, part: f64) -> Duration {
        let last = self.times.len().saturating_sub(1);
        self.times.get((last as f64 * part) as usize).copied().unwrap_or_default()
    }
}

/// How to send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Requests in flight at most.
    pub(crate) senders: usize,
    /// Records at most; 0 for as many as are answered.
    pub(crate) per_second: u64,
    /// Then it is over by itself.
    pub(crate) requests: Option<u64>,
}

/// A running load. What it does counts from [`Load::begin`] on.
#[derive(Debug)]
pub(crate) struct Load {
    counts: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
    senders: JoinSet<Result<Sent>>,
}

#[derive(Debug)]
struct Sender {
    connection: SendRequest<Full<Bytes>>,
    frames: Arc<[Bytes]>,
    url: String,
    key: String,
    /// The number of the next request, of all senders.
    next: Arc<AtomicU64>,
    requests: u64,
    /// Of one request and the next, of all senders; zero for as fast as they are answered.
    pace: Duration,
    start: Instant,
    counts: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
}

impl Load {
    /// Begin to send to an address, with a key.
    pub(crate) async fn start(
        (signal, payload): (Signal, &Payload),
        (address, key): (&str, &str),
        plan: Plan,
    ) -> Result<Load> {
        let mut load = Load { counts: Arc::default(), over: Arc::default(), senders: JoinSet::new() };
        let frames: Arc<[Bytes]> = payload.frames.iter().map(|frame| Bytes::from(frame.clone())).collect();
        let pace = if plan.per_second == 0 { 0.0 } else { RECORDS as f64 / plan.per_second as f64 };
        let (next, start) = (Arc::new(AtomicU64::new(0)), Instant::now());
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS.min(plan.senders) {
            connections.push(connect(address).await?);
        }
        for connection in connections.iter().cycle().take(plan.senders) {
            let sender = Sender {
                connection: connection.clone(),
                frames: Arc::clone(&frames),
                url: format!("http://{address}{}", signal.path()),
                key: format!("Bearer {key}"),
                next: Arc::clone(&next),
                requests: plan.requests.unwrap_or(u64::MAX),
                pace: Duration::from_secs_f64(pace),
                start,
                counts: Arc::clone(&load.counts),
                over: Arc::clone(&load.over),
            };
            load.senders.spawn(sender.run());
        }
        Ok(load)
    }

    /// From now on it counts.
    pub(crate) fn begin(&self) {
        self.counts.store(true, Relaxed);
    }

    /// What counts ends now, and nothing new is sent.
    pub(crate) fn end(&self) {
        self.counts.store(false, Relaxed);
        self.over.store(true, Relaxed);
    }

    /// Wait for the last answer.
    pub(crate) async fn sent(self) -> Result<Sent> {
        let mut all = Sent::default();
        for sent in self.senders.join_all().await {
            let sent = sent?;
            all.records += sent.records;
            all.times.extend(sent.times);
        }
        all.times.sort_unstable();
        Ok(all)
    }
}

async fn connect(address: &str) -> Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
    stream.set_nodelay(true)?;
    let mut builder = Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(WINDOW_BYTES);
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

impl Sender {
    async fn run(mut self) -> Result<Sent> {
        let mut sent = Sent::default();
        while !self.over.load(Relaxed) {
            let number = self.next.fetch_add(1, Relaxed);
            if number >= self.requests {
                break;
            }
            let due = self.start + self.pace.saturating_mul(u32::try_from(number).unwrap_or(u32::MAX));
            tokio::time::sleep_until(due.into()).await;
            let begun = Instant::now();
            self.send(self.frames[number as usize % self.frames.len()].clone()).await?;
            if self.counts.load(Relaxed) {
                sent.records += RECORDS;
                sent.times.push(begun.elapsed());
            }
        }
        Ok(sent)
    }

    async fn send(&mut self, frame: Bytes) -> Result<()> {
        let request = Request::post(&self.url)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("grpc-encoding", "zstd")
            .header("authorization", &self.key)
            .body(Full::new(frame))?;
        self.connection.ready().await?;
        let answer = self.connection.send_request(request).await?;
        let of_headers = answer.headers().get("grpc-status").cloned();
        let body = answer.into_body().collect().await?;
        let status = body.trailers().and_then(|trailers| trailers.get("grpc-status").cloned()).or(of_headers);
        let message = body.to_bytes();
        ensure!(status.as_ref().is_some_and(|status| status == "0"), "a request was refused: gRPC status {status:?}");
        // A flag and a length come first. Whoever is sent zstd may answer in it.
        let answer = match (message.first(), message.get(5..).unwrap_or_default()) {
            (Some(1), packed) => zstd::bulk::decompress(packed, 1 << 20).context("an answer is no zstd")?,
            (_, plain) => plain.to_vec(),
        };
        // Of every signal it has the same form.
        let partial = ExportLogsServiceResponse::decode(&answer[..])?.partial_success.unwrap_or_default();
        ensure!(partial == ExportLogsPartialSuccess::default(), "records were refused: {partial:?}");
        Ok(())
    }
}
