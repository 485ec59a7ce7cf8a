//! One turn from prompt to stop: stream the model, store the answer, run its tools, go on until it calls none.
//! Every way out closes what is open, so that the history is always valid input for any provider.

mod act;
mod answer;
mod aside;
mod call;
mod clock;
mod compact;
mod context;
mod cost;
mod ending;
mod history;
mod output;
mod permit;
mod prompt;
mod recover;
mod running;
mod spending;
mod steer;
mod title;

use std::sync::{Arc, PoisonError};

use futures_util::FutureExt;
use tokio::sync::Notify;

pub(super) use recover::recover;
pub(super) use running::{Changes, Running};
pub(super) use spending::{Spending, Used};
pub(super) use steer::{Closed, Coming};
pub(super) use title::Untitled;

use call::Answered;
use clock::Phase;
use context::Context;
use ending::{End, finish};
use spending::Exhausted;

use super::{
    OpenCode,
    error::Result,
    event::{EventKind, MessageCompleted, MessageEvent},
    id::{MessageId, SessionId, TurnId},
    message::{Message, Role},
    model::Model,
    part::{Finish, FinishReason, Part, Text},
    permission::Hidden,
    session::now,
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

/// The version before the turn, on its way.
struct Begun {
    done: tokio::sync::oneshot::Receiver<()>,
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
    running.clock().switch(Phase::Other);
    let given_up = running.token().child_token();
    let titling = untitled.map(|untitled| {
        title::make(domain.clone(), running.clone(), session_id.clone(), model.clone(), untitled, given_up.clone())
    });
    let turn = Turn::new(domain.clone(), running.clone(), session_id, model);
    // A panic ends the turn like any other fault of ours; nobody is left busy for ever.
    let end = std::panic::AssertUnwindSafe(async {
        let mut turn = turn;
        let playing = async {
            let mut end = turn.play_in_time().await;
            if !turn.running.settle() {
                // What it came to was not yet said when it was cancelled.
                end = End::canceled(&turn.running);
            }
            if end.waits_for_version() {
                turn.wait_for_version().await;
            }
            end
        };
        match titling {
            Some(titling) => title::beside(playing, titling, &given_up, running.clock()).await,
            None => playing.await,
        }
    })
    .catch_unwind()
    .await
    .unwrap_or_else(|_| {
        tracing::error!(turn = %running.id(), "the turn panicked");
        End::internal()
    });
    if running.token().is_cancelled() {
        // They end since the cancel and not only now; its answer tells of them.
        let ended = domain.0.processes.ended_with(running.id());
        running.set_outcomes(running.clock().during(Phase::Tools, ended).await);
    }
    finish(&domain, &running, end).await;
    domain.go_on();
}

impl Turn {
    fn new(domain: OpenCode, running: Arc<Running>, session_id: SessionId, model: Model) -> Self {
        let memory = domain.0.memory.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let tools = ToolContext {
            workspace: domain.0.workspace.clone(),
            memory,
            // Ends with the turn's, and of itself when the turn's time is up.
            cancel: running.token().child_token(),
            canceled: running.token(),
            output: tokio::sync::mpsc::channel(1).0,
            processes: domain.0.processes.clone(),
            turn: running.id().clone(),
            images: model.info.supports_attachments,
            secret_variables: domain.0.settings.secret_variables.clone().into(),
            scratch: super::scratch(&domain.0.settings.data_dir),
            changes: running.changes().clone(),
            call: None,
            hidden: Hidden::default(),
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

    /// The loop, as long as the turn's time lasts: that ends a call or a tool that runs.
    async fn play_in_time(&mut self) -> End {
        let (left, stop) = (self.running.spending().time_left(), self.tools.cancel.clone());
        let time_is_up = async {
            match left {
                Some(left) => tokio::time::sleep(left).await,
                None => std::future::pending().await,
            }
            stop.cancel();
            // What runs closes what it has opened.
            std::future::pending().await
        };
        let end = tokio::select! {
            end = Box::pin(self.play()) => end,
            end = time_is_up => end,
        };
        match &end {
            End::Failed(_, error) if error.code == TurnErrorCode::Canceled && self.is_out_of_time() => {
                self.exhausted(&self.running.spending().out_of_time()).await
            }
            End::Finished(_) | End::Failed(..) => end,
        }
    }

    /// Whether the turn's time is up; not one that was cancelled.
    fn is_out_of_time(&self) -> bool {
        self.tools.cancel.is_cancelled() && !self.tools.canceled.is_cancelled()
    }

    /// The loop.
    async fn play(&mut self) -> End {
        let hurry = Arc::new(Notify::new());
        let done = self.domain.version_before(&self.id, Arc::clone(&hurry));
        *self.begun.get_mut() = Some(Begun { done, hurry });
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
        loop {
            let Answered { reason, message, results } = match self.call(&system).await {
                Ok(answered) => answered,
                Err(end) => return end,
            };
            // An answer without a word is the model's way to say that it is done.
            let calls: Vec<_> = message.iter().flat_map(Message::tool_calls).cloned().collect();
            self.messages.extend(message);
            match results {
                Some(results) if reason == FinishReason::ToolUse => {
                    if let Err(end) = self.act(&calls, results).await {
                        return end;
                    }
                    if let Err(end) = self.take_steered().await {
                        return end;
                    }
                }
                Some(_) | None => match End::of(reason) {
                    failed @ End::Failed(..) => return failed,
                    end @ End::Finished(_) => match self.is_steered_on().await {
                        Ok(true) => {}
                        Ok(false) => return end,
                        Err(end) => return end,
                    },
                },
            }
        }
    }

    /// Ends the turn at a limit, with a short closing text of our own instead of a model call.
    async fn exhausted(&self, exhausted: &Exhausted) -> End {
        let text = exhausted.closing();
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
        if let Err(error) = self.append(batch).await {
            return End::from(error);
        }
        End::exhausted(exhausted)
    }

    /// Tells the model, beside the user's words, what happened since the last turn.
    fn tell(&mut self, notes: Vec<String>) {
        if let Some(message) = self.messages.last_mut().filter(|message| message.role == Role::User) {
            message.parts.extend(notes.into_iter().map(|text| Part::Text(Text { text })));
        }
    }

    /// Waits for the version before the turn, for a tool that may change files.
    async fn wait_for_version(&self) {
        if let Some(Begun { done, hurry }) = self.begun.lock().await.take() {
            hurry.notify_one();
            // Without it the turn has no version before; what file tools overwrite is kept all the same.
            let _ = self.running.clock().during(Phase::Snapshots, self.running.budget().wait(done)).await;
        }
    }

    /// Stores a batch, and waits for the log.
    async fn append(&self, batch: Batch) -> Result<u64> {
        self.running.clock().during(Phase::Storing, self.domain.0.store.append(batch)).await
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
