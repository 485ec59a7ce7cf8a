//! What of the conversation a model is told, and how large that is: from the last summary on, old tool output left out.

use std::borrow::Cow;

use crate::domain::{
    id::MessageId,
    message::{Message, Role},
    part::{Part, Seal, Text, ToolResult},
    store::ContextRow,
};

/// Bytes of text that make two tokens, for what no provider has counted yet: 3.5 each. English prose has about four,
/// code and JSON about three.
const BYTES_OF_TWO_TOKENS: u64 = 7;
/// Tokens of an image, whatever its size: about the most that a provider takes for one after scaling it down.
const IMAGE_TOKENS: u64 = 1_600;
/// Tokens that each part takes beside its words.
const PART_TOKENS: u64 = 8;
/// A tool's result of fewer bytes stays: the sentence in its place would hardly be shorter.
const MIN_PRUNED: usize = 400;

const PRUNED: &str = "[The output of this call was left out to save room. Call the tool again if you need it.]";

const BEFORE_SUMMARY: &str = "\
What came before in this conversation was left out to save room. This is your own summary of it; files and commands can \
be looked at again with your tools.";
const AFTER_SUMMARY: &str = "The user's message that was being worked on follows; the summary says how far that is.";

/// What of the conversation a model is told.
#[derive(Clone, Debug, Default)]
pub(super) struct Context {
    /// As the log has it.
    pub(super) row: ContextRow,
    /// The user's message that it begins with where no summary could be made, for the rest of the turn.
    pub(super) trimmed_to: Option<MessageId>,
    /// No summary could be made in this turn, or none helps, so that none is tried again before the next one.
    pub(super) given_up: bool,
    /// Tokens of the next prompt, as far as that can be told.
    pub(super) size: u64,
}

impl Context {
    /// The messages that are told, in order: from the summary on, which the user's message of its turn follows, so
    /// that what was asked is there in the user's own words. The first is always the user's.
    pub(super) fn told<'a>(&self, messages: &'a [Message]) -> Vec<Cow<'a, Message>> {
        let place = |id: &Option<_>| messages.iter().position(|message| Some(&message.id) == id.as_ref());
        let mut told = Vec::new();
        let start = match (place(&self.trimmed_to), place(&self.row.summary)) {
            (Some(start), _) => start,
            (None, Some(summary)) => {
                told.push(Cow::Owned(in_place_of_what_was_before(&messages[summary])));
                let asked = messages[..summary].iter().filter(|message| asks_in_turn_of(message, &messages[summary]));
                told.extend(asked.map(Cow::Borrowed));
                summary + 1
            }
            (None, None) => 0,
        };
        let kept = place(&self.row.kept_from).unwrap_or(0);
        for (index, message) in messages.iter().enumerate().skip(start) {
            let cut = index < kept && message.role == Role::Tool;
            told.push(if cut { Cow::Owned(without_output(message)) } else { Cow::Borrowed(message) });
        }
        told
    }

    /// The first TOOL message whose output is to stay so that no more than `budget` tokens of it do, and the tokens
    /// that this saves. The newest stays whatever its size: no model has seen it yet.
    pub(super) fn prune(&self, messages: &[Message], budget: u64) -> Option<(MessageId, u64)> {
        let told = self.told(messages);
        let mut results = told.iter().filter(|message| message.role == Role::Tool).rev();
        let newest = results.next()?;
        let (mut kept, mut held, mut saved) = (newest, output(newest), 0);
        for message in results {
            if saved == 0 && held + output(message) <= budget {
                held += output(message);
                kept = message;
            } else {
                saved += output(message).saturating_sub(output(&without_output(message)));
            }
        }
        (saved > 0).then(|| (kept.id.clone(), saved))
    }
}

/// Tokens of messages, as far as that can be told from outside.
pub(super) fn estimate(messages: &[Cow<'_, Message>], images: bool) -> u64 {
    messages.iter().flat_map(|message| &message.parts).map(|part| tokens_of(part, images)).sum()
}

/// Tokens of so many bytes of text.
pub(super) fn tokens(bytes: usize) -> u64 {
    (bytes as u64).saturating_mul(2) / BYTES_OF_TWO_TOKENS
}

/// Bytes of text that make so many tokens.
pub(super) fn bytes(tokens: u64) -> usize {
    usize::try_from(tokens.saturating_mul(BYTES_OF_TWO_TOKENS) / 2).unwrap_or(usize::MAX)
}

fn tokens_of(part: &Part, images: bool) -> u64 {
    let own = match part {
        Part::Text(text) => tokens(text.text.len()),
        Part::Binary(file) if file.mime_type.starts_with("image/") => {
            if images {
                IMAGE_TOKENS
            } else {
                0
            }
        }
        Part::Binary(file) => match &file.data {
            // What is no text is only named.
            Some(data) if std::str::from_utf8(&data.0).is_ok() => tokens(data.0.len()),
            Some(_) | None => 0,
        },
        Part::ToolCall(call) => tokens(call.name.len() + call.input_text().len()),
        Part::ToolResult(result) => tokens(result.content.len()),
        Part::Reasoning(reasoning) => {
            let seal = match &reasoning.seal {
                Some(Seal::Signature(text) | Seal::Redacted(text)) => text.len(),
                None => 0,
            };
            tokens(reasoning.thinking.len() + seal)
        }
        Part::Finish(_) => 0,
    };
    own + PART_TOKENS
}

/// Tokens of what tools gave in this message.
fn output(message: &Message) -> u64 {
    message.parts.iter().map(|part| tokens_of(part, true)).sum()
}

/// The message with a sentence in place of each long result; images that tools gave are told of in them.
fn without_output(message: &Message) -> Message {
    let mut message = message.clone();
    message.parts.retain(|part| match part {
        Part::Binary(_) => false,
        Part::Text(_) | Part::ToolCall(_) | Part::ToolResult(_) | Part::Finish(_) | Part::Reasoning(_) => true,
    });
    for part in &mut message.parts {
        if let Part::ToolResult(ToolResult { content, .. }) = part
            && content.len() >= MIN_PRUNED
        {
            PRUNED.clone_into(content);
        }
    }
    message
}

/// The summary as the model is told it: as words to it, since a conversation begins with the user.
fn in_place_of_what_was_before(summary: &Message) -> Message {
    let words = summary.parts.iter().filter_map(|part| match part {
        Part::Text(text) => Some(text.text.as_str()),
        Part::Binary(_) | Part::ToolCall(_) | Part::ToolResult(_) | Part::Finish(_) | Part::Reasoning(_) => None,
    });
    let words: String = words.collect();
    let text = format!("{BEFORE_SUMMARY}\n\n<summary>\n{words}\n</summary>\n\n{AFTER_SUMMARY}");
    Message { role: Role::User, parts: vec![Part::Text(Text { text })], usage: None, ..summary.clone() }
}

fn asks_in_turn_of(message: &Message, summary: &Message) -> bool {
    message.role == Role::User && message.turn_id == summary.turn_id
}
