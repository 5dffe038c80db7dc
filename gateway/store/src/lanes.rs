//! Threads that talk to the engine, so that the HTTP side never blocks: some for inserts, some for everything else.
//!
//! Work comes from `http` and its outcome goes back there. Invariant: a slow query cannot hold up an insert, and what waits is
//! bounded in number and time.

use crate::error::{Error, Refusal};
use crate::session::{Connector, Outcome, Work};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// The engine parses deep statements on its caller's stack; memory is taken as it is used.
const STACK_BYTES: usize = 8 << 20;
/// A statement that has not begun by then is refused: its sender has given up or is about to.
const WAIT: Duration = Duration::from_secs(30);
/// The setting that limits a statement's time, in seconds.
const TIME_LIMIT: &str = "max_execution_time";
/// 159, TIMEOUT_EXCEEDED.
const TIMEOUT_EXCEEDED: i32 = 159;
/// 202, TOO_MANY_SIMULTANEOUS_QUERIES.
const TOO_MANY: i32 = 202;
/// 210, NETWORK_ERROR.
const STOPPING: i32 = 210;

struct Task {
    work: Work,
    reply: oneshot::Sender<Outcome>,
    /// Given back when the work is done, even if nobody waits for it any more.
    _turn: OwnedSemaphorePermit,
}

/// Threads of one kind of work.
#[derive(Debug)]
pub(crate) struct Lane {
    sender: Mutex<Option<mpsc::Sender<Task>>>,
    turns: Arc<Semaphore>,
    waiting: AtomicUsize,
    waiting_max: usize,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Lane {
    /// `count` threads; at most `waiting_max` more statements wait.
    pub(crate) fn new(name: &str, count: usize, waiting_max: usize, connector: &Connector) -> Result<Lane, Error> {
        let (sender, receiver) = mpsc::channel::<Task>();
        let receiver = Arc::new(Mutex::new(receiver));
        let thread = |number| {
            let (receiver, connector) = (Arc::clone(&receiver), connector.clone());
            let builder = std::thread::Builder::new().name(format!("{name}-{number}")).stack_size(STACK_BYTES);
            builder.spawn(move || serve(&receiver, &connector)).map_err(Error::Thread)
        };
        let threads = (0..count).map(thread).collect::<Result<_, _>>()?;
        let turns = Arc::new(Semaphore::new(count));
        Ok(Lane {
            sender: Mutex::new(Some(sender)),
            turns,
            waiting: AtomicUsize::new(0),
            waiting_max,
            threads: Mutex::new(threads),
        })
    }

    /// Run one statement when it is its turn. A time limit of its own counts from `received`, as a server's does.
    pub(crate) async fn run(&self, mut work: Work, received: Instant) -> Outcome {
        let turn = self.turn().await?;
        count_from(received.elapsed(), &mut work)?;
        let (reply, outcome) = oneshot::channel();
        let stopping = || Refusal::new(STOPPING, "the store is stopping");
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or_else(stopping)?;
        sender.send(Task { work, reply, _turn: turn }).map_err(|_| stopping())?;
        drop(sender);
        outcome.await.map_err(|_| stopping())?
    }

    async fn turn(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        if let Ok(turn) = Arc::clone(&self.turns).try_acquire_owned() {
            return Ok(turn);
        }
        let _place = Place::take(&self.waiting, self.waiting_max)?;
        match tokio::time::timeout(WAIT, Arc::clone(&self.turns).acquire_owned()).await {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_)) => Err(Refusal::new(STOPPING, "the store is stopping")),
            Err(_) => {
                Err(Refusal::new(TOO_MANY, format!("Too many simultaneous queries: waited {} s", WAIT.as_secs())))
            }
        }
    }

    /// Take nothing new, let the threads finish what they have, and wait for them. Blocks.
    pub(crate) fn finish(&self) {
        *self.sender.lock().unwrap_or_else(PoisonError::into_inner) = None;
        for thread in self.threads.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // A thread that panicked has answered its task by dropping it.
            let _ = thread.join();
        }
    }
}

/// Take what has gone by from a statement's time limit.
fn count_from(waited: Duration, work: &mut Work) -> Result<(), Refusal> {
    for (_, value) in work.settings.iter_mut().filter(|(name, _)| name == TIME_LIMIT) {
        // 0 is no limit, and what is no number is for the engine to refuse.
        let Some(seconds) = value.parse().ok().filter(|seconds: &f64| *seconds > 0.0) else { continue };
        let left = seconds - waited.as_secs_f64();
        if left <= 0.0 {
            return Err(Refusal::new(TIMEOUT_EXCEEDED, format!("Timeout exceeded: waited {:?} for its turn", waited)));
        }
        *value = format!("{:.3}", left.max(0.001));
    }
    Ok(())
}

/// A place among those that wait.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize, max: usize) -> Result<Place<'a>, Refusal> {
        if waiting.fetch_add(1, Ordering::Relaxed) >= max {
            waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(Refusal::new(TOO_MANY, format!("Too many simultaneous queries. Maximum waiting: {max}")));
        }
        Ok(Place(waiting))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn serve(receiver: &Mutex<mpsc::Receiver<Task>>, connector: &Connector) {
    loop {
        let task = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Task { work, reply, _turn }) = task else { return };
        let outcome = connector.run(&work);
        // Nobody waits when the client hung up; what was inserted is inserted.
        let _ = reply.send(outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_limit_counts_while_a_statement_waits_for_its_turn() {
        let left = |limit: &str, waited| {
            let mut work = Work { settings: vec![(TIME_LIMIT.into(), limit.into())], ..Work::default() };
            count_from(Duration::from_millis(waited), &mut work).map(|()| work.settings[0].1.clone())
        };
        assert_eq!(left("1.5", 250).unwrap(), "1.250");
        assert_eq!(left("0", 250).unwrap(), "0");
        assert_eq!(left("soon", 250).unwrap(), "soon");
        assert_eq!(left("1", 1_000).unwrap_err().code, TIMEOUT_EXCEEDED);
    }
}
