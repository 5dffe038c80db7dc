//! What an input still does after it returned: commit what it handed in as the verdicts arrive.
//!
//! The verdict on a log record may come only when the stages behind have drained (its pattern's window stays open until then), and
//! they drain only after the inputs returned. So an input returns once it has handed in what it had, and leaves its commits to
//! work that `run.rs` waits for at the very end. Invariant: after [`Afterwork::finish`] such work has ended or was told to.

use std::future::Future;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The work of all inputs. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Afterwork {
    tasks: TaskTracker,
    end: CancellationToken,
}

impl Afterwork {
    /// Run work that may outlive its input.
    pub fn spawn<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.tasks.spawn(work)
    }

    /// As [`Afterwork::spawn`], on a thread that may block.
    pub fn spawn_blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        self.tasks.spawn_blocking(work)
    }

    /// Resolves when no verdict is worth waiting for any more: save what is known and end.
    pub async fn given_up(&self) {
        self.end.cancelled().await;
    }

    /// Wait until all work has ended; what has not by `deadline` is told to end now. False if there was such.
    pub async fn finish(&self, deadline: Instant) -> bool {
        self.tasks.close();
        let in_time = tokio::time::timeout_at(deadline, self.tasks.wait()).await.is_ok();
        self.end.cancel();
        self.tasks.wait().await;
        in_time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_waited_for_and_at_the_deadline_told_to_end() {
        let after = Afterwork::default();
        after.spawn(async {});
        assert!(after.clone().finish(Instant::now() + std::time::Duration::from_secs(3_600)).await);
        let after = Afterwork::default();
        let own = after.clone();
        let work = after.spawn(async move { own.given_up().await });
        assert!(!after.finish(Instant::now()).await);
        work.await.unwrap();
    }
}
