//! Reads the events of the Messages dialect.

use std::collections::{HashMap, VecDeque};

use serde::Deserialize;
use serde_json::Value;

use crate::domain::{
    part::{FinishReason, Seal},
    providers::{Delta, ProviderError, http, sse::Dialect},
    usage::Tokens,
};

const VENDOR: &str = "anthropic";

/// What was read so far.
#[derive(Default)]
pub(super) struct Reader {
    blocks: HashMap<usize, Block>,
    counts: Counts,
    reason: Option<FinishReason>,
    called: bool,
}

/// A content block that is open.
enum Block {
    Thinking { signature: String },
    Tool { input: Value, streamed: bool },
    Other,
}

/// Counts of the dialect: those that were said last.
#[derive(Default, Deserialize)]
struct Counts {
    input_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    output_tokens_details: Option<OutputDetails>,
}

#[derive(Clone, Copy, Deserialize)]
struct OutputDetails {
    thinking_tokens: Option<u64>,
}

/// The events that matter; the dialect may add others at any time.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Event {
    MessageStart {
        message: Start,
    },
    ContentBlockStart {
        index: usize,
        content_block: StartBlock,
    },
    ContentBlockDelta {
        index: usize,
        delta: BlockDelta,
    },
    ContentBlockStop {
        index: usize,
    },
    MessageDelta {
        delta: EndDelta,
        usage: Option<Counts>,
    },
    MessageStop,
    Error,
    #[serde(other)]
    Unknown,
}

#[derive(Deserialize)]
struct Start {
    usage: Option<Counts>,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum StartBlock {
    Text {
        #[serde(default)]
        text: String,
    },
    Thinking {
        #[serde(default)]
        thinking: String,
        #[serde(default)]
        signature: String,
    },
    RedactedThinking {
        data: String,
    },
    ToolUse {
        name: String,
        #[serde(default)]
        input: Value,
    },
    #[serde(other)]
    Unknown,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum BlockDelta {
    TextDelta {
        text: String,
    },
    ThinkingDelta {
        thinking: String,
    },
    SignatureDelta {
        signature: String,
    },
    InputJsonDelta {
        partial_json: String,
    },
    #[serde(other)]
    Unknown,
}

#[derive(Deserialize)]
struct EndDelta {
    stop_reason: Option<String>,
}

impl Dialect for Reader {
    fn event(&mut self, data: &str, out: &mut VecDeque<Delta>) -> Result<(), ProviderError> {
        match serde_json::from_str(data).map_err(|_| ProviderError::malformed(VENDOR))? {
            Event::MessageStart { message } => self.count(message.usage, out),
            Event::ContentBlockStart { index, content_block } => self.open(index, content_block, out),
            Event::ContentBlockDelta { index, delta } => self.grow(index, delta, out),
            Event::ContentBlockStop { index } => self.close(index, out),
            Event::MessageDelta { delta, usage } => {
                self.count(usage, out);
                if let Some(reason) = delta.stop_reason {
                    self.reason = Some(finish_reason(&reason));
                }
            }
            Event::MessageStop => {
                let natural = if self.called { FinishReason::ToolUse } else { FinishReason::EndTurn };
                out.push_back(Delta::Finish(self.reason.unwrap_or(natural)));
            }
            Event::Error => {
                let body = serde_json::from_str(data).unwrap_or_default();
                return Err(http::body_error(VENDOR, &body).unwrap_or_else(|| ProviderError::malformed(VENDOR)));
            }
            Event::Unknown => {}
        }
        Ok(())
    }

    /// Only `message_stop` makes an answer whole, and that finishes it at once.
    fn whole(&self) -> bool {
        false
    }

    fn end(&mut self, _out: &mut VecDeque<Delta>) {}
}

impl Reader {
    fn open(&mut self, index: usize, block: StartBlock, out: &mut VecDeque<Delta>) {
        let block = match block {
            StartBlock::Text { text } => {
                push(out, Delta::Text(text));
                Block::Other
            }
            StartBlock::Thinking { thinking, signature } => {
                push(out, Delta::Reasoning(thinking));
                Block::Thinking { signature }
            }
            StartBlock::RedactedThinking { data } => {
                out.push_back(Delta::ReasoningSeal(Seal::Redacted(data)));
                Block::Other
            }
            StartBlock::ToolUse { name, input } => {
                self.called = true;
                out.push_back(Delta::ToolCall { index, name });
                Block::Tool { input, streamed: false }
            }
            StartBlock::Unknown => Block::Other,
        };
        self.blocks.insert(index, block);
    }

    fn grow(&mut self, index: usize, delta: BlockDelta, out: &mut VecDeque<Delta>) {
        match (delta, self.blocks.get_mut(&index)) {
            (BlockDelta::TextDelta { text }, _) => push(out, Delta::Text(text)),
            (BlockDelta::ThinkingDelta { thinking }, _) => push(out, Delta::Reasoning(thinking)),
            (BlockDelta::SignatureDelta { signature: more }, Some(Block::Thinking { signature })) => {
                signature.push_str(&more);
            }
            (BlockDelta::InputJsonDelta { partial_json }, Some(Block::Tool { streamed, .. })) => {
                *streamed |= !partial_json.is_empty();
                push(out, Delta::ToolInput { index, text: partial_json });
            }
            // Of a block that is none of ours.
            (
                BlockDelta::SignatureDelta { .. } | BlockDelta::InputJsonDelta { .. },
                Some(Block::Thinking { .. } | Block::Tool { .. } | Block::Other) | None,
            )
            | (BlockDelta::Unknown, _) => {}
        }
    }

    fn close(&mut self, index: usize, out: &mut VecDeque<Delta>) {
        match self.blocks.remove(&index) {
            Some(Block::Thinking { signature }) if !signature.is_empty() => {
                out.push_back(Delta::ReasoningSeal(Seal::Signature(signature)));
            }
            // Some gateways give the whole input at the start.
            Some(Block::Tool { input, streamed: false }) => {
                let text = if input.is_object() { input.to_string() } else { "{}".to_owned() };
                out.push_back(Delta::ToolInput { index, text });
            }
            Some(Block::Thinking { .. } | Block::Tool { .. } | Block::Other) | None => {}
        }
    }

    /// Counts are cumulative; what an event leaves out stays as it was.
    fn count(&mut self, counts: Option<Counts>, out: &mut VecDeque<Delta>) {
        let Some(new) = counts else { return };
        let old = &mut self.counts;
        old.input_tokens = new.input_tokens.or(old.input_tokens);
        old.cache_read_input_tokens = new.cache_read_input_tokens.or(old.cache_read_input_tokens);
        old.cache_creation_input_tokens = new.cache_creation_input_tokens.or(old.cache_creation_input_tokens);
        old.output_tokens = new.output_tokens.or(old.output_tokens);
        old.output_tokens_details = new.output_tokens_details.or(old.output_tokens_details);
        let cache_read = old.cache_read_input_tokens.unwrap_or(0);
        let cache_write = old.cache_creation_input_tokens.unwrap_or(0);
        out.push_back(Delta::Usage(Tokens {
            prompt: old.input_tokens.unwrap_or(0).saturating_add(cache_read).saturating_add(cache_write),
            completion: old.output_tokens.unwrap_or(0),
            cache_read,
            cache_write,
            reasoning: old.output_tokens_details.and_then(|details| details.thinking_tokens).unwrap_or(0),
        }));
    }
}

/// Pushes a delta unless it says nothing.
fn push(out: &mut VecDeque<Delta>, delta: Delta) {
    let says_something = match &delta {
        Delta::Text(text) | Delta::Reasoning(text) | Delta::ToolInput { text, .. } => !text.is_empty(),
        Delta::ReasoningSeal(_) | Delta::ToolCall { .. } | Delta::Usage(_) | Delta::Finish(_) => true,
    };
    if says_something {
        out.push_back(delta);
    }
}

fn finish_reason(reason: &str) -> FinishReason {
    match reason {
        "tool_use" => FinishReason::ToolUse,
        "max_tokens" | "model_context_window_exceeded" => FinishReason::MaxTokens,
        "stop_sequence" => FinishReason::Stop,
        "refusal" => FinishReason::Refused,
        // `end_turn`, `pause_turn` (of tools that run at the provider, which we do not use), and what may come.
        _ => FinishReason::EndTurn,
    }
}
