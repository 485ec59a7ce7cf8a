//! Hearing of changes from outside, between turns.

use std::time::{Duration, Instant};

use tokio::io::{Interest, unix::AsyncFd};

use super::Take;
use crate::domain::{OpenCode, version::VersionCause};

/// How long changes from outside may go on before they are looked at.
const SETTLE: Duration = Duration::from_millis(300);
/// The same for changes that never stop, such as those of a log.
const MAX_SETTLE: Duration = Duration::from_secs(60);

impl OpenCode {
    /// Takes a version when files were changed from outside, until the server ends.
    pub(super) async fn hear_of_changes(&self) {
        let Ok(engine) = self.engine().await else { return };
        let Some(watch) = engine.watch() else { return };
        let Ok(fd) = watch.fd().try_clone_to_owned() else { return };
        // What is deprecated is that a descriptor could be closed behind its back: this one is its own.
        #[allow(deprecated, reason = "the descriptor is owned by what watches it")]
        let Ok(fd) = AsyncFd::with_interest(fd, Interest::READABLE) else { return };
        let (mut settle, mut last) = (SETTLE, Instant::now());
        loop {
            tokio::select! {
                ready = fd.readable() => match ready {
                    Ok(mut ready) => ready.clear_ready(),
                    Err(_) => return,
                },
                () = self.0.stopping.cancelled() => return,
            }
            if !watch.hear() {
                continue;
            }
            // Changes come in crowds.
            tokio::select! {
                () = tokio::time::sleep(settle) => {}
                () = self.0.stopping.cancelled() => return,
            }
            // Who saves a file now and then is not made to wait for what a log does to us.
            let never_stops = last.elapsed() < settle + SETTLE * 4;
            settle = if never_stops { (settle * 2).min(MAX_SETTLE) } else { SETTLE };
            last = Instant::now();
            // What a turn changes is told when it ends, and what others changed meanwhile after it.
            while let Some(running) = self.running() {
                tokio::select! {
                    () = running.done() => {}
                    () = self.0.stopping.cancelled() => return,
                }
            }
            if watch.hear()
                && let Err(error) = self.take_and_record(Take::new(VersionCause::Outside)).await
            {
                tracing::warn!(error = %error, cause = ?error.cause(), "changes from outside have no version");
            }
        }
    }
}
