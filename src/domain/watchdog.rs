//! A thread outside of the runtime that looks whether the runtime and the log's writer get on: who is wedged cannot say
//! so itself.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::store::Pulse;

/// Longest between two looks, and between two steps of the runtime that are looked for.
const LOOK: Duration = Duration::from_secs(1);

/// What the thread has found. Dropping it ends the thread.
pub(super) struct Watchdog {
    seen: Arc<Seen>,
    _ends: mpsc::Sender<Infallible>,
}

struct Seen {
    began: Instant,
    /// Milliseconds since `began` when the runtime last ran a timer of ours; the greatest when nobody minds any more.
    ticked: AtomicU64,
    /// What is wedged, in words.
    wedged: Mutex<Option<String>>,
}

impl Watchdog {
    /// Watches until the runtime's last step is not awaited any more (`closing`). Called in the runtime that is watched.
    pub(super) fn start(patience: Duration, writer: Arc<Pulse>, closing: CancellationToken) -> std::io::Result<Self> {
        let seen = Arc::new(Seen { began: Instant::now(), ticked: AtomicU64::new(0), wedged: Mutex::default() });
        let look = LOOK.min(patience / 4);
        let ticking = Arc::clone(&seen);
        tokio::spawn(async move {
            while !closing.is_cancelled() {
                ticking.tick();
                tokio::select! {
                    () = tokio::time::sleep(look) => {}
                    () = closing.cancelled() => {}
                }
            }
            ticking.ticked.store(u64::MAX, Ordering::Relaxed);
        });
        let (_ends, ended) = mpsc::channel();
        let watching = Arc::clone(&seen);
        std::thread::Builder::new()
            .name("watchdog".into())
            .spawn(move || watching.watch(look, patience, &writer, &ended))?;
        Ok(Self { seen, _ends })
    }

    /// What is wedged, in words; nothing where all gets on.
    pub(super) fn wedged(&self) -> Option<String> {
        self.seen.wedged.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Seen {
    fn watch(&self, look: Duration, patience: Duration, writer: &Pulse, ended: &Receiver<Infallible>) {
        loop {
            let before = Instant::now();
            if !matches!(ended.recv_timeout(look), Err(RecvTimeoutError::Timeout)) {
                return;
            }
            if before.elapsed() > look + patience / 2 {
                // This thread did not run either: the process was stopped, or has no processor. Nothing in it is to blame.
                self.tick();
                continue;
            }
            let late = Duration::from_millis(self.now().saturating_sub(self.ticked.load(Ordering::Relaxed)));
            let what = [("the runtime has run nothing", late), ("the log's writer is at one step", writer.lag())];
            let wedged: Vec<String> = what
                .into_iter()
                .filter(|(_, time)| *time >= patience)
                .map(|(what, time)| format!("{what} for {} s", time.as_secs()))
                .collect();
            self.note((!wedged.is_empty()).then(|| wedged.join(", and ")));
        }
    }

    /// Keeps what was found, and logs it when it begins and when it is over.
    fn note(&self, found: Option<String>) {
        let mut wedged = self.wedged.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*wedged, &found) {
            (None, Some(words)) => tracing::error!("wedged: {words}"),
            (Some(words), None) => tracing::warn!("it goes on; before, {words}"),
            (None, None) | (Some(_), Some(_)) => {}
        }
        *wedged = found;
    }

    fn tick(&self) {
        self.ticked.fetch_max(self.now(), Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From outside nobody can block the runtime of a good server, so it is one of our own here.
    #[test]
    fn a_runtime_that_hangs_is_found_from_outside() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let patience = Duration::from_millis(400);
        let _entered = runtime.enter();
        let watchdog = Watchdog::start(patience, Arc::new(Pulse::new()), CancellationToken::new()).expect("a thread");
        let run_until = |wedged: bool| {
            let began = Instant::now();
            while watchdog.wedged().is_some() != wedged {
                assert!(began.elapsed() < Duration::from_secs(60), "{:?}", watchdog.wedged());
                if wedged {
                    // Nothing drives the runtime meanwhile.
                    std::thread::sleep(Duration::from_millis(10));
                } else {
                    runtime.block_on(tokio::time::sleep(Duration::from_millis(10)));
                }
            }
        };
        run_until(false);
        run_until(true);
        let words = watchdog.wedged().unwrap_or_default();
        assert!(words.starts_with("the runtime has run nothing for"), "{words}");
        run_until(false);
    }
}
