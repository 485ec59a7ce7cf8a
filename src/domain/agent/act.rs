//! Running the tool calls of one answer: reading ones side by side, others in order, each with its result.

use std::{
    fmt::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use serde_json::Value;
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

use super::{
    End, Running, Turn,
    clock::Phase,
    output,
    permit::{self, Permit},
};
use crate::domain::{
    error::Error,
    event::{EventKind, MessageEvent, ToolCallCompleted, ToolCallStarted, ToolDelta},
    id::{MessageId, TurnId},
    message::{Message, Role},
    part::{Binary, PART_LIMIT, Part, ToolCall, ToolResult},
    permission::Hidden,
    session::now,
    store::{Batch, Store},
    tools::{self, ToolContext, ToolError, ToolOutput},
};

/// How long a cancelled tool may take to end by itself: a command needs a second for those that ignore TERM, and one
/// more to tell who did not go even then.
const CANCEL_GRACE: Duration = Duration::from_millis(2_300);
/// Pieces of raw output on their way to the clients.
const OUTPUT_QUEUE: usize = 16;
/// From so many times in a row on the model is told that it makes the same call again.
const TOLD_FROM: usize = 3;
/// Bytes of results up to which the TOOL message is said again with each; see [`State::is_worth_saying`].
const ALWAYS_SAID: usize = 16 * 1024;

/// The TOOL message while its results come in.
pub(super) struct Board {
    store: Store,
    running: Arc<Running>,
    turn_id: TurnId,
    state: Mutex<State>,
}

struct State {
    message: Message,
    /// Which results are there.
    done: Vec<bool>,
    /// Images to look at; they follow the results, since parts are only added at the end.
    images: Vec<Option<Binary>>,
    /// Bytes of the results that the message had when it was last said.
    said: usize,
    /// Bytes of those that came since.
    unsaid: usize,
}

impl Turn {
    /// Runs the tool calls of the last answer; `message` takes their results.
    pub(super) async fn act(&mut self, calls: &[ToolCall], message: Message) -> Result<(), End> {
        let (done, images) = (vec![false; calls.len()], vec![None; calls.len()]);
        let state = State { message, done, images, said: 0, unsaid: 0 };
        let (store, running) = (self.domain.0.store.clone(), Arc::clone(&self.running));
        let board = Board { store, running, turn_id: self.id.clone(), state: Mutex::new(state) };
        let outcome = self.run_all(&board, calls).await;
        let words = match &outcome {
            Ok(()) => "canceled before it ran",
            Err(end) if end.is_by_permission() => "not run: the turn was stopped",
            Err(_) => "not run: the server failed",
        };
        let message = board.close(words).await?;
        self.messages.push(message);
        outcome?;
        if self.tools.cancel.is_cancelled() {
            return Err(End::canceled(&self.running));
        }
        Ok(())
    }

    async fn run_all(&self, board: &Board, calls: &[ToolCall]) -> Result<(), End> {
        let reads = |call: &ToolCall| tools::find(&call.name).is_some_and(|entry| entry.read_only);
        let mut next = 0;
        while next < calls.len() && !self.tools.cancel.is_cancelled() {
            let side_by_side = calls[next..].iter().take_while(|call| reads(call)).count().max(1);
            let clock = self.running.clock();
            let _running = if side_by_side > 1 { clock.enter_shared(Phase::Tools) } else { clock.enter(Phase::Tools) };
            let group = (next..next + side_by_side).map(|index| self.run_call(board, index, &calls[index]));
            for outcome in join_all(group).await {
                outcome?;
            }
            next += side_by_side;
        }
        Ok(())
    }

    /// Done when nobody waits any more for what does not end by itself after a cancel.
    pub(super) async fn given_up(&self) {
        self.tools.cancel.cancelled().await;
        tokio::time::sleep(CANCEL_GRACE).await;
    }

    async fn run_call(&self, board: &Board, index: usize, call: &ToolCall) -> Result<(), End> {
        let began = Instant::now();
        match self.permit(call, board.started(index, call).await).await? {
            Permit::Given => {}
            Permit::Denied(words) => return Ok(board.completed(index, ToolOutput::told(words), true, began).await?),
            Permit::Stopped(words) => {
                board.completed(index, ToolOutput::told(words.clone()), true, began).await?;
                return Err(permit::stopped(words));
            }
        }
        let began = Instant::now();
        let (output, pieces) = mpsc::channel(OUTPUT_QUEUE);
        if !tools::find(&call.name).is_none_or(|entry| entry.read_only) {
            self.tools.changes.begin();
            self.wait_for_version().await;
        }
        let hidden = Hidden::from(&call.name, &self.domain.0.rules);
        let context = ToolContext { output, call: Some(call.id.clone()), hidden, ..self.tools.clone() };
        // The stream of its output ends with it.
        let over = CancellationToken::new();
        let running = async {
            let answer = match tools::find(&call.name) {
                Some(entry) => tokio::select! {
                    answer = entry.run(&context, call.input.clone()) => answer,
                    // A thread that hangs in the file system cannot be ended, but nobody waits for it.
                    () = self.given_up() => Err(ToolError::ForModel("canceled while it ran".into())),
                },
                None => Err(tools::unknown(&call.name)),
            };
            over.cancel();
            answer
        };
        let showing = async {
            let grew = |text, truncated| board.grew(index, text, truncated);
            let shown = output::show(pieces, &over, grew).await;
            if shown.is_err() {
                // What is not stored is not to go on.
                self.tools.canceled.cancel();
            }
            shown
        };
        let runs = Instant::now();
        let (answer, shown) = tokio::join!(running, showing);
        self.running.clock().ran(call.id.clone(), call.name.clone(), runs.elapsed());
        shown?;
        let (mut output, is_error) = match answer {
            Ok(output) => {
                let is_error = output.is_error;
                (output, is_error)
            }
            Err(ToolError::ForModel(words)) => (ToolOutput { content: words, ..ToolOutput::default() }, true),
            Err(ToolError::Fatal(cause)) => {
                tracing::error!(turn = %self.id, tool = call.name, cause = %cause, "a tool failed");
                let content = "the server failed while this ran".into();
                board.completed(index, ToolOutput { content, ..ToolOutput::default() }, true, began).await?;
                return Err(End::internal());
            }
        };
        let times = times_in_a_row(&self.messages, call);
        if times >= TOLD_FROM {
            let _ = write!(output.content, "\n\n[{}]", words_for_repeats(times));
        }
        Ok(board.completed(index, output, is_error, began).await?)
    }
}

/// How often the agent has made this very call in a row by now, in this turn; the answer that makes it is the last one
/// that calls anything.
fn times_in_a_row(messages: &[Message], call: &ToolCall) -> usize {
    let turn = messages.last().and_then(|last| last.turn_id.as_ref());
    let of_turn = messages.iter().rev().take_while(|message| message.turn_id.as_ref() == turn);
    let answers = of_turn.filter(|message| message.role == Role::Assistant);
    let made = answers.flat_map(|answer| answer.tool_calls().collect::<Vec<_>>().into_iter().rev());
    let before = made.skip_while(|made| made.id != call.id);
    before.take_while(|made| made.name == call.name && made.input == call.input).count()
}

fn words_for_repeats(times: usize) -> String {
    format!(
        "This is the same call with the same arguments for the {times}{} time in a row. Making it once more will hardly \
         help: do something else, or tell the user what is in the way.",
        match times % 100 {
            11..=13 => "th",
            last if last % 10 == 1 => "st",
            last if last % 10 == 2 => "nd",
            last if last % 10 == 3 => "rd",
            _ => "th",
        }
    )
}

impl State {
    /// Whether the message is to be said again before its end: while it is small, and then only when at least half
    /// of it is new. With each result it would be said in full, so that many large ones grew the log by the square
    /// of their number; like this all repetitions together are less than twice the message. Until then
    /// `tool_call_completed` has each result.
    fn is_worth_saying(&self) -> bool {
        self.said + self.unsaid <= ALWAYS_SAID || self.unsaid >= self.said
    }
}

impl Board {
    /// Says that a call comes to run.
    async fn started(&self, index: usize, call: &ToolCall) -> Batch {
        let state = self.state.lock().await;
        let event = ToolCallStarted {
            message_id: state.message.id.clone(),
            part_index: index as u32,
            tool_call_id: call.id.clone(),
            tool_name: call.name.clone(),
            input: call.input.clone(),
            truncated: false,
            size: None,
        };
        Batch::new().event(Some(&self.turn_id), EventKind::ToolCallStarted(event))
    }

    /// Shows a piece of a running call's output.
    pub(super) async fn grew(&self, index: usize, text: String, truncated: bool) -> Result<(), Error> {
        let mut state = self.state.lock().await;
        let Some(Part::ToolResult(part)) = state.message.parts.get_mut(index) else { return Ok(()) };
        part.content.push_str(&text);
        let tool_call_id = part.tool_call_id.clone();
        let message_id = state.message.id.clone();
        let event = ToolDelta { message_id, part_index: index as u32, tool_call_id, text, truncated };
        // The tool goes on meanwhile.
        let batch = Batch::new().event(Some(&self.turn_id), EventKind::ToolOutputDelta(event));
        self.store.append(batch).await.map(drop)
    }

    /// Stores a result; the last one makes the message whole.
    async fn completed(&self, index: usize, output: ToolOutput, is_error: bool, began: Instant) -> Result<(), Error> {
        let mut guard = self.state.lock().await;
        let state = &mut *guard;
        let Some(part) = state.message.parts.get_mut(index) else { return Ok(()) };
        let Part::ToolResult(result) = part else { return Ok(()) };
        (result.content, result.metadata, result.is_error) = (output.content, output.metadata, is_error);
        let event = ToolCallCompleted {
            message_id: state.message.id.clone(),
            part_index: index as u32,
            tool_call_id: result.tool_call_id.clone(),
            output: result.content.clone(),
            is_error,
            metadata: result.metadata.clone(),
            duration_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            truncated: false,
            size: None,
        };
        state.unsaid += part.weight().min(PART_LIMIT);
        state.done[index] = true;
        state.images[index] = output.image;
        let message = &mut state.message;
        message.updated_at = now();
        let whole = state.done.iter().all(|done| *done);
        if whole {
            message.parts.extend(state.images.iter_mut().filter_map(Option::take).map(Part::Binary));
            message.finished_at = Some(message.updated_at);
        }
        let mut batch = Batch::new().event(Some(&self.turn_id), EventKind::ToolCallCompleted(event));
        if whole || state.is_worth_saying() {
            let event = MessageEvent { message: state.message.clone() };
            batch = batch.event(Some(&self.turn_id), EventKind::MessageUpdated(event));
            (state.said, state.unsaid) = (state.said + state.unsaid, 0);
        }
        self.stored(batch).await
    }

    /// Gives every call without a result one, if there are any.
    async fn close(self, words: &str) -> Result<Message, Error> {
        let mut state = self.state.into_inner();
        if state.message.finished_at.is_none() {
            close_results(&mut state.message, &state.done, words);
            let event = MessageEvent { message: state.message.clone() };
            let batch = Batch::new().event(Some(&self.turn_id), EventKind::MessageUpdated(event)).ending();
            self.running.clock().during(Phase::Storing, self.store.append(batch)).await?;
        }
        Ok(state.message)
    }

    async fn stored(&self, batch: Batch) -> Result<(), Error> {
        self.running.clock().during(Phase::Storing, self.store.append(batch)).await.map(drop)
    }
}

/// The TOOL message for an answer's calls, its results open; none if it calls none.
pub(super) fn results_of(answer: &Message) -> Option<Message> {
    let parts: Vec<Part> = answer.tool_calls().map(|call| Part::ToolResult(open_result(call))).collect();
    let now = now();
    (!parts.is_empty()).then(|| Message {
        id: MessageId::generate(),
        session_id: answer.session_id.clone(),
        role: Role::Tool,
        parts,
        model: answer.model.clone(),
        turn_id: answer.turn_id.clone(),
        usage: None,
        created_at: now,
        updated_at: now,
        finished_at: None,
        seq: 0,
    })
}

fn open_result(call: &ToolCall) -> ToolResult {
    ToolResult {
        tool_call_id: call.id.clone(),
        content: String::new(),
        metadata: None::<Value>,
        is_error: false,
        truncated: false,
        size: None,
    }
}

/// Answers the calls that have no result in words for the model, and makes the message whole.
pub(super) fn close_results(message: &mut Message, done: &[bool], words: &str) {
    for (index, part) in message.parts.iter_mut().enumerate() {
        if let Part::ToolResult(result) = part
            && !done.get(index).copied().unwrap_or(false)
        {
            if !result.content.is_empty() && !result.content.ends_with('\n') {
                result.content.push('\n');
            }
            result.content.push_str(words);
            result.is_error = true;
        }
    }
    message.updated_at = now();
    message.finished_at = Some(message.updated_at);
}
