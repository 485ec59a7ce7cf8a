//! The ledger as clients read it: a row for each call of a provider, whatever it was for and whatever came of it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    OpenCode, Read,
    error::{Error, Result},
    id::{MessageId, TurnId},
    list::{List, PageQuery},
    model::Price,
    usage::Usage,
};

/// A call of a provider.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LedgerEntry {
    /// `c` and a number, never used again for another call.
    #[schema(example = "c12")]
    pub id: String,
    /// When it began.
    pub at: Timestamp,
    /// The turn that it was made for.
    pub turn_id: TurnId,
    /// The message that it gave, if any. Clear takes that away; the row stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<MessageId>,
    /// What it was for.
    pub kind: CallKind,
    /// The model, as `provider/id`.
    pub model: String,
    /// 1 for the first try, one more for each retry.
    pub attempt: u32,
    /// `ok`, `canceled`, `budget_exhausted` (its turn's time was used up), `interrupted` (the server ended while it ran), or the code of what went wrong, such as
    /// `provider_unavailable`. More may be added.
    pub outcome: String,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// Tokens by class, and what they cost. `cost_complete` is false where price or tokens are not known; `cost_usd` is
    /// then what is known of the cost, and absent where nothing is.
    pub usage: Usage,
    /// The price that was used; absent where it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<PriceUsed>,
}

/// What a call of a provider is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CallKind {
    /// The next answer of the turn.
    Turn,
    /// The session's title.
    Title,
    /// A summary, so that the conversation fits into the model's context.
    Compaction,
}

/// US dollars for a million tokens, by class, as exact decimals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PriceUsed {
    /// Input in no cache.
    #[schema(example = "4")]
    pub input_per_1m: String,
    /// Output.
    #[schema(example = "20")]
    pub output_per_1m: String,
    /// Input read from the provider's cache.
    #[schema(example = "0.2")]
    pub cache_read_per_1m: String,
    /// Input written to the provider's cache.
    #[schema(example = "5")]
    pub cache_write_per_1m: String,
}

/// Which rows are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListLedger {
    /// Which page.
    pub page: PageQuery,
    /// Only calls that were made for this turn, which may be of a session before.
    pub turn_id: Option<String>,
}

impl OpenCode {
    /// The session's ledger. Clear leaves it as it is; a new session begins with an empty one.
    pub async fn list_ledger(&self, wish: ListLedger) -> Result<List<LedgerEntry>> {
        let ListLedger { page, turn_id } = wish;
        let turn_id = turn_id.filter(|id| !id.is_empty());
        let checked = page.check(if turn_id.is_some() { "lt" } else { "l" })?;
        let (page, wanted) = (checked.page, turn_id.clone());
        let read = self.read(move |snapshot| {
            let known = match &wanted {
                Some(id) => snapshot.turn(id)?.is_some(),
                None => true,
            };
            Ok(if known { Some(snapshot.ledger(page, wanted.as_deref())?) } else { None })
        });
        let Read { value, as_of } = read.await?;
        let value = value.ok_or_else(|| Error::not_found("turn", turn_id.as_deref().unwrap_or_default()))?;
        Ok(checked.answer(Read { value, as_of }))
    }
}

impl CallKind {
    /// The kind as clients see it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Turn => "turn",
            Self::Title => "title",
            Self::Compaction => "compaction",
        }
    }

    /// The kind of that name.
    pub(super) fn named(name: &str) -> Option<Self> {
        [Self::Turn, Self::Title, Self::Compaction].into_iter().find(|kind| kind.as_str() == name)
    }
}

impl From<Price> for PriceUsed {
    fn from(price: Price) -> Self {
        let Price { input, output, cache_read, cache_write } = price;
        let per_1m = |price: super::money::Picodollars| price.times(1_000_000).to_string();
        Self {
            input_per_1m: per_1m(input),
            output_per_1m: per_1m(output),
            cache_read_per_1m: per_1m(cache_read),
            cache_write_per_1m: per_1m(cache_write),
        }
    }
}
