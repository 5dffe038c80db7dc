//! The tasks that are the stages: spawned by name, watched while the agent runs, awaited when it stops.
//!
//! Invariant: a stage that ends, by error or by panic, is heard of through [`Stages::first_to_end`].

use std::collections::BTreeMap;
use std::fmt::Display;
use std::future::Future;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// The stages at work.
#[derive(Debug)]
pub(crate) struct Stages {
    handles: BTreeMap<&'static str, JoinHandle<()>>,
    ended: mpsc::UnboundedSender<&'static str>,
    endings: mpsc::UnboundedReceiver<&'static str>,
}

impl Default for Stages {
    fn default() -> Stages {
        // Bounded by the number of stages: each sends its name once.
        let (ended, endings) = mpsc::unbounded_channel();
        Stages { handles: BTreeMap::new(), ended, endings }
    }
}

/// Tells that its stage is gone when it is dropped, which a panic does too.
struct Ending {
    name: &'static str,
    to: mpsc::UnboundedSender<&'static str>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        // Nobody listens any more once the agent stops.
        let _ = self.to.send(self.name);
    }
}

impl Stages {
    /// Start one.
    pub(crate) fn spawn<E: Display>(
        &mut self,
        name: &'static str,
        stage: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let ending = Ending { name, to: self.ended.clone() };
        let handle = tokio::spawn(async move {
            let _ending = ending;
            if let Err(error) = stage.await {
                tracing::error!(stage = name, %error, "stage failed");
            }
        });
        self.handles.insert(name, handle);
    }

    /// The name of the first that ends.
    pub(crate) async fn first_to_end(&mut self) -> &'static str {
        match self.endings.recv().await {
            Some(name) => name,
            // Cannot be: `self.ended` is a sender too.
            None => std::future::pending().await,
        }
    }

    /// Wait for the end of one.
    pub(crate) async fn end(&mut self, name: &str) {
        if let Some(handle) = self.handles.remove(name)
            && let Err(crash) = handle.await
        {
            tracing::error!(stage = name, %crash, "stage crashed");
        }
    }
}

/// Wait for the end of something, but not for ever.
pub(crate) async fn within<T>(deadline: Instant, what: &str, end: impl Future<Output = T>) {
    if tokio::time::timeout_at(deadline, end).await.is_err() {
        tracing::warn!("{what} did not end in time; going on without");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_a_stage_is_heard_of_whether_it_returned_failed_or_crashed() {
        let mut stages = Stages::default();
        stages.spawn("returned", async { Ok::<(), &str>(()) });
        assert_eq!(stages.first_to_end().await, "returned");
        stages.spawn("failed", async { Err("no disk") });
        assert_eq!(stages.first_to_end().await, "failed");
        stages.spawn("crashed", async { if true { panic!("a bug") } else { Ok::<(), &str>(()) } });
        assert_eq!(stages.first_to_end().await, "crashed");
        stages.end("crashed").await;
    }

    #[tokio::test]
    async fn what_does_not_end_is_left_behind_at_the_deadline() {
        within(Instant::now(), "it", std::future::pending::<()>()).await;
    }
}
