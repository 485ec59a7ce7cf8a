//! Keepers that a server has left behind when it was killed. They end by themselves, with all that they keep; one that is
//! stopped again whenever it is woken cannot.

use std::{
    collections::HashSet,
    os::unix::ffi::OsStrExt,
    path::Path,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use super::{
    ARGUMENT, Ending,
    ending::own_table,
    table::{self, Process},
};

/// Longest that the killed are waited for.
const TIME: Duration = Duration::from_millis(500);
/// How often they are looked at.
const LOOK: Duration = Duration::from_millis(5);

/// A keeper that an earlier server has left behind.
struct Leftover {
    keeper: Process,
    below: Ending,
}

/// Ends the commands of earlier servers on this data directory. Only for who alone uses it and has no keepers yet.
pub(crate) fn end_leftovers(data_dir: &Path) {
    let mut leftovers = find(data_dir);
    if leftovers.is_empty() {
        return;
    }
    tracing::warn!(count = leftovers.len(), "commands of an earlier start still run; they are killed");
    let until = Instant::now() + TIME;
    while !leftovers.is_empty() && Instant::now() < until {
        for Leftover { keeper, below } in &mut leftovers {
            below.kill();
            // It reaps those who have died, and ends with its control group; or it goes on with those whom the kernel has not let go.
            below.signal(keeper, Signal::CONT);
        }
        std::thread::sleep(LOOK);
        leftovers.retain(Leftover::is_there);
    }
}

impl Leftover {
    fn is_there(&self) -> bool {
        table::look(self.keeper.pid).is_some_and(|now| now.began == self.keeper.began && now.runs())
    }
}

fn find(data_dir: &Path) -> Vec<Leftover> {
    // Mostly there is none, and the rest of the table need not be read.
    let is_there = table::pids().is_ok_and(|mut pids| pids.any(|pid| keeps_for(pid, data_dir)));
    let Some(table) = is_there.then(|| own_table(|_| {}).ok()).flatten() else { return Vec::new() };
    let keepers = table.iter().filter(|process| keeps_for(process.pid, data_dir));
    // A command may have started this server: it is not to end itself.
    let others = keepers.filter(|keeper| {
        let below = table::below(&table, keeper.pid, &HashSet::new());
        below.iter().all(|process| process.pid != std::process::id())
    });
    others.map(|keeper| Leftover { keeper: keeper.clone(), below: Ending::of_orphans(keeper.pid, None) }).collect()
}

/// Whether a process is a keeper of this data directory.
fn keeps_for(pid: u32, data_dir: &Path) -> bool {
    let line = table::command_line(pid).unwrap_or_default();
    let mut words = line.split(|byte| *byte == 0).skip(1);
    words.next() == Some(ARGUMENT.as_bytes()) && words.next() == Some(data_dir.as_os_str().as_bytes())
}
