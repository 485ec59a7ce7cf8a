//! Giving up old versions.

use std::sync::Arc;

use git2::Oid;

use super::failed;
use crate::domain::{OpenCode, error::Result, store::Batch, workspace::blocking};

impl OpenCode {
    /// Gives up versions over the limits, and the objects that only they needed.
    pub(super) async fn give_up_old_versions(&self) {
        let outcome = async {
            let guard = Arc::clone(&self.0.snapshots.latest).lock_owned().await;
            let engine = self.engine().await?;
            let limits = self.0.settings.versions;
            let read = self.read(|snapshot| Ok((snapshot.all_versions()?, snapshot.baseline()?))).await?;
            let (mut all, baseline) = read.value;
            let stored = {
                let engine = engine.clone();
                blocking(move || engine.stored_bytes()).await.map_err(failed)?
            };
            let newest = all.last().map(|(id, _)| *id);
            let kept = if stored > limits.stored_bytes { (all.len() as u64 / 2).min(limits.kept) } else { limits.kept };
            let over = all.len().saturating_sub(usize::try_from(kept).unwrap_or(usize::MAX));
            let old: Vec<u64> = all
                .iter()
                .take(over)
                .map(|(id, _)| *id)
                .filter(|id| Some(*id) != baseline && Some(*id) != newest)
                .collect();
            if old.is_empty() && stored <= limits.stored_bytes {
                return Ok(());
            }
            all.retain(|(id, _)| !old.contains(id));
            self.0.store.append(Batch::new().forget(old)).await?;
            let mut trees: Vec<Oid> = all.iter().filter_map(|(_, tree)| Oid::from_str(tree).ok()).collect();
            // What the running turn began with is compared with at its end.
            trees.extend(guard.turn.as_ref().map(|began| began.tree));
            blocking(move || engine.prune(&trees)).await.map_err(failed)?;
            drop(guard);
            Result::Ok(())
        };
        if let Err(error) = outcome.await {
            tracing::warn!(error = %error, cause = ?error.cause(), "old versions could not be given up");
        }
    }
}
