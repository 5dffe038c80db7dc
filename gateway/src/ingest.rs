//! The service behind the OTLP face: admits, converts, batches, and answers when the rows are safe.
//!
//! Takes what `receive` decoded; hands rows to the batcher. Invariant: a success answer is given only after every row of the
//! request is in ClickHouse or on a synced disk; everything else is a refusal that says whether to try again.

use crate::admit::{Admission, Tenant};
use crate::batch::budget::Budget;
use crate::batch::{Batcher, Request};
use crate::convert::series::Seen;
use crate::convert::{Delivery, Outcome, Overflow, Sink, convert, count};
use crate::delivered::{Arrivals, Deliveries, Identity};
use crate::telemetry::metrics::SharedMetrics;
use http::{HeaderMap, HeaderValue};
use ollystack_receive::{Accepted, Event, Export, Message, OtlpService, Refusal, RequestHead};
use ollystack_schema::names::{HEADER_AGENT, HEADER_REDELIVERED, HEADER_SEQUENCE};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Larger messages are converted on a thread of their own, so that they hold up nobody's small ones.
const INLINE_BYTES_MAX: u64 = 128 << 10;

/// When to try again while too many rows wait, or the first attempt is under way: about the time that a block takes.
const BLOCK_RETRY_AFTER: Duration = Duration::from_secs(1);

/// When to try again while ClickHouse, or the spill too, does not take rows.
const STORAGE_RETRY_AFTER: Duration = Duration::from_secs(5);

/// An agent's id is a UUID; this leaves room and keeps strangers from filling a LowCardinality column with novels.
const AGENT_BYTES_MAX: usize = 64;

const SECONDS_PER_DAY: u32 = 24 * 3600;

/// One per gateway.
#[derive(Debug)]
pub(crate) struct Ingest<A> {
    pub(crate) admission: Arc<Admission>,
    pub(crate) batcher: Batcher,
    pub(crate) budget: Budget,
    pub(crate) seen: Arc<Seen>,
    pub(crate) arrivals: Arc<A>,
    pub(crate) deliveries: Deliveries,
    pub(crate) metrics: SharedMetrics,
}

/// Who sent a request, as its headers say.
#[derive(Debug)]
pub(crate) struct Caller {
    tenant: Arc<Tenant>,
    /// Empty when the sender is no agent.
    agent: Arc<str>,
    sequence: u64,
    redelivered: bool,
}

impl<A: Arrivals> OtlpService for Ingest<A> {
    type Caller = Caller;

    fn admit(&self, head: &RequestHead<'_>) -> Result<Caller, Refusal> {
        let tenant = self.admission.tenant(head.headers)?;
        let agent = header(head.headers, HEADER_AGENT)?.unwrap_or_default();
        let plain = |c: char| c.is_ascii_hexdigit() || c == '-';
        if agent.len() > AGENT_BYTES_MAX || !agent.chars().all(plain) {
            return Err(Refusal::Invalid(format!("header {HEADER_AGENT} must be a UUID")));
        }
        let sequence = match header(head.headers, HEADER_SEQUENCE)? {
            None => 0,
            Some(text) => text
                .parse()
                .map_err(|_| Refusal::Invalid(format!("header {HEADER_SEQUENCE} must be a whole number below 2^64")))?,
        };
        let redelivered = header(head.headers, HEADER_REDELIVERED)? == Some("1");
        Ok(Caller { tenant, agent: agent.into(), sequence, redelivered })
    }

    async fn export(&self, caller: Caller, request: Export) -> Result<Accepted, Refusal> {
        let signal = request.message.signal();
        let records = count(&request.message);
        if records == 0 {
            return Ok(Accepted::default());
        }
        let refused = |reason| self.metrics.reject(signal, reason, records);
        let tenant = Arc::clone(&caller.tenant);
        tenant.take(records).inspect_err(|_| refused("quota"))?;
        let ingested = self.ingest(caller, request.message, request.decoded_bytes).await;
        let outcome = ingested.inspect_err(|refusal| {
            tenant.give_back(records);
            refused(refusal.reason());
        })?;
        self.metrics.accept(&tenant.name, signal, outcome.accepted);
        for (reason, records) in &outcome.rejected {
            self.metrics.reject(signal, reason.name(), *records);
        }
        let rejected = i64::try_from(outcome.rejected_total()).unwrap_or(i64::MAX);
        Ok(Accepted { rejected, message: outcome.message(), headers: HeaderMap::new() })
    }

    fn observe(&self, event: Event) {
        self.metrics.observe(event);
    }
}

impl<A: Arrivals> Ingest<A> {
    async fn ingest(&self, caller: Caller, message: Message, bytes: u64) -> Result<Outcome, Refusal> {
        let identity = (!caller.agent.is_empty()).then(|| Identity {
            tenant: Arc::clone(&caller.tenant.name),
            agent: Arc::clone(&caller.agent),
            sequence: caller.sequence,
            signal: message.signal(),
        });
        let under_way = match &identity {
            None => None,
            Some(identity) => Some(self.deliveries.begin(identity).ok_or_else(|| {
                let message = "this delivery is under way already; send again later".to_owned();
                Refusal::Unavailable { retry_after: BLOCK_RETRY_AFTER, message }
            })?),
        };
        let repeated = identity.filter(|_| caller.redelivered);
        let arrived = match &repeated {
            None => 0,
            Some(identity) => self.arrivals.rows(identity).await.map_err(|why| {
                self.metrics.redelivered("deferred");
                unavailable(&format!("whether this delivery arrived before cannot be known now: {why}"))
            })?,
        };

        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let now = u32::try_from(seconds).unwrap_or(u32::MAX);
        let delivery = Delivery {
            tenant: caller.tenant.name.to_string(),
            agent: caller.agent.to_string(),
            sequence: caller.sequence,
            ingested_at: now,
            expires_at: now.saturating_add(caller.tenant.retention_days.saturating_mul(SECONDS_PER_DAY)),
        };
        let (mut outcome, rows) = self.convert(message, delivery, bytes).await?;
        if repeated.is_some() {
            // Fewer rows than it has: it was large enough for several blocks, and not all arrived. It is written whole, rather
            // some rows twice than some never.
            let known = arrived > 0 && arrived >= outcome.accepted;
            self.metrics.redelivered(if known { "known" } else { "new" });
            if known {
                return Ok(outcome);
            }
        }
        if rows.is_empty() {
            return Ok(outcome);
        }
        let request = Request { rows, under_way, token: repeated.as_ref().map(Identity::token) };
        let verdict = self.batcher.add(request).await.map_err(|_| unavailable("the gateway is stopping"))?;
        if !verdict.all_safe().await {
            return Err(unavailable("neither ClickHouse nor the gateway's disk takes rows at the moment"));
        }
        self.seen.remember(std::mem::take(&mut outcome.described), now);
        Ok(outcome)
    }

    async fn convert(
        &self,
        message: Message,
        delivery: Delivery,
        bytes: u64,
    ) -> Result<(Outcome, Vec<crate::batch::Rows>), Refusal> {
        let (mut sink, seen) = (Sink::new(self.budget.clone()), Arc::clone(&self.seen));
        let work = move || {
            let outcome = convert(message, &delivery, &seen, &mut sink)?;
            Ok((outcome, sink.finish()?))
        };
        let converted = if bytes <= INLINE_BYTES_MAX {
            work()
        } else {
            tokio::task::spawn_blocking(work).await.map_err(|_| unavailable("the request could not be converted"))?
        };
        converted.map_err(|overflow: Overflow| match overflow {
            Overflow::Now => {
                let message = format!("{overflow}; send again later");
                Refusal::Exhausted { retry_after: BLOCK_RETRY_AFTER, message }
            }
            Overflow::Ever { .. } => Refusal::TooLarge(overflow.to_string()),
            Overflow::Form(_) => {
                tracing::error!(%overflow, "a request is refused: this is a fault of the gateway, please report it");
                Refusal::Broken(overflow.to_string())
            }
        })
    }
}

fn unavailable(what: &str) -> Refusal {
    Refusal::Unavailable { retry_after: STORAGE_RETRY_AFTER, message: format!("{what}; send again later") }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Refusal> {
    let text = |value: &'a HeaderValue| {
        value.to_str().map_err(|_| Refusal::Invalid(format!("header {name} must be printable ASCII")))
    };
    headers.get(name).map(text).transpose()
}

#[cfg(test)]
mod tests;
