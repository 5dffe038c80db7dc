//! What the agent makes of a request, for the fuzz target that goes the whole way through processing.

use crate::convert::{Converted, logs, metrics, traces};
use crate::series::Interner;
use ollystack_receive::Message;
use ollystack_record::{Ack, Batch, Source};

/// Batches as the intake would get them.
pub fn batches(message: Message) -> Vec<Batch> {
    let Converted { batches, .. } = match message {
        Message::Traces(request) => traces(request),
        Message::Logs(request) => logs(request),
        Message::Metrics(request) => metrics(request, &mut Interner::new(64)),
    };
    let batch = |(resource, records)| Batch { source: Source::Otlp, resource, records, ack: Ack::none() };
    batches.into_iter().map(batch).collect()
}
