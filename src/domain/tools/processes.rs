//! The commands that run, of all turns: those that a tool waits for, and jobs.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::future::join_all;
use jiff::Timestamp;
use tokio::{net::unix::pipe::Receiver, process::Command};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{
    ToolContext,
    command::{self, EndsWith, Keepers, Running},
    kept::Kept,
};
use crate::{
    domain::{
        id::{ProcessId, ToolCallId, TurnId},
        part::head,
        session::now,
    },
    keeper::wire::{Order, Outcome},
};

/// Jobs that may run at a time.
pub(super) const MAX_JOBS: usize = 16;
/// Jobs that have ended and can still be asked for their output.
const MAX_ENDED_JOBS: usize = 32;
/// Bytes of a command that are told where processes are named.
const MAX_SHOWN: usize = 500;

/// The commands that run. Clones share them.
#[derive(Clone)]
pub(in crate::domain) struct Processes(Arc<Inner>);

struct Inner {
    /// In the order of their start; some may be over.
    commands: Mutex<Vec<Arc<Entry>>>,
    keepers: Keepers,
    data_dir: PathBuf,
    tasks: TaskTracker,
    stopping: CancellationToken,
}

/// A command that was started.
pub(in crate::domain) struct Entry {
    /// Names it for clients, and for the model if it is a job.
    pub(in crate::domain) id: ProcessId,
    /// The turn that started it.
    pub(in crate::domain) turn_id: TurnId,
    /// The call that started it.
    pub(in crate::domain) call: Option<ToolCallId>,
    /// As the model gave it.
    pub(in crate::domain) command: String,
    /// When it was started.
    pub(in crate::domain) started_at: Timestamp,
    /// What it wrote that nobody has asked for yet, of a job.
    pub(super) job: Option<Mutex<Kept>>,
    pub(super) running: Running,
    /// Of a job: it is over, and all that it wrote was read.
    pub(super) is_read: CancellationToken,
    by_client: AtomicBool,
}

impl Processes {
    /// None yet. Their owners live in `tasks` and end when `stopping` is; whom a killed server leaves is known by its
    /// data directory.
    pub(in crate::domain) fn new(data_dir: PathBuf, tasks: TaskTracker, stopping: CancellationToken) -> Self {
        Self(Arc::new(Inner { commands: Mutex::default(), keepers: Keepers::default(), data_dir, tasks, stopping }))
    }

    /// Starts a command; `keeper` has its folder and environment. Its end is sure once the guard is dropped.
    pub(super) async fn start(
        &self,
        context: &ToolContext,
        mut keeper: Command,
        command: &str,
        script: String,
        is_job: bool,
    ) -> io::Result<(Arc<Entry>, Receiver, DropGuard)> {
        let id = ProcessId::short();
        let order = Order { script, shown: head(command, MAX_SHOWN).to_owned(), group: format!("opencode-{id}") };
        // For the next start, should it have to end this one.
        keeper.arg(&self.0.data_dir);
        let ends_with = EndsWith { turn: context.canceled.clone(), server: self.0.stopping.clone() };
        let started = command::start(keeper, order, ends_with, &self.0.keepers, &self.0.tasks).await?;
        let (running, output, guard) = started;
        let entry = Arc::new(Entry {
            id,
            turn_id: context.turn.clone(),
            call: context.call.clone(),
            command: command.to_owned(),
            started_at: now(),
            job: is_job.then(Mutex::default),
            running,
            is_read: CancellationToken::new(),
            by_client: AtomicBool::new(false),
        });
        let mut commands = self.commands();
        commands.push(Arc::clone(&entry));
        forget_the_oldest(&mut commands);
        drop(commands);
        Ok((entry, output, guard))
    }

    /// Has a task of ours do what goes on after a tool has answered.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.0.tasks.spawn(work);
    }

    /// The job of that id, over or not.
    pub(super) fn job(&self, id: &str) -> Option<Arc<Entry>> {
        self.commands().iter().find(|entry| entry.id.as_str() == id && entry.job.is_some()).cloned()
    }

    /// The jobs, over or not.
    pub(super) fn jobs(&self) -> Vec<Arc<Entry>> {
        self.commands().iter().filter(|entry| entry.job.is_some()).cloned().collect()
    }

    /// What runs.
    pub(in crate::domain) fn running(&self) -> Vec<Arc<Entry>> {
        self.commands().iter().filter(|entry| !entry.running.is_over()).cloned().collect()
    }

    /// Waits until all is over that a cancelled turn had running, its jobs too, and answers what had to be ended.
    pub(in crate::domain) async fn ended_with(&self, turn: &TurnId) -> Vec<Arc<Outcome>> {
        let of_turn: Vec<Arc<Entry>> = self.commands().iter().filter(|entry| entry.turn_id == *turn).cloned().collect();
        join_all(of_turn.iter().map(|entry| entry.running.ended_with_turn())).await.into_iter().flatten().collect()
    }

    /// Ends all that runs, and forgets the jobs that are over.
    pub(in crate::domain) async fn end_all(&self) {
        join_all(self.running().iter().map(|entry| entry.running.end())).await;
        self.commands().retain(|entry| !entry.running.is_over());
    }

    fn commands(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Entry>>> {
        self.0.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// The shell's process id.
    pub(in crate::domain) fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// The process below which all of it is.
    pub(in crate::domain) fn keeper(&self) -> u32 {
        self.running.keeper()
    }

    /// Whether it goes on after the call that started it.
    pub(in crate::domain) fn is_job(&self) -> bool {
        self.job.is_some()
    }

    /// Ends it because a client asked for it, and answers what that was.
    pub(in crate::domain) async fn end_for_client(&self) -> Arc<Outcome> {
        self.by_client.store(true, Ordering::Release);
        self.running.end().await
    }

    /// Whether a client had it ended.
    pub(super) fn was_ended_by_client(&self) -> bool {
        self.by_client.load(Ordering::Acquire)
    }
}

/// Forgets what is over, but the newest jobs.
fn forget_the_oldest(commands: &mut Vec<Arc<Entry>>) {
    let over = commands.iter().filter(|entry| entry.is_job() && entry.running.is_over()).count();
    let mut too_many = over.saturating_sub(MAX_ENDED_JOBS);
    commands.retain(|entry| {
        if !entry.running.is_over() {
            return true;
        }
        let goes = !entry.is_job() || too_many > 0;
        if entry.is_job() && goes {
            too_many -= 1;
        }
        !goes
    });
}
