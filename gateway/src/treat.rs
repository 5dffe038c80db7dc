//! What a tenant has done to what comes before it becomes rows: traces of senders that do not sample themselves are thinned, attributes
//! are taken out or hidden.
//!
//! Takes a message and changes it in place. Pure. Invariant: whoever asks for nothing is [`Treatment::is_none`] for, and goes the short way.

pub(crate) mod fields;
mod sampling;

use fields::Fields;
use ollystack_receive::{Message, Signal};
pub(crate) use sampling::Sampling;
use std::sync::Arc;

/// What is done to the requests of one sender.
#[derive(Clone, Debug, Default)]
pub(crate) struct Treatment {
    /// None: every span is kept.
    pub(crate) sampling: Option<Sampling>,
    pub(crate) fields: Arc<Fields>,
}

impl Treatment {
    /// Whether nothing is done to requests of this signal.
    pub(crate) fn is_none(&self, signal: Signal) -> bool {
        self.fields.is_empty() && (self.sampling.is_none() || signal != Signal::Traces)
    }

    /// Change a message. Returns how many of its records were let go.
    pub(crate) fn apply(&self, message: &mut Message) -> u64 {
        let sampled_out = match (self.sampling, &mut *message) {
            (Some(sampling), Message::Traces(request)) => sampling.apply(request),
            _ => 0,
        };
        self.fields.apply(message);
        sampled_out
    }
}
