//! The way to Kafka: a request becomes messages by service, and is answered when all of them are safe.
//!
//! Invariant: every record of the request is in a message or in the outcome, and the ledger has each once.

use super::{Ingest, Ingested, aside, not_safe, unavailable};
use crate::batch::budget::Waiting;
use crate::convert::{Counted, Delivery, Outgoing};
use crate::delivered::deadline::Deadline;
use crate::delivered::{Arrivals, UnderWay};
use crate::ingest::caller::Denial;
use crate::kafka::message::{Head, Message};
use crate::kafka::produce::{Outbound, Producer};
use crate::telemetry::ledger::Held;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// What is known of a request beside its records.
pub(super) struct Sent {
    pub(super) delivery: Delivery,
    /// Of an agent's.
    pub(super) kept: Option<(UnderWay, Deadline)>,
    /// An earlier attempt may have come through.
    pub(super) repeated: bool,
}

impl<A: Arrivals> Ingest<A> {
    /// Have the records of a request produced.
    pub(super) async fn log(
        &self,
        producer: &Arc<Producer>,
        request: Counted,
        sent: Sent,
        waiting: &Waiting,
        held: &mut Held,
    ) -> Result<Ingested, Denial> {
        let Sent { delivery, kept, repeated } = sent;
        self.in_time(kept.as_ref().map(|(_, begin_by)| *begin_by))?;
        let (budget, seen, bytes_max) = (self.budget.of(waiting), Arc::clone(&self.seen), producer.message_bytes_max());
        let (bytes, signal, of_delivery) = (request.bytes, request.signal, delivery.clone());
        let outgoing = aside(bytes, move || request.outgoing(&of_delivery, &seen, &budget, bytes_max)).await?;
        let Outgoing { mut outcome, pieces, row_bytes, values_cut, hold } = outgoing;
        for (reason, records) in &outcome.rejected {
            held.split(*records).rejected(reason.name());
        }
        held.split(outcome.sampled_out).sampled_out();
        let of_agent = !delivery.agent.is_empty();
        let all = outcome.accepted.max(1);
        let mut messages: Vec<Outbound> = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let last = messages.last().map(|last| &last.message.head);
            let before = match last.filter(|last| of_agent && last.service == piece.service) {
                Some(last) => last.before + last.records,
                None => 0,
            };
            let sequence = if of_agent { delivery.sequence } else { number().map_err(|error| unavailable(&error))? };
            let head = Head {
                tenant: delivery.tenant.clone(),
                service: piece.service,
                agent: delivery.agent.clone(),
                sequence,
                repeated,
                ingested_at: delivery.ingested_at,
                expires_at: delivery.expires_at,
                records: piece.records,
                before,
                row_bytes: (u128::from(row_bytes) * u128::from(piece.records) / u128::from(all)) as u64,
            };
            let held = held.split(piece.records).set_out();
            messages.push(Outbound { message: Message { signal, head, payload: piece.bytes.into() }, held });
        }
        if !messages.is_empty() {
            not_safe(producer.produce(messages, hold, kept).fate().await)?;
        }
        self.seen.remember(std::mem::take(&mut outcome.described), delivery.ingested_at);
        Ok(Ingested { outcome, known: false, values_cut })
    }
}

/// In the agent's sequence's place: no other message of any gateway has it. Those of one start follow each other, so that a column of them packs.
fn number() -> Result<u64, String> {
    static START: OnceLock<u32> = OnceLock::new();
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = match START.get() {
        Some(start) => *start,
        None => {
            let random = getrandom::u32().map_err(|error| format!("the kernel gave no random bytes: {error}"))?;
            *START.get_or_init(|| random)
        }
    };
    Ok(u64::from(start) << 32 | u64::from(NEXT.fetch_add(1, Relaxed)))
}
