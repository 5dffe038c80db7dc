//! The service behind the OTLP face: admits, converts, batches, and answers when the rows are safe.
//!
//! Takes what `receive` decoded; hands rows to the batcher. Invariant: a success answer is given only after every row of the
//! request is in ClickHouse or on a synced disk; everything else is a refusal that says whether to try again.

mod caller;

use crate::admit::Admission;
use crate::batch::budget::{Budget, Waiting};
use crate::batch::share::Fate;
use crate::batch::{Batcher, Kept, Request, Rows};
use crate::convert::series::Seen;
use crate::convert::{Delivery, LABELS, Outcome, Overflow, Sink, convert, count};
use crate::delivered::deadline::{Deadline, Terms};
use crate::delivered::{Arrivals, Deliveries, Identity};
use crate::telemetry::ledger::Held;
use crate::telemetry::metrics::SharedMetrics;
pub(crate) use caller::Caller;
use caller::{Denial, Effect};
use http::HeaderMap;
use ollystack_receive::{Accepted, Allowance, Event, Export, OtlpService, Refusal, RequestHead};
use ollystack_schema::names::HEADER_AGENT;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Larger messages are converted on a thread of their own, so that they hold up nobody's small ones.
const INLINE_BYTES_MAX: u64 = 128 << 10;

/// When to try again while too many rows wait, or the first attempt is under way: about the time that a block takes.
const BLOCK_RETRY_AFTER: Duration = Duration::from_secs(1);

/// When to try again while ClickHouse, or the spill too, does not take rows.
const STORAGE_RETRY_AFTER: Duration = Duration::from_secs(5);

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
    pub(crate) terms: Terms,
    pub(crate) metrics: SharedMetrics,
}

impl<A: Arrivals> OtlpService for Ingest<A> {
    type Caller = Caller;

    fn admit(&self, head: &RequestHead<'_>) -> Result<Caller, Refusal> {
        let of_agent = head.headers.contains_key(HEADER_AGENT);
        let caller = Caller::new(head.headers, &self.admission, self.terms);
        caller.map_err(|denial| if of_agent { denial.for_agent() } else { denial.refusal })
    }

    fn allowance<'a>(&'a self, caller: &'a Caller) -> Option<&'a Allowance> {
        Some(caller.tenant.allowance())
    }

    fn untouched(&self, caller: &Caller, refusal: Refusal) -> Refusal {
        if caller.agent.is_some() { Denial::from(refusal).for_agent() } else { refusal }
    }

    async fn export(&self, caller: Caller, request: Export) -> Result<Accepted, Refusal> {
        let of_agent = caller.agent.is_some();
        let headers = if of_agent { caller::clock() } else { HeaderMap::new() };
        let signal = request.message.signal();
        let records = count(&request.message);
        if records == 0 {
            return Ok(Accepted { headers, ..Accepted::default() });
        }
        let tenant = Arc::clone(&caller.tenant);
        let mut held = self.metrics.ledger.receive(&tenant.name, signal, records);
        let taken = tenant.take(records).map_err(|refusal| {
            self.metrics.reject(signal, "quota", records);
            Denial::from(refusal)
        });
        let ingested = match taken {
            Ok(()) => {
                let ingested = self.ingest(caller, request, &mut held).await;
                ingested.inspect_err(|denial| {
                    tenant.give_back(records);
                    self.metrics.reject(signal, denial.refusal.reason(), records);
                    held.split(records).refused(denial.refusal.reason());
                })
            }
            Err(denial) => {
                held.refused("quota");
                Err(denial)
            }
        };
        let outcome = ingested.map_err(|denial| if of_agent { denial.for_agent() } else { denial.refusal })?;
        self.metrics.accept(&tenant.name, signal, outcome.accepted);
        for (reason, records) in &outcome.rejected {
            self.metrics.reject(signal, reason.name(), *records);
        }
        let rejected = i64::try_from(outcome.rejected_total()).unwrap_or(i64::MAX);
        Ok(Accepted { rejected, message: outcome.message(), headers })
    }

    fn observe(&self, event: Event) {
        self.metrics.observe(event);
    }
}

impl<A: Arrivals> Ingest<A> {
    /// What of `held` is left after a denial, nobody has taken.
    async fn ingest(&self, caller: Caller, request: Export, held: &mut Held) -> Result<Outcome, Denial> {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let now = u32::try_from(seconds).unwrap_or(u32::MAX);
        let identity = caller.identity(request.message.signal());
        let under_way = match &identity {
            None => None,
            Some(identity) => Some(self.deliveries.begin(identity, now).ok_or_else(|| {
                Denial::of_this(BLOCK_RETRY_AFTER, "an earlier attempt of this delivery is under way")
            })?),
        };
        let age = caller.agent.as_ref().and_then(|agent| agent.age);
        let known = match identity.as_ref().zip(age) {
            Some((identity, age)) => self.arrived(identity, age).await?,
            None => false,
        };
        let (agent, sequence) = identity.map_or_else(Default::default, |of| (of.agent.to_string(), of.sequence));
        let delivery = Delivery {
            tenant: caller.tenant.name.to_string(),
            agent,
            sequence,
            ingested_at: now,
            expires_at: now.saturating_add(caller.tenant.retention_days.saturating_mul(SECONDS_PER_DAY)),
        };
        let (mut outcome, mut rows) = self.convert(request, delivery, &caller.tenant.waiting).await?;
        let begin_by = caller.agent.map(|agent| agent.begin_by);
        if known {
            // The records are there; whether labels that came with them are, nobody knows, and twice does not show.
            rows.retain(|rows| rows.table == LABELS);
        }
        if !rows.is_empty() {
            self.in_time(begin_by)?;
        }
        for (reason, records) in &outcome.rejected {
            held.split(*records).rejected(reason.name());
        }
        if known {
            held.split(outcome.accepted).repeated();
        }
        for rows in rows.iter_mut().filter(|rows| rows.table != LABELS) {
            rows.held = Some(held.split(u64::from(rows.count)));
        }
        if rows.is_empty() {
            return Ok(outcome);
        }
        let kept = under_way.zip(begin_by);
        let kept = kept.map(|(under_way, begin_by)| Kept { under_way, begin_by, repeated: age.is_some() });
        let verdict =
            self.batcher.add(Request { rows, kept }).await.map_err(|_| unavailable("the gateway is stopping"))?;
        let (effect, retry_after) = match verdict.fate().await {
            Fate::Safe => {
                self.seen.remember(std::mem::take(&mut outcome.described), now);
                return Ok(outcome);
            }
            // Soon: before the first rows the tables may not be there yet, and agents by themselves ask ever less often.
            Fate::Untouched => (Effect::None, BLOCK_RETRY_AFTER),
            Fate::Doubtful => (Effect::Perhaps, STORAGE_RETRY_AFTER),
        };
        let message = "rows cannot be written at the moment; send again later".to_owned();
        Err(Denial { refusal: Refusal::Unavailable { retry_after, message }, effect })
    }

    /// Whether a delivery that may have been made before was. Until an earlier attempt is over nobody can know that it was not.
    async fn arrived(&self, identity: &Identity, age: Duration) -> Result<bool, Denial> {
        let deferred = |denial| {
            self.metrics.redelivered("deferred");
            denial
        };
        let arrived = self.arrivals.arrived(identity, age).await.map_err(|why| {
            let what = format!("whether this delivery arrived before cannot be known now: {why}");
            deferred(Denial::from(unavailable(&what)))
        })?;
        let left = self.terms.settled_within().saturating_sub(age);
        if !arrived && !left.is_zero() {
            return Err(deferred(Denial::of_this(left, "an earlier attempt of this delivery may still be written")));
        }
        self.metrics.redelivered(if arrived { "known" } else { "new" });
        Ok(arrived)
    }

    /// Rows that come late leave no time to those that they are gathered with.
    fn in_time(&self, begin_by: Option<Deadline>) -> Result<(), Denial> {
        match begin_by {
            Some(begin_by) if !self.terms.leaves_time(begin_by) => Err(Denial::late()),
            _ => Ok(()),
        }
    }

    /// From the message, whose bytes are free again then, to rows, whose bytes are held until they are safe: of all and of the tenant.
    async fn convert(
        &self,
        request: Export,
        delivery: Delivery,
        waiting: &Waiting,
    ) -> Result<(Outcome, Vec<Rows>), Refusal> {
        let (mut sink, seen) = (Sink::new(self.budget.of(waiting)), Arc::clone(&self.seen));
        let Export { message, held, decoded_bytes, .. } = request;
        let work = move || {
            let outcome = convert(message, &delivery, &seen, &mut sink)?;
            drop(held);
            Ok((outcome, sink.finish()?))
        };
        let converted = if decoded_bytes <= INLINE_BYTES_MAX {
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

#[cfg(test)]
mod tests;
