//! Ending all that is below a process, whatever it does against it, and telling what that was.

use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
};

use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open, pidfd_send_signal},
};

use super::{
    cgroup::ControlGroup,
    table::{self, Process},
    wire::{Ended, Left, MAX_NAMED, Outcome},
};

/// Most looks until those who run are taken to have been stopped: one who is in an uninterruptible wait is not.
const MAX_LOOKS: u32 = 100;

/// What is below a process, and what was done about it.
pub(crate) struct Ending {
    root: u32,
    /// Children that are not to be touched, with all that is below them.
    spared: HashSet<u32>,
    shell: Option<Shell>,
    cgroup: Option<ControlGroup>,
    /// Who was there when somebody was sent a signal, by pid and beginning.
    met: BTreeMap<(u32, u64), Met>,
    /// How many were reaped that nobody had met.
    unmet: u64,
}

/// The shell of a command, the leader of a process group.
pub(super) struct Shell {
    pub(super) pid: u32,
    /// Once it is, the number of its group may be given away.
    pub(super) reaped: bool,
    /// Its command line, which its forks share, and what stands for it.
    pub(super) line: Vec<u8>,
    pub(super) shown: String,
}

struct Met {
    /// None beyond those that are named.
    command: Option<String>,
    killed: bool,
}

impl Ending {
    /// Of a command, below its keeper, which is the caller.
    pub(super) fn of_command(keeper: u32, shell: Shell, cgroup: Option<ControlGroup>) -> Self {
        Self { shell: Some(shell), ..Self::of_orphans(keeper, cgroup) }
    }

    /// Of what is below `root`, the caller or another subreaper, and who is in this control group.
    pub(crate) fn of_orphans(root: u32, cgroup: Option<ControlGroup>) -> Self {
        Self { root, spared: HashSet::new(), shell: None, cgroup, met: BTreeMap::new(), unmet: 0 }
    }

    /// These children, and what is below them, are not to be touched from now on.
    pub(crate) fn spare(&mut self, children: &HashSet<u32>) {
        self.spared.clone_from(children);
    }

    /// Asks all to end, each once. Who is stopped takes it only once it goes on.
    pub(super) fn term(&mut self) {
        let found = self.find(|_| {});
        self.meet(&found, false);
        self.signal_all(&found, Signal::TERM);
        self.signal_all(&found, Signal::CONT);
    }

    /// Kills all that can be found. Who forks faster than one can look is stopped first, so that nobody is born meanwhile.
    /// What dies stays in the table until the caller reaps it, so that no room for a birth comes free under a limit.
    pub(crate) fn kill(&mut self) {
        // The shell's group and the control group in one step each: mostly that is all.
        let found = self.find(|_| {});
        self.meet(&found, true);
        self.signal_group(&found, Signal::KILL);
        if let Some(group) = &self.cgroup {
            group.kill();
        }
        let mut stopped = HashSet::new();
        for _ in 0..MAX_LOOKS {
            let before = stopped.len();
            // A child is met between its birth and its end only by who does not look around first.
            let found = self.find(|process| self.stop(process, &mut stopped));
            for process in &found {
                self.stop(process, &mut stopped);
            }
            if stopped.len() == before {
                self.meet(&found, true);
                self.signal_all(&found, Signal::KILL);
                return;
            }
        }
        let found = self.find(|_| {});
        self.meet(&found, true);
        self.signal_all(&found, Signal::KILL);
    }

    /// Whether nothing is below that a caller without children would not know of.
    pub(super) fn is_rest_empty(&self) -> bool {
        self.cgroup.as_ref().is_none_or(ControlGroup::is_empty)
    }

    /// Notes that the caller has reaped a child, after it had begun to end all.
    pub(crate) fn reaped(&mut self, pid: u32) {
        if self.met.range((pid, 0)..=(pid, u64::MAX)).next().is_none() {
            self.unmet += 1;
        }
    }

    /// Notes that the shell was reaped.
    pub(super) fn shell_reaped(&mut self) {
        if let Some(shell) = &mut self.shell {
            shell.reaped = true;
        }
    }

    /// What has become of all so far.
    pub(crate) fn outcome(&self) -> Outcome {
        let running = |process: &Process| process.runs();
        let left: Vec<Process> = self.find(|_| {}).into_iter().filter(running).collect();
        let still: HashSet<(u32, u64)> = left.iter().map(|process| (process.pid, process.began)).collect();
        let gone = self.met.iter().filter(|(key, _)| !still.contains(key));
        let mut outcome = Outcome { unnamed: self.unmet, ..Outcome::default() };
        for ((pid, _), met) in gone {
            match &met.command {
                Some(command) => {
                    outcome.ended.push(Ended { pid: *pid, command: command.clone(), killed: met.killed });
                }
                None => outcome.unnamed += 1,
            }
        }
        outcome.left = left
            .iter()
            .take(MAX_NAMED)
            .map(|process| Left { pid: process.pid, command: self.command(process) })
            .collect();
        outcome
    }

    /// Takes the control group away, if it is empty.
    pub(crate) fn remove_group(&self) {
        if let Some(group) = &self.cgroup {
            group.remove();
        }
    }

    /// Children that wait to be reaped.
    pub(crate) fn zombies(&self) -> Vec<u32> {
        let found = self.find(|_| {});
        found
            .iter()
            .filter(|process| process.parent == self.root && !process.runs())
            .map(|process| process.pid)
            .collect()
    }

    /// Whether anything runs.
    pub(crate) fn runs(&self) -> bool {
        self.find(|_| {}).iter().any(Process::runs)
    }

    /// All that is below, and who else is in the control group. `child` is called with each child as soon as it is seen.
    /// Nothing where there is no process table to be read.
    fn find(&self, mut child: impl FnMut(&Process)) -> Vec<Process> {
        let is_child = |process: &Process| process.parent == self.root && !self.spared.contains(&process.pid);
        let table = own_table(|process| {
            if is_child(process) {
                child(process);
            }
        });
        let Ok(table) = table else { return Vec::new() };
        let mut found = table::below(&table, self.root, &self.spared);
        if let Some(group) = &self.cgroup {
            let known: HashSet<u32> = found.iter().map(|process| process.pid).collect();
            let others = group.pids().into_iter().filter(|pid| !known.contains(pid) && *pid != self.root);
            found.extend(others.filter_map(table::look));
        }
        found
    }

    fn stop(&self, process: &Process, stopped: &mut HashSet<(u32, u64)>) {
        if process.runs() && stopped.insert((process.pid, process.began)) {
            self.signal(process, Signal::STOP);
        }
    }

    fn meet(&mut self, found: &[Process], killed: bool) {
        for process in found.iter().filter(|process| process.runs()) {
            let key = (process.pid, process.began);
            if let Some(met) = self.met.get_mut(&key) {
                met.killed |= killed;
                continue;
            }
            let command = (self.met.len() < MAX_NAMED).then(|| self.command(process));
            self.met.insert(key, Met { command, killed });
        }
    }

    /// Its command line; of the shell and its forks the command as the user knows it.
    fn command(&self, process: &Process) -> String {
        match (&self.shell, table::command_line(process.pid)) {
            (Some(shell), Some(line)) if line == shell.line => shell.shown.clone(),
            (_, Some(line)) => table::shown(&line),
            (_, None) => process.command(),
        }
    }

    /// Sends a signal to all, once each: the group at once, and who has left it one by one.
    fn signal_all(&self, found: &[Process], signal: Signal) {
        self.signal_group(found, signal);
        let group = self.shell.as_ref().map(|shell| shell.pid);
        for process in found.iter().filter(|process| process.runs() && Some(process.group) != group) {
            self.signal(process, signal);
        }
    }

    /// The kernel lets nobody of a group fork while it sends a signal to it.
    fn signal_group(&self, found: &[Process], signal: Signal) {
        let Some(shell) = &self.shell else { return };
        // The number is the group's as long as it has a member.
        if (!shell.reaped || found.iter().any(|process| process.group == shell.pid))
            && let Some(group) = pid_of(shell.pid)
        {
            // All may have ended since.
            let _ = kill_process_group(group, signal);
        }
    }

    /// Sends a signal to just this process, not to another that got its number meanwhile.
    pub(super) fn signal(&self, process: &Process, signal: Signal) {
        let Some(pid) = pid_of(process.pid) else { return };
        // Only we reap our children, and not now.
        if process.parent == std::process::id() {
            let _ = kill_process(pid, signal);
            return;
        }
        let handle = pidfd_open(pid, PidfdFlags::empty());
        if table::look(process.pid).is_none_or(|now| now.began != process.began) {
            return;
        }
        let _ = match handle {
            Ok(handle) => pidfd_send_signal(handle, signal),
            // Kernels before 5.3.
            Err(Errno::NOSYS) => kill_process(pid, signal),
            Err(gone) => Err(gone),
        };
    }
}

/// The number as the system calls take it.
pub(crate) fn pid_of(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

/// The process table, where it is that of the caller's own namespace: numbers of another one mean others here.
pub(super) fn own_table(seen: impl FnMut(&Process)) -> io::Result<Vec<Process>> {
    let own = fs::read_link("/proc/self")?;
    if own.to_str().and_then(|pid| pid.parse().ok()) != Some(std::process::id()) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    table::read(seen)
}
