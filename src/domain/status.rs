//! What the agent is doing.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    OpenCode, Read,
    error::{Code, Error, Result},
    event::EventType,
    id::TurnId,
    part::FinishReason,
    process::{ProcessEnded, ProcessLeft, ProcessesEnded, is_zero},
    store::{self, Filter, Start},
    turn::Turn,
};

/// Whether a message is taken now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = AgentStatus)]
pub enum Activity {
    /// A message is taken now.
    Idle,
    /// A turn runs.
    Processing,
    /// A turn waits for an answer to a permission request.
    WaitingPermission,
    /// No message can be taken; `error` says why.
    Error,
}

/// What the agent is doing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AgentState {
    /// Whether a message is taken now.
    pub status: Activity,
    /// What it does, in a few words, while a turn runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_operation: Option<String>,
    /// Since when the status holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// The model of the running turn, or the one that the next turn uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The turn that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn_id: Option<TurnId>,
    /// Why no message can be taken, where the status is `error`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The turn that ended last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_turn: Option<Turn>,
}

/// What a cancel did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Canceled {
    /// Whether a turn was running and has been ended.
    pub canceled: bool,
    /// The turn that was ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn_id: Option<TurnId>,
    /// The processes that were ended, those of the turn's jobs too; at most 1,000 of a command.
    pub processes_ended: Vec<ProcessEnded>,
    /// The processes that the kernel has not let go yet.
    pub processes_left: Vec<ProcessLeft>,
    /// How many more were ended than are named; absent if all are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub processes_unnamed: u64,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// Which turn is to be cancelled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CancelAgent {
    /// Only this turn, which runs or is queued: if another one runs, nothing is touched.
    pub turn_id: Option<String>,
}

/// Longest that a cancel waits for the end of the turn.
const CANCEL_TIME: Duration = Duration::from_secs(3);

impl OpenCode {
    /// What the agent is doing.
    pub async fn get_agent_status(&self) -> Result<Read<AgentState>> {
        let current = self.current_model().await?.map(|model| model.info.id);
        let full = self.0.store.health() == store::Health::Full;
        // A turn whose ending could not be stored runs no more, whatever its rows say.
        let abandoned = self.0.unfinished.load(Ordering::Acquire) && self.running().is_none();
        self.read(move |snapshot| {
            let Some(agent) = snapshot.agent()? else {
                return Ok(AgentState { model: current, ..AgentState::idle() });
            };
            let last_turn = agent.last_turn_id.as_ref().map(|id| snapshot.turn(id.as_str())).transpose()?.flatten();
            let running = agent.turn_id.is_some() && !abandoned;
            let state = AgentState {
                status: if abandoned { Activity::Idle } else { agent.status },
                current_operation: if !running {
                    None
                } else if agent.tools.is_empty() {
                    agent.operation
                } else {
                    let names: Vec<&str> = agent.tools.iter().map(|(_, name)| name.as_str()).collect();
                    Some(format!("running {}", names.join(", ")))
                },
                started_at: agent.since,
                model: if running { agent.model } else { current },
                turn_id: agent.turn_id.filter(|_| running),
                error: None,
                last_turn,
            };
            Ok(if full && !running {
                let error = Some("the disk of the data directory is full".into());
                AgentState { status: Activity::Error, error, ..state }
            } else {
                state
            })
        })
        .await
    }

    /// Ends the running turn: its model call, its processes, its open tool calls. Answers when its end is in the log.
    pub async fn cancel_agent(&self, wish: CancelAgent) -> Result<Canceled> {
        let began = Instant::now();
        let nothing = Canceled {
            canceled: false,
            turn_id: None,
            processes_ended: Vec::new(),
            processes_left: Vec::new(),
            processes_unnamed: 0,
            took_ms: 0,
        };
        // Behind the gate, so that a turn whose first events were just seen is found.
        let running = {
            let _gate = self.0.gate.lock().await;
            if let Some(wanted) = wish.turn_id.as_ref().filter(|wanted| self.0.queue.holds(wanted)) {
                return self.cancel_queued(&TurnId::from(wanted.clone()), began).await;
            }
            self.running()
        };
        let Some(running) = running else { return Ok(nothing) };
        if wish.turn_id.is_some_and(|wanted| wanted != running.id().as_str()) {
            let detail = format!("another turn runs: {}", running.id());
            return Err(Error::new(Code::StaleTurn, detail));
        }
        running.cancel();
        if tokio::time::timeout(CANCEL_TIME, running.done()).await.is_err() {
            let detail = format!("turn {} is still ending; ask again", running.id());
            return Err(Error::new(Code::Unavailable, detail).retry_after(Duration::from_secs(1)));
        }
        let id = running.id().clone();
        let ended = self.get_turn(id.as_str(), 0).await?.value;
        if ended.finish_reason != Some(FinishReason::Canceled) {
            // It came to its own end before the cancel reached it.
            return Ok(nothing);
        }
        let ProcessesEnded { processes_ended, processes_left, processes_unnamed, took_ms } =
            ProcessesEnded::new(&running.outcomes(), began);
        let turn_id = Some(id);
        Ok(Canceled { canceled: true, turn_id, processes_ended, processes_left, processes_unnamed, took_ms })
    }

    /// Waits until the turn has ended and its end is stored.
    pub async fn turn_ended(&self, id: &TurnId) {
        // One that was just accepted runs when the gate is free.
        let (running, waits) = {
            let _gate = self.0.gate.lock().await;
            (self.running().filter(|running| running.id() == id), self.0.queue.holds(id.as_str()))
        };
        if waits {
            let filter =
                Filter { turn_id: Some(id.clone()), only: vec![EventType::TurnCompleted], ..Filter::default() };
            let place = Start::After(self.0.store.head());
            if let Ok(mut events) = self.0.store.subscribe(place, filter, self.0.closing.clone()).await {
                while events.next().await.is_some() {}
            }
        }
        if let Some(running) = running {
            running.done().await;
        }
    }

    /// Cancels the turn that runs, if one does, and waits for its end. For those who hold the gate.
    pub(super) async fn end_running_turn(&self) -> Result<()> {
        if let Some(running) = self.running() {
            running.cancel();
            if tokio::time::timeout(CANCEL_TIME, running.done()).await.is_err() {
                return Err(self.busy(&running));
            }
        }
        self.close_open_turns().await
    }

    /// Refuses while a turn runs; one that is just ending is waited for. For those who hold the gate.
    pub(super) async fn refuse_while_busy(&self) -> Result<()> {
        if let Some(running) = self.running() {
            if !running.is_ending() {
                return Err(self.busy(&running));
            }
            running.done().await;
        }
        if self.0.queue.len() > 0 {
            let detail = format!(
                "the next of {} queued turns is about to begin; wait for its end, or cancel it",
                self.0.queue.len()
            );
            return Err(Error::new(Code::AgentBusy, detail));
        }
        self.close_open_turns().await
    }

    fn busy(&self, running: &super::agent::Running) -> Error {
        Error::new(
            Code::AgentBusy,
            format!("turn {} runs; wait for its turn_completed event, or cancel it", running.id()),
        )
    }
}

impl AgentState {
    fn idle() -> Self {
        Self {
            status: Activity::Idle,
            current_operation: None,
            started_at: None,
            model: None,
            turn_id: None,
            error: None,
            last_turn: None,
        }
    }
}
