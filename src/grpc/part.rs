//! Parts of messages, both ways.

use tonic::Status;

use super::{
    pb::{self, content_part::Content},
    session::{signed, text, time},
};
use crate::domain::{
    Binary, Error, Finish, FinishReason, InputBinary, InputPart, InputText, Part, Reasoning, Text, ToolCall, ToolResult,
};

impl From<Part> for pb::ContentPart {
    fn from(part: Part) -> Self {
        let content = match part {
            Part::Text(Text { text }) => Content::Text(pb::TextContent { text }),
            Part::Binary(Binary { path, mime_type, data, truncated, size }) => Content::Binary(pb::BinaryContent {
                path: path.unwrap_or_default(),
                mime_type,
                data: data.map(|data| data.0).unwrap_or_default(),
                base64_data: String::new(),
                truncated,
                size: signed(size),
            }),
            Part::ToolCall(ToolCall { id, name, input, truncated, size }) => Content::ToolCall(pb::ToolCallContent {
                id: id.to_string(),
                name,
                input: input.to_string(),
                truncated,
                size: size.map(signed).unwrap_or_default(),
            }),
            Part::ToolResult(ToolResult { tool_call_id, content, metadata, is_error, truncated, size }) => {
                Content::ToolResult(pb::ToolResultContent {
                    tool_call_id: tool_call_id.to_string(),
                    content,
                    metadata: metadata.map(|value| value.to_string()).unwrap_or_default(),
                    is_error,
                    truncated,
                    size: size.map(signed).unwrap_or_default(),
                })
            }
            Part::Finish(Finish { reason, time: at }) => Content::Finish(pb::FinishContent {
                reason: pb::FinishReason::from(reason).into(),
                time: Some(time(at)),
            }),
            Part::Reasoning(Reasoning { thinking, seal: _ }) => Content::Reasoning(pb::ReasoningContent { thinking }),
        };
        Self { content: Some(content) }
    }
}

impl From<FinishReason> for pb::FinishReason {
    fn from(reason: FinishReason) -> Self {
        match reason {
            FinishReason::EndTurn => Self::EndTurn,
            FinishReason::Stop => Self::Stop,
            FinishReason::Canceled => Self::Canceled,
            FinishReason::Error => Self::Error,
            FinishReason::PermissionDenied => Self::PermissionDenied,
            FinishReason::ToolUse => Self::ToolUse,
            FinishReason::MaxTokens => Self::MaxTokens,
            FinishReason::Refused => Self::Refused,
            FinishReason::BudgetExhausted => Self::BudgetExhausted,
        }
    }
}

/// What a user may send: words and files.
pub(super) fn input(index: usize, part: pb::ContentPart) -> Result<InputPart, Status> {
    match part.content {
        Some(Content::Text(pb::TextContent { text })) => Ok(InputPart::Text(InputText { text })),
        Some(Content::Binary(pb::BinaryContent { path, mime_type, data, base64_data, truncated, size })) => {
            if truncated || size != 0 {
                return Err(Error::field(format!("parts[{index}].binary"), "takes no truncated and no size").into());
            }
            Ok(InputPart::Binary(InputBinary {
                path: text(path),
                mime_type: text(mime_type),
                base64_data: text(base64_data),
                data: Some(data).filter(|data| !data.is_empty()),
            }))
        }
        Some(Content::ToolCall(_) | Content::ToolResult(_) | Content::Finish(_) | Content::Reasoning(_)) | None => {
            Err(Error::field(format!("parts[{index}]"), "must be text or binary").into())
        }
    }
}
