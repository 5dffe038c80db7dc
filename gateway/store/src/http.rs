//! ClickHouse's HTTP interface: connections, limits, and each request's way to a lane and back.
//!
//! Requests come from curl, the `clickhouse` crate, Grafana and their like; statements go to `lanes`. Invariant: connections, the
//! bytes of bodies under way and every wait are bounded, and a client without the password costs no more than its head.

mod answer;
pub(crate) mod encoding;
mod request;

use crate::error::Refusal;
use crate::lanes::Lane;
use answer::Answer;
pub(crate) use answer::Server;
use http::{Method, StatusCode, request::Parts};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
pub(crate) use request::Gate;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// A head must be there by then; it is also how long an idle connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Each piece of a body must be there by then.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Request line and headers, statements in the URL included.
const HEAD_BYTES_MAX: usize = 512 << 10;
/// Bodies under way, in all, hold at most this many times what one may.
const BODIES: usize = 4;
/// 241, MEMORY_LIMIT_EXCEEDED.
const MEMORY_LIMIT_EXCEEDED: i32 = 241;

/// What requests share.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) server: Server,
    pub(crate) gate: Gate,
    pub(crate) inserts: Lane,
    pub(crate) queries: Lane,
    body_bytes: usize,
    /// Room for bodies, in KiB.
    room: Arc<Semaphore>,
}

impl Service {
    pub(crate) fn new(server: Server, gate: Gate, inserts: Lane, queries: Lane, body_bytes: usize) -> Service {
        let room = Arc::new(Semaphore::new(BODIES * body_bytes / 1024));
        Service { server, gate, inserts, queries, body_bytes, room }
    }

    async fn answer(&self, request: http::Request<Incoming>) -> Answer {
        let (head, body) = request.into_parts();
        let query = request::query_of(&head);
        let given = query.iter().find(|(key, _)| key == "query_id").map(|(_, id)| id.clone());
        let query_id = given.filter(|id| !id.is_empty()).unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
        match (&head.method, head.uri.path()) {
            (&Method::GET | &Method::HEAD, "/ping" | "/replicas_status") => answer::text(StatusCode::OK, "Ok.\n"),
            (&Method::GET | &Method::HEAD, "/") if !query.iter().any(|(key, _)| key == "query") => {
                answer::text(StatusCode::OK, "Ok.\n")
            }
            (&Method::GET | &Method::HEAD | &Method::POST, "/") => {
                match self.run(&head, query, body, &query_id).await {
                    Ok(answer) => answer,
                    Err(refusal) => self.server.refusal(&refusal, &query_id),
                }
            }
            (_, "/") => answer::text(StatusCode::METHOD_NOT_ALLOWED, "GET, HEAD and POST are served\n"),
            (_, path) => answer::text(
                StatusCode::NOT_FOUND,
                format!("There is no handle {path}\n\nUse / or /ping for health checks.\n"),
            ),
        }
    }

    async fn run(
        &self,
        head: &Parts,
        query: Vec<(String, String)>,
        body: Incoming,
        query_id: &str,
    ) -> Result<Answer, Refusal> {
        let received = Instant::now();
        self.gate.admit(head, &query)?;
        let (body, _room) = self.receive(body).await?;
        let request = request::understand(head, query, &body, self.body_bytes, query_id.to_owned())?;
        drop(body);
        let request::Request { work, insert, format, blocks, encoding } = request;
        let lane = if insert { &self.inserts } else { &self.queries };
        let (output, summary) = lane.run(work, received).await?;
        Ok(self.server.output(output, summary, query_id, &format, blocks, encoding))
    }

    /// The body, and the room that it takes.
    async fn receive(&self, mut body: Incoming) -> Result<(Vec<u8>, Vec<OwnedSemaphorePermit>), Refusal> {
        if body.size_hint().lower() > self.body_bytes as u64 {
            return Err(encoding::too_large(self.body_bytes));
        }
        let mut received = Vec::new();
        let mut room = Vec::new();
        let mut free = 0;
        loop {
            let frame = tokio::time::timeout(BODY_TIMEOUT, body.frame())
                .await
                // 209, SOCKET_TIMEOUT.
                .map_err(|_| Refusal::new(209, format!("Timeout: no data for {} s", BODY_TIMEOUT.as_secs())))?;
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|error| Refusal::new(210, format!("the body broke off: {error}")))?;
            let Ok(data) = frame.into_data() else { continue };
            if received.len() + data.len() > self.body_bytes {
                return Err(encoding::too_large(self.body_bytes));
            }
            while received.len() + data.len() > free {
                // In steps of a megabyte.
                let step = Arc::clone(&self.room).try_acquire_many_owned(1024).map_err(|_| {
                    let held = BODIES * self.body_bytes;
                    Refusal::new(MEMORY_LIMIT_EXCEEDED, format!("bodies under way hold {held} bytes; try again"))
                })?;
                room.push(step);
                free += 1 << 20;
            }
            received.extend_from_slice(&data);
        }
        Ok((received, room))
    }
}

/// Serve until `stop`; then finish what is under way within `grace`.
pub(crate) async fn serve(
    listener: TcpListener,
    service: Arc<Service>,
    connections_max: usize,
    stop: CancellationToken,
    grace: Duration,
) -> bool {
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(connections_max));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&listener, &places) => accepted,
        };
        let Some((stream, place)) = accepted else { continue };
        let service = Arc::clone(&service);
        let handler = hyper::service::service_fn(move |request| {
            let service = Arc::clone(&service);
            async move { Ok::<_, std::convert::Infallible>(service.answer(request).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), handler);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            let _place = place;
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended");
            }
        });
    }
    drop(listener);
    tokio::time::timeout(grace, graceful.shutdown()).await.is_ok()
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(tokio::net::TcpStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => {
            // Answers are small and whole; a delay would only add up.
            let _ = stream.set_nodelay(true);
            Some((stream, place))
        }
        Err(error) => {
            tracing::warn!(%error, "cannot accept a connection");
            // Out of descriptors, most likely: the loop must not spin until some are free.
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
    }
}
