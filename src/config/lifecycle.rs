//! The settings of the server's end, and of what watches over it until then.

use std::time::Duration;

use clap::Args;

/// How the server ends, and when it counts as wedged.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Lifecycle")]
pub struct Lifecycle {
    /// Seconds that the running turn gets to end by itself when the server is asked to stop; then it is ended as
    /// interrupted. The whole stop takes 8 more at most.
    #[arg(long, env = "OPENCODE_DRAIN_TIMEOUT", default_value_t = 25, global = true)]
    pub drain_timeout: u64,
    /// Seconds without a step of the runtime, or of one step of the log's writer, after which /livez says what is wedged.
    #[arg(long, env = "OPENCODE_WATCHDOG_SECONDS", default_value_t = 30, global = true,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub watchdog_seconds: u64,
}

impl Lifecycle {
    /// What the running turn gets at the end.
    pub fn drain(&self) -> Duration {
        super::seconds(self.drain_timeout)
    }

    /// How long something may take before it counts as wedged.
    pub(super) fn patience(&self) -> Duration {
        super::seconds(self.watchdog_seconds)
    }
}
