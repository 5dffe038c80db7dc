//! Frozen batches from the buffer to the endpoint, oldest first, a few at a time.
//!
//! A batch stays on lease until its fate is known: delivered or refused for good (acked), or not yet (tried again through the
//! [`Gate`]). Invariant: a batch leaves the buffer only after the endpoint's answer, and every attempt after one that may have
//! arrived says so.

use crate::backoff::Gate;
use crate::books::measure;
use crate::call::{Cause, Client, Failure, Taken, Verdict};
use crate::deferred::Deferred;
use crate::frozen::{self, Encoding, Frozen, Unknown};
use crate::{ApiKey, Config, Error, Status};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http::Uri;
use ollystack_buffer::{Advice, Buffer, EntryId, Stored};
use ollystack_record::{DropReason, Ledger};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// After this many failures in a row, and its multiples, the log says so again.
const SAY_EVERY: u32 = 20;
/// Pause after the buffer could not be read.
const BUFFER_PAUSE: Duration = Duration::from_secs(1);

/// Send until `stop`, then for the drain timeout what the endpoint takes, and leave the rest on disk. `agent` is the agent's UUID.
pub async fn send(
    config: Config,
    key: ApiKey,
    agent: String,
    buffer: Buffer,
    ledger: Arc<Ledger>,
    stop: CancellationToken,
    status: Arc<Status>,
) -> Result<(), Error> {
    config.check()?;
    let client = Client::new(&config, &key, &agent, Arc::clone(&status))?;
    if !key.is_empty() && is_in_the_clear(&config.endpoint) {
        tracing::warn!(
            endpoint = config.endpoint,
            "the API key and all data go over the network unencrypted; use https://"
        );
    }
    let sender = Sender {
        gate: Gate::new(Duration::from_millis(config.retry_initial_ms), Duration::from_millis(config.retry_max_ms)),
        retry_person: Duration::from_millis(config.retry_key_ms),
        endpoint: config.endpoint,
        client,
        started: Instant::now(),
        encoding: AtomicU8::new(0),
        has_newer: AtomicBool::new(false),
        buffer,
        ledger,
        status,
    };
    let drain = Duration::from_millis(config.drain_timeout_ms);
    let mut pump = std::pin::pin!(sender.pump(config.in_flight_max, &stop));
    tokio::select! {
        () = &mut pump => return Ok(()),
        () = stop.cancelled() => sender.gate.close(),
    }
    if timeout(drain, pump).await.is_err() {
        tracing::info!("export.drain_timeout_ms is over; the rest stays on disk");
    }
    Ok(())
}

/// Plain HTTP to another host.
fn is_in_the_clear(endpoint: &str) -> bool {
    let Ok(uri) = endpoint.parse::<Uri>() else { return false };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let local = host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback());
    uri.scheme_str() == Some("http") && !local
}

struct Sender {
    client: Client,
    endpoint: String,
    gate: Gate,
    retry_person: Duration,
    /// No attempt of an earlier process was sent later.
    started: Instant,
    /// How many of [`ENCODINGS`] the endpoint did not understand.
    encoding: AtomicU8,
    /// Whether it was said that batches of a later version wait.
    has_newer: AtomicBool,
    buffer: Buffer,
    ledger: Arc<Ledger>,
    status: Arc<Status>,
}

/// Best first; the first is how batches are stored.
const ENCODINGS: [Encoding; 3] = [Encoding::Zstd, Encoding::Gzip, Encoding::Identity];

impl Sender {
    /// Deliver what there is; after `stop`, until there is nothing left that can be delivered now.
    async fn pump(&self, in_flight_max: usize, stop: &CancellationToken) {
        let mut deliveries = FuturesUnordered::new();
        let mut deferred = Deferred::default();
        loop {
            let mut empty = false;
            while deliveries.len() < in_flight_max && !empty && !deferred.is_full() {
                match self.buffer.next().await {
                    Ok(Some(stored)) => {
                        let known = deferred.leased(stored.id);
                        // The attempt of an earlier process, unless it was leased before in this one.
                        let doubtful_since = known.unwrap_or(stored.redelivered.then_some(self.started));
                        deliveries.push(self.deliver(stored, doubtful_since));
                    }
                    Ok(None) => {
                        deferred.nothing_left();
                        empty = true;
                    }
                    Err(error) if error.advice() == Advice::Stop => return,
                    Err(error) => {
                        tracing::warn!(%error, "the disk buffer cannot be read; trying again");
                        sleep(BUFFER_PAUSE).await;
                        empty = true;
                    }
                }
            }
            if deliveries.is_empty() && stop.is_cancelled() {
                return;
            }
            tokio::select! {
                Some(fate) = deliveries.next(), if !deliveries.is_empty() => match fate {
                    Fate::Settled => {}
                    Fate::Deferred { id, due, doubtful_since } => deferred.add(id, due, doubtful_since),
                    Fate::Abandoned => {
                        // Stopping, and the endpoint takes nothing: what is under way may end, nothing new begins.
                        while deliveries.next().await.is_some() {}
                        return;
                    }
                },
                id = deferred.due() => self.buffer.release(id),
                () = self.buffer.changed(), if empty && deliveries.len() < in_flight_max => {}
                () = stop.cancelled(), if deliveries.is_empty() => {}
            }
        }
    }

    /// One batch to its end, or until it has to wait alone. `doubtful_since` is when the last attempt was sent that may have arrived.
    async fn deliver(&self, stored: Stored, mut doubtful_since: Option<Instant>) -> Fate {
        let Stored { id, entry, .. } = stored;
        let (signal, records) = (ollystack_record::Signal::from_u8(entry.signal), u64::from(entry.records));
        let frozen = match Frozen::parse(entry) {
            Ok(frozen) => frozen,
            Err(Unknown::Newer { version }) => return self.leave(id, version).await,
            Err(Unknown::Malformed) => {
                tracing::error!(id = id.0, "a stored batch is malformed; it is dropped");
                if let Some(signal) = signal {
                    self.ledger.dropped(signal, DropReason::BufferCorrupt, records);
                }
                return self.finish(id).await;
            }
        };
        loop {
            let Some(pass) = self.gate.pass().await else {
                self.buffer.release(id);
                return Fate::Abandoned;
            };
            let tried = self.encoding.load(Relaxed);
            let encoding = ENCODINGS.get(usize::from(tried)).copied().unwrap_or(Encoding::Identity);
            let failure = match self.client.call(&frozen, encoding, id.0, doubtful_since).await {
                Ok(taken) => {
                    self.delivered(&frozen, &taken);
                    return self.finish(id).await;
                }
                Err(failure) => failure,
            };
            if failure.may_have_arrived {
                // The last such attempt: before the next is written, every one before it is over.
                doubtful_since = Some(failure.sent);
            }
            let (state, asked, least) = match failure.verdict {
                Verdict::Encoding => {
                    // Others may have found out meanwhile.
                    let _ = self.encoding.compare_exchange(tried, tried + 1, Relaxed, Relaxed);
                    continue;
                }
                Verdict::Drop => {
                    // It was not for its encoding: begin with the best again.
                    self.encoding.store(0, Relaxed);
                    self.refused(&frozen, &failure);
                    return self.finish(id).await;
                }
                Verdict::Retry(asked) if failure.of_this_alone => {
                    self.gate.success();
                    return Fate::Deferred { id, due: Instant::now() + asked.unwrap_or_default(), doubtful_since };
                }
                Verdict::Retry(Some(asked)) => ("throttled", Some(asked), Duration::ZERO),
                Verdict::Retry(None) => ("unreachable", None, Duration::ZERO),
                Verdict::Person(Cause::Key) => ("key refused", None, self.retry_person),
                Verdict::Person(Cause::Address) => ("not OTLP", None, self.retry_person),
            };
            let (failures, pause) = self.gate.failure(&pass, asked, least);
            self.complain(&failure, state, failures, pause);
        }
    }

    /// A batch that a later version of the agent wrote waits on disk for it.
    async fn leave(&self, id: EntryId, version: u8) -> Fate {
        if !self.has_newer.swap(true, Relaxed) {
            tracing::error!(
                version,
                known = frozen::VERSION,
                "batches on the disk buffer were written by a newer version of the agent; they stay there until it is \
                 full: run that version again to send them"
            );
        }
        if let Err(error) = self.buffer.leave(id).await {
            tracing::debug!(%error, id = id.0, "the disk buffer was closed meanwhile, and keeps what it has");
        }
        Fate::Settled
    }

    async fn finish(&self, id: EntryId) -> Fate {
        if let Err(error) = self.buffer.ack(vec![id]).await {
            tracing::warn!(%error, id = id.0, "a delivered batch could not be acked; it will be sent again, marked as such");
        }
        measure(&self.buffer, &self.ledger);
        Fate::Settled
    }

    fn delivered(&self, frozen: &Frozen, taken: &Taken) {
        let rejected = taken.rejected.min(frozen.records);
        self.ledger.sent(frozen.signal, frozen.records - rejected);
        self.ledger.bytes_out(frozen.signal, frozen.payload.len() as u64);
        if rejected > 0 {
            self.ledger.dropped(frozen.signal, DropReason::PartialSuccess, rejected);
            let (signal, of) = (frozen.signal.name(), frozen.records);
            tracing::error!(signal, rejected, of, message = taken.message, "the endpoint rejected a part of a batch");
        } else if !taken.message.is_empty() {
            tracing::warn!(message = taken.message, "the endpoint warns");
        }
        self.status.success();
        if self.gate.success() > 0 {
            tracing::info!(endpoint = self.endpoint, "the endpoint takes batches again");
        }
    }

    fn refused(&self, frozen: &Frozen, failure: &Failure) {
        self.gate.success();
        self.ledger.dropped(frozen.signal, DropReason::Refused, frozen.records);
        let (signal, records) = (frozen.signal.name(), frozen.records);
        tracing::error!(
            endpoint = self.endpoint,
            signal,
            records,
            error = failure.message,
            "a batch was refused for good"
        );
        self.status.refused(failure.message.clone());
    }

    fn complain(&self, failure: &Failure, state: &'static str, failures: u32, pause: Duration) {
        let check = match failure.verdict {
            Verdict::Person(Cause::Key) => "; check OLLYSTACK_API_KEY, nothing is lost until the buffer is full",
            Verdict::Person(Cause::Address) => "; check OLLYSTACK_ENDPOINT: an OTLP/gRPC port, usually 4317",
            _ => "",
        };
        let error = format!("{}{check}", failure.message);
        if failures == 1 || failures.is_multiple_of(SAY_EVERY) {
            let (endpoint, pause_ms) = (&self.endpoint, pause.as_millis() as u64);
            tracing::warn!(endpoint, failures, pause_ms, error, "batches cannot be sent; they wait on disk");
        }
        self.status.failure(state, failures, error);
    }
}

/// What became of a delivery.
#[derive(Debug)]
enum Fate {
    /// Delivered, refused for good, or left to a later version.
    Settled,
    /// Not now; others pass meanwhile.
    Deferred { id: EntryId, due: Instant, doubtful_since: Option<Instant> },
    /// Stopping: it stays on disk.
    Abandoned,
}
