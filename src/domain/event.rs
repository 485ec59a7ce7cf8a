//! Events: everything that happens, in one sequence. Stored first, shown after.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    id::{MessageId, ToolCallId, TurnId},
    message::Message,
    part::{FinishReason, PART_LIMIT, head},
    session::Session,
    status::Activity,
    turn::TurnError,
    usage::Usage,
    version::{ChangedFile, VersionCause},
};

/// One event of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Its number; between the log's floor and its head none is missing.
    pub seq: u64,
    /// When it was stored.
    pub at: Timestamp,
    /// The turn behind it, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn_id: Option<TurnId>,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// Declares the events once: the enum, its type names, and the list that filters are checked against.
macro_rules! events {
    ($($(#[$doc:meta])* $name:ident($payload:ty) = $text:literal;)*) => {
        /// What happened.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
        #[serde(tag = "type")]
        pub enum EventKind {
            $($(#[$doc])* #[serde(rename = $text)] $name($payload),)*
        }

        /// The type of an event, by which streams are filtered.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum EventType {
            $($(#[$doc])* $name,)*
        }

        impl EventKind {
            /// Its type.
            pub fn event_type(&self) -> EventType {
                match self {
                    $(Self::$name(_) => EventType::$name,)*
                }
            }
        }

        impl EventType {
            /// Every type, in the order of the contract.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The name on the wire.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

events! {
    /// The session was created on first use.
    SessionCreated(SessionEvent) = "session_created";
    /// Its title changed.
    SessionUpdated(SessionEvent) = "session_updated";
    /// A new session took its place; all messages are gone.
    SessionReset(SessionEvent) = "session_reset";
    /// A turn began.
    TurnStarted(TurnStarted) = "turn_started";
    /// A message appeared; it replaces what the client has under its id.
    MessageCreated(MessageEvent) = "message_created";
    /// A message changed; it replaces what the client has. Comes when a part is complete and at the message's end; for
    /// the results of tools only where it is not mostly a repetition, since `tool_call_completed` has each at once.
    MessageUpdated(MessageEvent) = "message_updated";
    /// Words of the model: append to the part, or open the next one.
    ContentDelta(TextDelta) = "content_delta";
    /// Reasoning of the model: append to the part, or open the next one.
    ReasoningDelta(TextDelta) = "reasoning_delta";
    /// Arguments of a tool call while the model writes them: append to the call part's input text.
    ToolInputDelta(ToolDelta) = "tool_input_delta";
    /// Output of a tool while it runs: append to the result part's content.
    ToolOutputDelta(ToolDelta) = "tool_output_delta";
    /// A tool call comes to run.
    ToolCallStarted(ToolCallStarted) = "tool_call_started";
    /// A tool call has ended; exactly one for each started.
    ToolCallCompleted(ToolCallCompleted) = "tool_call_completed";
    /// One model answer is whole.
    MessageCompleted(MessageCompleted) = "message_completed";
    /// A message is gone.
    MessageDeleted(MessageDeleted) = "message_deleted";
    /// All messages are gone.
    MessagesCleared(MessagesCleared) = "messages_cleared";
    /// The provider is asked again.
    ModelRetry(ModelRetry) = "model_retry";
    /// The session's model changed; it holds from the next turn on.
    ModelChanged(ModelChanged) = "model_changed";
    /// What came before is told to the model in short, to fit into its context; stored messages stay as they are.
    ContextCompacted(ContextCompacted) = "context_compacted";
    /// The agent's status changed.
    AgentStatusChanged(AgentStatusChanged) = "agent_status_changed";
    /// Files of the workspace changed.
    FilesChanged(FilesChanged) = "files_changed";
    /// Why a turn did not end well.
    TurnFailed(TurnError) = "turn_failed";
    /// The turn has ended; always its last event.
    TurnCompleted(TurnCompleted) = "turn_completed";
}

/// Carries the session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SessionEvent {
    /// The session as it is now.
    pub session: Session,
}

/// A turn began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TurnStarted {
    /// The message that it answers.
    pub user_message_id: MessageId,
    /// The model, as `provider/id`.
    pub model: String,
}

/// Carries a message, which replaces what the client has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MessageEvent {
    /// The message as it is now, large parts cut.
    pub message: Message,
}

/// A piece of streamed text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TextDelta {
    /// The message that grows.
    pub message_id: MessageId,
    /// The part that grows, counting all kinds; one past the last opens the next.
    pub part_index: u32,
    /// What is appended.
    pub text: String,
}

/// A piece of a tool's input or output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ToolDelta {
    /// The message that grows.
    pub message_id: MessageId,
    /// The part that grows, counting all kinds.
    pub part_index: u32,
    /// The tool call.
    pub tool_call_id: ToolCallId,
    /// What is appended.
    pub text: String,
    /// True in the last one of a call whose output goes on unseen: there is more than is streamed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// A tool call comes to run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ToolCallStarted {
    /// The TOOL message that takes the result.
    pub message_id: MessageId,
    /// The result's part in it.
    pub part_index: u32,
    /// The tool call.
    pub tool_call_id: ToolCallId,
    /// The tool.
    pub tool_name: String,
    /// The arguments; cut ones are a string with the beginning of their text.
    pub input: Value,
    /// True where the input is cut here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
    /// Size of the whole input in bytes, where it is cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

/// A tool call has ended. What is in it replaces what the client has of the result's part; the TOOL message itself
/// follows at the latest when its last call has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ToolCallCompleted {
    /// The TOOL message that has the result.
    pub message_id: MessageId,
    /// The result's part in it.
    pub part_index: u32,
    /// The tool call.
    pub tool_call_id: ToolCallId,
    /// The answer in words.
    pub output: String,
    /// Whether the tool failed.
    pub is_error: bool,
    /// Figures beside the words, such as an exit code; what is in it depends on the tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Value>,
    /// How long it ran, in milliseconds.
    pub duration_ms: u64,
    /// True where the output is cut here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
    /// Size of the whole output in bytes, where it is cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

/// One model answer is whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MessageCompleted {
    /// The answer.
    pub message_id: MessageId,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// What this model call used.
    pub usage: Usage,
}

/// A message is gone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MessageDeleted {
    /// Its id.
    pub message_id: MessageId,
}

/// All messages are gone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MessagesCleared {}

/// The provider is asked again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ModelRetry {
    /// The number of the coming retry, from 1.
    pub attempt: u32,
    /// How many retries there are at most.
    pub of: u32,
    /// How long is waited before it, in milliseconds.
    pub delay_ms: u64,
    /// Why: a code of turns, such as `provider_unavailable`.
    pub code: super::turn::TurnErrorCode,
}

/// The session's model changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ModelChanged {
    /// The model, as `provider/id`.
    pub model: String,
    /// The one before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
}

/// What came before is told to the model in short.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ContextCompacted {
    /// Tokens of the next prompt before, as estimated.
    pub tokens_before: u64,
    /// Tokens of it after, as estimated.
    pub tokens_after: u64,
    /// The message with the summary that the model is told in place of all before it, but for the user's message of
    /// its turn. It is no answer to the user; its `message_completed` comes after this. Absent where only old tool
    /// output is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary_message_id: Option<MessageId>,
    /// Where only old tool output is left out: the first message whose output the model is still told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_from_message_id: Option<MessageId>,
}

/// The agent's status changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AgentStatusChanged {
    /// The status.
    pub status: Activity,
    /// What it does, in a few words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_operation: Option<String>,
}

/// The turn has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TurnCompleted {
    /// Why.
    pub finish_reason: FinishReason,
    /// What all its model calls used.
    pub usage: Usage,
    /// The model's last answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<MessageId>,
    /// Version of the workspace before the turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_before: Option<String>,
    /// Version of the workspace after the turn; absent where it was not ready in time: a `files_changed` event follows
    /// then if files changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_after: Option<String>,
}

/// Files of the workspace changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FilesChanged {
    /// The version of the workspace that has the changes.
    pub version: String,
    /// The files, without their content.
    pub files: Vec<ChangedFile>,
    /// True where more files changed than are listed: `GET /files/changes` has all.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
    /// By whom: `after_turn`, `write`, `revert` or `outside`.
    pub by: VersionCause,
}

impl EventType {
    /// The type of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|known| known.as_str() == name)
    }
}

impl EventKind {
    /// The event as it is logged and shown: what is large is cut.
    pub fn view(self) -> Self {
        match self {
            Self::MessageCreated(event) => Self::MessageCreated(MessageEvent { message: event.message.view() }),
            Self::MessageUpdated(event) => Self::MessageUpdated(MessageEvent { message: event.message.view() }),
            Self::ToolCallStarted(mut event) => {
                let text = match &event.input {
                    Value::String(text) => text.clone(),
                    value => value.to_string(),
                };
                if text.len() > PART_LIMIT {
                    event.input = Value::String(head(&text, PART_LIMIT).to_owned());
                    event.truncated = true;
                    event.size = Some(text.len() as u64);
                }
                Self::ToolCallStarted(event)
            }
            Self::ToolCallCompleted(mut event) => {
                if event.output.len() > PART_LIMIT {
                    event.size = Some(event.output.len() as u64);
                    event.output.truncate(head(&event.output, PART_LIMIT).len());
                    event.truncated = true;
                }
                Self::ToolCallCompleted(event)
            }
            other @ (Self::SessionCreated(_)
            | Self::SessionUpdated(_)
            | Self::SessionReset(_)
            | Self::TurnStarted(_)
            | Self::ContentDelta(_)
            | Self::ReasoningDelta(_)
            | Self::ToolInputDelta(_)
            | Self::ToolOutputDelta(_)
            | Self::MessageCompleted(_)
            | Self::MessageDeleted(_)
            | Self::MessagesCleared(_)
            | Self::ModelRetry(_)
            | Self::ModelChanged(_)
            | Self::ContextCompacted(_)
            | Self::AgentStatusChanged(_)
            | Self::FilesChanged(_)
            | Self::TurnFailed(_)
            | Self::TurnCompleted(_)) => other,
        }
    }

    /// Whether something was promised or is acted on: such an event is synced to the disk before it is shown, so
    /// that it survives the machine, not just the process.
    pub fn is_act(&self) -> bool {
        match self {
            Self::SessionCreated(_)
            | Self::SessionUpdated(_)
            | Self::SessionReset(_)
            | Self::TurnStarted(_)
            | Self::ToolCallStarted(_)
            | Self::MessageDeleted(_)
            | Self::MessagesCleared(_)
            | Self::ModelChanged(_)
            | Self::FilesChanged(_)
            | Self::TurnCompleted(_) => true,
            Self::MessageCreated(_)
            | Self::MessageUpdated(_)
            | Self::ContentDelta(_)
            | Self::ReasoningDelta(_)
            | Self::ToolInputDelta(_)
            | Self::ToolOutputDelta(_)
            | Self::ToolCallCompleted(_)
            | Self::MessageCompleted(_)
            | Self::ModelRetry(_)
            | Self::ContextCompacted(_)
            | Self::AgentStatusChanged(_)
            | Self::TurnFailed(_) => false,
        }
    }
}
