//! One store for all tests of a process: the engine has one data folder a process.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test's way to fail")]

pub(crate) mod rows;

use clickhouse::Client;
use ollystack_schema::migrations::{MIGRATIONS, Placement};
use ollystack_store::{Error, Options, engine};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// A store on a thread of its own, with a runtime of its own.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    stop: CancellationToken,
    thread: Option<JoinHandle<Result<(), Error>>>,
}

impl Running {
    /// Start one and wait until it answers.
    pub(crate) fn start(folder: &Path) -> Running {
        Running::try_start(folder, |options| options).unwrap()
    }

    pub(crate) fn try_start(folder: &Path, change: impl FnOnce(Options) -> Options) -> Result<Running, Error> {
        engine::ensure(&|step| eprintln!("{step}"))?;
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let options = change(Options {
            listen: address,
            dir: Some(folder.to_owned()),
            // Tests ask for no durability, but for speed on slow disks.
            sync: false,
            ..Options::default()
        });
        let stop = CancellationToken::new();
        let run = ollystack_store::run(options, stop.clone());
        let thread = std::thread::spawn(move || tokio::runtime::Runtime::new().unwrap().block_on(run));
        let mut running = Running { address, stop, thread: Some(thread) };
        // The port is bound before the engine opens: until then a connection is refused, from then on the answer waits.
        while TcpStream::connect(address).is_err() {
            if running.thread.as_ref().unwrap().is_finished() {
                return Err(running.thread.take().unwrap().join().unwrap().unwrap_err());
            }
            std::thread::yield_now();
        }
        match get(address, "/ping") {
            Some(answer) => {
                assert_eq!(answer.status, 200);
                Ok(running)
            }
            None => Err(running.thread.take().unwrap().join().unwrap().unwrap_err()),
        }
    }

    /// Stop it and wait until the engine has ended.
    pub(crate) fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap().unwrap();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// A share of the process' store. The last one to go stops it: an engine that still runs when the process ends crashes it.
pub(crate) struct Store {
    shared: Option<Arc<(Running, TempDir)>>,
    pub(crate) address: SocketAddr,
}

static SHARED: Mutex<Weak<(Running, TempDir)>> = Mutex::new(Weak::new());

fn shared() -> MutexGuard<'static, Weak<(Running, TempDir)>> {
    SHARED.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    pub(crate) fn get() -> Store {
        let mut shared = shared();
        let running = shared.upgrade().unwrap_or_else(|| {
            let folder = tempfile::tempdir().unwrap();
            Arc::new((Running::start(folder.path()), folder))
        });
        *shared = Arc::downgrade(&running);
        Store { address: running.0.address, shared: Some(running) }
    }

    /// A client in an empty database of this name.
    pub(crate) async fn client(&self, database: &str) -> Client {
        let client = Client::default().with_url(format!("http://{}", self.address));
        client.query(&format!("CREATE DATABASE IF NOT EXISTS {database}")).execute().await.unwrap();
        client.with_database(database)
    }

    /// A client in a database of this name with the whole schema.
    pub(crate) async fn with_schema(&self, database: &str) -> Client {
        let client = self.client(database).await;
        for migration in MIGRATIONS {
            for statement in migration.statements(&Placement::SingleNode).unwrap() {
                let done = client.query(&statement).execute().await;
                done.unwrap_or_else(|error| panic!("{}: {error}\n{statement}", migration.name));
            }
        }
        client
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _one_at_a_time = shared();
        self.shared = None;
    }
}

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

pub(crate) fn get(address: SocketAddr, path: &str) -> Option<Answer> {
    request(address, "GET", path, &[], b"")
}

pub(crate) fn post(address: SocketAddr, path: &str, headers: &[&str], body: &[u8]) -> Answer {
    request(address, "POST", path, headers, body).unwrap()
}

fn request(address: SocketAddr, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Option<Answer> {
    let mut stream = TcpStream::connect(address).ok()?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    for header in headers {
        head.push_str(header);
        head.push_str("\r\n");
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    stream.write_all(head.as_bytes()).ok()?;
    // The server may refuse before it has read all.
    let _ = stream.write_all(body);
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, head, body: answer[end + 4..].to_vec() })
}
