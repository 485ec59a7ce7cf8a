//! Whether the server can do its work.

use std::{
    collections::BTreeMap,
    sync::{PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{OpenCode, session::now, store};

/// Whether the server can do its work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `not_serving` if store or workspace fail.
    pub status: HealthStatus,
    /// The server's version.
    pub version: String,
    /// `store` and `workspace` (`ok` or `failing`), `model` (`ok`, `missing` or `failing`; changes no status).
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
}

impl Check {
    /// The check as clients see it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Missing => "missing",
            Self::Failing => "failing",
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
        let serving = store == Check::Ok && workspace == Check::Ok;
        let checks = [("store", store), ("workspace", workspace), ("model", model)];
        Health {
            status: if serving { HealthStatus::Serving } else { HealthStatus::NotServing },
            version: env!("CARGO_PKG_VERSION").into(),
            checks: checks.into_iter().map(|(name, check)| (name.to_owned(), check)).collect(),
            uptime_s: self.0.started.elapsed().as_secs(),
            timestamp: now(),
        }
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
