//! An endpoint for the agent that answers as it should not, until it is told to hand everything on to a gateway.
//!
//! It never says that it took anything. Invariant: a connection keeps to the mood in which it was accepted.

use crate::frames::{
    CONTINUATION, DATA, END_HEADERS, GOAWAY, HEADERS, INITIAL_WINDOW_SIZE, PING, SETTINGS, block, frame,
};
use anyhow::Result;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// An evil connection ends after this, if the agent has not ended it.
const PATIENCE: Duration = Duration::from_millis(600);

/// How it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// It is the gateway.
    Honest,
    /// Says nothing.
    Mute,
    /// A body without end.
    EndlessBody,
    /// Headers without end.
    EndlessHeaders,
    /// Trailers without end, after a body.
    EndlessTrailers,
    /// Interim answers without end.
    EndlessInterim,
    /// Says that its answer is compressed, and sends what would unpack to much.
    Compressed,
    /// An answer, a byte at a time.
    Slow,
    /// Goes away, each time.
    GoAway,
    Pings,
    Settings,
    Garbage,
    /// An HTTP/1.1 server.
    Old,
}

impl Mood {
    pub(crate) const EVIL: [Mood; 12] = [
        Mood::Mute,
        Mood::EndlessBody,
        Mood::EndlessHeaders,
        Mood::EndlessTrailers,
        Mood::EndlessInterim,
        Mood::Compressed,
        Mood::Slow,
        Mood::GoAway,
        Mood::Pings,
        Mood::Settings,
        Mood::Garbage,
        Mood::Old,
    ];
}

/// A listening endpoint.
#[derive(Debug)]
pub(crate) struct Endpoint {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    mood: Mutex<Mood>,
    /// Exchanges, evil ones: connections, and requests on them.
    seen: AtomicU64,
    /// Of each change of mood one more: connections of before end.
    age: AtomicUsize,
    gateway: SocketAddr,
}

impl Endpoint {
    /// In front of a gateway; honest at first.
    pub(crate) fn before(gateway: SocketAddr) -> Result<Endpoint> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared =
            Shared { mood: Mutex::new(Mood::Honest), seen: AtomicU64::new(0), age: AtomicUsize::new(0), gateway };
        let shared = Arc::new(shared);
        let accepting = Arc::clone(&shared);
        // Ends with this process.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&accepting);
                thread::spawn(move || shared.serve(stream));
            }
        });
        Ok(Endpoint { address, shared })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on; what it has seen until now.
    pub(crate) fn become_of(&self, mood: Mood) -> u64 {
        *self.shared.mood.lock().unwrap_or_else(PoisonError::into_inner) = mood;
        self.shared.age.fetch_add(1, SeqCst);
        self.seen()
    }

    /// How many evil connections there were.
    pub(crate) fn seen(&self) -> u64 {
        self.shared.seen.load(SeqCst)
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) {
        let mood = *self.mood.lock().unwrap_or_else(PoisonError::into_inner);
        let age = self.age.load(SeqCst);
        // A connection that ends, ends.
        let _ = match mood {
            Mood::Honest => self.hand_on(stream, age),
            mood => {
                let ended = self.torment(stream, mood, age);
                self.seen.fetch_add(1, SeqCst);
                ended
            }
        };
    }

    /// Both ways, until either end or the mood changes.
    fn hand_on(&self, near: TcpStream, age: usize) -> std::io::Result<()> {
        let far = TcpStream::connect(self.gateway)?;
        let (mut up_from, mut up_to) = (near.try_clone()?, far.try_clone()?);
        let up = thread::spawn(move || {
            let _ = std::io::copy(&mut up_from, &mut up_to);
            let _ = up_to.shutdown(Shutdown::Both);
        });
        let (mut from, mut to) = (far, near);
        from.set_read_timeout(Some(Duration::from_millis(50)))?;
        let mut chunk = [0; 16 << 10];
        while self.age.load(SeqCst) == age {
            match from.read(&mut chunk) {
                Ok(0) => break,
                Ok(count) => to.write_all(&chunk[..count])?,
                Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                }
                Err(error) => return Err(error),
            }
        }
        to.shutdown(Shutdown::Both)?;
        let _ = up.join();
        Ok(())
    }

    fn torment(&self, mut stream: TcpStream, mood: Mood, age: usize) -> std::io::Result<()> {
        let end = Instant::now() + PATIENCE;
        stream.set_write_timeout(Some(Duration::from_millis(200)))?;
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        let goes_on = || self.age.load(SeqCst) == age && Instant::now() < end;
        if mood == Mood::Old {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
            return drain(&mut stream, goes_on);
        }
        if mood == Mood::Garbage {
            stream.write_all(&[0xa5; 64 << 10])?;
            return drain(&mut stream, goes_on);
        }
        let settings = [&INITIAL_WINDOW_SIZE.to_be_bytes()[..], &(1u32 << 20).to_be_bytes()].concat();
        stream.write_all(&frame(SETTINGS, 0, 0, &settings))?;
        // The agent's first request is stream 1; by then its preface is there, too.
        let mut first = [0; 4096];
        while goes_on() {
            match stream.read(&mut first) {
                Ok(0) => return Ok(()),
                Ok(_) => break,
                Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                }
                Err(error) => return Err(error),
            }
        }
        // The request follows its settings closely.
        thread::sleep(Duration::from_millis(50));
        let answer = block(&[(":status", "200"), ("content-type", "application/grpc")]);
        let body = vec![0; 16 << 10];
        let junk = block(&[("x-junk", &"x".repeat(4_000))]);
        match mood {
            Mood::Mute => {}
            Mood::EndlessBody => {
                stream.write_all(&frame(HEADERS, END_HEADERS, 1, &answer))?;
                while goes_on() {
                    stream.write_all(&frame(DATA, 0, 1, &body))?;
                }
            }
            Mood::EndlessHeaders => {
                stream.write_all(&frame(HEADERS, 0, 1, &answer))?;
                while goes_on() {
                    stream.write_all(&frame(CONTINUATION, 0, 1, &junk))?;
                }
            }
            Mood::EndlessTrailers => {
                stream.write_all(&frame(HEADERS, END_HEADERS, 1, &answer))?;
                stream.write_all(&frame(DATA, 0, 1, &[0; 5]))?;
                stream.write_all(&frame(HEADERS, 1, 1, &junk))?;
                while goes_on() {
                    stream.write_all(&frame(CONTINUATION, 0, 1, &junk))?;
                }
            }
            Mood::EndlessInterim => {
                let interim = block(&[(":status", "103"), ("link", &"x".repeat(2_000))]);
                while goes_on() {
                    stream.write_all(&frame(HEADERS, END_HEADERS, 1, &interim))?;
                }
            }
            Mood::Compressed => {
                let head = [("grpc-encoding", "gzip"), (":status", "200"), ("content-type", "application/grpc")];
                stream.write_all(&frame(HEADERS, END_HEADERS, 1, &block(&[head[1], head[2], head[0]])))?;
                let bomb = crate::otlp::gzip(&vec![0; 2 << 20]).unwrap_or_default();
                let prefix = [&[1][..], &(bomb.len() as u32).to_be_bytes()].concat();
                stream.write_all(&frame(DATA, 0, 1, &prefix))?;
                for piece in bomb.chunks(16 << 10) {
                    stream.write_all(&frame(DATA, 0, 1, piece))?;
                }
            }
            Mood::Slow => {
                for byte in frame(HEADERS, END_HEADERS, 1, &answer) {
                    if !goes_on() {
                        break;
                    }
                    stream.write_all(&[byte])?;
                    thread::sleep(Duration::from_millis(50));
                }
            }
            Mood::GoAway => {
                stream.write_all(&frame(GOAWAY, 0, 0, &[0; 8]))?;
                return Ok(());
            }
            Mood::Pings => {
                while goes_on() {
                    stream.write_all(&frame(PING, 0, 0, &[7; 8]).repeat(100))?;
                }
            }
            Mood::Settings => {
                while goes_on() {
                    stream.write_all(&frame(SETTINGS, 0, 0, &[]).repeat(100))?;
                }
            }
            Mood::Honest | Mood::Garbage | Mood::Old => {}
        }
        drain(&mut stream, goes_on)
    }
}

/// Read and forget until the other side ends it.
fn drain(stream: &mut TcpStream, goes_on: impl Fn() -> bool) -> std::io::Result<()> {
    let mut rest = [0; 16 << 10];
    while goes_on() {
        match stream.read(&mut rest) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
