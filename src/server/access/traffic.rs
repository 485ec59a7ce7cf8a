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

/// What is going on, by token. There are as many entries as tokens, and one for who has none.
pub(super) struct Traffic {
    requests: Arc<Semaphore>,
    max_streams: u32,
    per_second: Option<u32>,
    of: Arc<Mutex<HashMap<Option<Arc<str>>, Of>>>,
}

struct Of {
    open: u32,
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
    pub(super) fn new(limits: &RequestLimits) -> Self {
        Self {
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
        let of = all.entry(token_id.clone()).or_insert(Of { open: 0, left: burst, at: now });
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
        if of.open >= self.max_streams {
            let detail = "too many answers are on their way to this token; OPENCODE_MAX_STREAMS";
            return Err(Refusal::new(Code::RateLimited, detail).retry_after(Duration::from_secs(1)));
        }
        let Ok(working) = Arc::clone(&self.requests).try_acquire_owned() else {
            let detail = "too many requests at once; OPENCODE_MAX_REQUESTS";
            return Err(Refusal::new(Code::Unavailable, detail).retry_after(Duration::from_secs(1)));
        };
        of.left -= 1.0;
        of.open += 1;
        drop(all);
        Ok(Admitted { of: Arc::clone(&self.of), token_id, working: Some(working) })
    }
}

impl Admitted {
    /// The answer begins: what is left of it is its body.
    pub(super) fn answers(mut self) -> Self {
        self.working = None;
        self
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if let Some(of) = lock(&self.of).get_mut(&self.token_id) {
            of.open -= 1;
        }
    }
}

fn lock(all: &Mutex<HashMap<Option<Arc<str>>, Of>>) -> MutexGuard<'_, HashMap<Option<Arc<str>>, Of>> {
    all.lock().unwrap_or_else(PoisonError::into_inner)
}
