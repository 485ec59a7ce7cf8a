//! By what a file is known to be as it was, without reading it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::Stat;

/// How coarse the clock of files may be: the kernel's tick is at most 10 ms.
const TICK: Duration = Duration::from_millis(50);
/// The same for file systems that count in seconds.
const COARSE_TICK: Duration = Duration::from_secs(3);

/// What the file system knows of a file. As long as it is the same, so is the content, unless the file is racy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Figures {
    pub size: u64,
    /// Nanoseconds since 1970.
    pub mtime: i64,
    pub ctime: i64,
    pub inode: u64,
}

impl Figures {
    pub(super) fn of(stat: &Stat) -> Self {
        let nanos = |seconds: i64, part: i64| seconds.saturating_mul(1_000_000_000).saturating_add(part);
        Self {
            size: stat.st_size.max(0) as u64,
            mtime: nanos(stat.st_mtime, stat.st_mtime_nsec as i64),
            ctime: nanos(stat.st_ctime, stat.st_ctime_nsec as i64),
            inode: stat.st_ino,
        }
    }
    /// Whether a write after `then` may have left them as they are.
    pub(super) fn are_racy(self, then: SystemTime) -> bool {
        let last = self.mtime.max(self.ctime);
        let coarse = self.mtime % 1_000_000_000 == 0 && self.ctime % 1_000_000_000 == 0;
        let tick = if coarse { COARSE_TICK } else { TICK };
        let then = then.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(tick);
        last >= i64::try_from(then.as_nanos()).unwrap_or(i64::MAX)
    }
}
