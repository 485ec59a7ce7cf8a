//! The end of the server: no message is taken any more, every stream is told, the running turn gets time to end by
//! itself and is interrupted then, and the streams end last, so that their readers have seen that end.

use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::{
    OpenCode,
    error::{Code, Error, Result},
    session::now,
};

/// What a turn that is interrupted, and all commands, get to end: a cancel takes 3 s at most.
const ENDING_TIME: Duration = Duration::from_secs(5);

impl OpenCode {
    /// Accepts no more messages, lets the running turn end by itself within `patience` and interrupts it then, ends all
    /// jobs, and then every stream. What is not stored by then, the next start writes; queued turns are left to it too.
    pub async fn shutdown(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        self.0.store.begin_draining(now().saturating_add(patience).unwrap_or_else(|_| now()));
        // Nobody is between the look at draining and the start of a turn once the gate was ours.
        drop(timeout_at(deadline, self.0.gate.lock()).await);
        if let Some(running) = self.running() {
            tracing::info!(turn = %running.id(), "the running turn has {} s to end", patience.as_secs());
            if timeout_at(deadline, running.done()).await.is_err() {
                running.interrupt();
            }
        }
        self.0.stopping.cancel();
        self.0.snapshots.stop();
        self.0.tasks.close();
        if timeout(ENDING_TIME, self.0.tasks.wait()).await.is_err() {
            tracing::warn!("the turn did not end in time; the next start closes it");
        }
        self.0.snapshots.settle().await;
        self.0.closing.cancel();
    }

    /// Done when the server shuts down.
    pub async fn closing(&self) {
        self.0.closing.cancelled().await;
    }

    /// Whether the server is about to end.
    pub(super) fn is_draining(&self) -> bool {
        self.0.store.is_draining()
    }

    /// Refuses what would begin a turn while the server is about to end.
    pub(super) fn refuse_when_draining(&self) -> Result<()> {
        if self.is_draining() {
            let detail = "the server is shutting down; send the message again when it has started anew";
            return Err(Error::new(Code::Unavailable, detail).retry_after(Duration::from_secs(1)));
        }
        Ok(())
    }
}
