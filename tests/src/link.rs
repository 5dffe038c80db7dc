//! A wire between two processes that a test can cut: a TCP relay on the loopback.
//!
//! While cut, connections are refused and those that stood are closed, as when the other side has gone. Answers can be
//! swallowed: the request arrives and has its effect, the caller sees the connection die.

use crate::port::free_port;
use anyhow::{Context, Result};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// A relay from a port of its own to `target`.
#[derive(Debug)]
pub struct Link {
    port: u16,
    shared: Arc<Shared>,
    acceptor: Mutex<Option<(Arc<AtomicBool>, thread::JoinHandle<()>)>>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    open: Mutex<Vec<TcpStream>>,
    swallow: AtomicUsize,
    swallowed: AtomicUsize,
}

impl Link {
    /// A whole wire to `target`.
    pub fn to(target: SocketAddr) -> Result<Self> {
        let port = free_port()?;
        let listener = TcpListener::bind(("127.0.0.1", port))?;
        let shared =
            Shared { target, open: Mutex::default(), swallow: AtomicUsize::new(0), swallowed: AtomicUsize::new(0) };
        let link = Self { port, shared: Arc::new(shared), acceptor: Mutex::new(None) };
        link.accept_on(listener)?;
        Ok(link)
    }

    /// A wire to a port of the loopback.
    pub fn to_port(port: u16) -> Result<Self> {
        Self::to(SocketAddr::from(([127, 0, 0, 1], port)))
    }

    /// The near end.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Cuts the wire: standing connections die, new ones are refused.
    pub fn cut(&self) -> Result<()> {
        let acceptor = self.acceptor.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.take();
        if let Some((stop, thread)) = acceptor {
            stop.store(true, SeqCst);
            let _ = TcpStream::connect(("127.0.0.1", self.port)); // wakes the acceptor, which then closes its listener
            let _ = thread.join();
        }
        self.shared.hang_up();
        Ok(())
    }

    /// Mends a cut wire.
    pub fn mend(&self) -> Result<()> {
        let listener =
            TcpListener::bind(("127.0.0.1", self.port)).context("the port of a cut link was taken meanwhile")?;
        self.accept_on(listener)
    }

    /// Lets the next `answers` requests through and kills their connections instead of relaying what comes back.
    pub fn swallow_answers(&self, answers: usize) {
        self.shared.swallow.store(answers, SeqCst);
    }

    /// How many answers were swallowed so far.
    pub fn swallowed(&self) -> usize {
        self.shared.swallowed.load(SeqCst)
    }

    fn accept_on(&self, listener: TcpListener) -> Result<()> {
        let stop = Arc::new(AtomicBool::new(false));
        let (seen, shared) = (stop.clone(), self.shared.clone());
        let thread = thread::spawn(move || {
            for near in listener.incoming() {
                if seen.load(SeqCst) {
                    return;
                }
                if let Ok(near) = near {
                    let _ = shared.clone().relay(near);
                }
            }
        });
        *self.acceptor.lock().map_err(|_| anyhow::anyhow!("poisoned"))? = Some((stop, thread));
        Ok(())
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let _ = self.cut();
    }
}

impl Shared {
    fn relay(self: Arc<Self>, near: TcpStream) -> Result<()> {
        let far = TcpStream::connect_timeout(&self.target, Duration::from_secs(5))?;
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        if let Ok(mut open) = self.open.lock() {
            open.push(near.try_clone()?);
            open.push(far.try_clone()?);
        }
        let (near_in, far_out) = (near.try_clone()?, far.try_clone()?);
        thread::spawn(move || copy(near_in, far_out, |_| true));
        thread::spawn(move || copy(far, near, |bytes| !self.swallows(bytes)));
        Ok(())
    }

    /// Whether this piece of an answer is to be swallowed. An HTTP/2 connection's own frames (settings, window updates,
    /// pings) are no answer: only a piece with a HEADERS frame, or the status line of HTTP/1, counts.
    fn swallows(&self, bytes: &[u8]) -> bool {
        let taken = is_answer(bytes) && self.swallow.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok();
        if taken {
            self.swallowed.fetch_add(1, SeqCst);
        }
        taken
    }

    fn hang_up(&self) {
        if let Ok(mut open) = self.open.lock() {
            for stream in open.drain(..) {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }
}

/// Relays until either side closes, or `pass` says no; then closes both.
fn copy(mut from: TcpStream, mut to: TcpStream, pass: impl Fn(&[u8]) -> bool) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read) = from.read(&mut buffer) {
        if read == 0 || !pass(&buffer[..read]) || to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

/// An HTTP/1 status line, or HTTP/2 frames of which one is HEADERS (type 1); RFC 9113, section 4.1.
fn is_answer(bytes: &[u8]) -> bool {
    if bytes.starts_with(b"HTTP/1") {
        return true;
    }
    let mut rest = bytes;
    while rest.len() >= 9 {
        if rest[3] == 1 {
            return true;
        }
        let length = u32::from_be_bytes([0, rest[0], rest[1], rest[2]]) as usize;
        rest = rest.get(9 + length..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers every connection's first bytes with the same bytes.
    fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut stream: TcpStream = stream;
                let mut bytes = [0; 8];
                stream.read_exact(&mut bytes).unwrap();
                stream.write_all(&bytes).unwrap();
            }
        });
        address
    }

    fn ask(port: u16) -> std::io::Result<[u8; 8]> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.write_all(b"HTTP/1.1")?;
        let mut bytes = [0; 8];
        stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    #[test]
    fn a_cut_link_refuses_and_a_mended_one_relays_again() {
        let link = Link::to(echo()).unwrap();
        assert_eq!(&ask(link.port()).unwrap(), b"HTTP/1.1");
        link.cut().unwrap();
        assert!(ask(link.port()).is_err());
        link.mend().unwrap();
        assert_eq!(&ask(link.port()).unwrap(), b"HTTP/1.1");
    }

    #[test]
    fn a_swallowed_answer_is_seen_as_a_dead_connection_once() {
        let link = Link::to(echo()).unwrap();
        link.swallow_answers(1);
        assert!(ask(link.port()).is_err());
        assert!(ask(link.port()).is_ok());
        assert_eq!(link.swallowed(), 1);
    }

    #[test]
    fn settings_and_pings_of_http2_are_no_answers() {
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        let headers = [0, 0, 1, 1, 4, 0, 0, 0, 1, 0x88];
        assert!(!is_answer(&settings));
        assert!(is_answer(&[settings.as_slice(), &headers].concat()));
    }
}
