//! What a provider call cost, and its row in the ledger: the same for answers, titles and summaries.

use std::time::Instant;

use jiff::Timestamp;

use super::spending::Admitted;
use crate::domain::{
    id::{MessageId, TurnId},
    ledger::CallKind,
    model::Model,
    part::FinishReason,
    providers::{ProviderError, ProviderErrorKind},
    session::now,
    store::{Batch, LedgerRow, OpenCall},
    turn::TurnErrorCode,
    usage::{Spent, Tokens},
};

/// How a call ended: whole, failed, or (`None`) cancelled.
pub(super) type Outcome = Result<FinishReason, Option<ProviderError>>;

/// A provider call from its beginning on.
pub(super) struct Metered<'a> {
    turn_id: &'a TurnId,
    model: &'a Model,
    kind: CallKind,
    attempt: u32,
    at: Timestamp,
    began: Instant,
    admitted: Admitted,
}

/// How far a call has come.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// The provider has heard nothing of it.
    Planned,
    /// The provider was asked.
    Asked,
    /// The model has begun to answer.
    Begun,
    /// The answer has come to its end.
    Whole,
}

impl<'a> Metered<'a> {
    /// A call that begins now; `attempt` counts from 1.
    pub(super) fn begin(
        turn_id: &'a TurnId,
        model: &'a Model,
        kind: CallKind,
        attempt: u32,
        admitted: Admitted,
    ) -> Self {
        Self { turn_id, model, kind, attempt, at: now(), began: Instant::now(), admitted }
    }

    /// To be stored before the provider is asked.
    pub(super) fn opening(&self) -> Batch {
        let (turn_id, model) = (self.turn_id.clone(), self.model.info.id.clone());
        Batch::new().call(OpenCall { turn_id, at: self.at, kind: self.kind, model, attempt: self.attempt })
    }

    /// What it spent; `tokens` as far as the provider said. One that was not made, or was refused before the model said
    /// anything, cost nothing; one that stalled, was cancelled, or was cut after the model began, be it by us, costs what
    /// we are not told, so that its cost counts as unknown.
    pub(super) fn spent(&self, tokens: Option<Tokens>, progress: Progress, outcome: &Outcome) -> Spent {
        let price = self.model.price.as_ref();
        let known = tokens.unwrap_or_default();
        let cost = price.map(|price| price.cost(&known));
        if progress == Progress::Whole && tokens.is_some() {
            return Spent::call(known, cost);
        }
        let refused = match outcome {
            Err(Some(error)) => match error.kind {
                ProviderErrorKind::Rejected | ProviderErrorKind::TooLong | ProviderErrorKind::Unavailable => true,
                ProviderErrorKind::Stalled => false,
            },
            Ok(_) | Err(None) => false,
        };
        let is_free = match progress {
            Progress::Planned => true,
            Progress::Asked => refused && known == Tokens::default(),
            Progress::Begun | Progress::Whole => false,
        };
        if is_free {
            return Spent { tokens: known, cost, ..Spent::default() };
        }
        // Where the provider has said nothing of what it used, 0 would be a claim.
        self.admitted.unknown(known, cost.filter(|_| tokens.is_some()))
    }

    /// Its row, when it has ended; it counts for what the turn may spend from here on.
    pub(super) fn row(self, outcome: &Outcome, spent: Spent, message_id: Option<MessageId>) -> LedgerRow {
        self.admitted.settle(spent);
        LedgerRow {
            turn_id: self.turn_id.clone(),
            message_id,
            at: self.at,
            kind: self.kind,
            model: self.model.info.id.clone(),
            attempt: self.attempt,
            outcome: match outcome {
                Ok(_) => "ok",
                Err(None) => "canceled",
                Err(Some(error)) => code(error.kind).as_str(),
            },
            duration_ms: u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            spent,
            price: self.model.price,
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
