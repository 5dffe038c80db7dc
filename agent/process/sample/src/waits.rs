//! What may wait for a decision: a span as OTLP has it, or a request that becomes one if it is kept.
//!
//! Invariant: of both the same is asked and answered, so that the form in which a span came makes no difference to what becomes of it.

use crate::sight;
use ollystack_record::Request;
use ollystack_record::otlp::trace::v1::Span;
use prost::Message;

/// What sampling asks.
pub(crate) trait Waits {
    /// The trace.
    fn trace(&self) -> u128;
    /// What earlier samplers say.
    fn trace_state(&self) -> &str;
    /// Bytes of what is to wait of it.
    fn own_len(&self) -> usize;
    /// Bytes of what its origin has of it.
    fn common_len(&self) -> usize;
    /// Append what is to wait of it.
    fn encode_own(&self, to: &mut Vec<u8>);
    /// The span.
    fn into_span(self) -> Span;

    /// Bytes of the span as OTLP.
    fn whole_len(&self) -> usize {
        self.own_len() + self.common_len()
    }
}

impl Waits for Span {
    fn trace(&self) -> u128 {
        sight::trace_id(self)
    }

    fn trace_state(&self) -> &str {
        &self.trace_state
    }

    fn own_len(&self) -> usize {
        self.encoded_len()
    }

    fn common_len(&self) -> usize {
        0
    }

    fn encode_own(&self, to: &mut Vec<u8>) {
        // Writing into a vector cannot run out of room.
        let _ = self.encode(to);
    }

    fn into_span(self) -> Span {
        self
    }
}

impl Waits for Request {
    fn trace(&self) -> u128 {
        u128::from_be_bytes(self.names.0)
    }

    fn trace_state(&self) -> &str {
        ""
    }

    fn own_len(&self) -> usize {
        Request::own_len(self)
    }

    fn common_len(&self) -> usize {
        self.template.encoded_len()
    }

    fn encode_own(&self, to: &mut Vec<u8>) {
        Request::encode_own(self, to);
    }

    fn into_span(self) -> Span {
        self.span()
    }
}
