//! What the events carry.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::domain::{
    id::{MessageId, PermissionId, ToolCallId},
    message::Message,
    part::FinishReason,
    permission::{Permission, PermissionDecision, PermissionResolver},
    session::Session,
    status::Activity,
    usage::Usage,
    version::{ChangedFile, VersionCause},
};

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
    pub code: crate::domain::turn::TurnErrorCode,
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

/// A tool call waits for a permission.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PermissionRequested {
    /// The request.
    pub permission: Permission,
}

/// What was decided about a tool call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PermissionResolved {
    /// The request that does not wait any more; absent where nothing was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permission_id: Option<PermissionId>,
    /// The decision.
    pub decision: PermissionDecision,
    /// By whom or what.
    pub by: PermissionResolver,
    /// What the client said about its decision, or which rule or mode it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The tool call.
    pub tool_call_id: ToolCallId,
    /// The tool.
    pub tool_name: String,
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
