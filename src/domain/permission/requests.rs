//! The requests that wait: each is resolved once and only once, by whoever is first. And who is there to answer them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{oneshot, watch},
    time::{Instant, sleep_until},
};

use super::{Grant, PermissionDecision, PermissionMode, PermissionResolver};
use crate::domain::{
    OpenCode,
    error::{Code, Error, Result},
    event::{AgentStatusChanged, EventKind, PermissionResolved},
    id::{PermissionId, ToolCallId, TurnId},
    status::Activity,
    store::{Batch, PermissionRow},
};

/// The requests that wait, and what was granted.
pub(crate) struct Requests {
    open: Mutex<HashMap<PermissionId, Open>>,
    grants: Mutex<Vec<Grant>>,
    /// The session's mode; the log has it too.
    mode: Mutex<PermissionMode>,
    /// Held while a request is stored or resolved, so that the status in the log is that of the last one.
    pub(crate) order: tokio::sync::Mutex<()>,
    presence: Presence,
}

/// A request that waits.
pub(crate) struct Open {
    pub(crate) turn: TurnId,
    pub(crate) tool_call_id: ToolCallId,
    pub(crate) tool_name: String,
    pub(crate) grants: Vec<Grant>,
    pub(crate) answer: oneshot::Sender<Result<Resolution>>,
}

/// What became of a request.
#[derive(Clone, Debug)]
pub(crate) struct Resolution {
    pub(crate) decision: PermissionDecision,
    pub(crate) by: PermissionResolver,
    pub(crate) reason: Option<String>,
}

impl Requests {
    pub(crate) fn new(mode: PermissionMode) -> Self {
        Self {
            open: Mutex::default(),
            grants: Mutex::default(),
            mode: Mutex::new(mode),
            order: tokio::sync::Mutex::default(),
            presence: Presence(Arc::new(watch::channel(Seen { streams: 0, last: Instant::now() }).0)),
        }
    }

    pub(crate) fn mode(&self) -> PermissionMode {
        *lock(&self.mode)
    }

    pub(crate) fn set_mode(&self, mode: PermissionMode) {
        *lock(&self.mode) = mode;
    }

    pub(crate) fn grants(&self) -> Vec<Grant> {
        lock(&self.grants).clone()
    }

    pub(crate) fn set_grants(&self, grants: Vec<Grant>) {
        *lock(&self.grants) = grants;
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        lock(&self.open).len()
    }

    /// Clients that come and go.
    pub(crate) fn presence(&self) -> &Presence {
        &self.presence
    }

    /// Lets a request wait; answers whether it is the only one. For who holds `order`.
    pub(crate) fn begin(&self, id: PermissionId, request: Open) -> bool {
        let mut open = lock(&self.open);
        open.insert(id, request);
        open.len() == 1
    }

    /// A request that could not be stored never was.
    pub(crate) fn forget(&self, id: &PermissionId) {
        lock(&self.open).remove(id);
    }

    /// Takes a request, and answers whether it was the last one. For who holds `order`.
    fn take(&self, id: &PermissionId) -> Option<(Open, bool)> {
        let mut open = lock(&self.open);
        let taken = open.remove(id)?;
        let is_last = open.is_empty();
        Some((taken, is_last))
    }

    /// Whether a request waits that has nothing to grant.
    fn grants_nothing(&self, id: &PermissionId) -> bool {
        lock(&self.open).get(id).is_some_and(|open| open.grants.is_empty())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl OpenCode {
    /// Resolves a request, if nobody has: stored first, and then the call goes on. Runs to its end whoever asked.
    pub(in crate::domain) async fn resolve_permission(&self, id: PermissionId, resolution: Resolution) -> Result<()> {
        let domain = self.clone();
        self.to_the_end(async move { domain.resolve(&id, resolution).await }).await
    }

    async fn resolve(&self, id: &PermissionId, resolution: Resolution) -> Result<()> {
        let requests = &self.0.requests;
        let _order = requests.order.lock().await;
        let for_session = resolution.decision == PermissionDecision::AllowSession;
        if for_session && requests.grants_nothing(id) {
            return Err(Error::field("decision", "there is nothing to grant here; allow_once is possible"));
        }
        let Some((open, is_last)) = requests.take(id) else {
            let wanted = id.clone();
            return Err(match self.read(move |snapshot| snapshot.permission(wanted.as_str())).await?.value {
                Some(_) => {
                    let detail = format!("the request {id} was answered before; read its permission_resolved event");
                    Error::new(Code::AlreadyResolved, detail)
                }
                None => Error::not_found("permission request", id),
            });
        };
        let Open { turn, tool_call_id, tool_name, grants, answer } = open;
        let Resolution { decision, by, reason } = resolution.clone();
        let mut batch = Batch::new();
        if for_session {
            batch = batch.permission(PermissionRow::Grants(grants.clone()));
        }
        let current_operation = Some(format!("running {tool_name}"));
        let permission_id = Some(id.clone());
        let resolved = PermissionResolved { permission_id, decision, by, reason, tool_call_id, tool_name };
        batch = batch.event(Some(&turn), EventKind::PermissionResolved(resolved));
        if is_last {
            let status = AgentStatusChanged { status: Activity::Processing, current_operation };
            batch = batch.event(Some(&turn), EventKind::AgentStatusChanged(status));
        }
        let closes = matches!(by, PermissionResolver::Cancel | PermissionResolver::Interruption);
        let stored = self.0.store.append(if closes { batch.ending() } else { batch }).await;
        match stored {
            Ok(_) => {
                if for_session {
                    lock(&requests.grants).extend(grants);
                }
                // Who waited may have gone with its turn.
                let _ = answer.send(Ok(resolution));
                Ok(())
            }
            Err(error) => {
                // What is not stored is not to go on.
                let _ = answer.send(Err(Error::new(error.code(), error.to_string())));
                Err(error)
            }
        }
    }
}

/// Clients that come and go: a stream that is open, or a look at the list.
#[derive(Clone)]
pub(crate) struct Presence(Arc<watch::Sender<Seen>>);

#[derive(Clone, Copy)]
struct Seen {
    streams: usize,
    last: Instant,
}

/// Somebody who is there. Dropping it is leaving.
pub(crate) struct Present(Presence);

impl Presence {
    /// Somebody comes.
    pub(crate) fn enter(&self) -> Present {
        self.0.send_modify(|seen| seen.streams += 1);
        Present(self.clone())
    }

    /// Done once nobody has been there for so long.
    pub(crate) async fn absent(&self, absence: Duration) {
        let mut seen = self.0.subscribe();
        loop {
            let Seen { streams, last } = *seen.borrow_and_update();
            tokio::select! {
                () = sleep_until(last + absence), if streams == 0 => return,
                // The sender lives as long as we do, so that this cannot fail.
                _ = seen.changed() => {}
            }
        }
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.0.0.send_modify(|seen| {
            seen.streams = seen.streams.saturating_sub(1);
            seen.last = Instant::now();
        });
    }
}
