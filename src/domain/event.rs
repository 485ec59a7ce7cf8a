//! Events: everything that happens, in one sequence. Stored first, shown after.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

mod payload;

pub use payload::{
    AgentStatusChanged, ContextCompacted, FilesChanged, MessageCompleted, MessageDeleted, MessageEvent,
    MessagesCleared, ModelChanged, ModelRetry, PermissionRequested, PermissionResolved, SessionEvent, TextDelta,
    ToolCallCompleted, ToolCallStarted, ToolDelta, TurnCompleted, TurnStarted,
};

use super::{
    id::TurnId,
    part::{PART_LIMIT, head},
    turn::TurnError,
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
    /// The id of the token of the client that caused it, where a client did and had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub token_id: Option<Arc<str>>,
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
    /// A tool call waits for a permission.
    PermissionRequested(PermissionRequested) = "permission_requested";
    /// What was decided about a tool call, and by whom or what: of a request, of a call that was denied without asking,
    /// and of a command that a rule, a grant or the list of what only reads allowed.
    PermissionResolved(PermissionResolved) = "permission_resolved";
    /// The agent's status changed.
    AgentStatusChanged(AgentStatusChanged) = "agent_status_changed";
    /// Files of the workspace changed.
    FilesChanged(FilesChanged) = "files_changed";
    /// Why a turn did not end well.
    TurnFailed(TurnError) = "turn_failed";
    /// The turn has ended; always its last event.
    TurnCompleted(TurnCompleted) = "turn_completed";
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
            | Self::PermissionRequested(_)
            | Self::PermissionResolved(_)
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
            | Self::PermissionResolved(_)
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
            | Self::PermissionRequested(_)
            | Self::AgentStatusChanged(_)
            | Self::TurnFailed(_) => false,
        }
    }
}
