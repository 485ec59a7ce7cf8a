//! Processes: what the agent's commands run, and ending it.

use std::{sync::Arc, time::Instant};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    OpenCode,
    error::{Error, Result},
    id::{ProcessId, ToolCallId, TurnId},
    list::{List, Pagination},
    part::head,
    tools::Command,
    workspace::blocking,
};
use crate::keeper::{
    figures::{self, Figures},
    wire::{Ended, Left, Outcome},
};

/// A command of the agent that runs, with all the processes that it has started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AgentProcess {
    /// Names it; of a job the model knows it by this name too.
    pub id: ProcessId,
    /// Process id of its shell.
    pub pid: u32,
    /// The command, as the model gave it, shortened where it is long.
    pub command: String,
    /// Whether the turn waits for it.
    pub kind: ProcessKind,
    /// The turn that started it; of a job it may have ended.
    pub turn_id: TurnId,
    /// The call that started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<ToolCallId>,
    /// When it was started.
    pub started_at: Timestamp,
    /// How many processes it has now.
    pub processes: u64,
    /// Processor time that they and those before them used, in milliseconds.
    pub cpu_ms: u64,
    /// Memory that they have (resident), in bytes; what they share is counted for each.
    pub rss_bytes: u64,
    /// TCP ports that they listen on, in order.
    pub ports: Vec<u16>,
}

/// Whether a turn waits for a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProcessKind {
    /// The tool call goes on until it has ended.
    Foreground,
    /// It goes on after its call and after its turn.
    Job,
}

/// What an end of processes did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProcessesEnded {
    /// The processes that were ended, at most 1,000 of a command.
    pub processes_ended: Vec<ProcessEnded>,
    /// The processes that the kernel has not let go yet.
    pub processes_left: Vec<ProcessLeft>,
    /// How many more were ended than are named; absent if all are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub processes_unnamed: u64,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// A process that was ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProcessEnded {
    /// Its process id.
    pub pid: u32,
    /// Its command line, of a shell the command as the model gave it; shortened where it is long.
    pub command: String,
    /// Which signal it took.
    pub how: ProcessEnding,
}

/// What it took to end a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProcessEnding {
    /// TERM sufficed.
    Term,
    /// KILL was needed.
    Kill,
}

/// A process that is still there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProcessLeft {
    /// Its process id.
    pub pid: u32,
    /// Its command line, shortened where it is long.
    pub command: String,
}

/// Bytes of a command that are told.
const MAX_COMMAND: usize = 4_000;

impl OpenCode {
    /// The commands that run: the running turn's and all jobs, in the order of their start.
    pub async fn list_processes(&self) -> Result<List<AgentProcess>> {
        let as_of = self.0.store.head();
        let running = self.0.processes.running();
        let keepers: Vec<u32> = running.iter().map(|entry| entry.keeper()).collect();
        let figures = blocking(move || figures::of(&keepers)).await.map_err(Error::internal)?;
        let items: Vec<AgentProcess> =
            running.iter().zip(figures).map(|(entry, figures)| AgentProcess::new(entry, figures)).collect();
        let total = items.len() as u64;
        let limit = u32::try_from(total).unwrap_or(u32::MAX);
        let pagination = Pagination { total, limit, offset: 0, next_cursor: None, has_more: false };
        Ok(List { items, pagination, as_of })
    }

    /// Ends a command with all that it has started, and answers when that is done.
    pub async fn end_process(&self, id: &str) -> Result<ProcessesEnded> {
        let began = Instant::now();
        let running = self.0.processes.running().into_iter().find(|entry| entry.id.as_str() == id);
        let entry = running.ok_or_else(|| Error::not_found("process", id))?;
        // Whoever asked may leave; it is ended all the same.
        let outcome = self.to_the_end(async move { Ok(entry.end_for_client().await) }).await?;
        Ok(ProcessesEnded::new(&[outcome], began))
    }
}

impl AgentProcess {
    fn new(entry: &Command, figures: Figures) -> Self {
        let Figures { processes, cpu_ms, rss_bytes, ports } = figures;
        Self {
            id: entry.id.clone(),
            pid: entry.pid(),
            command: head(&entry.command, MAX_COMMAND).to_owned(),
            kind: if entry.is_job() { ProcessKind::Job } else { ProcessKind::Foreground },
            turn_id: entry.turn_id.clone(),
            tool_call_id: entry.call.clone(),
            started_at: entry.started_at,
            processes,
            cpu_ms,
            rss_bytes,
            ports,
        }
    }
}

impl ProcessesEnded {
    /// Of several commands, which took since `began` to end.
    pub(super) fn new(outcomes: &[Arc<Outcome>], began: Instant) -> Self {
        let mut all =
            Self { took_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX), ..Self::default() };
        for outcome in outcomes {
            let Outcome { ended, unnamed, left } = outcome.as_ref();
            all.processes_ended.extend(ended.iter().map(ProcessEnded::from));
            all.processes_left.extend(left.iter().map(ProcessLeft::from));
            all.processes_unnamed += unnamed;
        }
        all
    }
}

impl From<&Ended> for ProcessEnded {
    fn from(process: &Ended) -> Self {
        let Ended { pid, command, killed } = process;
        let how = if *killed { ProcessEnding::Kill } else { ProcessEnding::Term };
        Self { pid: *pid, command: command.clone(), how }
    }
}

impl From<&Left> for ProcessLeft {
    fn from(process: &Left) -> Self {
        let Left { pid, command } = process;
        Self { pid: *pid, command: command.clone() }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
pub(super) fn is_zero(number: &u64) -> bool {
    *number == 0
}
