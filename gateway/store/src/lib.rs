//! The embedded store: ClickHouse's own engine (libchdb) in this process, behind ClickHouse's HTTP interface.
//!
//! `http` takes a request, `statement` reads what it asks, a `lanes` thread runs it in a `session`, and the answer goes back. The gateway
//! starts it as a process of its own (`ollystack-gateway store`), so that one code path writes to a server and to this. It is right
//! for one host, demonstrations and tests; replication and clusters are a server's. Invariant: an insert is answered after the
//! engine has it, synced to the disk unless `--sync false`.
//!
//! One process has one engine and one data folder. The engine is fetched at run time by [`engine::ensure`]; nothing of it is linked.

pub mod blocks;
mod config;
pub mod engine;
mod error;
#[cfg(feature = "fuzz")]
#[path = "../fuzz/targets.rs"]
pub mod fuzz;
mod http;
mod lanes;
mod library;
mod options;
mod session;
mod statement;

pub use error::Error;
pub use options::Options;

use crate::http::{Gate, Server, Service};
use crate::lanes::Lane;
use crate::options::Password;
use crate::session::Engine;
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Statements under way are given this long when the store stops; then they are cancelled.
const GRACE: Duration = Duration::from_secs(10);

/// Fetch the engine if need be, open the data and serve until `stop`. On return everything is on the disk and the engine has ended.
pub async fn run(options: Options, stop: CancellationToken) -> Result<(), Error> {
    let password = Password::from_environment();
    options.check(password.as_ref())?;
    let library = blocking(|| engine::ensure(&|step| tracing::info!("{step}")).map_err(Error::from)).await?;
    if options.fetch {
        tracing::info!(path = %library.display(), "the engine is ready");
        return Ok(());
    }
    // The port first: it is the cheaper one to find taken.
    let listen = |source| Error::Listen { address: options.listen, source };
    let listener = TcpListener::bind(options.listen).await.map_err(listen)?;
    let address = listener.local_addr().map_err(listen)?;
    let folder = options.folder()?;
    let opened = (options.clone(), folder.clone());
    let (engine, _lock) = blocking(move || open(&library, &opened.1, &opened.0)).await?;

    let connector = engine.connector();
    let inserts = Lane::new("insert", options.inserts, options.waiting, &connector)?;
    let queries = Lane::new("query", options.queries, options.waiting, &connector)?;
    let server = Server {
        display_name: "ollystack-store (embedded)".to_owned(),
        version: engine.version.clone(),
        timezone: engine.timezone.clone(),
    };
    let gate = Gate { user: options.user.clone(), password, loopback: options.listen.ip().is_loopback() };
    let service = Arc::new(Service::new(server, gate, inserts, queries, options.body_bytes));
    tracing::info!(%address, folder = %folder.display(), version = %engine.version, "the store is open");

    let clean = http::serve(listener, Arc::clone(&service), options.connections, stop, GRACE).await;
    blocking(move || {
        close(engine, &service, clean);
        Ok(())
    })
    .await?;
    tracing::info!("the store is closed");
    Ok(())
}

/// Make the folder ours and start the engine in it.
fn open(library: &Path, folder: &Path, options: &Options) -> Result<(Engine, File), Error> {
    let failed = |what: String| Error::Folder { folder: folder.to_owned(), what };
    std::fs::create_dir_all(folder).map_err(|error| failed(error.to_string()))?;
    let config: PathBuf = config::write(folder, options).map_err(|error| failed(error.to_string()))?;
    let lock = File::create(folder.join("ollystack/lock")).map_err(|error| failed(error.to_string()))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| failed("another store has it open; stop that one or choose another with --dir".to_owned()))?;
    Ok((Engine::open(library, folder, &config, options)?, lock))
}

/// Cancel what is left, let the threads end, then the engine: dropping its last connection stops it.
fn close(mut engine: Engine, service: &Service, clean: bool) {
    if !clean {
        match engine.cancel_all() {
            Ok(()) => tracing::warn!(seconds = GRACE.as_secs(), "cancelled statements that were still running"),
            Err(refusal) => tracing::warn!(code = refusal.code, "cannot cancel what is running: {}", refusal.message),
        }
    }
    service.inserts.finish();
    service.queries.finish();
    drop(engine);
}

/// Run what blocks on a thread of its own.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Error::Thread(std::io::Error::other(error))),
    }
}
