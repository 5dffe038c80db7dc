//! Signals that end the agent: the first asks for an orderly stop, a second SIGINT for the end at once.
//!
//! SIGTERM comes from the service manager, SIGINT from a terminal, SIGHUP from a terminal that goes away. Managers repeat themselves, and
//! one Ctrl-C may come as SIGINT and SIGTERM. Invariant: an orderly stop is cut short only by a person who asks for it twice.

use tokio::signal::unix::{Signal, SignalKind, signal};

const INTERRUPT: &str = "SIGINT";

/// The signals, caught from now on.
#[derive(Debug)]
pub(crate) struct Signals([(&'static str, Signal); 3]);

/// Catch them.
pub(crate) fn listen() -> std::io::Result<Signals> {
    Ok(Signals([
        ("SIGTERM", signal(SignalKind::terminate())?),
        (INTERRUPT, signal(SignalKind::interrupt())?),
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

    /// From now on a SIGINT that is not the first ends the process, as abruptly as a crash: what is synced is safe, the rest is lost.
    /// `first` is the name of the signal that asked for the stop.
    pub(crate) fn exit_on_second_interrupt(mut self, first: Option<&'static str>) {
        tokio::spawn(async move {
            let mut interrupted = first == Some(INTERRUPT);
            loop {
                if self.next().await != INTERRUPT {
                    continue;
                }
                if interrupted {
                    tracing::error!("second SIGINT: ending at once; what was not yet on disk is lost");
                    std::process::exit(1);
                }
                interrupted = true;
            }
        });
    }
}
