//! Running the tool calls of one answer: reading ones side by side, others in order, each with its result.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::Value;
use tokio::sync::{Mutex, mpsc};

use super::{End, Turn, output};
use crate::domain::{
    error::Error,
    event::{EventKind, MessageEvent, ToolCallCompleted, ToolCallStarted, ToolDelta},
    id::{MessageId, TurnId},
    message::{Message, Role},
    part::{Binary, PART_LIMIT, Part, ToolCall, ToolResult},
    session::now,
    store::{Batch, Store},
    tools::{self, ToolContext, ToolError, ToolOutput},
};

/// How long a cancelled tool may take to end by itself: a command needs a second for those that ignore TERM.
const CANCEL_GRACE: Duration = Duration::from_millis(1800);
/// Pieces of raw output on their way to the clients.
const OUTPUT_QUEUE: usize = 16;
/// Bytes of results up to which the TOOL message is said again with each; see [`State::is_worth_saying`].
const ALWAYS_SAID: usize = 16 * 1024;

/// The TOOL message while its results come in.
pub(super) struct Board {
    store: Store,
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
        let board = Board { store: self.domain.0.store.clone(), turn_id: self.id.clone(), state: Mutex::new(state) };
        let outcome = self.run_all(&board, calls).await;
        let words = match &outcome {
            Ok(()) => "canceled before it ran",
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
            let group = (next..next + side_by_side).map(|index| self.run_call(board, index, &calls[index]));
            for outcome in join_all(group).await {
                outcome?;
            }
            next += side_by_side;
        }
        Ok(())
    }

    async fn run_call(&self, board: &Board, index: usize, call: &ToolCall) -> Result<(), End> {
        board.started(index, call).await?;
        let began = Instant::now();
        let (output, pieces) = mpsc::channel(OUTPUT_QUEUE);
        if !tools::find(&call.name).is_none_or(|entry| entry.read_only) {
            self.tools.changes.begin();
            self.wait_for_version().await;
        }
        let context = ToolContext { output, call: Some(call.id.clone()), ..self.tools.clone() };
        let given_up = async {
            self.tools.cancel.cancelled().await;
            tokio::time::sleep(CANCEL_GRACE).await;
        };
        let running = async {
            let answer = match tools::find(&call.name) {
                Some(entry) => tokio::select! {
                    answer = entry.run(&context, call.input.clone()) => answer,
                    // A thread that hangs in the file system cannot be ended, but nobody waits for it.
                    () = given_up => Err(ToolError::ForModel("canceled while it ran".into())),
                },
                None => Err(tools::unknown(&call.name)),
            };
            // Ends the stream of its output.
            drop(context);
            answer
        };
        let showing = async {
            let shown = output::show(board, index, pieces).await;
            if shown.is_err() {
                // What is not stored is not to go on.
                self.tools.cancel.cancel();
            }
            shown
        };
        let (answer, shown) = tokio::join!(running, showing);
        shown?;
        let (output, is_error) = match answer {
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
        Ok(board.completed(index, output, is_error, began).await?)
    }
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
    async fn started(&self, index: usize, call: &ToolCall) -> Result<(), Error> {
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
        self.append(Batch::new(), EventKind::ToolCallStarted(event)).await
    }

    /// Shows a piece of a running call's output.
    pub(super) async fn grew(&self, index: usize, text: String, truncated: bool) -> Result<(), Error> {
        let mut state = self.state.lock().await;
        let Some(Part::ToolResult(part)) = state.message.parts.get_mut(index) else { return Ok(()) };
        part.content.push_str(&text);
        let tool_call_id = part.tool_call_id.clone();
        let message_id = state.message.id.clone();
        let event = ToolDelta { message_id, part_index: index as u32, tool_call_id, text, truncated };
        self.append(Batch::new(), EventKind::ToolOutputDelta(event)).await
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
        self.store.append(batch).await.map(drop)
    }

    /// Gives every call without a result one, if there are any.
    async fn close(self, words: &str) -> Result<Message, Error> {
        let mut state = self.state.into_inner();
        if state.message.finished_at.is_none() {
            close_results(&mut state.message, &state.done, words);
            let event = MessageEvent { message: state.message.clone() };
            self.store
                .append(Batch::new().event(Some(&self.turn_id), EventKind::MessageUpdated(event)).ending())
                .await?;
        }
        Ok(state.message)
    }

    async fn append(&self, batch: Batch, kind: EventKind) -> Result<(), Error> {
        self.store.append(batch.event(Some(&self.turn_id), kind)).await.map(drop)
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
