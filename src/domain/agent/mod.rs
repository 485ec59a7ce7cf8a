//! One turn from prompt to stop: stream the model, store the answer, run its tools, go on until it calls none.
//! Every way out closes what is open, so that the history is always valid input for any provider.

mod act;
mod answer;
mod aside;
mod call;
mod compact;
mod context;
mod cost;
mod ending;
mod history;
mod output;
mod prompt;
mod recover;
mod running;
mod title;

use std::{
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use tokio::sync::Notify;

pub(super) use recover::recover;
pub(super) use running::{Changes, Running};
pub(super) use title::Untitled;

use call::Answered;
use context::Context;
use ending::{End, finish};

use super::{
    OpenCode,
    event::{EventKind, MessageCompleted, MessageEvent},
    id::{MessageId, SessionId, TurnId},
    message::{Message, Role},
    model::Model,
    part::{Finish, FinishReason, Part, Text},
    session::now,
    snapshot::TURN_WAIT,
    store::Batch,
    tools::ToolContext,
    turn::TurnErrorCode,
    usage::Spent,
};

/// A turn that runs, with all that it needs.
pub(super) struct Turn {
    domain: OpenCode,
    id: TurnId,
    session_id: SessionId,
    model: Model,
    running: Arc<Running>,
    tools: ToolContext,
    /// The conversation, whole.
    messages: Vec<Message>,
    /// What of it the model is told.
    context: Context,
    /// Done when the version before the turn is there; none when it was waited for.
    begun: tokio::sync::Mutex<Option<Begun>>,
}

/// The version before the turn, and how long it may be waited for.
struct Begun {
    done: tokio::sync::oneshot::Receiver<()>,
    until: Instant,
    /// Somebody waits for it.
    hurry: Arc<Notify>,
}

/// Runs a turn to its end, whatever happens in it. An `untitled` session gets a title meanwhile.
pub(super) async fn run(
    domain: OpenCode,
    running: Arc<Running>,
    session_id: SessionId,
    model: Model,
    untitled: Option<Untitled>,
) {
    let began = Instant::now();
    let given_up = running.token().child_token();
    let titling = untitled.map(|untitled| {
        let (domain, turn) = (domain.clone(), running.id().clone());
        title::make(domain, turn, session_id.clone(), model.clone(), untitled, given_up.clone())
    });
    let turn = Turn::new(domain.clone(), running.clone(), session_id, model);
    // A panic ends the turn like any other fault of ours; nobody is left busy for ever.
    let end = std::panic::AssertUnwindSafe(async {
        let mut turn = turn;
        let playing = async {
            let end = Box::pin(turn.play(began)).await;
            if end.waits_for_version() > Duration::ZERO {
                turn.wait_for_version().await;
            }
            end
        };
        match titling {
            Some(titling) => title::beside(playing, titling, &given_up).await,
            None => playing.await,
        }
    })
    .catch_unwind()
    .await
    .unwrap_or_else(|_| {
        tracing::error!(turn = %running.id(), "the turn panicked");
        End::internal()
    });
    finish(&domain, &running, end).await;
}

impl Turn {
    fn new(domain: OpenCode, running: Arc<Running>, session_id: SessionId, model: Model) -> Self {
        let memory = domain.0.memory.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let tools = ToolContext {
            workspace: domain.0.workspace.clone(),
            memory,
            cancel: running.token(),
            output: tokio::sync::mpsc::channel(1).0,
            ended: running.ended(),
            images: model.info.supports_attachments,
            secret_variables: domain.0.settings.secret_variables.clone().into(),
            scratch: super::scratch(&domain.0.settings.data_dir),
            changes: running.changes().clone(),
            call: None,
        };
        Self {
            id: running.id().clone(),
            domain,
            session_id,
            model,
            running,
            tools,
            messages: Vec::new(),
            context: Context::default(),
            begun: tokio::sync::Mutex::default(),
        }
    }

    /// The loop.
    async fn play(&mut self, began: Instant) -> End {
        let limits = self.domain.0.settings.limits;
        let hurry = Arc::new(Notify::new());
        let done = self.domain.version_before(&self.id, Arc::clone(&hurry));
        *self.begun.get_mut() = Some(Begun { done, until: began + TURN_WAIT, hurry });
        let history = self.domain.read(|snapshot| Ok((snapshot.history()?, snapshot.context()?, snapshot.notes()?)));
        let system = prompt::system(&self.domain.0.workspace, &self.model);
        let (history, system) = tokio::select! {
            // Side by side: both wait for a thread.
            both = async { tokio::join!(history, system) } => both,
            () = self.tools.cancel.cancelled() => return End::canceled(&self.running),
        };
        match history {
            Ok(read) => {
                let notes;
                (self.messages, self.context.row, notes) = read.value;
                self.tell(notes);
            }
            Err(error) => return End::from(error),
        }
        for _ in 0..limits.model_calls {
            if began.elapsed() >= limits.time {
                let seconds = limits.time.as_secs();
                return self.exhausted("seconds", format!("{seconds} seconds"), "OPENCODE_TURN_SECONDS").await;
            }
            let Answered { reason, message, results } = match self.call(&system).await {
                Ok(answered) => answered,
                Err(end) => return end,
            };
            // An answer without a word is the model's way to say that it is done.
            let Some(answer) = message else { return End::of(reason) };
            let calls: Vec<_> = answer.tool_calls().cloned().collect();
            self.messages.push(answer);
            match results {
                Some(results) if reason == FinishReason::ToolUse => {
                    if let Err(end) = self.act(&calls, results).await {
                        return end;
                    }
                }
                Some(_) | None => return End::of(reason),
            }
        }
        let calls = limits.model_calls;
        self.exhausted("model_calls", format!("{calls} model calls"), "OPENCODE_TURN_MODEL_CALLS").await
    }

    /// Ends the turn at a limit, with a short closing text of our own instead of a model call.
    async fn exhausted(&mut self, which: &'static str, limit: String, variable: &'static str) -> End {
        let text = format!("I stopped here: this turn has used its limit of {limit}. Send a message to go on.");
        let mut message = self.message(Role::Assistant);
        message.finished_at = Some(message.created_at);
        let finish = Finish { reason: FinishReason::BudgetExhausted, time: message.created_at };
        message.parts = vec![Part::Text(Text { text }), Part::Finish(finish)];
        let completed = MessageCompleted {
            message_id: message.id.clone(),
            finish_reason: FinishReason::BudgetExhausted,
            usage: Spent::default().into(),
        };
        let batch = Batch::new()
            .event(Some(&self.id), EventKind::MessageCreated(MessageEvent { message }))
            .event(Some(&self.id), EventKind::MessageCompleted(completed));
        if let Err(error) = self.domain.0.store.append(batch).await {
            return End::from(error);
        }
        let message = format!("the turn has used its limit of {limit}; send a message to go on, or raise {variable}");
        let details = Some(serde_json::json!({ "budget": which, "variable": variable }));
        End::failed(FinishReason::BudgetExhausted, TurnErrorCode::BudgetExhausted, message, details)
    }

    /// Tells the model, beside the user's words, what happened since the last turn.
    fn tell(&mut self, notes: Vec<String>) {
        if let Some(message) = self.messages.last_mut().filter(|message| message.role == Role::User) {
            message.parts.extend(notes.into_iter().map(|text| Part::Text(Text { text })));
        }
    }

    /// Waits for the version before the turn, for a tool that may change files.
    async fn wait_for_version(&self) {
        if let Some(Begun { done, until, hurry }) = self.begun.lock().await.take() {
            hurry.notify_one();
            // Without it the turn has no version before; what file tools overwrite is kept all the same.
            let _ = tokio::time::timeout_at(until.into(), done).await;
        }
    }

    /// A new message of this turn, without parts.
    fn message(&self, role: Role) -> Message {
        let now = now();
        Message {
            id: MessageId::generate(),
            session_id: self.session_id.clone(),
            role,
            parts: Vec::new(),
            model: Some(self.model.info.id.clone()),
            turn_id: Some(self.id.clone()),
            usage: None,
            created_at: now,
            updated_at: now,
            finished_at: None,
            seq: 0,
        }
    }
}
