//! Who watches a turn: a turn that is to end with its watchers counts them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::watch;

use super::{OpenCode, id::TurnId, status::CancelAgent};

/// How long a turn goes on that nobody watches any more.
const GRACE: Duration = Duration::from_secs(10);

/// The turns that end with their watchers, and how many each has.
#[derive(Default)]
pub(super) struct Views(Mutex<HashMap<TurnId, Arc<watch::Sender<usize>>>>);

/// Somebody who watches. Dropping it is leaving.
pub(super) struct View(Arc<watch::Sender<usize>>);

impl Views {
    /// Watches a turn; nothing where the turn does not mind.
    pub(super) fn watch(&self, id: &TurnId) -> Option<View> {
        let views = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()?;
        views.send_modify(|count| *count += 1);
        Some(View(views))
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl OpenCode {
    /// Cancels the turn once it had no watcher for a while, from now on.
    pub(super) fn cancel_when_left(&self, id: TurnId) {
        let views = Arc::new(watch::channel(0).0);
        let mut counts = views.subscribe();
        self.0.views.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), views);
        let domain = self.clone();
        self.0.tasks.spawn(async move {
            let left = async {
                // The sender is kept in the map, so that waiting cannot fail.
                while counts.wait_for(|count| *count == 0).await.is_ok() {
                    if tokio::time::timeout(GRACE, counts.wait_for(|count| *count > 0)).await.is_err() {
                        return;
                    }
                }
            };
            tokio::select! {
                () = domain.turn_ended(&id) => {}
                () = domain.0.stopping.cancelled() => {}
                () = left => {
                    tracing::info!(turn = %id, "nobody watches this turn any more: it is cancelled, as was asked for");
                    let wish = CancelAgent { turn_id: Some(id.as_str().to_owned()) };
                    if let Err(error) = domain.cancel_agent(wish).await {
                        tracing::info!(turn = %id, %error, "it was not cancelled");
                    }
                }
            }
            domain.0.views.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        });
    }
}
