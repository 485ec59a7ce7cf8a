//! The ledger's RPC, and its conversions.

use super::{
    Result,
    message::{order, page_query},
    pb,
    session::{page, signed, text, time},
};
use crate::domain::{CallKind, LedgerEntry, ListLedger, OpenCode, PageQuery, PriceUsed};

pub(super) async fn list_ledger(domain: &OpenCode, wish: pb::ListLedgerRequest) -> Result<pb::ListLedgerResponse> {
    let pb::ListLedgerRequest { pagination, order: wanted, turn_id } = wish;
    let wanted = PageQuery { order: order(wanted)?, ..page_query(pagination) };
    let list = domain.list_ledger(ListLedger { page: wanted, turn_id: text(turn_id) }).await?;
    Ok(page(list, |calls, pagination, as_of, as_of_seq| pb::ListLedgerResponse { calls, pagination, as_of, as_of_seq }))
}

impl From<LedgerEntry> for pb::LedgerEntry {
    fn from(entry: LedgerEntry) -> Self {
        let LedgerEntry { id, at, turn_id, message_id, kind, model, attempt, outcome, duration_ms, usage, price } =
            entry;
        let kind = match kind {
            CallKind::Turn => pb::CallKind::Turn,
            CallKind::Title => pb::CallKind::Title,
            CallKind::Compaction => pb::CallKind::Compaction,
        };
        Self {
            id,
            at: Some(time(at)),
            turn_id: turn_id.to_string(),
            message_id: message_id.map(|id| id.to_string()),
            kind: kind.into(),
            model,
            attempt: i32::try_from(attempt).unwrap_or(i32::MAX),
            outcome,
            duration_ms: signed(duration_ms),
            usage: Some(usage.into()),
            price: price.map(Into::into),
        }
    }
}

impl From<PriceUsed> for pb::PriceUsed {
    fn from(price: PriceUsed) -> Self {
        let PriceUsed { input_per_1m, output_per_1m, cache_read_per_1m, cache_write_per_1m } = price;
        Self { input_per_1m, output_per_1m, cache_read_per_1m, cache_write_per_1m }
    }
}
