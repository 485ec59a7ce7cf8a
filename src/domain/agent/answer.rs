//! A model's answer while it grows: deltas become events and a message.

use serde_json::Value;

use crate::domain::{
    event::{EventKind, MessageCompleted, MessageEvent, TextDelta, ToolDelta},
    id::{ToolCallId, TurnId},
    message::Message,
    part::{Finish, FinishReason, Part, Reasoning, Seal, Text, ToolCall, head, json_len},
    providers::Delta,
    session::now,
    store::Batch,
    usage::{Tokens, Usage},
};

/// Most bytes of text and reasoning (as JSON) of one answer, so that no event passes its bound.
const MAX_TEXT: usize = 1024 * 1024;
/// Most bytes of all tool inputs and seals of one answer.
const MAX_INPUT: usize = 8 * 1024 * 1024;
/// Most parts of one answer.
const MAX_PARTS: usize = 128;
/// Deepest nesting of a tool's arguments.
const MAX_DEPTH: usize = 64;
/// Most bytes of a tool's name.
const MAX_NAME: usize = 128;
/// Most bytes of text in one delta.
const MAX_DELTA: usize = 32 * 1024;

/// A model's answer while it grows.
pub(super) struct Answer {
    turn_id: TurnId,
    message: Message,
    /// Whether clients know of it.
    created: bool,
    /// Dialect's number of each tool call, and its part.
    calls: Vec<(usize, usize)>,
    text: usize,
    input: usize,
    /// What the call has used, as far as the provider said.
    pub(super) tokens: Option<Tokens>,
}

/// What a delta did to the answer.
pub(super) enum Step {
    /// It grew.
    Grew,
    /// It is whole.
    Whole(FinishReason),
    /// It is longer than any answer may be.
    TooLong,
}

impl Answer {
    pub(super) fn new(turn_id: TurnId, message: Message) -> Self {
        Self { turn_id, message, created: false, calls: Vec::new(), text: 0, input: 0, tokens: None }
    }

    /// Whether anything of it was shown.
    pub(super) fn is_shown(&self) -> bool {
        self.created
    }

    /// Applies a delta; its events go into the batch.
    pub(super) fn apply(&mut self, delta: Delta, mut batch: Batch) -> (Step, Batch) {
        match delta {
            Delta::Text(text) => {
                self.text += json_len(&text);
                if self.text > MAX_TEXT || self.message.parts.len() >= MAX_PARTS {
                    return (Step::TooLong, batch);
                }
                let mut rest = text.as_str();
                while !rest.is_empty() {
                    let piece = head(rest, MAX_DELTA);
                    batch = self.grow(batch, piece, false);
                    rest = &rest[piece.len()..];
                }
            }
            Delta::Reasoning(text) => {
                self.text += json_len(&text);
                if self.text > MAX_TEXT || self.message.parts.len() >= MAX_PARTS {
                    return (Step::TooLong, batch);
                }
                let mut rest = text.as_str();
                while !rest.is_empty() {
                    let piece = head(rest, MAX_DELTA);
                    batch = self.grow(batch, piece, true);
                    rest = &rest[piece.len()..];
                }
            }
            Delta::ReasoningSeal(seal) => {
                self.input += match &seal {
                    Seal::Signature(text) | Seal::Redacted(text) => text.len(),
                };
                if self.input > MAX_INPUT || self.message.parts.len() >= MAX_PARTS {
                    return (Step::TooLong, batch);
                }
                match self.message.parts.last_mut() {
                    Some(Part::Reasoning(part)) if part.seal.is_none() => part.seal = Some(seal),
                    _ => {
                        let part = Part::Reasoning(Reasoning { thinking: String::new(), seal: Some(seal) });
                        batch = self.open(batch, part);
                    }
                }
            }
            Delta::ToolCall { index, name } => {
                self.input += name.len();
                if self.message.parts.len() >= MAX_PARTS || self.input > MAX_INPUT {
                    return (Step::TooLong, batch);
                }
                self.calls.push((index, self.message.parts.len()));
                let input = Value::String(String::new());
                let name = head(&name, MAX_NAME).to_owned();
                let call = ToolCall { id: ToolCallId::generate(), name, input, truncated: false, size: None };
                batch = self.open(batch, Part::ToolCall(call));
            }
            Delta::ToolInput { index, text } => {
                self.input += text.len();
                if self.input > MAX_INPUT {
                    return (Step::TooLong, batch);
                }
                batch = self.grow_call(batch, index, &text);
            }
            Delta::Usage(tokens) => self.tokens = Some(tokens),
            Delta::Finish(reason) => return (Step::Whole(reason), batch),
        }
        (Step::Grew, batch)
    }

    /// Ends an answer that was shown; the batch gets its last events. Answers the message as it stands.
    pub(super) fn finish(mut self, reason: FinishReason, usage: Usage, batch: Batch) -> (Message, Batch) {
        let time = now();
        for part in &mut self.message.parts {
            if let Part::ToolCall(call) = part {
                call.input = parse_input(&call.input);
            }
        }
        self.message.parts.push(Part::Finish(Finish { reason, time }));
        (self.message.updated_at, self.message.finished_at) = (time, Some(time));
        self.message.usage = Some(usage.clone());
        let completed = MessageCompleted { message_id: self.message.id.clone(), finish_reason: reason, usage };
        let event = MessageEvent { message: self.message.clone() };
        let batch = batch
            .event(Some(&self.turn_id), EventKind::MessageUpdated(event))
            .event(Some(&self.turn_id), EventKind::MessageCompleted(completed));
        (self.message, batch)
    }

    /// Appends words to the last part if it is of their kind, or to a new one.
    fn grow(&mut self, mut batch: Batch, text: &str, reasoning: bool) -> Batch {
        let same = match self.message.parts.last() {
            Some(Part::Text(_)) => !reasoning,
            Some(Part::Reasoning(part)) => reasoning && part.seal.is_none(),
            Some(Part::Binary(_) | Part::ToolCall(_) | Part::ToolResult(_) | Part::Finish(_)) | None => false,
        };
        if !same {
            batch = self.open(
                batch,
                if reasoning { Part::Reasoning(Reasoning::default()) } else { Part::Text(Text::default()) },
            );
        }
        let index = self.message.parts.len() - 1;
        self.message.append(index, text, || Part::Text(Text::default()));
        let delta = TextDelta { message_id: self.message.id.clone(), part_index: index as u32, text: text.to_owned() };
        let kind = if reasoning { EventKind::ReasoningDelta(delta) } else { EventKind::ContentDelta(delta) };
        batch.event(Some(&self.turn_id), kind)
    }

    fn grow_call(&mut self, mut batch: Batch, index: usize, text: &str) -> Batch {
        let Some(part_index) = self.calls.iter().rev().find(|(known, _)| *known == index).map(|(_, part)| *part) else {
            return batch;
        };
        let Some(Part::ToolCall(call)) = self.message.parts.get(part_index) else { return batch };
        let tool_call_id = call.id.clone();
        let mut rest = text;
        while !rest.is_empty() {
            let piece = head(rest, MAX_DELTA);
            rest = &rest[piece.len()..];
            self.message.append(part_index, piece, || Part::Text(Text::default()));
            let delta = ToolDelta {
                message_id: self.message.id.clone(),
                part_index: part_index as u32,
                tool_call_id: tool_call_id.clone(),
                text: piece.to_owned(),
                truncated: false,
            };
            batch = batch.event(Some(&self.turn_id), EventKind::ToolInputDelta(delta));
        }
        batch
    }

    /// Opens the next part, which also says that the one before is complete.
    fn open(&mut self, batch: Batch, part: Part) -> Batch {
        self.message.parts.push(part);
        self.message.updated_at = now();
        let event = MessageEvent { message: self.message.clone() };
        let kind = if self.created { EventKind::MessageUpdated(event) } else { EventKind::MessageCreated(event) };
        self.created = true;
        batch.event(Some(&self.turn_id), kind)
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

/// The arguments as JSON where they are an object; else their text, for the model to see its mistake.
fn parse_input(input: &Value) -> Value {
    let Value::String(text) = input else { return input.clone() };
    if text.trim().is_empty() {
        return Value::Object(serde_json::Map::new());
    }
    match serde_json::from_str(text) {
        // Deeper than this could be stored but never be read again, since it stands inside a message inside an event.
        Ok(object @ Value::Object(_)) if depth(&object) <= MAX_DEPTH => object,
        _ => input.clone(),
    }
}
