//! The process table, as `/proc` has it.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io::{self, Read},
};

/// Most bytes of a command line that are told.
const MAX_COMMAND: usize = 500;
/// Bytes that hold any line of `/proc/<pid>/stat`.
const MAX_STAT: usize = 1024;

/// A process, as it was when it was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) parent: u32,
    pub(crate) group: u32,
    /// Its name; it may hold anything.
    pub(crate) name: String,
    /// The kernel's letter: `R`, `S`, `D`, `T`, `Z`, ...
    pub(crate) state: u8,
    /// When it began, in ticks since the system did: with the pid it names the process for good.
    pub(crate) began: u64,
    /// Ticks of processor time that it used, and those of its children that it has reaped.
    pub(crate) ticks: u64,
    /// Ticks of the children alone.
    pub(crate) children_ticks: u64,
    /// Pages of memory that it has.
    pub(crate) pages: u64,
}

impl Process {
    /// Whether it still does anything: a zombie only waits to be reaped.
    pub(crate) fn runs(&self) -> bool {
        !matches!(self.state, b'Z' | b'X' | b'x')
    }

    /// Its command line with spaces between its words, or its name in brackets where it has none.
    pub(crate) fn command(&self) -> String {
        match command_line(self.pid) {
            Some(line) => shown(&line),
            None => format!("[{}]", self.name),
        }
    }
}

/// The words of a process's command line, each with a NUL behind it; none of a zombie or what is of the kernel.
pub(crate) fn command_line(pid: u32) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    // More than is told, so that two long ones are not taken for one.
    File::open(format!("/proc/{pid}/cmdline")).ok()?.take(256 * 1024).read_to_end(&mut line).ok()?;
    (!line.is_empty()).then_some(line)
}

/// A command line for people.
pub(crate) fn shown(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\0").unwrap_or(line);
    let mut text = String::from_utf8_lossy(&line[..line.len().min(MAX_COMMAND)]).replace('\0', " ");
    text.truncate(text.floor_char_boundary(MAX_COMMAND));
    text
}

/// The ids of all processes, read as they are taken.
pub(crate) fn pids() -> io::Result<impl Iterator<Item = u32>> {
    let entries = fs::read_dir("/proc")?;
    Ok(entries.map_while(io::Result::ok).filter_map(|entry| entry.file_name().to_str()?.parse().ok()))
}

/// All processes. `seen` is called with each as soon as it is found, before the next is looked at.
pub(crate) fn read(mut seen: impl FnMut(&Process)) -> io::Result<Vec<Process>> {
    let mut table = Vec::new();
    for pid in pids()? {
        // It may have ended since it was listed.
        if let Some(process) = look(pid) {
            seen(&process);
            table.push(process);
        }
    }
    Ok(table)
}

/// One process, if it is there.
pub(crate) fn look(pid: u32) -> Option<Process> {
    let mut line = [0; MAX_STAT];
    let length = File::open(format!("/proc/{pid}/stat")).ok()?.read(&mut line).ok()?;
    parse(&line[..length])
}

/// Those below `root` in the table, parents before their children. What is in `spared`, and what is below it, is left
/// out.
pub(crate) fn below(table: &[Process], root: u32, spared: &HashSet<u32>) -> Vec<Process> {
    let mut children: HashMap<u32, Vec<&Process>> = HashMap::new();
    for process in table.iter().filter(|process| !spared.contains(&process.pid)) {
        children.entry(process.parent).or_default().push(process);
    }
    let mut found: Vec<Process> = Vec::new();
    let mut parents = vec![root];
    while let Some(parent) = parents.pop() {
        // Taken out, so that no ring that a changing table may show is walked twice.
        for child in children.remove(&parent).into_iter().flatten() {
            parents.push(child.pid);
            found.push(child.clone());
        }
    }
    found
}

/// A line of `/proc/<pid>/stat`: `pid (name) state parent group ...`, where the name may hold anything.
fn parse(line: &[u8]) -> Option<Process> {
    let (open, close) = (line.iter().position(|byte| *byte == b'(')?, line.iter().rposition(|byte| *byte == b')')?);
    let number = |text: &str| text.parse::<u64>().ok();
    let pid = std::str::from_utf8(&line[..open]).ok()?.trim().parse().ok()?;
    let fields: Vec<&str> = std::str::from_utf8(&line[close + 1..]).ok()?.split_ascii_whitespace().collect();
    // Counted from the state, which `man proc` has as the third.
    let field = |number: usize| fields.get(number - 3).copied();
    let children_ticks = number(field(16)?)? + number(field(17)?)?;
    Some(Process {
        pid,
        parent: field(4)?.parse().ok()?,
        group: field(5)?.parse().ok()?,
        name: String::from_utf8_lossy(line.get(open + 1..close)?).into_owned(),
        state: field(3)?.bytes().next()?,
        began: number(field(22)?)?,
        ticks: number(field(14)?)? + number(field(15)?)? + children_ticks,
        children_ticks,
        pages: number(field(24)?).unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_the_process_table_may_hold_anything() {
        let rest = "S 1 42 42 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 1 0 777 1000 55 18446744073709551615 1 1";
        let process = parse(format!("7 (a) Z 1 (2) {rest}").as_bytes()).expect("a process");
        let expected = Process {
            pid: 7,
            parent: 1,
            group: 42,
            name: "a) Z 1 (2".into(),
            state: b'S',
            began: 777,
            ticks: 100,
            children_ticks: 70,
            pages: 55,
        };
        assert_eq!(process, expected);
        assert_eq!(parse(b"7 (sh"), None);
        assert_eq!(parse(b"7 (sh) S 1"), None);
    }

    #[test]
    fn only_what_is_below_is_found() {
        let process = |pid, parent| Process {
            pid,
            parent,
            group: 0,
            name: String::new(),
            state: b'S',
            began: 0,
            ticks: 0,
            children_ticks: 0,
            pages: 0,
        };
        let table = [process(9, 3), process(2, 1), process(3, 2), process(4, 1), process(5, 4), process(7, 8)];
        let pids = |spared: &[u32]| -> Vec<u32> {
            let mut pids: Vec<u32> =
                below(&table, 1, &spared.iter().copied().collect()).iter().map(|process| process.pid).collect();
            pids.sort_unstable();
            pids
        };
        assert_eq!(pids(&[]), [2, 3, 4, 5, 9]);
        assert_eq!(pids(&[2]), [4, 5]);
    }
}
