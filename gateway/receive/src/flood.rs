//! Ends connections that only make work: floods of frames of HTTP/2 that carry no data and begin no request.
//!
//! Frames are counted by their heads as they are read, before HTTP/2 looks at them: pings, settings, priorities, window updates,
//! resets and data without content cost nine bytes to send, and an answer or a look at a table to receive. A request pays for the
//! few that belong to it. Invariant: over any span of `t` seconds, a connection that begins `n` requests gets no more than
//! `1,000 + 100 t + 4 n` of them through, and no request that is reset is worth more than it costs.

use std::io::{Error, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// What a client begins to speak HTTP/2 with (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD_BYTES: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const END_STREAM: u8 = 1;

/// Data below this is hardly any.
const DATA_BYTES_MIN: usize = 64;
/// What a connection has at first, and at most.
const CREDIT_MAX: u32 = 1_000;
const CREDIT_PER_SECOND: u32 = 100;
/// What a request brings: an empty frame of data, window updates, a ping.
const CREDIT_PER_REQUEST: u32 = 4;
/// A reset takes back what its request brought, so that opening and resetting is a flood too (CVE-2023-44487).
const COST_OF_RESET: u32 = CREDIT_PER_REQUEST + 1;

/// A connection whose frames are counted.
#[derive(Debug)]
pub(crate) struct Metered<I> {
    io: I,
    frames: Frames,
    flooded: Arc<AtomicBool>,
}

/// What has been seen of a connection.
#[derive(Debug)]
struct Frames {
    place: Place,
    credit: u32,
    /// Credit was last given for the time until then.
    counted: Instant,
}

/// Where in the protocol the next byte is.
#[derive(Debug)]
enum Place {
    /// So many bytes of the preface were there.
    Preface(usize),
    /// The head of a frame, of which so many bytes were there.
    Head([u8; HEAD_BYTES], usize),
    /// So many bytes of a frame's payload are to come.
    Payload(usize),
    /// Another protocol, which has no frames.
    Elsewhere,
}

/// More frames than anybody needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a flood of frames without data")]
pub(crate) struct Flood;

impl<I> Metered<I> {
    /// `flooded` is set when reading ends for the sake of a flood: errors lose their cause on the way through HTTP/2.
    pub(crate) fn new(io: I, flooded: Arc<AtomicBool>) -> Metered<I> {
        let frames = Frames { place: Place::Preface(0), credit: CREDIT_MAX, counted: Instant::now() };
        Metered { io, frames, flooded }
    }
}

impl Frames {
    fn see(&mut self, mut bytes: &[u8], now: Instant) -> std::result::Result<(), Flood> {
        while let Some(&first) = bytes.first() {
            match &mut self.place {
                Place::Elsewhere => return Ok(()),
                Place::Preface(there) if PREFACE.get(*there) == Some(&first) => {
                    *there += 1;
                    bytes = bytes.get(1..).unwrap_or_default();
                    if *there == PREFACE.len() {
                        self.place = Place::Head([0; HEAD_BYTES], 0);
                    }
                }
                Place::Preface(_) => self.place = Place::Elsewhere,
                Place::Payload(left) => {
                    let skipped = (*left).min(bytes.len());
                    bytes = bytes.get(skipped..).unwrap_or_default();
                    *left -= skipped;
                    if *left == 0 {
                        self.place = Place::Head([0; HEAD_BYTES], 0);
                    }
                }
                Place::Head(head, there) => {
                    if let Some(place) = head.get_mut(*there) {
                        *place = first;
                    }
                    *there += 1;
                    bytes = bytes.get(1..).unwrap_or_default();
                    if *there == HEAD_BYTES {
                        let [a, b, c, kind, flags, ..] = *head;
                        let length = u32::from_be_bytes([0, a, b, c]) as usize;
                        let empty = Place::Head([0; HEAD_BYTES], 0);
                        self.place = if length == 0 { empty } else { Place::Payload(length) };
                        self.count(kind, flags, length, now)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn count(&mut self, kind: u8, flags: u8, length: usize, now: Instant) -> std::result::Result<(), Flood> {
        let cost = match kind {
            HEADERS => {
                self.credit = (self.credit + CREDIT_PER_REQUEST).min(CREDIT_MAX);
                return Ok(());
            }
            DATA if length >= DATA_BYTES_MIN || flags & END_STREAM != 0 => return Ok(()),
            RST_STREAM => COST_OF_RESET,
            _ => 1,
        };
        if self.credit < cost {
            let ms = now.saturating_duration_since(self.counted).as_millis();
            let earned = ms.saturating_mul(u128::from(CREDIT_PER_SECOND)) / 1_000;
            self.credit = u32::try_from(earned).unwrap_or(CREDIT_MAX).saturating_add(self.credit).min(CREDIT_MAX);
            self.counted = now;
        }
        self.credit = self.credit.checked_sub(cost).ok_or(Flood)?;
        Ok(())
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Metered<I> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(context, buffer))?;
        let read = buffer.filled().get(before..).unwrap_or_default();
        Poll::Ready(this.frames.see(read, Instant::now()).map_err(|flood| {
            this.flooded.store(true, Relaxed);
            Error::other(flood)
        }))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Metered<I> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[std::io::IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const PING: u8 = 6;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let size = (length as u32).to_be_bytes();
        [&size[1..], &[kind, flags, 0, 0, 0, 1], &vec![7; length]].concat()
    }

    fn connection() -> (Frames, Instant) {
        let mut frames = Metered::new((), Arc::default()).frames;
        let now = frames.counted;
        frames.see(PREFACE, now).unwrap();
        (frames, now)
    }

    #[test]
    fn floods_end_and_the_time_gives_new_credit() {
        // What is sent, and how often of it goes through at once.
        let empty_data = frame(DATA, 0, 0);
        let opened_and_reset = [frame(HEADERS, 4, 30), frame(RST_STREAM, 0, 4)].concat();
        for (sent, through) in [(frame(PING, 0, 8), 1_000), (empty_data, 1_000), (opened_and_reset, 996)] {
            let (mut frames, now) = connection();
            for number in 0..through {
                assert_eq!(frames.see(&sent, now), Ok(()), "{number}");
            }
            assert_eq!(frames.see(&sent, now), Err(Flood));
            let later = now + Duration::from_millis(50);
            assert_eq!(frames.see(&frame(PING, 0, 8), later), Ok(()));
        }
    }

    #[test]
    fn requests_and_data_are_no_flood() {
        let (mut frames, now) = connection();
        let request =
            [frame(HEADERS, 4, 100), frame(DATA, 0, 5), frame(DATA, 0, 16_384), frame(DATA, END_STREAM, 0)].concat();
        let request = [request, frame(8, 0, 4), frame(PING, 0, 8)].concat();
        for _ in 0..10_000 {
            assert_eq!(frames.see(&request, now), Ok(()));
        }
    }

    #[test]
    fn frames_may_come_in_any_pieces_and_other_protocols_have_none() {
        let (mut frames, now) = connection();
        let pings = frame(PING, 0, 8).repeat(1_000);
        assert!(pings.chunks(7).all(|piece| frames.see(piece, now).is_ok()));
        assert_eq!(frames.see(&frame(PING, 0, 8), now), Err(Flood));

        let mut frames = Metered::new((), Arc::default()).frames;
        assert_eq!(frames.see(b"POST /v1/logs HTTP/1.1\r\n", now), Ok(()));
        assert_eq!(frames.see(&pings.repeat(2), now), Ok(()));
    }
}
