//! Closing a connection so that its last answer is read.
//!
//! A request that is refused before its body was read leaves bytes that nobody takes. Closing then makes the kernel send a
//! reset, the sender sees a broken pipe instead of the answer, and OTLP clients retry that for ever. So the end of the
//! connection first says that no more will be written, then reads and forgets what still comes, as RFC 9112 (9.6) asks for.
//! Invariant: at most [`BYTES_MAX`] are read and [`TIME_MAX`] pass before the connection closes all the same.

use std::io::Result;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// A few times what lies in socket buffers; more is a sender who does not listen.
const BYTES_MAX: usize = 4 << 20;
const TIME_MAX: Duration = Duration::from_secs(1);
const CHUNK_BYTES: usize = 4 << 10;

/// A connection that lingers when it is shut down.
#[derive(Debug)]
pub(crate) struct Lingering<I> {
    io: I,
    shut: bool,
    forgotten_bytes: usize,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<I> Lingering<I> {
    pub(crate) fn new(io: I) -> Lingering<I> {
        Lingering { io, shut: false, forgotten_bytes: 0, deadline: None }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Lingering<I> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(context, buffer)
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<I> {
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
        let this = self.get_mut();
        if !this.shut {
            ready!(Pin::new(&mut this.io).poll_shutdown(context))?;
            this.shut = true;
        }
        let deadline = this.deadline.get_or_insert_with(|| Box::pin(sleep(TIME_MAX)));
        let mut chunk = [0; CHUNK_BYTES];
        while this.forgotten_bytes < BYTES_MAX && deadline.as_mut().poll(context).is_pending() {
            let mut buffer = ReadBuf::new(&mut chunk);
            // A reading that fails means that the other side is gone, and so is the reason to wait.
            if ready!(Pin::new(&mut this.io).poll_read(context, &mut buffer)).is_err() || buffer.filled().is_empty() {
                break;
            }
            this.forgotten_bytes += buffer.filled().len();
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[tokio::test]
    async fn what_still_comes_is_forgotten_until_the_sender_ends() {
        let (mut sender, receiver) = duplex(1 << 10);
        let closing = tokio::spawn(async move { Lingering::new(receiver).shutdown().await });
        sender.write_all(&vec![7; 100 << 10]).await.unwrap();
        let mut end = Vec::new();
        sender.shutdown().await.unwrap();
        sender.read_to_end(&mut end).await.unwrap();
        closing.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_sender_who_does_not_listen_is_cut_off() {
        let (mut sender, receiver) = duplex(64 << 10);
        let closing = tokio::spawn(async move { Lingering::new(receiver).shutdown().await });
        let sent = sender.write_all(&vec![7; 2 * BYTES_MAX]).await;
        closing.await.unwrap().unwrap();
        assert!(sent.is_err(), "more than the limit was read");
    }
}
