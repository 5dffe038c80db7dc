//! Signals that end the agent: the first asks for an orderly stop, the second for the end at once.
//!
//! SIGTERM comes from the service manager, SIGINT from a terminal, SIGHUP from a terminal that goes away. Invariant: an
//! orderly stop can always be cut short by whoever asked for it.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals, caught from now on.
#[derive(Debug)]
pub(crate) struct Signals([(&'static str, Signal); 3]);

/// Catch them.
pub(crate) fn listen() -> std::io::Result<Signals> {
    Ok(Signals([
        ("SIGTERM", signal(SignalKind::terminate())?),
        ("SIGINT", signal(SignalKind::interrupt())?),
        ("SIGHUP", signal(SignalKind::hangup())?),
    ]))
}

impl Signals {
    /// The name of the next one.
    pub(crate) async fn next(&mut self) -> &'static str {
        let [(term, on_term), (int, on_int), (hup, on_hup)] = &mut self.0;
        tokio::select! {
            _ = on_term.recv() => term,
            _ = on_int.recv() => int,
            _ = on_hup.recv() => hup,
        }
    }

    /// From now on the next one ends the process, as abruptly as a crash: what is synced is safe, the rest is lost.
    pub(crate) fn exit_on_next(mut self) {
        tokio::spawn(async move {
            let signal = self.next().await;
            tracing::error!(signal, "second signal: ending at once; what was not yet on disk is lost");
            std::process::exit(1);
        });
    }
}
