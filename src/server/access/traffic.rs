//! How much clients ask for at once: requests in work, answers on their way, requests in a second.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    config::RequestLimits,
    domain::{Caller, Code, Refusal},
};

/// Seconds of requests that may come at once.
const BURST: f64 = 10.0;
/// Most answers on their way to all together who show no token where one is asked for: pages and watchers of health.
const STRANGERS: u32 = 64;

/// What is going on, by token. There are as many entries as tokens, and one for who has none.
pub(super) struct Traffic {
    requests: Arc<Semaphore>,
    max_requests: u32,
    max_streams: u32,
    /// Of those without a token.
    max_without: u32,
    per_second: Option<u32>,
    of: Arc<Mutex<HashMap<Option<Arc<str>>, Of>>>,
}

struct Of {
    open: u32,
    /// Those that have no answer yet.
    working: u32,
    /// Requests that may come now.
    left: f64,
    at: Instant,
}

/// A request that was let in; its answer is on its way as long as this is held.
pub(super) struct Admitted {
    of: Arc<Mutex<HashMap<Option<Arc<str>>, Of>>>,
    token_id: Option<Arc<str>>,
    /// Until the answer begins.
    working: Option<OwnedSemaphorePermit>,
}

impl Traffic {
    pub(super) fn new(limits: &RequestLimits, asks_for_tokens: bool) -> Self {
        Self {
            // One token leaves some for the others, or nobody could cancel or answer what one of them has begun.
            max_requests: if asks_for_tokens { (limits.max_requests / 4 * 3).max(1) } else { limits.max_requests },
            max_without: if asks_for_tokens { STRANGERS.min(limits.max_streams) } else { limits.max_streams },
            requests: Arc::new(Semaphore::new(limits.max_requests as usize)),
            max_streams: limits.max_streams,
            per_second: limits.requests_per_second,
            of: Arc::default(),
        }
    }

    /// Lets a request in, if there is room for it.
    pub(super) fn admit(&self, caller: &Caller) -> Result<Admitted, Refusal> {
        let token_id = caller.token_id().cloned();
        let now = Instant::now();
        let mut all = lock(&self.of);
        let burst = f64::from(self.per_second.unwrap_or(0)) * BURST;
        let of = all.entry(token_id.clone()).or_insert(Of { open: 0, working: 0, left: burst, at: now });
        if let Some(per_second) = self.per_second {
            let rate = f64::from(per_second);
            of.left = (of.left + now.duration_since(of.at).as_secs_f64() * rate).min(burst);
            of.at = now;
            if of.left < 1.0 {
                let wait = Duration::from_secs_f64(((1.0 - of.left) / rate).ceil());
                return Err(Refusal::new(
                    Code::RateLimited,
                    "too many requests in a second; OPENCODE_REQUESTS_PER_SECOND",
                )
                .retry_after(wait));
            }
        }
        let most = if token_id.is_some() { self.max_streams } else { self.max_without };
        if of.open >= most {
            let detail = "too many answers are on their way to this token; OPENCODE_MAX_STREAMS";
            return Err(Refusal::new(Code::RateLimited, detail).retry_after(Duration::from_secs(1)));
        }
        let working = Arc::clone(&self.requests).try_acquire_owned().ok().filter(|_| of.working < self.max_requests);
        let Some(working) = working else {
            let detail = "too many requests at once; OPENCODE_MAX_REQUESTS";
            return Err(Refusal::new(Code::Unavailable, detail).retry_after(Duration::from_secs(1)));
        };
        of.left -= 1.0;
        of.open += 1;
        of.working += 1;
        drop(all);
        Ok(Admitted { of: Arc::clone(&self.of), token_id, working: Some(working) })
    }
}

impl Admitted {
    /// The answer begins: what is left of it is its body.
    pub(super) fn answers(mut self) -> Self {
        self.has_answer();
        self
    }

    fn has_answer(&mut self) {
        if self.working.take().is_some()
            && let Some(of) = lock(&self.of).get_mut(&self.token_id)
        {
            of.working -= 1;
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.has_answer();
        if let Some(of) = lock(&self.of).get_mut(&self.token_id) {
            of.open -= 1;
        }
    }
}

fn lock(all: &Mutex<HashMap<Option<Arc<str>>, Of>>) -> MutexGuard<'_, HashMap<Option<Arc<str>>, Of>> {
    all.lock().unwrap_or_else(PoisonError::into_inner)
}
