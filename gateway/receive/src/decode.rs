//! From the bytes of a message to the message.
//!
//! Invariant: what the decoded message takes is held by the request's share before prost begins.

use crate::decompress::{grow, no_room};
use crate::json::{NotTranscoded, transcode};
use crate::limits::Share;
use crate::schema::{LOGS_REQUEST, METRICS_REQUEST, Shape, TRACES_REQUEST};
use crate::weigh::weigh;
use crate::{Message, Refusal, Signal};

/// Decode protobuf, or JSON by way of protobuf. Takes the bytes, so that their memory is free afterwards.
pub(crate) fn decode(signal: Signal, json: bool, bytes: Vec<u8>, share: &mut Share) -> Result<Message, Refusal> {
    let shape: &'static Shape = match signal {
        Signal::Metrics => &METRICS_REQUEST,
        Signal::Logs => &LOGS_REQUEST,
        Signal::Traces => &TRACES_REQUEST,
    };
    let held = bytes.capacity();
    let (bytes, held) = if json {
        let protobuf = transcode(shape, &bytes, share).map_err(|error| match error {
            NotTranscoded::Invalid(error) => Refusal::Invalid(format!("json: {error}")),
            NotTranscoded::NoRoom(reason) => no_room(reason),
        })?;
        drop(bytes);
        share.shrink(held);
        let held = protobuf.capacity();
        (protobuf, held)
    } else {
        (bytes, held)
    };
    let weight = weigh(shape, &bytes).map_err(|error| Refusal::Invalid(format!("protobuf: {error}")))?;
    grow(share, weight)?;
    let invalid = |error| Refusal::Invalid(format!("protobuf: {error}"));
    let message = match signal {
        Signal::Metrics => Message::Metrics(prost::Message::decode(bytes.as_slice()).map_err(invalid)?),
        Signal::Logs => Message::Logs(prost::Message::decode(bytes.as_slice()).map_err(invalid)?),
        Signal::Traces => Message::Traces(prost::Message::decode(bytes.as_slice()).map_err(invalid)?),
    };
    drop(bytes);
    share.shrink(held);
    Ok(message)
}
