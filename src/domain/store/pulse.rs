//! How long the log's writer has been at what it does, for whoever looks from outside.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// Since when a thread is at work.
pub(in crate::domain) struct Pulse {
    opened: Instant,
    /// Milliseconds since `opened`, and one; 0 while it waits for work.
    since: AtomicU64,
}

/// As long as it is kept the thread is at work.
pub(super) struct Busy<'a>(&'a Pulse);

impl Pulse {
    pub(in crate::domain) fn new() -> Self {
        Self { opened: Instant::now(), since: AtomicU64::new(0) }
    }

    /// A step begins.
    pub(super) fn begin(&self) -> Busy<'_> {
        self.since.store(self.now(), Ordering::Relaxed);
        Busy(self)
    }

    /// How long the step takes already that the thread is at.
    pub(in crate::domain) fn lag(&self) -> Duration {
        match self.since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_millis(self.now().saturating_sub(since)),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.since.store(0, Ordering::Relaxed);
    }
}
