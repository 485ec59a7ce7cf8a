//! Hearing of changes from outside, between turns.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::io::{Interest, unix::AsyncFd};

use super::{
    Hold, Take,
    begin::{AGAIN, MAX_AGAIN},
};
use crate::domain::{OpenCode, error::Result, store::VersionRow, version::VersionCause};

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
        // What failed is tried again without another change: what was the matter may pass, as a full disk does.
        let (mut failed, mut later) = (false, AGAIN);
        loop {
            tokio::select! {
                ready = fd.readable() => match ready {
                    Ok(mut ready) => ready.clear_ready(),
                    Err(_) => return,
                },
                () = self.0.snapshots.failed.notified(), if !failed => {
                    failed = true;
                    continue;
                }
                () = tokio::time::sleep(later), if failed => {}
                () = self.0.stopping.cancelled() => return,
            }
            if !watch.hear() && !failed {
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
            failed = false;
            loop {
                // What a turn changes is told when it ends, and what others changed meanwhile after it.
                while let Some(running) = self.running() {
                    tokio::select! {
                        () = running.done() => {}
                        () = self.0.stopping.cancelled() => return,
                    }
                }
                // Also where there is nothing new to hear: a look for somebody else may have been at it and made no
                // version. Where nothing differs none is made here.
                match self.take_between_turns(VersionCause::Outside).await {
                    Ok(Some(_)) => {
                        later = AGAIN;
                        break;
                    }
                    Ok(None) => {}
                    Err(error) => {
                        tracing::warn!(error = %error, cause = ?error.cause(), "changes from outside have no version");
                        later = (later * 2).min(MAX_AGAIN);
                        break;
                    }
                }
            }
        }
    }

    /// Takes a version of what came from outside and stores it, whoever still waits for it. None while a turn runs: what
    /// differs then may be the turn's.
    pub(in crate::domain) async fn take_between_turns(&self, cause: VersionCause) -> Result<Option<VersionRow>> {
        let domain = self.clone();
        self.to_the_end(async move {
            let hold = Hold(Arc::clone(&domain.0.snapshots.latest).lock_owned().await);
            // Asked only now: a turn may have begun, and even written, while this waited for its place.
            if domain.running().is_some() {
                return Ok(None);
            }
            domain.take_holding(hold, Take::new(cause)).await?.record(&domain).await.map(Some)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::domain::{
        AccessSettings, Budgets, Limits, PermissionSettings, ProviderSettings, Retention, Settings, VersionLimits,
        agent::{Running, Spending, Used},
        id::TurnId,
    };

    fn settings(folder: &Path) -> Settings {
        let long = Duration::from_secs(3600);
        Settings {
            workspace: folder.join("workspace"),
            data_dir: folder.join("data"),
            model: None,
            title_model: None,
            providers: ProviderSettings::default(),
            secret_variables: Vec::new(),
            retention: Retention { age: long, bytes: 1 << 20 },
            budgets: Budgets::default(),
            versions: VersionLimits {
                time: long,
                bytes: 1 << 20,
                wait: long,
                watch: long,
                kept: 100,
                stored_bytes: 1 << 20,
            },
            max_file_bytes: 1 << 20,
            permissions: PermissionSettings::for_tests(),
            access: AccessSettings::default(),
            request_limits: std::collections::BTreeMap::new(),
            max_text_bytes: 1 << 20,
            max_attachment_bytes: 1 << 20,
            watchdog: long,
        }
    }

    /// What a request for the newest version and what hears of changes both stand in line for.
    #[tokio::test]
    async fn a_turn_that_begins_while_a_look_waits_for_its_place_keeps_what_it_writes() {
        let folder = tempfile::tempdir().unwrap();
        let domain = OpenCode::open(settings(folder.path())).await.unwrap();
        let first = domain.baseline().await.unwrap();
        let place = Arc::clone(&domain.0.snapshots.latest).lock_owned().await;
        let look = |cause| {
            let domain = domain.clone();
            tokio::spawn(async move { domain.take_between_turns(cause).await.unwrap().map(|row| row.name()) })
        };
        let looks = [VersionCause::Outside, VersionCause::Request].map(look);
        // One thread: both stand in line when this goes on.
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        let spending = Spending::new(&Budgets::default(), Limits::default(), Used::default());
        let running = Running::new(TurnId::generate(), Duration::ZERO, spending);
        domain.set_running(Some(running));
        std::fs::write(folder.path().join("workspace/written by the turn"), "1").unwrap();
        drop(place);
        for look in looks {
            assert_eq!(look.await.unwrap(), None, "the turn's own version is to have it");
        }
        domain.set_running(None);
        let next = look(VersionCause::Request).await.unwrap().unwrap();
        assert_ne!(next, first.name());
        domain.shutdown(Duration::from_secs(10)).await;
    }
}
