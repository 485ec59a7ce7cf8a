//! What the model is told of what happened before: always valid input, whatever was cut, cancelled or lost.

use std::{borrow::Cow, collections::HashSet};

use crate::domain::{
    message::{Message, Role},
    part::{FinishReason, Part, Text, ToolCall, ToolResult},
};

/// The messages as every dialect takes them: answers that failed are left out, every tool call has its result right
/// behind it. A model that takes no tools is told in words what other models have done with them.
pub(super) fn for_model(messages: &[Cow<'_, Message>], tools: bool) -> Vec<Message> {
    let told = repaired(messages);
    if tools { told } else { in_words(told) }
}

fn repaired(messages: &[Cow<'_, Message>]) -> Vec<Message> {
    let mut told: Vec<Message> = Vec::with_capacity(messages.len());
    for (index, message) in messages.iter().enumerate() {
        match message.role {
            Role::Assistant if message.finish_reason() == Some(FinishReason::Error) => {}
            Role::Assistant => {
                let answered: HashSet<_> =
                    messages.get(index + 1).into_iter().flat_map(|message| results(message)).collect();
                let mut message = Message::clone(message);
                message.parts.retain(|part| match part {
                    Part::ToolCall(ToolCall { id, .. }) => answered.contains(id.as_str()),
                    Part::Text(text) => !text.text.trim().is_empty(),
                    Part::Finish(_) => false,
                    Part::Reasoning(_) | Part::Binary(_) | Part::ToolResult(_) => true,
                });
                for part in &mut message.parts {
                    if let Part::ToolCall(call) = part {
                        call.name = legal(&call.name);
                    }
                }
                let says_something = message.parts.iter().any(|part| match part {
                    Part::Text(_) | Part::ToolCall(_) => true,
                    Part::Reasoning(_) | Part::Binary(_) | Part::ToolResult(_) | Part::Finish(_) => false,
                });
                // What closes a turn follows an answer that its limit has cut; some models refuse two in a row.
                match told.last_mut() {
                    Some(last) if says_something && is_followed_by_itself(last) => last.parts.extend(message.parts),
                    Some(_) | None if says_something => told.push(message),
                    Some(_) | None => {}
                }
            }
            Role::Tool => {
                let before = told.last().filter(|last| last.role == Role::Assistant);
                let called: HashSet<_> =
                    before.into_iter().flat_map(Message::tool_calls).map(|call| call.id.as_str()).collect();
                let belongs = results(message).any(|id| called.contains(id));
                if belongs {
                    told.push(Message::clone(message));
                }
            }
            Role::User => told.push(Message::clone(message)),
        }
    }
    told
}

fn is_followed_by_itself(last: &Message) -> bool {
    last.role == Role::Assistant && last.tool_calls().next().is_none()
}

/// Calls and results as what a user says, since a model does as it believes to have done before. They join the message
/// before them, because some models refuse two of a user in a row.
fn in_words(messages: Vec<Message>) -> Vec<Message> {
    let mut told: Vec<Message> = Vec::with_capacity(messages.len());
    let mut calls: Vec<ToolCall> = Vec::new();
    for mut message in messages {
        match message.role {
            Role::Assistant => {
                calls = message.tool_calls().cloned().collect();
                message.parts.retain(|part| match part {
                    Part::Text(_) | Part::Reasoning(_) | Part::Binary(_) | Part::ToolResult(_) | Part::Finish(_) => {
                        true
                    }
                    Part::ToolCall(_) => false,
                });
                // A thought alone is no message.
                if message.parts.iter().any(|part| matches!(part, Part::Text(_))) {
                    told.push(message);
                }
                continue;
            }
            Role::Tool => {
                message.role = Role::User;
                for part in &mut message.parts {
                    if let Part::ToolResult(result) = part {
                        let text = call_in_words(&calls, result);
                        *part = Part::Text(Text { text });
                    }
                }
            }
            Role::User => {}
        }
        match told.last_mut() {
            Some(last) if last.role == Role::User => last.parts.append(&mut message.parts),
            Some(_) | None => told.push(message),
        }
    }
    told
}

fn call_in_words(calls: &[ToolCall], result: &ToolResult) -> String {
    let (name, input) = match calls.iter().find(|call| call.id == result.tool_call_id) {
        Some(call) => (call.name.as_str(), call.input.to_string()),
        None => ("unknown", String::new()),
    };
    format!("(The tool {name} was called with {input} and gave:)\n{}", result.content)
}

fn results(message: &Message) -> impl Iterator<Item = &str> {
    message.parts.iter().filter_map(|part| match part {
        Part::ToolResult(result) => Some(result.tool_call_id.as_str()),
        Part::Text(_) | Part::Binary(_) | Part::ToolCall(_) | Part::Finish(_) | Part::Reasoning(_) => None,
    })
}

/// A tool's name as every provider takes it; a model may have called one that cannot exist.
fn legal(name: &str) -> String {
    let legal: String = name
        .chars()
        .take(64)
        .map(|letter| if letter.is_ascii_alphanumeric() || letter == '-' { letter } else { '_' })
        .collect();
    if legal.is_empty() { "_".into() } else { legal }
}
