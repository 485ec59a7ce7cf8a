//! The session's RPCs and conversions, and those of the small types that all share.

use jiff::Timestamp;
use tonic::{Request, Response, Status, metadata::MetadataValue};

use super::{
    Result,
    error::insert_cursor,
    pb,
    permission::{mode, reply_token},
};
use crate::domain::{
    Answered, Cursor, IdempotencyKey, List, OpenCode, Read, ResetSession, Session, SessionStats, UpdateSession, Usage,
};

pub(super) async fn get_session(domain: &OpenCode) -> Result<pb::GetSessionResponse> {
    let Read { value, as_of } = domain.get_session().await?;
    Ok(with_cursor(pb::GetSessionResponse { session: Some(value.into()) }, as_of))
}

pub(super) async fn reset_session(
    domain: &OpenCode,
    wish: pb::ResetSessionRequest,
) -> Result<pb::ResetSessionResponse> {
    let pb::ResetSessionRequest { title, idempotency_key } = wish;
    let wish = ResetSession { title: text(title), idempotency_key: key(&idempotency_key)? };
    let Answered { value: Read { value, as_of }, replayed } = domain.reset_session(wish).await?;
    Ok(marked(with_cursor(pb::ResetSessionResponse { session: Some(value.into()) }, as_of), replayed))
}

pub(super) async fn update_session(
    domain: &OpenCode,
    call: Request<pb::UpdateSessionRequest>,
) -> Result<pb::UpdateSessionResponse> {
    let token = reply_token(&call);
    let pb::UpdateSessionRequest { title, permission_mode } = call.into_inner();
    let change = UpdateSession { title, permission_mode: mode(permission_mode)?, token };
    let Read { value, as_of } = domain.update_session(change).await?;
    Ok(with_cursor(pb::UpdateSessionResponse { session: Some(value.into()) }, as_of))
}

pub(super) async fn get_session_stats(domain: &OpenCode) -> Result<pb::GetSessionStatsResponse> {
    let Read { value, as_of } = domain.get_session_stats().await?;
    Ok(with_cursor(value.into(), as_of))
}

/// An answer with the place up to which it holds.
pub(super) fn with_cursor<T>(message: T, as_of: Cursor) -> Response<T> {
    let mut response = Response::new(message);
    insert_cursor(response.metadata_mut(), as_of);
    response
}

/// The key by which a request may be sent again.
pub(super) fn key(text: &str) -> std::result::Result<Option<IdempotencyKey>, Status> {
    Ok(if text.is_empty() { None } else { Some(IdempotencyKey::parse("idempotency_key", text)?) })
}

/// Says of an answer that it was given before, if so.
pub(super) fn marked<T>(mut response: Response<T>, replayed: bool) -> Response<T> {
    if replayed {
        response.metadata_mut().insert("idempotent-replayed", MetadataValue::from_static("true"));
    }
    response
}

/// A page of a list, in the message that `answer` makes of items, pagination, and the place up to which it holds.
pub(super) fn page<T: Into<P>, P, M>(
    list: List<T>,
    answer: impl FnOnce(Vec<P>, Option<pb::PaginationResponse>, String, u64) -> M,
) -> Response<M> {
    let List { items, pagination, as_of } = list;
    let items = items.into_iter().map(Into::into).collect();
    with_cursor(answer(items, Some(pagination.into()), as_of.to_string(), as_of.seq), as_of)
}

/// A text that is there; the empty one is how proto3 says that there is none.
pub(super) fn text(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// A number that the wire has as signed.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A time as the wire has it.
pub(super) fn time(at: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond() }
}

impl From<Session> for pb::Session {
    fn from(session: Session) -> Self {
        let Session {
            id,
            parent_session_id,
            title,
            message_count,
            prompt_tokens,
            completion_tokens,
            summary_message_id,
            cost,
            created_at,
            updated_at,
            permission_mode,
        } = session;
        Self {
            id: id.to_string(),
            parent_session_id: parent_session_id.map(|id| id.to_string()).unwrap_or_default(),
            title,
            message_count: signed(message_count),
            prompt_tokens: signed(prompt_tokens),
            completion_tokens: signed(completion_tokens),
            summary_message_id: summary_message_id.map(|id| id.to_string()).unwrap_or_default(),
            cost,
            created_at: Some(time(created_at)),
            updated_at: Some(time(updated_at)),
            permission_mode: pb::PermissionMode::from(permission_mode).into(),
        }
    }
}

impl From<SessionStats> for pb::GetSessionStatsResponse {
    fn from(stats: SessionStats) -> Self {
        let SessionStats {
            total_messages,
            user_messages,
            assistant_messages,
            tool_messages,
            prompt_tokens,
            completion_tokens,
            total_cost,
            usage,
            last_activity,
            models_used,
            current_model,
        } = stats;
        Self {
            total_messages: signed(total_messages),
            user_messages: signed(user_messages),
            assistant_messages: signed(assistant_messages),
            tool_messages: signed(tool_messages),
            prompt_tokens: signed(prompt_tokens),
            completion_tokens: signed(completion_tokens),
            total_cost,
            last_activity: Some(time(last_activity)),
            models_used,
            current_model: current_model.unwrap_or_default(),
            usage: Some(usage.into()),
        }
    }
}

impl From<Usage> for pb::TokenUsage {
    fn from(usage: Usage) -> Self {
        let Usage {
            prompt_tokens,
            completion_tokens,
            cache_read_tokens,
            cache_write_tokens,
            reasoning_tokens,
            cost,
            cost_usd,
            cost_complete,
        } = usage;
        Self {
            prompt_tokens: signed(prompt_tokens),
            completion_tokens: signed(completion_tokens),
            cost,
            cache_read_tokens: Some(signed(cache_read_tokens)),
            cache_write_tokens: Some(signed(cache_write_tokens)),
            reasoning_tokens: Some(signed(reasoning_tokens)),
            cost_usd,
            cost_complete,
        }
    }
}
