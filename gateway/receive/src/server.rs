//! Listeners and connections: accepts, agrees TLS, and gives each connection to hyper with the limits set.
//!
//! Invariant: a connection is counted from accept to end, and none outlives the drain timeout after `stop`.

use crate::allowance::Allowance;
use crate::flood::Metered;
use crate::limits::{Limits, LimitsError, millis};
use crate::linger::Lingering;
use crate::slots::{Slots, TooMany};
use crate::{Event, OtlpService, Tls, TlsError, handle};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// A peer that vanished without a word is found out after the sum of both.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Streams that a client opened and reset again before they were looked at (CVE-2023-44487); beyond, the connection ends.
const PENDING_RESETS_MAX: usize = 20;
/// Streams that a client made us reset by breaking the protocol on them; beyond, the connection ends.
const LOCAL_RESETS_MAX: usize = 128;
/// Of one stream: answers are small.
const SEND_BUFFER_BYTES: usize = 64 << 10;

/// Why a server cannot be set up, or a listener cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The limits contradict each other.
    #[error(transparent)]
    Limits(#[from] LimitsError),
    /// The certificate or key cannot be used.
    #[error("tls: {0}")]
    Tls(#[from] TlsError),
    /// The address is taken or not ours.
    #[error("cannot listen on {address}: {source}; free the port or configure another address")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// What the kernel says.
        source: io::Error,
    },
}

/// Listen on an address, with an error that says which.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| Error::Bind { address, source })
}

/// One service behind any number of listeners, which share its limits.
pub struct Server<S> {
    shared: Arc<Shared<S>>,
}

impl<S> Clone for Server<S> {
    fn clone(&self) -> Self {
        Server { shared: Arc::clone(&self.shared) }
    }
}

pub(crate) struct Shared<S> {
    pub(crate) service: Arc<S>,
    pub(crate) limits: Limits,
    pub(crate) allowance: Allowance,
    tls: Option<TlsAcceptor>,
    slots: Slots,
}

/// What a connection does, so that an idle one can be told from a busy one, and a busy one from one that takes no answers.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    begun: AtomicUsize,
    /// Requests whose answer has left, or was given up.
    ended: AtomicUsize,
    /// Answers that are ready and have not left.
    unsent: AtomicUsize,
    admitted: AtomicBool,
}

impl Activity {
    fn read(&self) -> (usize, usize) {
        (self.begun.load(Relaxed), self.ended.load(Relaxed))
    }

    /// How many requests have ended, if there are answers that wait to leave.
    fn stuck_at(&self) -> Option<usize> {
        (self.unsent.load(Relaxed) > 0).then(|| self.ended.load(Relaxed))
    }
}

/// One request, from its head until its answer has left.
#[derive(Debug)]
pub(crate) struct InProgress {
    activity: Arc<Activity>,
    answered: bool,
}

impl InProgress {
    fn new(activity: Arc<Activity>) -> InProgress {
        activity.begun.fetch_add(1, Relaxed);
        InProgress { activity, answered: false }
    }

    /// A request was admitted: whoever is at the other end may stay.
    pub(crate) fn admitted(&self) {
        self.activity.admitted.store(true, Relaxed);
    }

    /// The answer is ready.
    pub(crate) fn answered(&mut self) {
        self.answered = true;
        self.activity.unsent.fetch_add(1, Relaxed);
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        if self.answered {
            self.activity.unsent.fetch_sub(1, Relaxed);
        }
        self.activity.ended.fetch_add(1, Relaxed);
    }
}

impl<S: OtlpService> Server<S> {
    /// Check the limits and read the certificate. With `tls`, every listener of this server speaks TLS only.
    pub fn new(service: Arc<S>, limits: Limits, tls: Option<&Tls>) -> Result<Server<S>, Error> {
        limits.check()?;
        let tls = tls.map(Tls::acceptor).transpose()?;
        let allowance = Allowance::new(limits.in_flight_bytes_max, limits.requests_in_flight_max);
        let slots = Slots::new(limits.connections_max, limits.connections_per_address_max);
        Ok(Server { shared: Arc::new(Shared { service, limits, allowance, tls, slots }) })
    }

    /// Serve until `stop`; then take no more connections, let requests in progress end, and return within the drain timeout.
    pub async fn serve(&self, listener: TcpListener, stop: CancellationToken) {
        let mut open = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(_) = open.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => self.accept(stream, peer, &mut open, &stop),
                    Err(error) => {
                        // Out of descriptors, or the client was gone before we looked: the listener itself is well.
                        tracing::warn!(%error, "cannot accept a connection; trying again");
                        sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
        drop(listener);
        let ended =
            timeout(millis(self.shared.limits.drain_timeout_ms), async { while open.join_next().await.is_some() {} });
        if ended.await.is_err() {
            tracing::warn!(connections = open.len(), "requests did not end within the drain timeout; cutting them");
            open.shutdown().await;
        }
    }

    fn accept(&self, stream: TcpStream, peer: SocketAddr, open: &mut JoinSet<()>, stop: &CancellationToken) {
        let shared = Arc::clone(&self.shared);
        let slot = match shared.slots.take(peer.ip()) {
            Ok(slot) => slot,
            Err(too_many) => {
                shared.service.observe(Event::ConnectionRefused(too_many));
                return;
            }
        };
        // Answers are small and wait for nobody; a failure here costs latency only.
        let _ = stream.set_nodelay(true);
        let stop = stop.clone();
        open.spawn(async move {
            shared.service.observe(Event::ConnectionOpened);
            let closed = Closed(&shared);
            match &shared.tls {
                None => connection(&shared, stream, peer, &stop).await,
                Some(tls) => match timeout(millis(shared.limits.handshake_timeout_ms), tls.accept(stream)).await {
                    Ok(Ok(stream)) => connection(&shared, stream, peer, &stop).await,
                    failed => {
                        tracing::debug!(%peer, failed = ?failed.map(|r| r.map(|_| ())), "tls was not agreed");
                        shared.service.observe(Event::HandshakeFailed);
                    }
                },
            }
            drop(closed);
            drop(slot);
        });
    }
}

/// Tells the service of a connection's end however it ends.
struct Closed<'a, S: OtlpService>(&'a Shared<S>);

impl<S: OtlpService> Drop for Closed<'_, S> {
    fn drop(&mut self) {
        self.0.service.observe(Event::ConnectionClosed);
    }
}

async fn connection<S, I>(shared: &Arc<Shared<S>>, io: I, peer: SocketAddr, stop: &CancellationToken)
where
    S: OtlpService,
    I: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let limits = &shared.limits;
    let activity = Arc::new(Activity::default());
    let service = service_fn(|request| {
        let (shared, in_progress) = (Arc::clone(shared), InProgress::new(Arc::clone(&activity)));
        // On the heap, so that what a request needs room for is free before its answer leaves.
        Box::pin(async move { Ok::<_, Infallible>(handle::answer(&shared, in_progress, peer, request).await) })
    });
    let builder = builder(limits);
    let flooded = Arc::new(AtomicBool::new(false));
    let io = TokioIo::new(Lingering::new(Metered::new(io, Arc::clone(&flooded))));
    let mut connection = pin!(builder.serve_connection(io, service));
    let mut deadline = Instant::now() + millis(limits.header_timeout_ms);
    let mut last = (0, 0);
    let mut closing = false;
    let mut look = interval(millis(limits.body_timeout_ms));
    // Two looks are that far apart, however late the first one came.
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stuck_at = None;
    loop {
        tokio::select! {
            // What has come is read before anybody is held to have been silent: under load it may be us who are late.
            biased;
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    if flooded.load(Relaxed) {
                        shared.service.observe(Event::ConnectionRefused(TooMany::Frames));
                    }
                    tracing::debug!(%peer, %error, "connection ended");
                }
                return;
            }
            () = stop.cancelled(), if !closing => {
                closing = true;
                connection.as_mut().graceful_shutdown();
            }
            () = sleep_until(deadline) => {
                let (begun, ended) = activity.read();
                let idle = begun == ended;
                let admitted = activity.admitted.load(Relaxed);
                // Who was never admitted has nothing but refusals to wait for.
                if idle && (closing || !admitted) {
                    return;
                }
                if idle && last == (begun, ended) && !closing {
                    closing = true;
                    connection.as_mut().graceful_shutdown();
                }
                last = (begun, ended);
                let pause_ms = if admitted { limits.idle_timeout_ms } else { limits.header_timeout_ms };
                deadline = Instant::now() + millis(pause_ms);
            }
            _ = look.tick() => {
                let before = std::mem::replace(&mut stuck_at, activity.stuck_at());
                if stuck_at.is_some() && stuck_at == before {
                    tracing::debug!(%peer, "answers were not taken; closing the connection");
                    return;
                }
            }
        }
    }
}

fn builder(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(millis(limits.header_timeout_ms))
        .max_buf_size(limits.header_bytes_max as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_per_connection_max)
        .max_header_list_size(limits.header_bytes_max)
        .initial_stream_window_size(limits.window_bytes)
        .initial_connection_window_size(limits.window_bytes)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .max_local_error_reset_streams(LOCAL_RESETS_MAX)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    builder
}
