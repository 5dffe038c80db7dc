//! The body of a request, read within limits and time.
//!
//! Invariant: memory follows the bytes that have arrived, never a length that was announced.

use crate::Refusal;
use crate::allowance::Share;
use crate::decompress::no_room;
use bytes::{Buf, Bytes};
use http_body_util::BodyExt;
use std::fmt::Display;
use std::pin::pin;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// gRPC's prefix of a message: a flag, then a length of four bytes.
const PREFIX_BYTES: usize = 5;
const FIRST_BYTES: usize = 4 << 10;

/// How a message lies in its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// HTTP: the body is the message.
    Whole,
    /// gRPC: exactly one message behind its prefix.
    Grpc,
}

/// A message as it was sent.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) bytes: Vec<u8>,
    /// gRPC's flag; without framing the headers alone say it, so true.
    pub(crate) compressed: bool,
}

/// Read one message of at most `max` bytes within `time`.
pub(crate) async fn read<B>(
    body: B,
    framing: Framing,
    max: usize,
    time: Duration,
    share: &mut Share,
) -> Result<Message, Refusal>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Display,
{
    let deadline = Instant::now() + time;
    let mut body = pin!(body);
    if framing == Framing::Whole && body.size_hint().lower() > max as u64 {
        return Err(too_large(body.size_hint().lower(), max));
    }
    let mut prefix = Vec::with_capacity(PREFIX_BYTES);
    let mut expected = None;
    let mut bytes = Vec::new();
    loop {
        let frame = timeout_at(deadline, body.frame()).await.map_err(|_| Refusal::Unavailable {
            retry_after: Duration::from_secs(1),
            message: format!("the body was not there within {} ms", time.as_millis()),
        })?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|error| Refusal::Broken(format!("the body ended early: {error}")))?;
        let Ok(mut data) = frame.into_data() else { continue };
        if framing == Framing::Grpc && expected.is_none() {
            let missing = (PREFIX_BYTES - prefix.len()).min(data.len());
            prefix.extend_from_slice(&data.split_to(missing));
            expected = announced(&prefix, max)?;
        }
        let limit = expected.unwrap_or(if framing == Framing::Grpc { 0 } else { max });
        let sum = bytes.len() + data.remaining();
        if sum > limit {
            return Err(match framing {
                Framing::Whole => too_large(sum as u64, max),
                Framing::Grpc => Refusal::Unsupported("more than one message in a unary call".to_owned()),
            });
        }
        if sum > bytes.capacity() {
            let target = sum.max(bytes.capacity() * 2).max(FIRST_BYTES).min(limit);
            share.enlarge(&mut bytes, target).map_err(no_room)?;
        }
        bytes.extend_from_slice(&data);
    }
    match (framing, expected) {
        (Framing::Whole, _) => Ok(Message { bytes, compressed: true }),
        (Framing::Grpc, Some(expected)) if bytes.len() == expected => {
            Ok(Message { bytes, compressed: prefix.first() == Some(&1) })
        }
        (Framing::Grpc, Some(expected)) => {
            Err(Refusal::Broken(format!("a message of {expected} bytes was announced, {} came", bytes.len())))
        }
        (Framing::Grpc, None) => Err(Refusal::Unsupported("no message in a unary call".to_owned())),
    }
}

/// The length in a prefix, once it is whole.
fn announced(prefix: &[u8], max: usize) -> Result<Option<usize>, Refusal> {
    let Ok([flag, length @ ..]) = <[u8; PREFIX_BYTES]>::try_from(prefix) else { return Ok(None) };
    if flag > 1 {
        return Err(Refusal::Broken(format!("compressed-flag {flag}; it is 0 or 1")));
    }
    let length = u32::from_be_bytes(length);
    match length as usize > max {
        true => Err(too_large(u64::from(length), max)),
        false => Ok(Some(length as usize)),
    }
}

fn too_large(found: u64, max: usize) -> Refusal {
    Refusal::TooLarge(format!("a message of {found} bytes or more; at most {max} are taken, send less at a time"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;
    use http_body::Frame;
    use http_body_util::StreamBody;

    async fn read_chunks(framing: Framing, chunks: &[&[u8]]) -> Result<Message, Refusal> {
        let frames: Vec<Result<_, std::io::Error>> =
            chunks.iter().map(|chunk| Ok(Frame::data(Bytes::copy_from_slice(chunk)))).collect();
        let mut share = Share::of(1 << 20);
        read(StreamBody::new(stream::iter(frames)), framing, 100, Duration::from_secs(5), &mut share).await
    }

    #[tokio::test]
    async fn a_prefix_may_come_in_pieces() {
        let message = read_chunks(Framing::Grpc, &[&[1], &[0, 0, 0], &[3, 7], &[8, 9]]).await.unwrap();
        assert_eq!((message.bytes.as_slice(), message.compressed), (&[7, 8, 9][..], true));
    }

    #[tokio::test]
    async fn broken_framing_has_its_own_answer() {
        let huge = [0, 0xff, 0xff, 0xff, 0xff];
        let table: [(&[&[u8]], &str); 7] = [
            (&[], "unsupported"),
            (&[&[0, 0, 0]], "unsupported"),
            (&[&[0, 0, 0, 0, 2, 1]], "broken"),
            (&[&[2, 0, 0, 0, 0]], "broken"),
            (&[&[0, 0, 0, 0, 1, 1, 0]], "unsupported"),
            (&[&[0, 0, 0, 0, 1, 1], &[0, 0, 0, 0, 0]], "unsupported"),
            (&[&huge], "too_large"),
        ];
        for (chunks, reason) in table {
            assert_eq!(read_chunks(Framing::Grpc, chunks).await.unwrap_err().reason(), reason, "{chunks:?}");
        }
    }

    #[tokio::test]
    async fn a_whole_body_may_be_exactly_as_large_as_allowed() {
        assert_eq!(read_chunks(Framing::Whole, &[&[1; 60], &[1; 40]]).await.unwrap().bytes.len(), 100);
        assert_eq!(read_chunks(Framing::Whole, &[&[1; 60], &[1; 41]]).await.unwrap_err().reason(), "too_large");
    }
}
