//! How long a turn waits for versions.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// What one turn may still wait for its versions, wherever it waits.
#[derive(Debug)]
pub(in crate::domain) struct Budget(Mutex<Duration>);

impl Budget {
    pub(in crate::domain) fn new(whole: Duration) -> Self {
        Self(Mutex::new(whole))
    }

    /// Waits for an answer as long as the budget lasts; none where that was too short. The time is taken off.
    pub(in crate::domain) async fn wait<T>(&self, answer: impl Future<Output = T>) -> Option<T> {
        let began = Instant::now();
        let answer = tokio::time::timeout(self.left(), answer).await.ok();
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *left = left.saturating_sub(began.elapsed());
        answer
    }

    fn left(&self) -> Duration {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_one_wait_takes_the_next_does_not_have() {
        let whole = Duration::from_secs(60);
        let budget = Budget::new(whole);
        assert_eq!(budget.wait(async { 1 }).await, Some(1));
        // Nobody waited; nothing but the clock's own steps is gone.
        assert!(budget.left() > whole / 2);
        let budget = Budget::new(Duration::from_millis(20));
        assert_eq!(budget.wait(std::future::pending::<u8>()).await, None);
        assert_eq!(budget.left(), Duration::ZERO);
        // What is there already needs no waiting.
        assert_eq!(budget.wait(async { 2 }).await, Some(2));
        assert_eq!(budget.wait(std::future::pending::<u8>()).await, None);
    }
}
