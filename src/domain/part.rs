//! Parts of messages: words, files, reasoning, tool calls and their results.

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use utoipa::ToSchema;

use super::id::ToolCallId;

/// Most bytes of an image that a model is shown: as base64 it has to stay below the 5 MiB that providers take.
pub(crate) const MAX_IMAGE: usize = 3_750_000;
/// Binary data, tool input and tool results over this many bytes are cut in events and lists.
pub(super) const PART_LIMIT: usize = 64 * 1024;

/// One part of a message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Part {
    /// Words.
    Text(Text),
    /// A file or an image.
    Binary(Binary),
    /// The model calls a tool.
    ToolCall(ToolCall),
    /// What a tool answered.
    ToolResult(ToolResult),
    /// The end of a model's answer.
    Finish(Finish),
    /// The model's reasoning.
    Reasoning(Reasoning),
}

/// Words.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = TextContent)]
pub struct Text {
    /// The words.
    pub text: String,
}

/// A file or an image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = BinaryContent)]
pub struct Binary {
    /// Where it lies or lay in the workspace, if it does; else the name that it was sent under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Its MIME type.
    pub mime_type: String,
    /// Its bytes; left out where `truncated` says so.
    #[serde(default, rename = "base64_data", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, content_encoding = "base64")]
    pub data: Option<Data>,
    /// True where the bytes are left out here; `GET /messages/{id}/parts/{index}` has them.
    #[serde(default, skip_serializing_if = "is_false")]
    pub truncated: bool,
    /// Size of the whole in bytes.
    pub size: u64,
}

/// The model calls a tool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ToolCallContent)]
pub struct ToolCall {
    /// The server's own id of this call.
    pub id: ToolCallId,
    /// The tool's name.
    pub name: String,
    /// The arguments, a JSON object. While they stream, where they are no JSON, and where they are cut, a string
    /// with (the beginning of) their text.
    pub input: Value,
    /// True where the input is cut here; `GET /messages/{id}/parts/{index}` has all of it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub truncated: bool,
    /// Size of the whole input in bytes, where it is cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

/// What a tool answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ToolResultContent)]
pub struct ToolResult {
    /// The call that this answers.
    pub tool_call_id: ToolCallId,
    /// The answer in words; while a command runs, its output so far.
    pub content: String,
    /// Figures beside the words, such as an exit code; what is in it depends on the tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Value>,
    /// Whether the tool failed.
    pub is_error: bool,
    /// True where the content is cut here; `GET /messages/{id}/parts/{index}` has all of it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub truncated: bool,
    /// Size of the whole content in bytes, where it is cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

/// The end of a model's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = FinishContent)]
pub struct Finish {
    /// Why it ended.
    pub reason: FinishReason,
    /// When it ended.
    pub time: Timestamp,
}

/// The model's reasoning.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ReasoningContent)]
pub struct Reasoning {
    /// The reasoning in words; empty where the provider keeps it to itself.
    pub thinking: String,
    /// What the provider wants to see again with the next call, never shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(ignore)]
    pub seal: Option<Seal>,
}

/// A provider's proof that reasoning is its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seal {
    /// A signature over the words.
    Signature(String),
    /// The reasoning itself, encrypted.
    Redacted(String),
}

/// Why a model's answer or a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model was done.
    EndTurn,
    /// A stop sequence.
    Stop,
    /// It was cancelled.
    Canceled,
    /// It failed; the error's code says how.
    Error,
    /// A permission was answered `stop`.
    PermissionDenied,
    /// This answer calls tools; never the reason of a turn.
    ToolUse,
    /// The model reached its output limit.
    MaxTokens,
    /// The provider's filter refused.
    Refused,
    /// A budget of the turn or the session is used up.
    BudgetExhausted,
}

/// Bytes that travel as base64 in JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Data(pub Bytes);

impl Serialize for Data {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use base64::{display::Base64Display, engine::general_purpose::STANDARD};
        serializer.collect_str(&Base64Display::new(&self.0, &STANDARD))
    }
}

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text).map_err(|_| serde::de::Error::custom("not base64"))?;
        Ok(Self(bytes.into()))
    }
}

impl Part {
    /// The part as events and lists show it, with at most `limit` bytes of what may be cut.
    pub(super) fn view(&self, limit: usize) -> Self {
        match self {
            Self::Text(_) | Self::Finish(_) => self.clone(),
            Self::Reasoning(reasoning) => {
                Self::Reasoning(Reasoning { thinking: reasoning.thinking.clone(), seal: None })
            }
            Self::Binary(binary) => {
                let fits = binary.data.as_ref().is_none_or(|data| data.0.len() <= limit);
                Self::Binary(Binary {
                    path: binary.path.clone(),
                    mime_type: binary.mime_type.clone(),
                    data: if fits { binary.data.clone() } else { None },
                    truncated: binary.truncated || !fits,
                    size: binary.size,
                })
            }
            Self::ToolCall(call) => {
                let text = call.input_text();
                if text.len() <= limit {
                    return self.clone();
                }
                Self::ToolCall(ToolCall {
                    id: call.id.clone(),
                    name: call.name.clone(),
                    input: Value::String(head(&text, limit).to_owned()),
                    truncated: true,
                    size: Some(text.len() as u64),
                })
            }
            Self::ToolResult(result) if result.content.len() > limit => Self::ToolResult(ToolResult {
                tool_call_id: result.tool_call_id.clone(),
                content: head(&result.content, limit).to_owned(),
                metadata: result.metadata.clone(),
                is_error: result.is_error,
                truncated: true,
                size: Some(result.content.len() as u64),
            }),
            Self::ToolResult(_) => self.clone(),
        }
    }

    /// Upper bound of its size as JSON, near enough to keep events within their limit.
    pub(super) fn weight(&self) -> usize {
        let text = match self {
            Self::Text(text) => json_len(&text.text),
            Self::Reasoning(reasoning) => json_len(&reasoning.thinking),
            Self::Binary(binary) => binary.data.as_ref().map_or(0, |data| data.0.len() / 3 * 4 + 4),
            Self::ToolCall(call) => call.input.to_string().len(),
            Self::ToolResult(result) => {
                json_len(&result.content) + result.metadata.as_ref().map_or(0, |value| value.to_string().len())
            }
            Self::Finish(_) => 0,
        };
        text + 256
    }
}

impl ToolCall {
    /// The input as text: JSON, or what was streamed so far.
    pub fn input_text(&self) -> String {
        match &self.input {
            Value::String(text) => text.clone(),
            value => value.to_string(),
        }
    }
}

/// The length of a text as a JSON string, escapes included.
pub(super) fn json_len(text: &str) -> usize {
    2 + text
        .bytes()
        .map(|byte| match byte {
            b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 8 | 12 => 2,
            0..=31 => 6,
            _ => 1,
        })
        .sum::<usize>()
}

/// The first `limit` bytes of a text, or fewer where a character would be split.
pub(super) fn head(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// A part whole, as bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WholePart {
    /// The bytes: text in UTF-8, a file's bytes, a tool call's input or a finish as JSON.
    pub data: Bytes,
    /// What they are.
    pub mime_type: String,
}

const PLAIN: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

impl Part {
    /// The part as bytes.
    pub(super) fn whole(&self) -> WholePart {
        let (data, mime_type) = match self {
            Self::Text(text) => (text.text.clone().into(), PLAIN),
            Self::Reasoning(reasoning) => (reasoning.thinking.clone().into(), PLAIN),
            Self::ToolResult(result) => (result.content.clone().into(), PLAIN),
            Self::ToolCall(call) => (call.input.to_string().into(), JSON),
            Self::Finish(finish) => (serde_json::to_string(finish).unwrap_or_default().into(), JSON),
            Self::Binary(binary) => {
                (binary.data.as_ref().map(|data| data.0.clone()).unwrap_or_default(), binary.mime_type.as_str())
            }
        };
        WholePart { data, mime_type: mime_type.to_owned() }
    }
}
