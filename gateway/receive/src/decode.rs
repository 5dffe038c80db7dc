//! From the bytes of a message to what a service takes: the message, or its bytes.
//!
//! Invariant: what the decoded message takes is held before prost begins.

use crate::allowance::{Held, Share};
use crate::decompress::{grow, no_room};
use crate::json::{NotTranscoded, transcode};
use crate::schema::{LOGS_REQUEST, METRICS_REQUEST, Shape, TRACES_REQUEST};
use crate::weigh::weigh;
use crate::{Message, Refusal, Signal};

/// What a request's body becomes before a service sees it: [`Message`], or [`Wire`] for one that reads protobuf itself.
pub trait Body: Sized + Send {
    /// Take the bytes of a message; what this takes is held from then on. Beside it, how many values were left out because they were
    /// nested too deeply.
    fn read(wire: Wire, held: &mut Held) -> Result<(Self, u64), Refusal>;
}

/// A message as protobuf, not read yet: it may be malformed.
#[derive(Clone, Debug)]
pub struct Wire {
    signal: Signal,
    bytes: Vec<u8>,
}

impl Wire {
    /// Bytes that came for a signal.
    pub fn new(signal: Signal, bytes: Vec<u8>) -> Wire {
        Wire { signal, bytes }
    }

    /// Whose request it is.
    pub fn signal(&self) -> Signal {
        self.signal
    }

    /// What came.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Body for Wire {
    fn read(wire: Wire, _: &mut Held) -> Result<(Wire, u64), Refusal> {
        Ok((wire, 0))
    }
}

impl Body for Message {
    fn read(Wire { signal, mut bytes }: Wire, held: &mut Held) -> Result<(Message, u64), Refusal> {
        let weight =
            weigh(shape(signal), &mut bytes).map_err(|error| Refusal::Invalid(format!("protobuf: {error}")))?;
        grow(held, weight.bytes)?;
        let invalid = |error| Refusal::Invalid(format!("protobuf: {error}"));
        let message = match signal {
            Signal::Metrics => Message::Metrics(prost::Message::decode(bytes.as_slice()).map_err(invalid)?),
            Signal::Logs => Message::Logs(prost::Message::decode(bytes.as_slice()).map_err(invalid)?),
            Signal::Traces => Message::Traces(prost::Message::decode(bytes.as_slice()).map_err(invalid)?),
        };
        held.shrink(bytes.capacity());
        Ok((message, weight.cut))
    }
}

/// Take protobuf, or JSON by way of protobuf. Takes the bytes, so that their memory is free afterwards.
pub(crate) fn decode<B: Body>(
    signal: Signal,
    json: bool,
    bytes: Vec<u8>,
    share: &mut Share,
) -> Result<(B, u64), Refusal> {
    let (bytes, cut) = if json {
        let held = bytes.capacity();
        let transcoded = transcode(shape(signal), &bytes, share).map_err(|error| match error {
            NotTranscoded::Invalid(error) => Refusal::Invalid(format!("json: {error}")),
            NotTranscoded::NoRoom(reason) => no_room(reason),
        })?;
        drop(bytes);
        share.shrink(held);
        transcoded
    } else {
        (bytes, 0)
    };
    let (body, more) = B::read(Wire { signal, bytes }, share)?;
    Ok((body, cut + more))
}

fn shape(signal: Signal) -> &'static Shape {
    match signal {
        Signal::Metrics => &METRICS_REQUEST,
        Signal::Logs => &LOGS_REQUEST,
        Signal::Traces => &TRACES_REQUEST,
    }
}
