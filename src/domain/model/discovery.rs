//! Models that a provider itself lists: those of a local server, and a gateway's.

use std::time::Duration;

use futures_util::StreamExt;
use serde_json::Value;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use super::{providers::ProviderName, table::Entry};
use crate::domain::providers::OpenAi;

/// How long a list that could not be had is not asked for again.
const FAILURE_KEPT: Duration = Duration::from_secs(30);
const LIST_LIMIT: usize = 16 * 1024 * 1024;

/// A provider's own list, asked for when it is needed and kept for a while.
pub(super) struct Discovery {
    name: ProviderName,
    patience: Duration,
    kept: Duration,
    // Held while asking, so that many callers make one request: a tokio mutex on purpose.
    list: Mutex<Option<(Instant, Option<Vec<Entry>>)>>,
}

impl Discovery {
    /// What runs next door answers at once or not at all.
    pub(super) fn local() -> Self {
        Self {
            name: ProviderName::Local,
            patience: Duration::from_secs(2),
            kept: Duration::from_secs(30),
            list: Mutex::default(),
        }
    }

    /// A long list that changes by the day.
    pub(super) fn openrouter() -> Self {
        Self {
            name: ProviderName::OpenRouter,
            patience: Duration::from_secs(5),
            kept: Duration::from_mins(10),
            list: Mutex::default(),
        }
    }

    /// The list; `None` where the provider cannot be reached, which is never an error.
    pub(super) async fn list(&self, provider: &OpenAi) -> Option<Vec<Entry>> {
        let mut list = self.list.lock().await;
        if let Some((since, entries)) = list.as_ref() {
            let kept = if entries.is_some() { self.kept } else { FAILURE_KEPT };
            if since.elapsed() < kept {
                return entries.clone();
            }
        }
        let entries = timeout(self.patience, self.ask(provider)).await.ok().flatten();
        *list = Some((Instant::now(), entries.clone()));
        entries
    }

    async fn ask(&self, provider: &OpenAi) -> Option<Vec<Entry>> {
        let request = provider.authorized(provider.http.client().ok()?.get(provider.models_url())).ok()?;
        let response = request.send().await.ok()?.error_for_status().ok()?;
        let mut body = Vec::new();
        let mut chunks = response.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            body.extend_from_slice(&chunk.ok()?);
            if body.len() > LIST_LIMIT {
                return None;
            }
        }
        let body: Value = serde_json::from_slice(&body).ok()?;
        Some(body["data"].as_array()?.iter().filter_map(|item| self.entry(item)).collect())
    }

    fn entry(&self, item: &Value) -> Option<Entry> {
        let mut entry = Entry::listed(self.name, item)?;
        if self.name == ProviderName::Local {
            // Nobody charges for one's own machine.
            entry.input_per_1m = Some(0.0);
            entry.output_per_1m = Some(0.0);
        }
        Some(entry)
    }
}
