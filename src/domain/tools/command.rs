//! The one place that owns child processes. A command is the leader of a process group of its own; whatever way its
//! owner goes, the group goes with it. What has left the group (`setsid`) is not found here.

use std::{
    io,
    os::fd::OwnedFd,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::{
    io::Errno,
    process::{Pid, Signal, kill_process_group, test_kill_process_group},
};
use tokio::{
    net::unix::pipe::Receiver,
    process::{Child, Command},
    time::{Instant, sleep},
};

use crate::domain::{status::ProcessEnding, workspace::blocking};

/// How long a group has to end by itself after TERM.
const TERM_GRACE: Duration = Duration::from_secs(1);
/// How long a killed group may take to be gone: the kernel is not asked twice, a process in an uninterruptible wait
/// dies later.
const KILL_GRACE: Duration = Duration::from_millis(500);
/// How often a dying group is looked at; the kernel tells nobody when a group is empty.
const LOOK: Duration = Duration::from_millis(10);

/// A command that runs. Dropped, its group is killed.
pub(super) struct Running {
    child: Child,
    group: Group,
    pid: u32,
}

/// A process group that may have members; the number is forgotten once it has none, since the system may give it away
/// again.
struct Group(Option<Pid>);

/// Starts a command without input; what it writes to either output comes in the order of writing.
pub(super) fn start(mut command: Command) -> io::Result<(Running, Receiver)> {
    let (reader, writer) = io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer).process_group(0);
    let output = Receiver::from_owned_fd(OwnedFd::from(reader))?;
    let child = command.spawn()?;
    let pid = child.id().unwrap_or_default();
    let group = Group(i32::try_from(pid).ok().and_then(Pid::from_raw));
    // The command goes here, and our copies of the writing end with it: the reader must see the end.
    drop(command);
    Ok((Running { child, group, pid }, output))
}

impl Running {
    /// Its process id, which is also its group's.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits until the command itself has ended. What it started may still run.
    pub(super) async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Ends what runs in the group and answers how: by which signal, or nothing where nothing ran.
    pub(super) async fn end(&mut self) -> Option<ProcessEnding> {
        if !self.alive().await {
            return None;
        }
        self.group.signal(Signal::TERM);
        // A stopped process takes TERM only once it goes on.
        self.group.signal(Signal::CONT);
        if self.gone_within(TERM_GRACE).await {
            return Some(ProcessEnding::Term);
        }
        self.group.signal(Signal::KILL);
        self.gone_within(KILL_GRACE).await;
        Some(ProcessEnding::Kill)
    }

    async fn gone_within(&mut self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        while self.alive().await {
            if Instant::now() >= deadline {
                return false;
            }
            sleep(LOOK).await;
        }
        true
    }

    /// Whether anything runs in the group. Reaps the command; the number of its group stays taken while it has members.
    async fn alive(&mut self) -> bool {
        // An error means that it was reaped before.
        let leads = matches!(self.child.try_wait(), Ok(None));
        let Some(group) = self.group.0 else { return false };
        if leads {
            return true;
        }
        let alive = match test_kill_process_group(group) {
            Err(Errno::SRCH) => false,
            // Zombies count as members for the kernel; those of others are not ours to reap, nor to wait for.
            Ok(()) | Err(_) => blocking(move || runs(group)).await,
        };
        if !alive {
            self.group.0 = None;
        }
        alive
    }
}

impl Group {
    fn signal(&self, signal: Signal) {
        if let Some(group) = self.0 {
            // It may have ended by itself since it was looked at.
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// Whether the group has a member that is no zombie. Where the process table cannot be read, what the kernel said
/// holds.
fn runs(group: Pid) -> bool {
    let Ok(table) = std::fs::read_dir("/proc") else {
        return true;
    };
    let mut looked = false;
    for entry in table.flatten() {
        if !entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        let Ok(stat) = std::fs::read(entry.path().join("stat")) else {
            continue;
        };
        looked = true;
        if let Some((state, member_of)) = state_and_group(&stat)
            && member_of == group.as_raw_pid()
            && !matches!(state, b'Z' | b'X')
        {
            return true;
        }
    }
    !looked
}

/// Of a line of `/proc/<pid>/stat`: `pid (name) state parent group ...`, where the name may hold anything.
fn state_and_group(stat: &[u8]) -> Option<(u8, i32)> {
    let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let mut fields = std::str::from_utf8(&stat[after_name..]).ok()?.split_ascii_whitespace();
    let state = fields.next()?.bytes().next()?;
    Some((state, fields.nth(1)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_the_process_table_may_hold_anything() {
        assert_eq!(state_and_group(b"7 (a) Z 1 2) S 1 42 42 0 -1"), Some((b'S', 42)));
        assert_eq!(state_and_group(b"7 (sh"), None);
    }
}
