//! From the bytes of a message to the message.
//!
//! Invariant: what the decoded message takes is held by the request's share before prost begins.

use crate::allowance::Share;
use crate::decompress::{grow, no_room};
use crate::json::{NotTranscoded, transcode};
use crate::schema::{LOGS_REQUEST, METRICS_REQUEST, Shape, TRACES_REQUEST};
use crate::weigh::weigh;
use crate::{Message, Refusal, Signal};

/// A message, and how many of its values were nested too deeply and are left out.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) message: Message,
    pub(crate) cut: u64,
}

/// Decode protobuf, or JSON by way of protobuf. Takes the bytes, so that their memory is free afterwards.
pub(crate) fn decode(signal: Signal, json: bool, bytes: Vec<u8>, share: &mut Share) -> Result<Decoded, Refusal> {
    let shape: &'static Shape = match signal {
        Signal::Metrics => &METRICS_REQUEST,
        Signal::Logs => &LOGS_REQUEST,
        Signal::Traces => &TRACES_REQUEST,
    };
    let held = bytes.capacity();
    let (mut bytes, held, mut cut) = if json {
        let (protobuf, cut) = transcode(shape, &bytes, share).map_err(|error| match error {
            NotTranscoded::Invalid(error) => Refusal::Invalid(format!("json: {error}")),
            NotTranscoded::NoRoom(reason) => no_room(reason),
        })?;
        drop(bytes);
        share.shrink(held);
        let held = protobuf.capacity();
        (protobuf, held, cut)
    } else {
        (bytes, held, 0)
    };
    let weight = weigh(shape, &mut bytes).map_err(|error| Refusal::Invalid(format!("protobuf: {error}")))?;
    cut += weight.cut;
    grow(share, weight.bytes)?;
    let invalid = |error| Refusal::Invalid(format!("protobuf: {error}"));
    let message = match signal {
        Signal::Metrics => Message::Metrics(prost::Message::decode(bytes.as_slice()).map_err(invalid)?),
        Signal::Logs => Message::Logs(prost::Message::decode(bytes.as_slice()).map_err(invalid)?),
        Signal::Traces => Message::Traces(prost::Message::decode(bytes.as_slice()).map_err(invalid)?),
    };
    drop(bytes);
    share.shrink(held);
    Ok(Decoded { message, cut })
}
