//! The service behind the OTLP face: admits, converts, batches, and answers when the rows are safe.
//!
//! Takes what `receive` read; hands rows to the batcher. Invariant: a success answer is given only after every row of the
//! request is in ClickHouse, or in a topic of Kafka where rows go by way of one, or on a synced disk; everything else is a refusal that says whether to try again.

mod caller;
#[cfg(feature = "kafka")]
mod log;

use crate::admit::Admission;
use crate::batch::budget::{Budget, Waiting};
use crate::batch::share::Fate;
use crate::batch::{Batcher, Kept, Request};
use crate::convert::series::Seen;
use crate::convert::{Converted, Counted, Delivery, Error, LABELS, Outcome, Overflow};
use crate::delivered::deadline::{Deadline, Terms};
use crate::delivered::{Arrivals, Deliveries, Identity};
use crate::telemetry::ledger::Held;
use crate::telemetry::metrics::SharedMetrics;
use crate::usage::charge::Charge;
use crate::usage::{self, Counts};
pub(crate) use caller::Caller;
use caller::{Denial, Effect};
use http::HeaderMap;
use ollystack_receive::{Accepted, Allowance, Event, Export, OtlpService, Refusal, RequestHead, Wire};
use ollystack_schema::names::HEADER_AGENT;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Larger messages are converted on a thread of their own, so that they hold up nobody's small ones: a thousand records, 2 ms.
const INLINE_BYTES_MAX: u64 = 256 << 10;

/// When to try again while too many rows wait, or the first attempt is under way: about the time that a block takes.
const BLOCK_RETRY_AFTER: Duration = Duration::from_secs(1);

/// When to try again while ClickHouse, or the spill too, does not take rows.
const STORAGE_RETRY_AFTER: Duration = Duration::from_secs(5);

/// Why records are rejected of a signal that their tenant may not send.
const NOT_ALLOWED: &str = "signal";

const SECONDS_PER_DAY: u32 = 24 * 3600;

/// Where accepted records go.
#[derive(Debug)]
pub(crate) enum Way {
    /// As rows to the tables.
    Tables(Batcher),
    /// As messages to topics.
    #[cfg(feature = "kafka")]
    Log(Arc<crate::kafka::produce::Producer>),
}

/// One per gateway.
#[derive(Debug)]
pub(crate) struct Ingest<A> {
    pub(crate) admission: Arc<Admission>,
    pub(crate) way: Way,
    pub(crate) budget: Budget,
    pub(crate) seen: Arc<Seen>,
    pub(crate) arrivals: Arc<A>,
    pub(crate) deliveries: Deliveries,
    pub(crate) terms: Terms,
    pub(crate) metrics: SharedMetrics,
}

impl<A: Arrivals> OtlpService for Ingest<A> {
    type Caller = Caller;
    type Body = Wire;

    fn admit(&self, head: &RequestHead<'_>) -> Result<Caller, Refusal> {
        let of_agent = head.headers.contains_key(HEADER_AGENT);
        let refusal = |denial: Denial| if of_agent { denial.for_agent() } else { denial.refusal };
        let caller = Caller::new(head.headers, &self.admission, self.terms).map_err(refusal)?;
        let (tenant, now) = (&caller.tenant, usage::now());
        tenant.within_budget(now).map_err(|over| {
            let counts = Counts { requests_refused: 1, ..Counts::default() };
            tenant.account.add(now, head.signal, tenant.limits().plan, counts);
            refusal(over.into()).marked(tenant.headers(now, of_agent))
        })?;
        Ok(caller)
    }

    fn allowance<'a>(&'a self, caller: &'a Caller) -> Option<&'a Allowance> {
        Some(caller.tenant.allowance())
    }

    fn untouched(&self, caller: &Caller, refusal: Refusal) -> Refusal {
        if caller.agent.is_some() { Denial::from(refusal).for_agent() } else { refusal }
    }

    async fn export(&self, caller: Caller, request: Export<Wire>) -> Result<Accepted, Refusal> {
        let of_agent = caller.agent.is_some();
        let tenant = Arc::clone(&caller.tenant);
        let headers = || {
            let mut headers = if of_agent { caller::clock() } else { HeaderMap::new() };
            headers.extend(tenant.headers(usage::now(), of_agent));
            headers
        };
        let wire_bytes = request.wire_bytes;
        let request = Counted::new(request).map_err(|refusal| self.untouched(&caller, refusal))?;
        let Counted { signal, records, bytes, .. } = request;
        if records == 0 {
            return Ok(Accepted { headers: headers(), ..Accepted::default() });
        }
        let mut held = self.metrics.ledger.receive(&tenant.name, signal, records);
        let charge = Charge {
            account: Arc::clone(&tenant.account),
            now: usage::now(),
            signal,
            plan: tenant.limits().plan,
            records,
            bytes,
            wire_bytes,
            comes_again: of_agent,
        };
        let charge = charge.open();
        if let Err(message) = tenant.may_send(signal) {
            // For good, and said so: a refusal that may be tried again would keep an agent from sending what it may.
            self.metrics.reject(signal, NOT_ALLOWED, records);
            held.rejected(NOT_ALLOWED);
            charge.rejected();
            let rejected = i64::try_from(records).unwrap_or(i64::MAX);
            return Ok(Accepted { rejected, message, headers: headers(), ..Accepted::default() });
        }
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
        let Ingested { outcome, known, values_cut } = match ingested {
            Ok(ingested) => ingested,
            Err(denial) => {
                charge.refused();
                let refusal = if of_agent { denial.for_agent() } else { denial.refusal };
                return Err(refusal.marked(tenant.headers(usage::now(), of_agent)));
            }
        };
        let bytes = if known { charge.known() } else { charge.taken(outcome.rejected_total()) };
        self.metrics.accept(&tenant.name, signal, outcome.accepted, bytes);
        for (reason, records) in &outcome.rejected {
            self.metrics.reject(signal, reason.name(), *records);
        }
        let rejected = i64::try_from(outcome.rejected_total()).unwrap_or(i64::MAX);
        Ok(Accepted { rejected, message: outcome.message(), headers: headers(), values_cut })
    }

    fn observe(&self, event: Event) {
        self.metrics.observe(event);
    }
}

/// What became of a request that is safe.
struct Ingested {
    outcome: Outcome,
    /// It had arrived before.
    known: bool,
    /// Of its values.
    values_cut: u64,
}

impl<A: Arrivals> Ingest<A> {
    /// What of `held` is left after a denial, nobody has taken.
    async fn ingest(&self, caller: Caller, request: Counted, held: &mut Held) -> Result<Ingested, Denial> {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let now = u32::try_from(seconds).unwrap_or(u32::MAX);
        let identity = caller.identity(request.signal);
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
            treatment: caller.tenant.treatment(caller.agent.is_some()),
        };
        #[cfg_attr(not(feature = "kafka"), allow(clippy::infallible_destructuring_match))]
        let batcher = match &self.way {
            Way::Tables(batcher) => batcher,
            #[cfg(feature = "kafka")]
            Way::Log(producer) => {
                let begin_by = caller.agent.map(|agent| agent.begin_by);
                let sent = log::Sent { delivery, kept: under_way.zip(begin_by), repeated: age.is_some() };
                return self.log(producer, request, sent, &caller.tenant.waiting, held).await;
            }
        };
        let converted = self.convert(request, delivery, &caller.tenant.waiting).await?;
        let Converted { mut outcome, mut rows, values_cut } = converted;
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
        held.split(outcome.sampled_out).sampled_out();
        if known {
            held.split(outcome.accepted).repeated();
        }
        for rows in rows.iter_mut().filter(|rows| rows.table != LABELS) {
            rows.held = Some(held.split(u64::from(rows.columns.rows())));
        }
        if rows.is_empty() {
            return Ok(Ingested { outcome, known, values_cut });
        }
        let kept = under_way.zip(begin_by);
        let kept = kept.map(|(under_way, begin_by)| Kept { under_way, begin_by, repeated: age.is_some() });
        let verdict = batcher.add(Request { rows, kept }).await.map_err(|_| unavailable("the gateway is stopping"))?;
        not_safe(verdict.fate().await)?;
        self.seen.remember(std::mem::take(&mut outcome.described), now);
        Ok(Ingested { outcome, known, values_cut })
    }

    /// Whether a delivery that may have been made before was. Until an earlier attempt is over nobody can know that it was not.
    async fn arrived(&self, identity: &Identity, age: Duration) -> Result<bool, Denial> {
        let deferred = |denial| {
            self.metrics.redelivered("deferred");
            denial
        };
        let arrived = match &self.way {
            Way::Tables(_) => self.arrivals.arrived(identity, age).await,
            // Its consumer finds out.
            #[cfg(feature = "kafka")]
            Way::Log(_) => Ok(false),
        };
        let arrived = arrived.map_err(|why| {
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

    /// From the request, whose bytes are free again then, to rows, whose bytes are held until they are safe: of all and of the tenant.
    async fn convert(&self, request: Counted, delivery: Delivery, waiting: &Waiting) -> Result<Converted, Refusal> {
        let (budget, seen) = (self.budget.of(waiting), Arc::clone(&self.seen));
        let bytes = request.bytes;
        aside(bytes, move || request.convert(&delivery, &seen, &budget)).await
    }
}

/// Work on a request of so many bytes where it holds up nobody.
async fn aside<T: Send + 'static>(
    bytes: u64,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Refusal> {
    let done = if bytes <= INLINE_BYTES_MAX {
        work()
    } else {
        tokio::task::spawn_blocking(work).await.map_err(|_| unavailable("the request could not be converted"))?
    };
    done.map_err(|error| match error {
        Error::Refused(refusal) => refusal,
        Error::Overflow(Overflow::Now) => {
            let message = format!("{}; send again later", Overflow::Now);
            Refusal::Exhausted { retry_after: BLOCK_RETRY_AFTER, message }
        }
        Error::Overflow(overflow @ Overflow::Ever { .. }) => Refusal::TooLarge(overflow.to_string()),
        Error::Overflow(overflow @ Overflow::Form(_)) => {
            tracing::error!(%overflow, "a request is refused: this is a fault of the gateway, please report it");
            Refusal::Broken(overflow.to_string())
        }
    })
}

/// What a sender is told of rows or messages that are not safe.
fn not_safe(fate: Fate) -> Result<(), Denial> {
    let (effect, retry_after) = match fate {
        Fate::Safe => return Ok(()),
        // Soon: before the first rows the tables may not be there yet, and agents by themselves ask ever less often.
        Fate::Untouched => (Effect::None, BLOCK_RETRY_AFTER),
        Fate::Doubtful => (Effect::Perhaps, STORAGE_RETRY_AFTER),
    };
    let message = "rows cannot be written at the moment; send again later".to_owned();
    Err(Denial { refusal: Refusal::Unavailable { retry_after, message }, effect })
}

fn unavailable(what: &str) -> Refusal {
    Refusal::Unavailable { retry_after: STORAGE_RETRY_AFTER, message: format!("{what}; send again later") }
}

#[cfg(test)]
mod tests;
