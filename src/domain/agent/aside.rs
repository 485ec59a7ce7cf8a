//! A model call beside the conversation, for a title or a summary: words in, words out, and nothing of it is streamed.

use futures_util::StreamExt;
use tokio_util::sync::CancellationToken;

use super::cost::{Metered, Outcome, Progress};
use crate::domain::{
    id::{MessageId, SessionId},
    message::{Message, Role},
    model::Model,
    part::{Part, Text, head},
    providers::{Delta, Request},
    session::now,
    store::LedgerRow,
    usage::Tokens,
};

/// Most bytes of an answer that are kept.
const MAX_TEXT: usize = 64 * 1024;

/// What came of such a call.
pub(super) struct Aside {
    /// What the model said, without its reasoning.
    pub(super) text: String,
    /// How it ended.
    pub(super) outcome: Outcome,
    /// Its row in the ledger, to be stored with what becomes of it.
    pub(super) row: LedgerRow,
}

/// A request of one text, without tools and without reasoning where that can be had.
pub(super) fn request(model: &Model, system: &str, words: String, max_output_tokens: u32) -> Request {
    let now = now();
    let message = Message {
        id: MessageId::generate(),
        // It is never stored, so that it belongs to none.
        session_id: SessionId::from(String::new()),
        role: Role::User,
        parts: vec![Part::Text(Text { text: words })],
        model: None,
        turn_id: None,
        usage: None,
        created_at: now,
        updated_at: now,
        finished_at: Some(now),
        seq: 0,
    };
    let most = model.info.max_output_tokens;
    Request {
        model: model.model_id.clone(),
        full_model: model.info.id.clone(),
        system: system.to_owned(),
        messages: vec![message],
        tools: Vec::new(),
        max_output_tokens: if most == 0 { max_output_tokens } else { most.min(max_output_tokens) },
        images: false,
        reasoning: false,
    }
}

/// Makes the call, once.
pub(super) async fn ask(call: Metered<'_>, model: &Model, request: &Request, cancel: &CancellationToken) -> Aside {
    let mut deltas = model.provider.stream(request);
    let mut text = String::new();
    // Nothing is sent before the answer is first asked for.
    let mut progress = if cancel.is_cancelled() { Progress::Planned } else { Progress::Asked };
    let mut tokens: Option<Tokens> = None;
    let outcome = loop {
        let delta = tokio::select! {
            biased;
            () = cancel.cancelled() => break Err(None),
            // A stream says itself what is wrong with it before it ends.
            delta = deltas.next() => match delta {
                Some(Ok(delta)) => delta,
                Some(Err(error)) => break Err(Some(error)),
                None => break Err(None),
            },
        };
        match delta {
            Delta::Text(words) => {
                let room = MAX_TEXT - text.len();
                text.push_str(head(&words, room));
                progress = Progress::Begun;
            }
            Delta::Reasoning(_) | Delta::ReasoningSeal(_) | Delta::ToolCall { .. } | Delta::ToolInput { .. } => {
                progress = Progress::Begun;
            }
            Delta::Usage(used) => tokens = Some(used),
            Delta::Finish(reason) => {
                progress = Progress::Whole;
                break Ok(reason);
            }
        }
    };
    drop(deltas);
    let spent = call.spent(tokens, progress, &outcome);
    let row = call.row(&outcome, spent, None);
    Aside { text, outcome, row }
}
