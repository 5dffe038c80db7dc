//! The admin port: `/metrics`, `/status` (the ledger as JSON), `/healthz` (the process lives) and `/readyz` (send it telemetry, or why
//! not).
//!
//! Ready means that what is accepted will be kept: the tables have been there once and the spill takes rows. While ClickHouse is
//! away a gateway stays ready and says what waits; one that has never reached it is not. Where Kafka takes the records the same holds of Kafka. Invariant: nothing here shows a secret
//! or needs one.

use crate::admit::Admission;
use crate::batch::budget::Budget;
use crate::migrate::Problem;
use crate::telemetry::ledger;
use crate::telemetry::metrics::SharedMetrics;
use crate::usage;
use crate::write::Writer;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

const CONNECTIONS_MAX: usize = 64;
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What stands between here and ClickHouse, if something does.
pub(crate) trait Broker: std::fmt::Debug + Send + Sync {
    /// Whether rows go there, and nowhere else.
    fn replaces_tables(&self) -> bool;

    /// Whether it can be worked with, or has been, and what is worth knowing about it.
    fn report(&self) -> (bool, Vec<String>);

    /// Messages that wait for it, and their bytes on disk.
    fn waiting(&self) -> (u64, u64);

    /// Records in them, by signal.
    fn waiting_records(&self) -> [u64; 3];
}

/// What the answers are made from.
#[derive(Debug)]
pub(crate) struct Status {
    /// Of whoever receives.
    pub(crate) admission: Option<Arc<Admission>>,
    pub(crate) writer: Arc<Writer>,
    pub(crate) broker: Option<Arc<dyn Broker>>,
    pub(crate) budget: Budget,
    pub(crate) metrics: SharedMetrics,
    /// Why the schema is not there; `migrate` sets it.
    pub(crate) schema_problem: Arc<Problem>,
    /// Whether the schema has been there since the start.
    pub(crate) schema_seen: AtomicBool,
    pub(crate) stop: CancellationToken,
}

impl Status {
    /// Whether to send telemetry here, and everything worth knowing about it.
    fn readiness(&self) -> (bool, Vec<String>) {
        let mut notes = Vec::new();
        let mut ready = true;
        if self.stop.is_cancelled() {
            ready = false;
            notes.push("stopping".to_owned());
        }
        if *self.writer.schema_ready().borrow() {
            self.schema_seen.store(true, Relaxed);
        } else {
            let needed = self.broker.as_ref().is_none_or(|broker| !broker.replaces_tables());
            ready &= !needed || self.schema_seen.load(Relaxed);
            let problem = self.schema_problem.get();
            notes.push(format!("schema: {}", problem.as_deref().unwrap_or("not applied yet")));
        }
        let (clickhouse, spill) = self.writer.trouble();
        if let Some(problem) = clickhouse {
            notes.push(format!("clickhouse: {problem}"));
        }
        if let Some(problem) = spill {
            ready = false;
            notes.push(format!("spill: {problem}"));
        }
        if let Some(problem) = self.admission.as_ref().and_then(|admission| admission.status().1) {
            notes.push(format!("keys: {problem}"));
        }
        if let Some(broker) = &self.broker {
            let (usable, more) = broker.report();
            ready &= usable;
            notes.extend(more);
            let (messages, bytes) = broker.waiting();
            if messages > 0 {
                notes.push(format!("spill: {messages} messages wait for Kafka, {bytes} bytes on disk"));
            }
        }
        let (blocks, bytes, set_aside) = self.writer.waiting();
        if blocks > 0 {
            notes.push(format!("spill: {blocks} blocks wait for ClickHouse, {bytes} bytes on disk"));
        }
        if set_aside > 0 {
            notes.push(format!("set aside: {set_aside} blocks that ClickHouse refuses; see the log"));
        }
        (ready, notes)
    }

    /// What became of every record.
    fn ledger(&self) -> ledger::Reading {
        let [mut spill, set_aside] = self.writer.waiting_records();
        let more = self.broker.as_ref().map_or([0; 3], |broker| broker.waiting_records());
        spill.iter_mut().zip(more).for_each(|(records, more)| *records += more);
        self.metrics.ledger.read(spill, set_aside)
    }

    fn metrics(&self) -> Result<String, std::fmt::Error> {
        // Enters what waits and the balance.
        self.ledger();
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let (blocks, bytes, set_aside) = self.writer.waiting();
        let (messages, more) = self.broker.as_ref().map_or((0, 0), |broker| broker.waiting());
        self.metrics.spill_entries.set(gauge(blocks + messages));
        self.metrics.spill_bytes.set(gauge(bytes + more));
        self.metrics.set_aside_entries.set(gauge(set_aside));
        self.metrics.pending_bytes.set(gauge(self.budget.used() as u64));
        let now = usage::now();
        if let Some(admission) = &self.admission {
            self.metrics.keys.set(gauge(admission.status().0 as u64));
        }
        for tenant in self.admission.iter().flat_map(|admission| admission.tenants()) {
            let (limits, spent) = (tenant.limits(), tenant.account.spent(now));
            self.metrics.show_quota(&tenant.name, "day", limits.bytes_per_day, spent.day);
            self.metrics.show_quota(&tenant.name, "month", limits.bytes_per_month, spent.month);
        }
        self.metrics.encode()
    }

    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if method != Method::GET {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served here\n".to_owned());
        }
        match path {
            "/healthz" => text(StatusCode::OK, "ok\n".to_owned()),
            "/readyz" => {
                let (ready, notes) = self.readiness();
                let (status, word) = match ready {
                    true => (StatusCode::OK, "ready"),
                    false => (StatusCode::SERVICE_UNAVAILABLE, "not ready"),
                };
                let notes: String = notes.iter().map(|note| format!("{note}\n")).collect();
                text(status, format!("{word}\n{notes}"))
            }
            "/status" => match serde_json::to_string(&self.ledger()) {
                Ok(json) => of_type(StatusCode::OK, "application/json", json),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
            },
            "/metrics" => match self.metrics() {
                Ok(body) => of_type(StatusCode::OK, OPEN_METRICS, body),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
            },
            _ => text(StatusCode::NOT_FOUND, "served here: /metrics /status /healthz /readyz\n".to_owned()),
        }
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    of_type(status, "text/plain; charset=utf-8", body)
}

fn of_type(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Serve until `end`.
pub(crate) async fn serve(listener: TcpListener, status: Arc<Status>, end: CancellationToken) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = match end.run_until_cancelled(listener.accept()).await {
            None => return,
            Some(accepted) => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the admin port cannot accept a connection; trying again");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // One more connection than there are slots is closed at once.
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else { continue };
        let status = Arc::clone(&status);
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = status.answer(request.method(), request.uri().path());
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            // Either end is how connections end here: nothing to report.
            let _ = timeout(CONNECTION_TIMEOUT, connection).await;
            drop(slot);
        });
    }
}

#[cfg(test)]
mod tests;
