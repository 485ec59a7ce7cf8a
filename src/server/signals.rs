//! Signals: the first one asks the server to drain, a second one ends the process at once.

use std::{
    io,
    sync::{Arc, atomic::AtomicBool},
};

use signal_hook::{
    consts::signal::{SIGINT, SIGTERM},
    flag,
};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What asks the process to end: SIGTERM, or SIGINT as a terminal sends it.
pub struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    /// Listens from now on, so that a signal that comes during the start is not lost. In a runtime.
    pub fn listen() -> io::Result<Self> {
        let stop = Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? };
        let asked = Arc::new(AtomicBool::new(false));
        for number in [SIGTERM, SIGINT] {
            // In the handler itself, so that it also ends a process whose runtime is wedged. In this order: what the first
            // one sets, the second one finds.
            flag::register_conditional_shutdown(number, 128 + number, Arc::clone(&asked))?;
            flag::register(number, Arc::clone(&asked))?;
        }
        Ok(stop)
    }

    /// Done at the first signal.
    pub async fn asked(mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
