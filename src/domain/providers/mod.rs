//! Model providers: one file a wire dialect. A dialect turns a [`Request`] into HTTP and the answer's stream into
//! [`Delta`]s; whether to ask again is decided in one place above (`agent::call`), never here.

mod anthropic;
mod attachment;
mod http;
mod mock;
mod openai;
mod script;
mod sse;

use std::{fmt, pin::Pin, time::Duration};

use futures_util::{Stream, StreamExt, stream};
use serde_json::Value;
use tokio::time::{Instant, timeout};

pub(super) use self::{
    anthropic::Anthropic,
    http::Http,
    mock::Mock,
    openai::{OpenAi, Vendor},
};

use super::{
    message::Message,
    part::{FinishReason, Seal},
    usage::Tokens,
};

/// What a model is asked.
#[derive(Clone, Debug)]
pub(super) struct Request {
    /// The provider's own id of the model.
    pub model: String,
    /// `provider/id`: reasoning of messages that carry the same name may be sent back with its seal.
    pub full_model: String,
    /// The system prompt.
    pub system: String,
    /// The history, repaired: every tool call that is to be sent has its result in the TOOL message after it.
    pub messages: Vec<Message>,
    /// The tools that the model may call.
    pub tools: Vec<ToolSpec>,
    /// Most tokens that the answer may have.
    pub max_output_tokens: u32,
    /// Whether the model takes images.
    pub images: bool,
    /// Whether the model reasons.
    pub reasoning: bool,
}

/// A tool as the model sees it.
#[derive(Clone, Debug)]
pub(super) struct ToolSpec {
    /// Its name.
    pub name: &'static str,
    /// What it does, in words for the model.
    pub description: &'static str,
    /// JSON schema of its arguments.
    pub schema: Value,
}

/// A step of a model's answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Delta {
    /// Words.
    Text(String),
    /// Reasoning in words.
    Reasoning(String),
    /// The current reasoning part is complete, and this has to be sent back with it. Where no reasoning part is open
    /// (the provider keeps the words to itself), it is the seal of a new part without words.
    ReasoningSeal(Seal),
    /// A tool call begins; `index` names it until the answer ends.
    ToolCall {
        /// Number of the call in this answer, as the dialect counts.
        index: usize,
        /// The tool's name.
        name: String,
    },
    /// A piece of a call's arguments (JSON text). All pieces of a call together are never empty: a call without
    /// arguments gives `{}`.
    ToolInput {
        /// The call.
        index: usize,
        /// The piece.
        text: String,
    },
    /// What the call has used so far: replaces what was said before. A provider that says nothing sends none.
    Usage(Tokens),
    /// The answer is whole. Always the last item of a stream that ended well.
    Finish(FinishReason),
}

/// Why a model call failed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ProviderError {
    /// The kind, which decides whether it is asked again.
    pub kind: ProviderErrorKind,
    /// In words for the user; without keys and without the provider's raw body beyond its own message.
    pub message: String,
    /// The HTTP status, where there was one.
    pub status: Option<u16>,
    /// What the provider said about when to come back.
    pub retry_after: Option<Duration>,
}

/// Kinds of failed calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProviderErrorKind {
    /// The request is at fault: a wrong key, an unknown model. Asking again does not help.
    Rejected,
    /// The prompt is longer than the model's context. Asking again with a shorter one may help.
    TooLong,
    /// Overloaded, rate limited, not reachable, reset, or cut in the middle. Asking again may help.
    Unavailable,
    /// Nothing came for too long. Asking again may help.
    Stalled,
}

/// A model's answer as it comes. Dropping it ends the call. An error is the last item, and so is [`Delta::Finish`].
pub(super) type Answer = Pin<Box<dyn Stream<Item = Result<Delta, ProviderError>> + Send>>;

/// A provider that can be asked. Cloning is cheap.
#[derive(Clone, Debug)]
pub(super) enum Provider {
    /// The Messages dialect.
    Anthropic(Anthropic),
    /// The Chat Completions dialect, whoever speaks it.
    OpenAi(OpenAi),
    /// The models that are built in.
    Mock(Mock),
}

impl Provider {
    /// Asks the model. Nothing is sent before the answer is first polled; sending is a part of the answer, and
    /// whatever goes wrong is an item of it.
    pub(super) fn stream(&self, request: &Request) -> Answer {
        let (answer, limits) = match self {
            Self::Anthropic(provider) => (provider.stream(request), provider.limits),
            Self::OpenAi(provider) => (provider.stream(request), provider.limits),
            Self::Mock(provider) => (provider.stream(request), provider.limits),
        };
        limited(answer, limits)
    }
}

/// How long a provider may be silent. Only a delta counts as a sign of life: comments, pings, empty chunks and
/// figures about usage do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StallLimits {
    /// From sending to the first delta.
    pub first_token: Duration,
    /// From one delta to the next.
    pub between_tokens: Duration,
}

impl Default for StallLimits {
    fn default() -> Self {
        Self { first_token: Duration::from_mins(10), between_tokens: Duration::from_mins(2) }
    }
}

/// Ends an answer that stalls. Only time spent waiting for the provider counts, not what its reader takes.
fn limited(answer: Answer, limits: StallLimits) -> Answer {
    // What is left until it counts as stalled; `None` when the answer is over.
    let state = (answer, Some(limits.first_token), "its first token");
    Box::pin(stream::unfold(state, move |(mut answer, left, awaited)| async move {
        let left = left?;
        let since = Instant::now();
        match timeout(left, answer.next()).await {
            Ok(None) => None,
            Ok(Some(Ok(usage @ Delta::Usage(_)))) => {
                let left = left.saturating_sub(since.elapsed());
                Some((Ok(usage), (answer, Some(left), awaited)))
            }
            Ok(Some(Ok(finish @ Delta::Finish(_)))) => Some((Ok(finish), (answer, None, awaited))),
            Ok(Some(Ok(
                delta @ (Delta::Text(_)
                | Delta::Reasoning(_)
                | Delta::ReasoningSeal(_)
                | Delta::ToolCall { .. }
                | Delta::ToolInput { .. }),
            ))) => Some((Ok(delta), (answer, Some(limits.between_tokens), "its next token"))),
            Ok(Some(Err(error))) => Some((Err(error), (answer, None, awaited))),
            Err(_) => {
                let error = ProviderError {
                    kind: ProviderErrorKind::Stalled,
                    message: format!("the provider stalled: {awaited} did not come in time"),
                    status: None,
                    retry_after: None,
                };
                Some((Err(error), (answer, None, awaited)))
            }
        }
    }))
}

impl ProviderError {
    fn rejected(message: impl Into<String>) -> Self {
        Self { kind: ProviderErrorKind::Rejected, message: message.into(), status: None, retry_after: None }
    }

    fn unavailable(message: impl Into<String>) -> Self {
        Self { kind: ProviderErrorKind::Unavailable, ..Self::rejected(message) }
    }

    /// The stream ended without its proper end.
    fn cut(vendor: &str) -> Self {
        Self::unavailable(format!("the answer of {vendor} was cut off before its end"))
    }

    /// A chunk of the stream could not be read.
    fn malformed(vendor: &str) -> Self {
        Self::unavailable(format!("{vendor} sent a malformed chunk"))
    }
}

impl fmt::Display for ProviderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ProviderError {}
