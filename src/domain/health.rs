//! Whether the server can do its work.

use std::{
    collections::BTreeMap,
    sync::{PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    OpenCode,
    error::{Code, Error, Result},
    session::now,
    store,
};

/// Whether the server can do its work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `not_serving` if store or workspace fail, and while the server drains.
    pub status: HealthStatus,
    /// The server's version.
    pub version: String,
    /// `store` and `workspace` (`ok` or `failing`), `model` (`ok`, `missing` or `failing`; changes no status); `server` is
    /// there while the server is about to end (`draining`).
    pub checks: BTreeMap<String, Check>,
    /// Seconds since the start.
    pub uptime_s: u64,
    /// When this was found.
    pub timestamp: Timestamp,
}

/// Whether requests are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HealthStatus {
    /// They are.
    Serving,
    /// They are not, or only in part.
    NotServing,
}

/// How one part of the server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// Well.
    Ok,
    /// No model is configured; messages have to name one, such as `mock/demo`.
    Missing,
    /// It fails: the disk is full, the workspace is gone, the last model call failed.
    Failing,
    /// The server is about to end, and begins no turn.
    Draining,
}

/// Whether requests are served, and why not.
#[derive(Clone, Copy, Debug)]
pub struct Readiness {
    /// What stands in the way, in words.
    hindrance: Option<&'static str>,
    /// What the log said when this was found.
    log: store::Health,
    draining: bool,
}

impl Readiness {
    /// Whether they are served.
    pub fn status(&self) -> HealthStatus {
        match self.hindrance {
            None => HealthStatus::Serving,
            Some(_) => HealthStatus::NotServing,
        }
    }

    /// Refuses with what stands in the way.
    pub fn check(&self) -> Result<()> {
        let refused = |words| Error::new(Code::Unavailable, words).retry_after(PROBE_AGAIN);
        self.hindrance.map_or(Ok(()), |words| Err(refused(words)))
    }
}

impl Check {
    /// The check as clients see it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Missing => "missing",
            Self::Failing => "failing",
            Self::Draining => "draining",
        }
    }

    fn that(ok: bool) -> Self {
        if ok { Self::Ok } else { Self::Failing }
    }
}

/// Longest that a look at the model may take.
const MODEL_TIME: Duration = Duration::from_millis(300);
/// How long a workspace that was there is not looked at again: each look takes a thread that may block.
const WORKSPACE_KEPT: Duration = Duration::from_secs(1);

/// When a probe that was refused may look again.
const PROBE_AGAIN: Duration = Duration::from_secs(1);

impl OpenCode {
    /// Whether the server can do its work.
    pub async fn health(&self) -> Health {
        let store = Check::that(self.0.store.health() == store::Health::Writable);
        let workspace = Check::that(self.workspace_is_there().await);
        // A local endpoint that does not answer must not make a probe wait.
        let model = match tokio::time::timeout(MODEL_TIME, self.current_model()).await {
            Ok(Ok(Some(_))) => Check::that(!self.0.model_failing.load(Ordering::Relaxed)),
            Ok(Ok(None)) => Check::Missing,
            Ok(Err(_)) | Err(_) => Check::Failing,
        };
        let draining = self.is_draining().then_some(("server", Check::Draining));
        let serving = store == Check::Ok && workspace == Check::Ok && draining.is_none();
        let checks = [("store", store), ("workspace", workspace), ("model", model)].into_iter().chain(draining);
        Health {
            status: if serving { HealthStatus::Serving } else { HealthStatus::NotServing },
            version: env!("CARGO_PKG_VERSION").into(),
            checks: checks.map(|(name, check)| (name.to_owned(), check)).collect(),
            uptime_s: self.0.started.elapsed().as_secs(),
            timestamp: now(),
        }
    }

    /// Whether requests are served: the log can be written, the workspace is there, and the server is not about to end.
    pub async fn readiness(&self) -> Readiness {
        let (log, draining) = (self.0.store.health(), self.is_draining());
        let hindrance = if draining {
            Some("the server is shutting down")
        } else if log == store::Health::Full {
            Some("the disk of the data directory is full")
        } else if !self.workspace_is_there().await {
            Some("the workspace is not there")
        } else {
            None
        };
        Readiness { hindrance, log, draining }
    }

    /// Done when something was told since that may change it. That the workspace goes is not told: who follows looks too.
    pub async fn readiness_changed(&self, last: &Readiness) {
        self.0.store.condition_changed(last.log, last.draining).await;
    }

    /// Refuses where the runtime or the log's writer is wedged, and says so. Where the runtime is, nobody is answered
    /// before it goes on: then the log alone has it.
    pub fn liveness(&self) -> Result<()> {
        let refused = |words| Error::new(Code::Unavailable, words).retry_after(PROBE_AGAIN);
        self.0.watchdog.wedged().map_or(Ok(()), |words| Err(refused(words)))
    }

    /// Whether the workspace can be looked at. Only a good answer is kept: what was repaired is seen at once.
    async fn workspace_is_there(&self) -> bool {
        let seen = &self.0.workspace_seen;
        let is_fresh = |seen: Instant| seen.elapsed() < WORKSPACE_KEPT;
        if seen.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(is_fresh) {
            return true;
        }
        let root = self.0.workspace.root().to_owned();
        let is_there = tokio::fs::metadata(root).await.is_ok_and(|found| found.is_dir());
        *seen.lock().unwrap_or_else(PoisonError::into_inner) = is_there.then(Instant::now);
        is_there
    }
}
