//! The keeper of a command: a small process of this binary between the server and the shell, without a runtime. It is
//! the subreaper of what it starts, so that whatever a command does (`setsid`, `nohup`, a double fork, another process
//! group) stays below it, and `wait` says when the last of it has gone. It ends all when it is told to, and kills all
//! when the server has gone, however that went.

mod cgroup;
mod ending;
pub(crate) mod figures;
mod leftovers;
pub(crate) mod table;
pub(crate) mod wire;

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    process::{Child, Command, ExitCode, Stdio},
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, FdFlags, fcntl_setfd},
    process::{
        DumpableBehavior, Signal, WaitOptions, child_subreaper, getpid, set_child_subreaper, set_dumpable_behavior,
        set_parent_process_death_signal, setpriority_process,
    },
    stdio::{dup2_stderr, dup2_stdin, dup2_stdout},
};
use signal_hook::consts::signal;

pub(crate) use cgroup::ControlGroup;
pub(crate) use ending::{Ending, pid_of};
pub(crate) use leftovers::end_leftovers;

use ending::Shell;
use wire::{END, Order, Outcome, Report};

/// The first argument of a process that is a keeper.
pub const ARGUMENT: &str = "keep-command";
/// How long those who were asked to end have before they are killed.
const TERM_GRACE: Duration = Duration::from_secs(1);
/// How long the killed may take to be gone before the server is told that they are left.
const KILL_GRACE: Duration = Duration::from_secs(1);
/// How often the killed are looked after; the kernel tells of our own children alone.
const LOOK: Duration = Duration::from_millis(10);
/// The same once the server knows that some are left.
const SELDOM: Duration = Duration::from_secs(1);
/// Most bytes of an order.
const MAX_ORDER: usize = 1024 * 1024;
/// Longest that a server which takes no report is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// Signals that a command may send to its parent, or somebody to all of us, and which do not end a keeper.
const IGNORED: [i32; 7] = [
    signal::SIGHUP,
    signal::SIGINT,
    signal::SIGQUIT,
    signal::SIGTERM,
    signal::SIGUSR1,
    signal::SIGUSR2,
    signal::SIGALRM,
];

/// Has the caller adopt what a lost keeper leaves behind. Not one that has children already, as where a script started
/// them and then went on as this program: what those leave behind is none of ours.
pub fn adopt_orphans() {
    if fs::read_to_string("/proc/thread-self/children").is_ok_and(|children| children.trim().is_empty()) {
        let _ = set_child_subreaper(Some(getpid()));
    }
}

/// Whether what is below the caller and has no other parent is what keepers have left behind.
pub(crate) fn adopts_orphans() -> bool {
    matches!(child_subreaper(), Ok(Some(_)))
}

/// Keeps one command, from the order on standard input to its end.
pub fn run() -> ExitCode {
    match keep() {
        Ok(()) => ExitCode::SUCCESS,
        // The server sees the stream end early; there is nobody else to tell.
        Err(_) => ExitCode::FAILURE,
    }
}

fn keep() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    set_child_subreaper(Some(getpid()))?;
    // The command may have stopped us when the server goes. It comes whenever a thread of the server ends, too.
    set_parent_process_death_signal(Some(Signal::CONT))?;
    // A session without a terminal, so that nothing in it waits for somebody at one, and every process group in it is
    // of this command.
    rustix::process::setsid()?;
    let _ = rustix::thread::set_name(c"opencode-keeper");
    let nothing = File::options().read(true).write(true).open("/dev/null")?;
    let server = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    dup2_stdin(&nothing)?;
    server.set_write_timeout(Some(PATIENCE))?;
    let (deaths, told) = UnixStream::pair()?;
    deaths.set_nonblocking(true)?;
    signal_hook::low_level::pipe::register(signal::SIGCHLD, told)?;
    for number in IGNORED {
        // A handler and not SIG_IGN: the command would inherit that.
        signal_hook::flag::register(number, Arc::new(AtomicBool::new(false)))?;
    }
    let (order, is_to_end) = read_order(&server)?;
    keep_descriptors()?;
    let (started, group) = ControlGroup::around(&order.group, || start(&order.script));
    let (shell, line) = match started {
        Ok((child, name)) => (child.id(), format!("{name}\0-c\0{}\0", order.script).into_bytes()),
        Err(error) => {
            tell(&server, &Report::NotStarted { error: error.to_string() });
            return Ok(());
        }
    };
    // Who reads the command's output has to see its end.
    dup2_stdout(&nothing)?;
    dup2_stderr(&nothing)?;
    tell(&server, &Report::Started { pid: shell });
    let shell_of = Shell { pid: shell, reaped: false, line, shown: order.shown };
    let ending = Ending::of_command(std::process::id(), shell_of, group);
    let phase = Phase::Calm;
    let mut keeper = Keeper { server, has_gone: false, deaths, shell, ending, phase };
    if is_to_end {
        keeper.term();
    }
    keeper.run();
    Ok(())
}

struct Keeper {
    server: UnixStream,
    /// Its end of the stream is closed.
    has_gone: bool,
    /// Readable when a child has ended.
    deaths: UnixStream,
    shell: u32,
    ending: Ending,
    phase: Phase,
}

#[derive(Clone, Copy)]
enum Phase {
    /// The command does what it does.
    Calm,
    /// All were asked to end, and are killed at this time.
    Asked(Instant),
    /// All are being killed, and at this time the server is told what is left.
    Killing(Instant),
    /// The server was told.
    Left,
}

impl Keeper {
    fn run(&mut self) {
        loop {
            let is_childless = self.reap();
            if is_childless && self.ending.is_rest_empty() {
                break;
            }
            let now = Instant::now();
            let wait = match self.phase {
                // Who is no child of ours ends without a signal to us.
                Phase::Calm => is_childless.then_some(LOOK),
                Phase::Asked(until) if now < until => Some(until - now),
                Phase::Asked(_) => {
                    self.kill();
                    continue;
                }
                Phase::Killing(until) if now < until => {
                    self.ending.kill();
                    if self.reap() && self.ending.is_rest_empty() {
                        break;
                    }
                    Some(LOOK)
                }
                Phase::Killing(_) => {
                    tell(&self.server, &Report::Over(self.ending.outcome()));
                    self.phase = Phase::Left;
                    continue;
                }
                Phase::Left => {
                    self.ending.kill();
                    Some(SELDOM)
                }
            };
            self.sleep(wait);
        }
        match self.phase {
            Phase::Calm => tell(&self.server, &Report::Over(Outcome::default())),
            Phase::Asked(_) | Phase::Killing(_) => tell(&self.server, &Report::Over(self.ending.outcome())),
            Phase::Left => {}
        }
        self.ending.remove_group();
    }

    fn term(&mut self) {
        hurry();
        self.ending.term();
        self.phase = Phase::Asked(Instant::now() + TERM_GRACE);
    }

    fn kill(&mut self) {
        hurry();
        self.phase = Phase::Killing(Instant::now() + KILL_GRACE);
    }

    /// Reaps who has ended, and says whether no child is left.
    fn reap(&mut self) -> bool {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    let pid = pid.as_raw_pid().unsigned_abs();
                    if !matches!(self.phase, Phase::Calm) {
                        self.ending.reaped(pid);
                    }
                    if pid == self.shell {
                        self.ending.shell_reaped();
                        tell(&self.server, &Report::Exited { status: status.as_raw() });
                    }
                }
                Ok(None) => return false,
                Err(Errno::INTR) => {}
                // That is the proof: nobody can be below us who is not below a child of ours.
                Err(_) => return true,
            }
        }
    }

    /// Waits for the server, for the end of a child, and at most so long.
    fn sleep(&mut self, time: Option<Duration>) {
        let time = time.and_then(|time| Timespec::try_from(time).ok());
        let mut fds = vec![PollFd::new(&self.deaths, PollFlags::IN)];
        if !self.has_gone {
            fds.push(PollFd::new(&self.server, PollFlags::IN));
        }
        // A signal ends it too, which is no harm.
        let _ = poll(&mut fds, time.as_ref());
        let server_speaks = fds.get(1).is_some_and(|fd| !fd.revents().is_empty());
        let mut bytes = [0; 64];
        while let Ok(1..) = (&self.deaths).read(&mut bytes) {}
        if !server_speaks {
            return;
        }
        match (&self.server).read(&mut bytes) {
            Ok(count @ 1..) if bytes[..count].contains(&END) => {
                if matches!(self.phase, Phase::Calm) {
                    self.term();
                }
            }
            Ok(1..) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // The server has gone, or has no patience left. Its next start is to find nobody here.
            Ok(0) | Err(_) => {
                self.has_gone = true;
                match self.phase {
                    Phase::Calm | Phase::Asked(_) => self.kill(),
                    Phase::Killing(_) | Phase::Left => {}
                }
            }
        }
    }
}

/// Reads the order, and whether the command is to be ended already.
fn read_order(mut server: &UnixStream) -> io::Result<(Order, bool)> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        match server.read(&mut buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let order = serde_json::from_slice(&bytes[..end])?;
            return Ok((order, bytes[end..].contains(&END)));
        }
        if bytes.len() > MAX_ORDER {
            return Err(ErrorKind::InvalidData.into());
        }
    }
}

/// Whatever the server was started with and does not know of stays here.
fn keep_descriptors() -> io::Result<()> {
    for entry in fs::read_dir("/proc/self/fd")? {
        let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if number > 2 {
            #[allow(unsafe_code, reason = "a number is all that is known of a descriptor that was inherited")]
            // SAFETY: it was open when it was listed, and nothing else happens in this process meanwhile. If it is what
            // lists them, it is open still.
            let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
            fcntl_setfd(descriptor, FdFlags::CLOEXEC)?;
        }
    }
    Ok(())
}

/// Starts the shell as the leader of a process group, without input; its output is where ours is. Answers its name too.
fn start(script: &str) -> io::Result<(Child, &'static str)> {
    let run = |shell: &'static str| {
        let child = Command::new(shell).arg("-c").arg(script).stdin(Stdio::null()).process_group(0).spawn();
        child.map(|child| (child, shell))
    };
    match run("bash") {
        Err(error) if error.kind() == ErrorKind::NotFound => run("sh"),
        started => started,
    }
}

/// Among all that a fork bomb runs the keeper needs turns of its own. Who is not root goes without.
fn hurry() {
    let _ = setpriority_process(None, -20);
}

/// Tells the server. Who has gone is told nothing.
fn tell(mut server: &UnixStream, report: &Report) {
    if let Ok(mut line) = serde_json::to_vec(report) {
        line.push(b'\n');
        let _ = server.write_all(&line);
    }
}
