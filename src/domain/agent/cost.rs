//! What a provider call cost, and its row in the ledger: the same for answers, titles and summaries.

use std::time::Instant;

use jiff::Timestamp;

use crate::domain::{
    id::{MessageId, TurnId},
    model::Model,
    part::FinishReason,
    providers::{ProviderError, ProviderErrorKind},
    session::now,
    store::LedgerRow,
    turn::TurnErrorCode,
    usage::{Spent, Tokens},
};

/// How a call ended: whole, failed, or (`None`) cancelled.
pub(super) type Outcome = Result<FinishReason, Option<ProviderError>>;

/// A provider call from its beginning on.
pub(super) struct Metered<'a> {
    turn_id: &'a TurnId,
    model: &'a Model,
    kind: &'static str,
    attempt: u32,
    at: Timestamp,
    began: Instant,
}

impl<'a> Metered<'a> {
    /// A call that begins now; `kind` is what the ledger calls it, `attempt` counts from 1.
    pub(super) fn begin(turn_id: &'a TurnId, model: &'a Model, kind: &'static str, attempt: u32) -> Self {
        Self { turn_id, model, kind, attempt, at: now(), began: Instant::now() }
    }

    /// What it spent; `tokens` as far as the provider said, `shown` whether the model began to answer. One that was
    /// refused before the model said anything cost nothing; one that stalled, was cancelled, or was cut after the
    /// model began costs what we are not told, so that its cost counts as unknown.
    pub(super) fn spent(&self, tokens: Option<Tokens>, shown: bool, outcome: &Outcome) -> Spent {
        let price = self.model.price.as_ref();
        let known = tokens.unwrap_or_default();
        let cost = price.map(|price| price.cost(&known));
        if outcome.is_ok() && tokens.is_some() {
            return Spent::call(known, cost);
        }
        let refused = match outcome {
            Err(Some(error)) => match error.kind {
                ProviderErrorKind::Rejected | ProviderErrorKind::TooLong | ProviderErrorKind::Unavailable => true,
                ProviderErrorKind::Stalled => false,
            },
            Ok(_) | Err(None) => false,
        };
        let free = refused && !shown && known == Tokens::default();
        Spent { tokens: known, cost, unpriced_calls: u64::from(!free) }
    }

    /// Its row, when it has ended.
    pub(super) fn row(&self, outcome: &Outcome, spent: Spent, message_id: Option<MessageId>) -> LedgerRow {
        let info = &self.model.info;
        let price = self.model.price.is_some().then(|| {
            serde_json::json!({
                "input": info.cost_per_1m_input,
                "output": info.cost_per_1m_output,
                "cache_read": info.cost_per_1m_cache_read,
                "cache_write": info.cost_per_1m_cache_write,
            })
            .to_string()
        });
        LedgerRow {
            turn_id: self.turn_id.clone(),
            message_id,
            at: self.at,
            kind: self.kind,
            model: info.id.clone(),
            attempt: self.attempt,
            outcome: match outcome {
                Ok(_) => "ok",
                Err(None) => "canceled",
                Err(Some(error)) => code(error.kind).as_str(),
            },
            duration_ms: u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            spent,
            price,
        }
    }
}

/// The code of turns for a failed call.
pub(super) fn code(kind: ProviderErrorKind) -> TurnErrorCode {
    match kind {
        ProviderErrorKind::Rejected | ProviderErrorKind::TooLong => TurnErrorCode::ProviderError,
        ProviderErrorKind::Unavailable => TurnErrorCode::ProviderUnavailable,
        ProviderErrorKind::Stalled => TurnErrorCode::ProviderTimeout,
    }
}
