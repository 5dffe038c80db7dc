//! The two signals that stop a process of ours. Invariant: from [`Signals::new`] on neither ends the process by itself.

use tokio::signal::unix::{SignalKind, signal};

/// SIGTERM and SIGINT.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    pub(crate) fn new() -> std::io::Result<Signals> {
        Ok(Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The next of either; whether it was SIGINT.
    pub(crate) async fn next(&mut self) -> bool {
        tokio::select! {
            _ = self.terminate.recv() => false,
            _ = self.interrupt.recv() => true,
        }
    }

    /// Until a SIGINT that is not the first: a person asks twice. Service managers repeat themselves, and one Ctrl-C may come as both.
    pub(crate) async fn second_interrupt(&mut self, mut interrupted: bool) {
        loop {
            if self.next().await {
                if interrupted {
                    return;
                }
                interrupted = true;
            }
        }
    }
}
