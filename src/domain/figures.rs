//! The server in figures, for who watches it.

use super::{
    OpenCode, model,
    store::{Names, Tally},
    tools,
};

/// The server in figures.
#[derive(Clone, Debug)]
pub struct Figures {
    /// What was stored since the start.
    pub stored: Tally,
    /// Streams that are open.
    pub streams: u64,
    /// How many events the stream that is furthest behind has still to look at.
    pub stream_lag: u64,
    /// The number of the newest event.
    pub log_head: u64,
    /// The number of the oldest event that the log holds.
    pub log_floor: u64,
    /// Permission requests that wait for an answer.
    pub permissions_waiting: u64,
    /// Commands of the agent that run.
    pub processes: u64,
    /// Memory of this process that is resident, in bytes; 0 where that cannot be told.
    pub resident_bytes: u64,
}

impl OpenCode {
    /// The server in figures. Reads nothing that may block.
    pub fn figures(&self) -> Figures {
        let log = self.0.store.figures();
        let running = self.0.processes.running().len();
        Figures {
            stored: log.tally,
            streams: log.streams,
            stream_lag: log.stream_lag,
            log_head: log.head,
            log_floor: log.floor,
            permissions_waiting: self.0.requests.waiting() as u64,
            processes: running as u64,
            resident_bytes: resident_bytes().unwrap_or_default(),
        }
    }
}

/// What is counted by its own name.
pub(super) const NAMES: Names = Names {
    provider: |model| model::provider_of(model).unwrap_or("other"),
    tool: |name| tools::find(name).map_or("other", |tool| tool.name),
};

fn resident_bytes() -> Option<u64> {
    // Of a file system in memory; the second number is in pages.
    let pages: u64 = std::fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
