//! The one place that owns child processes. Between the server and each command stands a keeper (`crate::keeper`), which
//! ends whatever the command has started, whether it is told to or the server has gone. A task here owns the keeper and
//! tells what becomes of the command; it goes on when nobody waits for it any more.

use std::{
    collections::HashSet,
    io,
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream as StdStream, process::ExitStatusExt},
    },
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustix::process::{Signal, WaitOptions, kill_process, waitpid};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf, pipe::Receiver},
    },
    process::{Child, Command},
    sync::{oneshot, watch},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use crate::{
    domain::workspace::blocking,
    keeper::{
        ControlGroup, Ending, adopts_orphans, pid_of,
        wire::{END, Order, Outcome, Report},
    },
};

/// This binary, whatever has been put in its place since it was started.
const OURSELVES: &str = "/proc/self/exe";
/// A keeper has a second after TERM and one after KILL. One that says nothing for so long was stopped or is lost.
const KEEPER_TIME: Duration = Duration::from_millis(2_200);
/// Longest that the killed are waited for where their keeper is lost.
const ORPHAN_TIME: Duration = Duration::from_millis(500);
/// How often they are looked at.
const LOOK: Duration = Duration::from_millis(5);

/// A command that runs or has run.
pub(super) struct Running {
    pid: u32,
    keeper: u32,
    end: CancellationToken,
    state: watch::Receiver<State>,
}

#[derive(Clone, Default)]
struct State {
    exited: Option<ExitStatus>,
    /// It was running when its turn was cancelled.
    is_canceled: bool,
    over: Option<Arc<Outcome>>,
}

/// What else than its owner ends a command.
#[derive(Clone)]
pub(super) struct EndsWith {
    /// The cancel of the turn that started it.
    pub(super) turn: CancellationToken,
    /// The end of the server.
    pub(super) server: CancellationToken,
}

/// The keepers that run, by process id. Children of the server that are none of them were adopted.
#[derive(Clone, Default)]
pub(super) struct Keepers(Arc<Mutex<HashSet<u32>>>);

/// The command of a keeper; the shell gets its working directory and its environment.
pub(super) fn keeper() -> Command {
    let mut command = Command::new(OURSELVES);
    // What it keeps is told later: who looks for a command by its words is not to find the keeper.
    command.arg0("opencode-api").arg(crate::keeper::ARGUMENT);
    command
}

/// Starts a command without input; what it writes to either output comes in the order of writing. Its owner lives in
/// `tasks`. It is killed when the guard is dropped.
pub(super) async fn start(
    mut command: Command,
    order: Order,
    ends_with: EndsWith,
    keepers: &Keepers,
    tasks: &TaskTracker,
) -> io::Result<(Running, Receiver, DropGuard)> {
    let (reader, writer) = io::pipe()?;
    let (ours, theirs) = StdStream::pair()?;
    ours.set_nonblocking(true)?;
    command.stdin(OwnedFd::from(theirs)).stdout(writer.try_clone()?).stderr(Stdio::from(writer));
    let output = Receiver::from_owned_fd(OwnedFd::from(reader))?;
    let child = keepers.spawn(&mut command)?;
    // The command goes here, and our copies of its ends with it: both readers must see the end.
    drop(command);
    let keeper = child.id().unwrap_or_default();
    let (reading, writing) = UnixStream::from_std(ours)?.into_split();
    let (end, kill) = (CancellationToken::new(), CancellationToken::new());
    let (said, state) = watch::channel(State::default());
    let (started, is_started) = oneshot::channel();
    let owner = Owner {
        child,
        keeper,
        keepers: keepers.clone(),
        writing,
        group: order.group.clone(),
        end: end.clone(),
        kill: kill.clone(),
        ends_with,
        started: Some(started),
        state: said,
    };
    let kill = kill.drop_guard();
    tasks.spawn(owner.run(reading, order));
    let pid = is_started.await.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::ConnectionAborted, ITS_KEEPER)))?;
    Ok((Running { pid, keeper, end, state }, output, kill))
}

impl Running {
    /// The shell's process id, which is also its group's.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// The process below which all of the command is.
    pub(super) fn keeper(&self) -> u32 {
        self.keeper
    }

    /// Waits until the shell has ended; none where that was not seen, since the keeper was lost. What it started may
    /// still run.
    pub(super) async fn exited(&self) -> Option<ExitStatus> {
        let mut state = self.state.clone();
        let ended = state.wait_for(|state| state.exited.is_some() || state.over.is_some()).await;
        ended.ok().and_then(|state| state.exited)
    }

    /// How the shell ended, if it has and that was seen.
    pub(super) fn exit_status(&self) -> Option<ExitStatus> {
        self.state.borrow().exited
    }

    /// Waits until nothing runs any more, and answers what had to be ended if that was because its turn was cancelled.
    pub(super) async fn ended_with_turn(&self) -> Option<Arc<Outcome>> {
        let outcome = self.over().await;
        self.state.borrow().is_canceled.then_some(outcome)
    }

    /// Ends what runs, and answers what that was; all that is not named as left has gone.
    pub(super) async fn end(&self) -> Arc<Outcome> {
        self.ask_to_end();
        self.over().await
    }

    /// Begins to end what runs.
    pub(super) fn ask_to_end(&self) {
        self.end.cancel();
    }

    /// Waits until nothing runs any more, and answers what had to be ended.
    pub(super) async fn over(&self) -> Arc<Outcome> {
        let mut state = self.state.clone();
        match state.wait_for(|state| state.over.is_some()).await {
            Ok(state) => state.over.clone().unwrap_or_default(),
            // The runtime ends, and its owner with it: the keeper kills all.
            Err(_) => Arc::default(),
        }
    }

    /// Whether nothing runs any more.
    pub(super) fn is_over(&self) -> bool {
        self.state.borrow().over.is_some()
    }
}

impl Keepers {
    fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        // Held meanwhile, so that nobody takes a new keeper for an orphan.
        let mut keepers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let child = command.spawn()?;
        keepers.extend(child.id());
        Ok(child)
    }

    fn remove(&self, keeper: u32) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&keeper);
    }
}

/// What is told where a command has ended its keeper, be it so soon that nobody has heard of its start.
pub(super) const ITS_KEEPER: &str = "the command ended the process that watched over it, and was ended";

/// Owns a keeper from its start to its end.
struct Owner {
    child: Child,
    keeper: u32,
    keepers: Keepers,
    writing: OwnedWriteHalf,
    group: String,
    end: CancellationToken,
    kill: CancellationToken,
    ends_with: EndsWith,
    started: Option<oneshot::Sender<io::Result<u32>>>,
    state: watch::Sender<State>,
}

impl Owner {
    async fn run(mut self, reading: OwnedReadHalf, order: Order) {
        let outcome = match self.keep(reading, order).await {
            Some(outcome) => outcome,
            None => self.without_keeper().await,
        };
        let stays = !outcome.left.is_empty();
        if !stays {
            // It has said its last word, and is gone before anybody hears that all is.
            let _ = self.child.wait().await;
        }
        self.state.send_modify(|state| state.over = Some(Arc::new(outcome)));
        if stays {
            // It waits for those who are left.
            tokio::select! {
                _ = self.child.wait() => {}
                () = self.ends_with.server.cancelled() => {}
            }
        }
        self.keepers.remove(self.keeper);
    }

    /// Passes on what is wanted of the keeper and what it tells, to its last word; none if that does not come.
    async fn keep(&mut self, reading: OwnedReadHalf, order: Order) -> Option<Outcome> {
        let mut line = serde_json::to_vec(&order).ok()?;
        line.push(b'\n');
        self.writing.write_all(&line).await.ok()?;
        let mut reports = BufReader::new(reading).lines();
        let (mut is_asked, mut is_dropped) = (false, false);
        let mut patience = std::pin::pin!(tokio::time::sleep(KEEPER_TIME));
        loop {
            tokio::select! {
                report = reports.next_line() => {
                    if let Some(outcome) = self.heard(&report.ok()??)? {
                        return Some(outcome);
                    }
                }
                () = ended(&self.end, &self.ends_with), if !is_asked => {
                    is_asked = true;
                    let is_canceled = self.ends_with.turn.is_cancelled();
                    self.state.send_modify(|state| state.is_canceled = is_canceled);
                    patience.as_mut().reset(tokio::time::Instant::now() + KEEPER_TIME);
                    self.wake();
                    // A keeper that takes nothing any more may have said its last word already: that is read next.
                    let _ = self.writing.write_all(&[END]).await;
                }
                () = self.kill.cancelled(), if !is_dropped => {
                    (is_asked, is_dropped) = (true, true);
                    patience.as_mut().reset(tokio::time::Instant::now() + KEEPER_TIME);
                    self.wake();
                    let _ = self.writing.shutdown().await;
                }
                () = &mut patience, if is_asked => return None,
            }
        }
    }

    /// Takes a report; the last one has the outcome. None if it makes no sense.
    fn heard(&mut self, line: &str) -> Option<Option<Outcome>> {
        match serde_json::from_str(line).ok()? {
            Report::Started { pid } => self.begun(Ok(pid)),
            Report::NotStarted { error } => {
                self.begun(Err(io::Error::other(error)));
                return Some(Some(Outcome::default()));
            }
            Report::Exited { status } => {
                self.state.send_modify(|state| state.exited = Some(ExitStatus::from_raw(status)));
            }
            Report::Over(outcome) => return Some(Some(outcome)),
        }
        Some(None)
    }

    fn begun(&mut self, started: io::Result<u32>) {
        if let Some(sender) = self.started.take() {
            // Who does not wait for it any more wants it killed, and it is.
            let _ = sender.send(started);
        }
    }

    /// A command may have stopped its keeper.
    fn wake(&self) {
        if let Some(pid) = pid_of(self.keeper) {
            let _ = kill_process(pid, Signal::CONT);
        }
    }

    /// A command may kill its keeper too. What was below it is then below us, as far as we are a subreaper, and in its
    /// control group.
    async fn without_keeper(&mut self) -> Outcome {
        let _ = self.child.kill().await;
        self.keepers.remove(self.keeper);
        let (keepers, group) = (self.keepers.clone(), self.group.clone());
        tracing::warn!(keeper = self.keeper, "a command's keeper was lost; what it kept is killed");
        blocking(move || end_orphans(&keepers, &group)).await
    }
}

/// Done when the command is to end, whoever wants it.
async fn ended(end: &CancellationToken, others: &EndsWith) {
    tokio::select! {
        () = end.cancelled() => {}
        () = others.turn.cancelled() => {}
        () = others.server.cancelled() => {}
    }
}

fn end_orphans(keepers: &Keepers, group: &str) -> Outcome {
    let group = ControlGroup::find(group);
    if !adopts_orphans() {
        // Children of ours are then those of somebody else.
        if let Some(group) = group {
            group.kill();
        }
        return Outcome::default();
    }
    let mut ending = Ending::of_orphans(std::process::id(), group);
    let until = Instant::now() + ORPHAN_TIME;
    loop {
        // Held while it looks, so that a new keeper is not taken for one of them.
        let spared = keepers.0.lock().unwrap_or_else(PoisonError::into_inner);
        ending.spare(&spared);
        ending.kill();
        for pid in ending.zombies() {
            if let Some(id) = pid_of(pid) {
                let _ = waitpid(Some(id), WaitOptions::NOHANG);
                ending.reaped(pid);
            }
        }
        let is_over = !ending.runs() && ending.zombies().is_empty();
        drop(spared);
        if is_over || Instant::now() >= until {
            ending.remove_group();
            return ending.outcome();
        }
        std::thread::sleep(LOOK);
    }
}
