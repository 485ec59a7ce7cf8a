//! What the model is told of what happened before: always valid input, whatever was cut, cancelled or lost.

use std::collections::HashSet;

use crate::domain::{
    message::{Message, Role},
    part::{Binary, FinishReason, Part, Text, ToolCall},
    send::is_text,
};

/// The messages as every dialect takes them: answers that failed are left out, every tool call has its result right
/// behind it, files are words where they are no images (or the model sees none).
pub(super) fn for_model(messages: &[Message], images: bool) -> Vec<Message> {
    let mut told: Vec<Message> = Vec::with_capacity(messages.len());
    for (index, message) in messages.iter().enumerate() {
        match message.role {
            Role::Assistant if message.finish_reason() == Some(FinishReason::Error) => {}
            Role::Assistant => {
                let answered: HashSet<_> = messages.get(index + 1).into_iter().flat_map(results).collect();
                let mut message = message.clone();
                message.parts.retain(|part| match part {
                    Part::ToolCall(ToolCall { id, .. }) => answered.contains(id.as_str()),
                    Part::Text(text) => !text.text.trim().is_empty(),
                    Part::Finish(_) => false,
                    Part::Reasoning(_) | Part::Binary(_) | Part::ToolResult(_) => true,
                });
                let says_something = message.parts.iter().any(|part| match part {
                    Part::Text(_) | Part::ToolCall(_) => true,
                    Part::Reasoning(_) | Part::Binary(_) | Part::ToolResult(_) | Part::Finish(_) => false,
                });
                if says_something {
                    told.push(message);
                }
            }
            Role::Tool => {
                let before = told.last().filter(|last| last.role == Role::Assistant);
                let called: HashSet<_> =
                    before.into_iter().flat_map(Message::tool_calls).map(|call| call.id.as_str()).collect();
                let belongs = results(message).any(|id| called.contains(id));
                if belongs {
                    told.push(with_words(message, images));
                }
            }
            Role::User => told.push(with_words(message, images)),
        }
    }
    told
}

fn results(message: &Message) -> impl Iterator<Item = &str> {
    message.parts.iter().filter_map(|part| match part {
        Part::ToolResult(result) => Some(result.tool_call_id.as_str()),
        Part::Text(_) | Part::Binary(_) | Part::ToolCall(_) | Part::Finish(_) | Part::Reasoning(_) => None,
    })
}

fn with_words(message: &Message, images: bool) -> Message {
    let mut message = message.clone();
    for part in &mut message.parts {
        if let Part::Binary(binary) = part
            && !(images && is_image(&binary.mime_type))
        {
            *part = Part::Text(Text { text: words(binary) });
        }
    }
    message
}

/// A file in words: its text, or why it is not shown.
fn words(binary: &Binary) -> String {
    let name = binary.path.as_deref().unwrap_or("a file without a name");
    let text = binary.data.as_ref().filter(|_| is_text(&binary.mime_type));
    match text.and_then(|data| std::str::from_utf8(&data.0).ok()) {
        Some(text) => format!("The user attached {name} ({}):\n{text}", binary.mime_type),
        None => format!(
            "The user attached {name} ({}, {} bytes), which cannot be shown to this model.",
            binary.mime_type, binary.size
        ),
    }
}

/// Whether models that see take this type.
fn is_image(mime_type: &str) -> bool {
    ["image/png", "image/jpeg", "image/gif", "image/webp"].contains(&mime_type)
}
