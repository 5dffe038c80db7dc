//! Keeps inputs running: one that fails or panics is started again after a pause, and the others never notice.
//!
//! `run.rs` starts each input here; `status`, `/metrics` and the log read the [`Board`]. What inputs still do after they returned
//! (commit as verdicts arrive) is gathered here too. Invariant: an input's end is never silent, and once `stop` is cancelled
//! nothing is started again.

use ollystack_record::Afterwork;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// First pause before a restart; doubles up to the longest.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// An input that ran this long is healthy again: the next failure starts over with the first pause.
const HEALTHY_AFTER: Duration = Duration::from_secs(300);

/// What an input is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Phase {
    /// At work.
    Running,
    /// Failed; will be started again.
    Failing,
    /// Not started: cannot, or is configured off.
    Off,
    /// Ended because the agent stops.
    Stopped,
}

/// One input's line in `status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InputState {
    /// As in the configuration: `host`, `logs`, `otlp`, `ebpf`.
    pub(crate) name: String,
    /// Now.
    pub(crate) phase: Phase,
    /// Starts after the first.
    pub(crate) restarts: u64,
    /// The last failure, or why it is off; empty when there is nothing to say.
    pub(crate) note: String,
}

/// The state of every input, for whoever asks.
#[derive(Debug, Default)]
pub(crate) struct Board(Mutex<BTreeMap<&'static str, InputState>>);

impl Board {
    /// All, by name.
    pub(crate) fn read(&self) -> Vec<InputState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn set<T>(&self, name: &'static str, change: impl FnOnce(&mut InputState) -> T) -> T {
        let mut inputs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let blank = || InputState { name: name.to_owned(), phase: Phase::Off, restarts: 0, note: String::new() };
        change(inputs.entry(name).or_insert_with(blank))
    }
}

/// Runs inputs until told to stop.
#[derive(Debug)]
pub(crate) struct Supervisor {
    board: Arc<Board>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    after: Afterwork,
    pause: Duration,
}

impl Supervisor {
    /// `stop` is the token that the inputs get too.
    pub(crate) fn new(board: Arc<Board>, stop: CancellationToken) -> Supervisor {
        Supervisor { board, stop, tasks: JoinSet::new(), after: Afterwork::default(), pause: PAUSE }
    }

    /// What inputs still do after they returned: to be finished once the stages behind them have drained.
    pub(crate) fn after(&self) -> Afterwork {
        self.after.clone()
    }

    /// Note an input that does not run, and why.
    pub(crate) fn off(&self, name: &'static str, why: &str) {
        self.board.set(name, |input| input.note = why.to_owned());
    }

    /// Run what `start` makes, again and again.
    pub(crate) fn start<F, Fut, E>(&mut self, name: &'static str, start: F)
    where
        F: Fn() -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Display + Send + 'static,
    {
        let (board, stop, first_pause) = (Arc::clone(&self.board), self.stop.clone(), self.pause);
        board.set(name, |input| input.phase = Phase::Running);
        self.tasks.spawn(async move {
            let mut pause = first_pause;
            loop {
                let started = Instant::now();
                let outcome = tokio::spawn(start()).await;
                if stop.is_cancelled() {
                    if let Ok(Err(error)) = outcome {
                        tracing::warn!(input = name, %error, "input failed while stopping");
                    }
                    break;
                }
                let error = match outcome {
                    Ok(Ok(())) => "ended by itself".to_owned(),
                    Ok(Err(error)) => error.to_string(),
                    Err(crash) => format!("crashed: {crash}"),
                };
                if started.elapsed() >= HEALTHY_AFTER {
                    pause = first_pause;
                }
                let known = board.set(name, |input| {
                    input.phase = Phase::Failing;
                    let known = input.note == error;
                    input.note.clone_from(&error);
                    known
                });
                // The same again is no news: `status` shows that it lasts.
                if !known {
                    tracing::warn!(input = name, error, "input failed and will be tried again; the others go on");
                }
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(PAUSE_MAX);
                board.set(name, |input| {
                    input.phase = Phase::Running;
                    input.restarts += 1;
                });
            }
            board.set(name, |input| input.phase = Phase::Stopped);
        });
    }

    /// Wait until every input has handed in what it had. Cancel the token first.
    pub(crate) async fn join(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    fn supervisor() -> (Supervisor, Arc<Board>, CancellationToken) {
        let (board, stop) = (Arc::new(Board::default()), CancellationToken::new());
        (Supervisor { pause: Duration::from_millis(1), ..Supervisor::new(board.clone(), stop.clone()) }, board, stop)
    }

    #[tokio::test]
    async fn an_input_that_fails_and_one_that_panics_are_started_again_and_the_note_says_why() {
        let (mut supervisor, board, stop) = supervisor();
        let (third, mut reached) = tokio::sync::mpsc::channel::<()>(1);
        let runs = Arc::new(AtomicUsize::new(0));
        let token = stop.clone();
        supervisor.start("logs", move || {
            let (run, third, token) = (runs.fetch_add(1, SeqCst), third.clone(), token.clone());
            async move {
                match run {
                    0 => Err("no such directory".to_owned()),
                    1 => panic!("a bug"),
                    _ => {
                        let _ = third.send(()).await;
                        token.cancelled().await;
                        Ok(())
                    }
                }
            }
        });
        reached.recv().await.unwrap();
        let input = board.read().remove(0);
        assert_eq!((input.phase, input.restarts), (Phase::Running, 2));
        assert!(input.note.contains("crashed"), "{}", input.note);
        stop.cancel();
        supervisor.join().await;
        assert_eq!(board.read()[0].phase, Phase::Stopped);
    }

    #[tokio::test]
    async fn an_input_that_is_off_says_why() {
        let (supervisor, board, _) = supervisor();
        supervisor.off("ebpf", "not root");
        assert_eq!((board.read()[0].phase, board.read()[0].note.as_str()), (Phase::Off, "not root"));
    }

    #[tokio::test]
    async fn stopping_does_not_wait_for_the_pause_of_a_failing_input() {
        let (mut supervisor, _, stop) = supervisor();
        supervisor.pause = Duration::from_secs(3600);
        let (failed, mut failing) = tokio::sync::mpsc::channel::<()>(1);
        supervisor.start("host", move || {
            let _ = failed.try_send(());
            async { Err::<(), _>("broken") }
        });
        failing.recv().await.unwrap();
        stop.cancel();
        supervisor.join().await;
    }
}
