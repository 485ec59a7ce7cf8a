//! The RPCs of messages, and their conversions.

use futures_util::stream;
use tonic::{Request, Response, Status};

use super::{
    Result, part, pb,
    permission::{mode, reply_token},
    session::{key, marked, page, signed, text, time, with_cursor},
    stream::{Streaming, request_id, view},
};
use crate::domain::{
    Attachment, Budget, Error, ListMessages, Message, OpenCode, Order, PageQuery, Pagination, Read, Role, SendMessage,
    WhenBusy, WholePart,
};

/// Bytes of a part in one message.
const CHUNK: usize = 256 * 1024;

pub(super) async fn send_message(
    domain: &OpenCode,
    call: Request<pb::SendMessageRequest>,
) -> Result<Streaming<pb::SendMessageResponse>> {
    let id = request_id(&call);
    let token = reply_token(&call);
    let wish = call.into_inner();
    let detach = wish.detach;
    let started = domain.send_message(SendMessage { token, ..wish.try_into()? }).await?;
    if detach {
        let turn = domain.get_turn(started.turn_id.as_str(), 0).await?;
        let message = pb::SendMessageResponse {
            response: None,
            cursor: turn.as_of.to_string(),
            seq: 0,
            turn: Some(turn.value.into()),
        };
        let message: Streaming<_> = Box::pin(stream::iter([Ok(message)]));
        return Ok(marked(Response::new(message), started.replayed));
    }
    let replayed = started.replayed;
    Ok(marked(Response::new(view(started.watched(), id)), replayed))
}

pub(super) async fn list_messages(
    domain: &OpenCode,
    wish: pb::ListMessagesRequest,
) -> Result<pb::ListMessagesResponse> {
    let pb::ListMessagesRequest { pagination, role_filter, order: wanted } = wish;
    let role = match pb::MessageRole::try_from(role_filter) {
        Ok(pb::MessageRole::Unspecified) => None,
        Ok(pb::MessageRole::User) => Some(Role::User),
        Ok(pb::MessageRole::Assistant) => Some(Role::Assistant),
        Ok(pb::MessageRole::Tool) => Some(Role::Tool),
        Err(_) => return Err(Error::field("role_filter", "is not a known role").into()),
    };
    let wanted = PageQuery { order: order(wanted)?, ..page_query(pagination) };
    let list = domain.list_messages(ListMessages { page: wanted, role }).await?;
    Ok(page(list, |messages, pagination, as_of, as_of_seq| pb::ListMessagesResponse {
        messages,
        pagination,
        as_of,
        as_of_seq,
    }))
}

pub(super) async fn stream_messages(
    domain: &OpenCode,
    call: Request<pb::StreamMessagesRequest>,
) -> Result<Streaming<pb::StreamMessagesResponse>> {
    let id = request_id(&call);
    let after = text(call.into_inner().after);
    let events = domain.stream_messages(after.as_deref(), false).await?;
    Ok(Response::new(view(events, id)))
}

pub(super) async fn clear_messages(domain: &OpenCode) -> Result<()> {
    let Read { value, as_of } = domain.clear_messages().await?;
    Ok(with_cursor(value, as_of))
}

pub(super) async fn get_message(domain: &OpenCode, wish: pb::GetMessageRequest) -> Result<pb::GetMessageResponse> {
    let Read { value, as_of } = domain.get_message(&wish.message_id).await?;
    Ok(with_cursor(pb::GetMessageResponse { message: Some(value.into()) }, as_of))
}

pub(super) async fn get_message_part(
    domain: &OpenCode,
    wish: pb::GetMessagePartRequest,
) -> Result<Streaming<pb::GetMessagePartResponse>> {
    let index = wish.index.ok_or_else(|| Error::field("index", "is missing"))?;
    let Read { value, as_of } = domain.get_message_part(&wish.message_id, index.into()).await?;
    let WholePart { data, mime_type } = value;
    let size = data.len();
    let chunks = (0..size.max(1)).step_by(CHUNK).map(move |begin| {
        let data = data.slice(begin..size.min(begin + CHUNK));
        let first = begin == 0;
        Ok(pb::GetMessagePartResponse {
            data,
            mime_type: if first { mime_type.clone() } else { String::new() },
            size: first.then_some(signed(size as u64)),
        })
    });
    let chunks: Streaming<_> = Box::pin(stream::iter(chunks));
    Ok(with_cursor(chunks, as_of))
}

/// The order that is wanted, if one is.
pub(super) fn order(order: i32) -> std::result::Result<Option<Order>, Status> {
    match pb::SortOrder::try_from(order) {
        Ok(pb::SortOrder::Unspecified) => Ok(None),
        Ok(pb::SortOrder::Asc) => Ok(Some(Order::Asc)),
        Ok(pb::SortOrder::Desc) => Ok(Some(Order::Desc)),
        Err(_) => Err(Error::field("order", "is not a known order").into()),
    }
}

/// Which page is wanted; proto3's zeros mean absent.
pub(super) fn page_query(pagination: Option<pb::Pagination>) -> PageQuery {
    let pb::Pagination { limit, offset, cursor } = pagination.unwrap_or_default();
    PageQuery { limit: Some(limit.into()), offset: Some(offset.into()), cursor: text(cursor), order: None }
}

impl TryFrom<pb::SendMessageRequest> for SendMessage {
    type Error = Status;

    fn try_from(wish: pb::SendMessageRequest) -> std::result::Result<Self, Status> {
        let pb::SendMessageRequest {
            parts,
            attachments,
            model,
            idempotency_key,
            after,
            detach: _,
            cancel_on_disconnect,
            permission_mode,
            when_busy,
            turn_id,
            budget,
        } = wish;
        let parts = parts.into_iter().enumerate().map(|(index, item)| part::input(index, item));
        Ok(Self {
            parts: parts.collect::<std::result::Result<_, _>>()?,
            attachments: attachments.into_iter().map(Into::into).collect(),
            text: None,
            model: text(model),
            permission_mode: mode(permission_mode)?,
            cancel_on_disconnect,
            when_busy: match pb::WhenBusy::try_from(when_busy) {
                Ok(pb::WhenBusy::Unspecified | pb::WhenBusy::Reject) => WhenBusy::Reject,
                Ok(pb::WhenBusy::Queue) => WhenBusy::Queue,
                Ok(pb::WhenBusy::Steer) => WhenBusy::Steer,
                Err(_) => return Err(Error::field("when_busy", "is not a known way").into()),
            },
            turn_id: text(turn_id),
            idempotency_key: key(&idempotency_key)?,
            after: text(after),
            forgiving: false,
            budget: budget.map(Into::into),
            token: None,
        })
    }
}

impl From<pb::Budget> for Budget {
    fn from(budget: pb::Budget) -> Self {
        let pb::Budget { model_calls, seconds, tokens, usd } = budget;
        Self { model_calls, seconds, tokens, usd }
    }
}

impl From<pb::Attachment> for Attachment {
    fn from(attachment: pb::Attachment) -> Self {
        let pb::Attachment { path, content, mime_type, size } = attachment;
        Self { path, content: text(content), mime_type: text(mime_type), size: Some(size).filter(|size| *size != 0) }
    }
}

impl From<Message> for pb::Message {
    fn from(message: Message) -> Self {
        let Message { id, session_id, role, parts, model, turn_id, usage, created_at, updated_at, finished_at, seq } =
            message;
        let role = match role {
            Role::User => pb::MessageRole::User,
            Role::Assistant => pb::MessageRole::Assistant,
            Role::Tool => pb::MessageRole::Tool,
        };
        Self {
            id: id.to_string(),
            session_id: session_id.to_string(),
            role: role.into(),
            parts: parts.into_iter().map(Into::into).collect(),
            model: model.unwrap_or_default(),
            created_at: Some(time(created_at)),
            updated_at: Some(time(updated_at)),
            finished_at: finished_at.map(time),
            seq,
            turn_id: turn_id.map(|id| id.to_string()).unwrap_or_default(),
            usage: usage.map(Into::into),
        }
    }
}

impl From<Pagination> for pb::PaginationResponse {
    fn from(pagination: Pagination) -> Self {
        let Pagination { total, limit, offset, next_cursor, has_more } = pagination;
        Self {
            total: i32::try_from(total).unwrap_or(i32::MAX),
            limit: i32::try_from(limit).unwrap_or(i32::MAX),
            offset: i32::try_from(offset).unwrap_or(i32::MAX),
            next_cursor: next_cursor.unwrap_or_default(),
            has_more,
        }
    }
}
