//! Between the OTLP face and the intake: hands in batches, waits for their verdict, answers.
//!
//! The bytes of a request count among those in flight until `process` has taken its batches; what still waits for the verdict then is a
//! place and a few numbers. Invariant: a sender is told "accepted" only after the verdict on every one of its records; whoever gets no
//! verdict in time is told to come back, which may deliver some records twice but loses none.

use crate::convert::{self, Converted};
use crate::series::Interner;
use crate::{Config, Stats};
use ollystack_receive::{Accepted, Event, Export, Message, OtlpService, Refusal, RequestHead};
use ollystack_record::{Ack, Batch, DropReason, Held, Intake, IntakeError, Level, Outcome, Signal, Source};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// 2^32 over the golden ratio: multiples of it, modulo 2^32, lie as evenly as any however many there are.
const GOLDEN: u32 = 0x9E37_79B9;

/// The service behind both listeners.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) intake: Intake,
    pub(crate) interner: Mutex<Interner>,
    pub(crate) stats: Arc<Stats>,
    pub(crate) stop: CancellationToken,
    pub(crate) intake_timeout: Duration,
    pub(crate) ack_timeout: Duration,
    pub(crate) retry_after: Duration,
    /// How many were told to come back.
    pub(crate) told: AtomicU32,
}

impl Service {
    pub(crate) fn new(config: &Config, intake: Intake, stats: Arc<Stats>, stop: CancellationToken) -> Service {
        Service {
            intake,
            interner: Mutex::new(Interner::new(config.series_max)),
            stats,
            stop,
            intake_timeout: Duration::from_millis(config.intake_timeout_ms),
            ack_timeout: Duration::from_millis(config.ack_timeout_ms),
            retry_after: Duration::from_millis(config.retry_after_ms),
            told: AtomicU32::new(0),
        }
    }

    fn convert(&self, message: Message) -> Converted {
        match message {
            Message::Traces(request) => convert::traces(request),
            Message::Logs(request) => convert::logs(request),
            Message::Metrics(request) => {
                let mut interner = self.interner.lock().unwrap_or_else(PoisonError::into_inner);
                let converted = convert::metrics(request, &mut interner);
                self.stats.update(|reading| reading.series = interner.len() as u64);
                converted
            }
        }
    }

    /// Why nothing is taken now, if so: asked before a byte of a body is read.
    fn pressed(&self) -> Option<Refusal> {
        let pressure = self.intake.pressure();
        if pressure.level() >= Level::Lean {
            return Some(self.exhausted("the agent's memory is almost used up (limits.memory_bytes_max)".to_owned()));
        }
        let pause = pressure.cpu_pause();
        (!pause.is_zero()).then(|| {
            let message = format!("the agent used its share of CPU (limits.cpu_cores_max) for the next {pause:?}");
            self.exhausted(message)
        })
    }

    fn exhausted(&self, message: String) -> Refusal {
        Refusal::Exhausted { retry_after: self.spread(), message }
    }

    /// The time after which to come back, up to twice as long, so that those who are told at once do not come back at once.
    fn spread(&self) -> Duration {
        let turn = self.told.fetch_add(1, Relaxed).wrapping_mul(GOLDEN);
        self.retry_after + self.retry_after.mul_f64(f64::from(turn) / 2f64.powi(32))
    }

    fn unavailable(&self, message: String) -> Refusal {
        Refusal::Unavailable { retry_after: self.retry_after, message }
    }
}

impl OtlpService for Service {
    type Caller = ();
    type Body = Message;

    fn admit(&self, _: &RequestHead<'_>) -> Result<(), Refusal> {
        // Whoever reaches the configured address may send: loopback by default.
        match self.stop.is_cancelled() {
            true => Err(self.unavailable("the agent is stopping".to_owned())),
            false => self.pressed().map_or(Ok(()), Err),
        }
    }

    async fn export(&self, (): (), request: Export) -> Result<Accepted, Refusal> {
        let signal = signal(&request.message);
        let Converted { batches, rejected, why } = self.convert(request.message);
        let held: Held = Arc::new(request.held);
        let ledger = Arc::clone(self.intake.ledger());
        let begun = Instant::now();
        let (ack, pending) = Ack::new();
        // Until the first batch is in, the sender can be turned away without a trace; after that, giving up would have it send
        // twice what is in already, so the others have as long as the verdict.
        let mut deadline = begun + self.intake_timeout;
        for (resource, records) in batches {
            let batch = Batch { source: Source::Otlp, resource, records, ack: ack.clone() };
            match timeout_at(deadline, self.intake.send_holding(batch, Arc::clone(&held))).await {
                Ok(Ok(())) => deadline = begun + self.ack_timeout,
                Ok(Err(IntakeError::Closed | IntakeError::Full)) => {
                    return Err(self.unavailable("the agent is stopping".to_owned()));
                }
                Err(_) => {
                    let message = format!("the agent's queue was full for {} ms", begun.elapsed().as_millis());
                    return Err(self.exhausted(message));
                }
            }
        }
        drop(held);
        // Our own share: with no batch at all there is nothing to wait for.
        ack.resolve(Outcome::Durable);
        let verdict = timeout_at(begun + self.ack_timeout, pending.outcome()).await;
        match verdict {
            Ok(Outcome::Durable | Outcome::Accepted) => {}
            Ok(Outcome::Dropped) => {
                return Err(
                    self.unavailable("the records could not be kept; `ollystack-agent status` says why".to_owned())
                );
            }
            Err(_) => {
                let waited = self.ack_timeout.as_millis();
                return Err(self.unavailable(format!("the records were not safe within {waited} ms; send them again")));
            }
        }
        if rejected > 0 {
            ledger.seen(signal, rejected);
            ledger.dropped(signal, DropReason::Malformed, rejected);
            self.stats.update(|reading| reading.records_rejected += rejected);
        }
        let rejected = i64::try_from(rejected).unwrap_or(i64::MAX);
        Ok(Accepted { rejected, message: why, ..Accepted::default() })
    }

    fn observe(&self, event: Event) {
        self.stats.observe(event);
    }
}

fn signal(message: &Message) -> Signal {
    match message {
        Message::Metrics(_) => Signal::Metrics,
        Message::Logs(_) => Signal::Logs,
        Message::Traces(_) => Signal::Traces,
    }
}
