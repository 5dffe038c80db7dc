//! Fuzz targets of what comes from the network: protobuf, JSON, compression.
//!
//! Invariants held here: nothing panics; what prost decodes was weighed before and takes no more than its weight; JSON becomes
//! protobuf that prost takes; no decompressed message passes its limit, and zstd gives what its own stream decoder gives.

#![allow(clippy::expect_used, reason = "a target fails by panicking")]

use crate::allowance::{Allowance, Share};
use crate::decode::decode;
use crate::decompress::{Encoding, Frames, decompress};
use crate::json::transcode;
use crate::schema::{LOGS_REQUEST, METRICS_REQUEST, Shape, TRACES_REQUEST};
use crate::weigh::weigh;
use crate::{Message, Signal};
use opentelemetry_proto::tonic::collector::{
    logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest, trace::v1::ExportTraceServiceRequest,
};
use std::io::Read as _;

const SIGNALS: [Signal; 3] = [Signal::Metrics, Signal::Logs, Signal::Traces];

/// What one request may hold.
const HELD_BYTES_MAX: usize = 64 << 20;
/// The most that a target decompresses.
const DECODED_BYTES_MAX: usize = 1 << 20;

/// The signal that the first byte names, and the rest.
pub fn signal(data: &[u8]) -> Option<(Signal, &[u8])> {
    let (first, rest) = data.split_first()?;
    Some((SIGNALS[usize::from(first % 3)], rest))
}

/// A message as the agent and the gateway take it off the wire; `None` if it is refused.
pub fn message(signal: Signal, json: bool, bytes: &[u8]) -> Option<Message> {
    decode(signal, json, bytes.to_vec(), &mut share()?).ok().map(|(message, _)| message)
}

/// The first byte names the signal, the rest is protobuf.
pub fn protobuf(data: &[u8]) {
    let Some((signal, bytes)) = signal(data) else { return };
    let mut weighed = bytes.to_vec();
    let weight = weigh(shape(signal), &mut weighed);
    let decoded = weight.is_ok() && by_prost(signal, &weighed);
    assert_eq!(message(signal, false, bytes).is_some(), decoded, "{weight:?}");
    // What is cut out is skipped: a message that prost takes as it came, it takes when something was cut.
    assert!(weight.is_err() || decoded || !by_prost(signal, bytes), "cutting broke it: {weight:?}");
}

/// The first byte names the signal, the rest is JSON.
pub fn json(data: &[u8]) {
    let Some((signal, bytes)) = signal(data) else { return };
    let Some(mut share) = share() else { return };
    if let Ok((mut protobuf, _)) = transcode(shape(signal), bytes, &mut share) {
        weigh(shape(signal), &mut protobuf).expect("JSON became no protobuf");
        assert!(by_prost(signal, &protobuf), "JSON became protobuf that prost refuses");
    }
    drop(message(signal, true, bytes));
}

/// The first byte names the encoding, the rest is compressed.
pub fn compressed(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    let encoding = [Encoding::Gzip, Encoding::Zstd][usize::from(first % 2)];
    let Some(mut share) = share() else { return };
    let plain = decompress(encoding, rest.to_vec(), DECODED_BYTES_MAX, &mut share).ok();
    assert!(plain.as_ref().is_none_or(|plain| plain.len() <= DECODED_BYTES_MAX), "passes the limit");
    if encoding == Encoding::Zstd {
        let streamed = by_stream(rest);
        assert!(plain.is_none() || plain == streamed, "not what the stream decoder gives");
        // Which does not always look whether as much came out as was said.
        let as_said = Frames::of(rest).is_ok_and(|frames| {
            frames.content.is_none_or(|said| streamed.as_ref().is_some_and(|plain| plain.len() as u64 == said))
        });
        assert!(plain == streamed || !as_said, "the stream decoder takes it");
    }
}

/// What zstd's stream decoder makes of it within the limits, which works piece by piece and believes no size.
fn by_stream(wire: &[u8]) -> Option<Vec<u8>> {
    let mut decoder = zstd::Decoder::with_buffer(wire).ok()?;
    decoder.window_log_max(23).ok()?;
    let mut plain = Vec::new();
    decoder.take(DECODED_BYTES_MAX as u64 + 1).read_to_end(&mut plain).ok()?;
    (plain.len() <= DECODED_BYTES_MAX).then_some(plain)
}

fn share() -> Option<Share> {
    Share::new(&Allowance::new(HELD_BYTES_MAX, 1), None).ok()
}

fn shape(signal: Signal) -> &'static Shape {
    match signal {
        Signal::Metrics => &METRICS_REQUEST,
        Signal::Logs => &LOGS_REQUEST,
        Signal::Traces => &TRACES_REQUEST,
    }
}

fn by_prost(signal: Signal, bytes: &[u8]) -> bool {
    match signal {
        Signal::Metrics => <ExportMetricsServiceRequest as prost::Message>::decode(bytes).is_ok(),
        Signal::Logs => <ExportLogsServiceRequest as prost::Message>::decode(bytes).is_ok(),
        Signal::Traces => <ExportTraceServiceRequest as prost::Message>::decode(bytes).is_ok(),
    }
}
