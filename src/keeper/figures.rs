//! What is below a keeper, in figures.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs, io,
};

use super::table::{self, Process};

/// The state of a socket that listens, in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// What a command uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    /// Processes that run.
    pub(crate) processes: u64,
    /// Processor time, of those that have ended too.
    pub(crate) cpu_ms: u64,
    /// Resident memory, shared pages counted for each.
    pub(crate) rss_bytes: u64,
    /// TCP ports that are listened on.
    pub(crate) ports: Vec<u16>,
}

/// The figures of the commands of these keepers, in their order. Reads the process table once.
pub(crate) fn of(keepers: &[u32]) -> io::Result<Vec<Figures>> {
    if keepers.is_empty() {
        return Ok(Vec::new());
    }
    let table = table::read(|_| {})?;
    let listening = listening();
    Ok(keepers.iter().map(|keeper| figures(&table, *keeper, &listening)).collect())
}

fn figures(table: &[Process], keeper: u32, listening: &HashMap<String, u16>) -> Figures {
    let below = table::below(table, keeper, &HashSet::new());
    // Of its children that have ended the keeper has the time.
    let reaped = table.iter().find(|process| process.pid == keeper).map_or(0, |keeper| keeper.children_ticks);
    let ticks = below.iter().map(|process| process.ticks).sum::<u64>() + reaped;
    let running = || below.iter().filter(|process| process.runs());
    let ports: BTreeSet<u16> = running().flat_map(|process| ports(process.pid, listening)).collect();
    Figures {
        processes: running().count() as u64,
        cpu_ms: ticks * 1_000 / rustix::param::clock_ticks_per_second().max(1),
        rss_bytes: below.iter().map(|process| process.pages).sum::<u64>() * rustix::param::page_size() as u64,
        ports: ports.into_iter().collect(),
    }
}

/// The ports that a process listens on. What is not ours to see has none.
fn ports(pid: u32, listening: &HashMap<String, u16>) -> Vec<u16> {
    if listening.is_empty() {
        return Vec::new();
    }
    let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let named = open.filter_map(|entry| fs::read_link(entry.path()).ok());
    named.filter_map(|name| listening.get(name.to_str()?).copied()).collect()
}

/// The port of each TCP socket that listens, by the name that its descriptors have.
fn listening() -> HashMap<String, u16> {
    let mut found = HashMap::new();
    for path in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        found.extend(fs::read_to_string(path).unwrap_or_default().lines().filter_map(socket));
    }
    found
}

/// A line of `/proc/net/tcp`: `slot: address:port remote:port state queues timer retransmits user timeout inode ...`.
fn socket(line: &str) -> Option<(String, u16)> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (local, _, state) = (fields.next()?, fields.next()?, fields.next()?);
    let port = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
    let inode = fields.nth(5)?;
    (state == LISTEN).then(|| (format!("socket:[{inode}]"), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_that_listen_are_found_by_their_inode() {
        let line =
            "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 31337 1 0 100";
        assert_eq!(socket(line), Some(("socket:[31337]".into(), 8080)));
        assert_eq!(socket(&line.replace(" 0A ", " 01 ")), None);
        assert_eq!(socket("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid"), None);
    }
}
