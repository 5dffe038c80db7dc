//! Keeps the embedded engine running: this very program with `store`, as a child process.
//!
//! The child holds the reading end of a pipe whose writing end lives here, and ends when the pipe does: at the end of [`run`], and
//! also when this process is killed, so that no engine is left behind with a lock on the data. Invariant: the engine outlives
//! the gateway's last insert and nothing else.

use crate::config::Config;
use crate::signals::Signals;
use std::error::Error;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Pause before the engine is started again: doubles from the first to the second, and starts over when it ran for long.
const RESTART_MIN: Duration = Duration::from_secs(1);
const RESTART_MAX: Duration = Duration::from_secs(30);
const RAN_LONG: Duration = Duration::from_secs(60);

/// A clean end takes a second or two; after this the engine is killed.
const END_TIMEOUT: Duration = Duration::from_secs(20);

/// Where the engine is reached from this process.
pub(crate) fn url(config: &Config) -> String {
    let listen = config.store.listen;
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    format!("http://{}", SocketAddr::new(ip, listen.port()))
}

/// Start the engine, again whenever it ends, until `end`; then let it end cleanly.
pub(crate) async fn run(config: Config, end: CancellationToken) {
    let mut pause = RESTART_MIN;
    loop {
        let begun = Instant::now();
        match start(&config) {
            Ok(mut child) => {
                // Taken out, because `wait` would close it.
                let pipe = child.stdin.take();
                match end.run_until_cancelled(child.wait()).await {
                    None => {
                        drop(pipe);
                        return stop(child).await;
                    }
                    Some(Ok(status)) => {
                        tracing::error!(%status, "the embedded engine ended; its own lines above say why")
                    }
                    Some(Err(error)) => tracing::error!(%error, "the embedded engine cannot be waited for"),
                }
            }
            Err(error) => tracing::error!(%error, "the embedded engine cannot be started"),
        }
        if begun.elapsed() > RAN_LONG {
            pause = RESTART_MIN;
        }
        tracing::warn!(seconds = pause.as_secs(), "starting the embedded engine again");
        if end.run_until_cancelled(sleep(pause)).await.is_none() {
            return;
        }
        pause = (pause * 2).min(RESTART_MAX);
    }
}

fn start(config: &Config) -> io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["store", "--until-stdin-ends", "--listen", &config.store.listen.to_string()])
        .arg("--dir")
        .arg(config.store_dir())
        .args(["--memory-bytes", &config.store.memory_bytes.to_string()])
        .stdin(Stdio::piped())
        // Ctrl-C in a terminal goes to a whole process group: the engine must live until the gateway has written everything.
        .process_group(0)
        .kill_on_drop(true);
    if !config.clickhouse.password.is_empty() {
        command.args(["--user", &config.clickhouse.user]);
        command.env("OLLYSTACK_STORE_PASSWORD", config.clickhouse.password.expose());
    }
    command.spawn()
}

/// The pipe is closed: wait for the end.
async fn stop(mut child: Child) {
    match timeout(END_TIMEOUT, child.wait()).await {
        Ok(Ok(status)) => tracing::info!(%status, "the embedded engine ended"),
        Ok(Err(error)) => tracing::error!(%error, "the embedded engine cannot be waited for"),
        Err(_) => {
            tracing::warn!("the embedded engine did not end in {} s; killing it", END_TIMEOUT.as_secs());
            if let Err(error) = child.kill().await {
                tracing::error!(%error, "the embedded engine cannot be killed");
            }
        }
    }
}

/// The child's side, and `ollystack-gateway store` by itself: serve until a signal, or until standard input ends.
pub(crate) async fn serve(options: ollystack_store::Options, until_stdin_ends: bool) -> Result<(), Box<dyn Error>> {
    let mut signals = Signals::new()?;
    let stop = CancellationToken::new();
    if until_stdin_ends {
        let stop = stop.clone();
        std::thread::Builder::new().name("until-stdin-ends".to_owned()).spawn(move || {
            // An error is an end too: the gateway is done, or gone.
            let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
            stop.cancel();
        })?;
    }
    let on_signal = stop.clone();
    tokio::spawn(async move {
        signals.next().await;
        on_signal.cancel();
    });
    Ok(ollystack_store::run(options, stop).await?)
}
