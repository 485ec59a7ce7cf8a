//! The first version of a session, and what is done at the start of the server.

use std::time::Duration;

use super::Take;
use crate::domain::{
    OpenCode,
    error::{Code, Error, Result},
    store::VersionRow,
    version::VersionCause,
    workspace::blocking,
};

/// How long a request waits for the baseline of a workspace that has none yet.
const BASELINE_WAIT: Duration = Duration::from_secs(20);
/// How long a look that failed is left alone before it is tried again without being asked for, at first and at most.
pub(super) const AGAIN: Duration = Duration::from_secs(1);
pub(super) const MAX_AGAIN: Duration = Duration::from_secs(60);

impl OpenCode {
    /// Begins the baseline of a workspace without one, and looks for what changed while no server ran.
    pub(in crate::domain) async fn begin_versions(&self) -> Result<()> {
        // Before anybody can ask for a version: it would be taken for the first.
        let baseline = self.read(|snapshot| snapshot.baseline()).await?.value;
        self.0.snapshots.baseline.send_replace(baseline.is_some());
        let domain = self.clone();
        self.0.tasks.spawn(async move {
            let mut later = AGAIN;
            while let Err(error) = domain.take_and_record(Take::new(VersionCause::Baseline)).await {
                if domain.0.stopping.is_cancelled() {
                    return;
                }
                tracing::warn!(error = %error, cause = ?error.cause(), "the workspace could not be looked at");
                // What is the matter may pass, as a full disk does.
                tokio::select! {
                    () = tokio::time::sleep(later) => later = (later * 2).min(MAX_AGAIN),
                    () = domain.0.stopping.cancelled() => return,
                }
            }
            if let Ok(engine) = domain.engine().await {
                match blocking(move || engine.own_what_is_lent()).await {
                    Ok(true) => {}
                    Ok(false) => tracing::info!("contents of the first version are left in the workspace's repository"),
                    Err(_) if domain.0.stopping.is_cancelled() => return,
                    Err(error) => {
                        tracing::warn!(%error, "the first version depends on the workspace's repository");
                    }
                }
            }
            domain.give_up_old_versions().await;
            domain.hear_of_changes().await;
        });
        Ok(())
    }

    /// Waits until the session has its baseline, and answers its version.
    pub(in crate::domain) async fn baseline(&self) -> Result<VersionRow> {
        let later = || {
            Error::new(Code::Unavailable, "the first version of the workspace is still being taken")
                .retry_after(Duration::from_secs(2))
        };
        if !*self.0.snapshots.baseline.borrow() {
            // Behind the one that is being taken; or in its place, if it failed.
            let taking = self.take_and_record(Take::new(VersionCause::Baseline));
            tokio::time::timeout(BASELINE_WAIT, taking).await.map_err(|_| later())??;
        }
        let read = self.read(|snapshot| {
            Ok(match snapshot.baseline()? {
                Some(number) => snapshot.version(number)?,
                None => None,
            })
        });
        read.await?.value.ok_or_else(later)
    }
}
