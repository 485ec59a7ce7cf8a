//! `/messages`.

use std::time::Duration;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, IntoResponseParts, Response, ResponseParts},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    accept::{Preferences, Wanted, preferences, stream_only, wanted},
    error::{Problem, Result},
    event::{AfterParams, last_event_id},
    extract::{Body, NoParams, Path, Query, Replayed, idempotency_key, reply_token},
    sse,
};
use crate::domain::{
    Cursor, List, ListMessages, Message, OpenCode, Order, PageQuery, Pagination, Role, SendMessage, Started, Turn,
};

/// The header that says up to which event a read holds.
pub(super) struct EventCursor(pub(super) Cursor);

impl IntoResponseParts for EventCursor {
    type Error = std::convert::Infallible;

    fn into_response_parts(self, mut parts: ResponseParts) -> std::result::Result<ResponseParts, Self::Error> {
        if let Ok(value) = HeaderValue::from_str(&self.0.to_string()) {
            parts.headers_mut().insert("event-cursor", value);
        }
        Ok(parts)
    }
}

/// A turn that was accepted, and its last answer when it has ended.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SentMessage {
    /// The turn.
    turn: Turn,
    /// The model's last answer, once the turn has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Message>,
}

/// A page of messages.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MessageList {
    /// The messages, large parts cut.
    messages: Vec<Message>,
    /// Where the page stands.
    pagination: Pagination,
    /// Follow the events from here.
    as_of: String,
    /// Its number: an event about one of these messages counts only above that message's `seq`.
    as_of_seq: u64,
}

/// Where the stream of a repeat begins.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct AfterTurnParams {
    /// With a key that joins a turn: the cursor to go on from; else from the turn's first event.
    after: Option<String>,
}

/// Which messages are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ListMessagesParams {
    /// 1 to 200; zero or absent is 50.
    #[param(minimum = 0, maximum = 200)]
    limit: Option<i64>,
    /// Skips this many messages; not together with `cursor`.
    #[param(minimum = 0, maximum = 2147483647)]
    offset: Option<i64>,
    /// `pagination.next_cursor` of the page before.
    cursor: Option<String>,
    /// `asc`, oldest first, or `desc`.
    #[param(inline)]
    order: Option<Order>,
    /// Only messages of this role.
    #[param(inline)]
    role: Option<Role>,
}

/// Sends a message, which starts a turn.
///
/// The answer streams the turn's events up to `turn_completed`. With `Accept: application/json` it comes when the
/// turn has ended (with `Prefer: wait=N` after N seconds at most, then 202); with `Prefer: respond-async` at once, as
/// 202. Leaving the stream does not cancel the turn. How the turn ends is data: `finish_reason` and `error`; any other
/// status means that nothing was started.
///
/// While a turn runs another message is refused, waits as a turn of its own (`when_busy` is `queue`), or is given to that
/// turn between two calls of its model (`steer`).
///
/// With `Idempotency-Key` a repeat of the same request joins the turn, whatever became of it, and starts nothing: the
/// stream has its events from the first one or after the cursor that was sent, JSON is its end. Where the log no longer
/// holds them, a stream is `resync_required` (`expired`) and then `turn_completed`.
#[utoipa::path(post, path = "/messages", tag = "messages", request_body = SendMessage, params(AfterTurnParams,
    ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 printable ASCII characters, kept for 24 h: a repeat joins the turn and starts nothing", min_length = 1, max_length = 255, pattern = "^[ -~]+$"),
    ("Last-Event-ID" = Option<String>, Header, description = "As `after`, over which it wins"),
    ("X-Reply-Token" = Option<String>, Header, description = "The reply token, for a `permission_mode` that is looser than the session's"),
    ("Prefer" = Option<String>, Header, description = "`respond-async`, or `wait=N` (seconds, at most 300) with JSON"),
), responses(
    (status = 200, description = "The turn: its events, or its end", content(
        (String = "text/event-stream"), (SentMessage = "application/json")),
        headers(("Location" = String, description = "The turn"),
            ("Idempotent-Replayed" = Option<bool>, description = "It was accepted before, under the same key"))),
    (status = 202, description = "The turn was started and goes on", body = SentMessage,
        headers(("Location" = String, description = "The turn"), ("Preference-Applied" = String),
            ("Idempotent-Replayed" = Option<bool>, description = "It was accepted before, under the same key"))),
    (status = "default", description = "Nothing was started", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn send_message(
    State(domain): State<OpenCode>,
    headers: HeaderMap,
    Query(AfterTurnParams { after }): Query<AfterTurnParams>,
    Body(wish): Body<SendMessage>,
) -> Result<Response> {
    let idempotency_key = idempotency_key(&headers)?;
    let preferences = preferences(&headers);
    let wanted = wanted(&headers)?;
    let header = last_event_id(&headers);
    let forgiving = header.is_some();
    let token = reply_token(&headers);
    let wish = SendMessage { idempotency_key, after: header.or(after), forgiving, token, ..wish };
    let started = domain.send_message(wish).await?;
    let replayed = Replayed(started.replayed);
    let location = format!("/turns/{}", started.turn_id);
    let response = match (preferences, wanted) {
        (Preferences { respond_async: true, .. }, _) => {
            let turn = domain.get_turn(started.turn_id.as_str(), 0).await?.value;
            let sent = Json(SentMessage { turn, message: None });
            (StatusCode::ACCEPTED, [("preference-applied", "respond-async")], sent).into_response()
        }
        (_, Wanted::Stream) => sse::stream(started.watched(), false),
        (Preferences { wait, .. }, Wanted::Json) => whole(&domain, started, wait).await?,
    };
    Ok(([(header::LOCATION, location)], replayed, response).into_response())
}

/// The turn when it has ended, or as it stands when the wait is over.
async fn whole(domain: &OpenCode, started: Started, wait: Option<Duration>) -> Result<Response> {
    let end = domain.turn_ended(&started.turn_id);
    let ended = match wait {
        Some(wait) => tokio::time::timeout(wait, end).await.is_ok(),
        None => {
            end.await;
            true
        }
    };
    let turn = domain.get_turn(started.turn_id.as_str(), 0).await?.value;
    let message = match &turn.message_id {
        // A reset may have taken it in the meantime: the turn was accepted all the same.
        Some(id) if ended => domain.get_message(id.as_str()).await.ok().map(|read| read.value),
        _ => None,
    };
    let status = if turn.finish_reason.is_some() { StatusCode::OK } else { StatusCode::ACCEPTED };
    let mut response = (status, Json(SentMessage { turn, message })).into_response();
    if let Some(wait) = wait
        && let Ok(applied) = HeaderValue::from_str(&format!("wait={}", wait.as_secs()))
    {
        response.headers_mut().insert("preference-applied", applied);
    }
    Ok(response)
}

/// The messages in pages, large parts cut.
#[utoipa::path(get, path = "/messages", tag = "messages", params(ListMessagesParams), responses(
    (status = 200, description = "A page", body = MessageList, headers(("Event-Cursor" = String, description = "Follow the events from here"))),
    (status = "default", description = "An error", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn list_messages(
    State(domain): State<OpenCode>,
    Query(params): Query<ListMessagesParams>,
) -> Result<(EventCursor, Json<MessageList>)> {
    let ListMessagesParams { limit, offset, cursor, order, role } = params;
    let wish = ListMessages { page: PageQuery { limit, offset, cursor, order }, role };
    let List { items, pagination, as_of } = domain.list_messages(wish).await?;
    let list = MessageList { messages: items, pagination, as_of: as_of.to_string(), as_of_seq: as_of.seq };
    Ok((EventCursor(as_of), Json(list)))
}

/// Whole messages as they appear and change, without deltas.
///
/// The events `message_created`, `message_updated`, `message_deleted`, `messages_cleared` and `session_reset` of
/// `GET /events`, with the same cursors.
#[utoipa::path(get, path = "/messages/stream", tag = "messages", params(AfterParams,
    ("Last-Event-ID" = Option<String>, Header, description = "A cursor; wins over `after`"),
), responses(
    (status = 200, description = "The events", body = String, content_type = "text/event-stream"),
    (status = "default", description = "An error", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn stream_messages(
    State(domain): State<OpenCode>,
    headers: HeaderMap,
    Query(params): Query<AfterParams>,
) -> Result<Response> {
    stream_only(&headers)?;
    let header = last_event_id(&headers);
    let after = header.as_deref().or(params.after.as_deref());
    Ok(sse::stream(domain.stream_messages(after, header.is_some()).await?, true))
}

/// One message, large parts cut.
#[utoipa::path(get, path = "/messages/{id}", tag = "messages", params(("id" = String, Path, description = "The message's id")), responses(
    (status = 200, description = "The message", body = Message, headers(("Event-Cursor" = String, description = "Follow the events from here"))),
    (status = "default", description = "An error", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn get_message(
    State(domain): State<OpenCode>,
    Path(id): Path<String>,
    _: Query<NoParams>,
) -> Result<(EventCursor, Json<Message>)> {
    let read = domain.get_message(&id).await?;
    Ok((EventCursor(read.as_of), Json(read.value)))
}

/// Which part of which message; named, so that what is wrong can be.
#[derive(Deserialize)]
pub(super) struct PartPath {
    id: String,
    index: i64,
}

/// One part of a message, whole, as bytes.
///
/// Text, reasoning and tool results are UTF-8 text, a file is its bytes under its own type, a tool call's input and a
/// finish are JSON.
#[utoipa::path(get, path = "/messages/{id}/parts/{index}", tag = "messages", params(
    ("id" = String, Path, description = "The message's id"),
    ("index" = i64, Path, description = "The part's index, counting all kinds", minimum = 0),
), responses(
    (status = 200, description = "The bytes", body = String, content_type = "*/*", headers(("Event-Cursor" = String, description = "Follow the events from here"))),
    (status = "default", description = "An error", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn get_message_part(
    State(domain): State<OpenCode>,
    Path(PartPath { id, index }): Path<PartPath>,
    _: Query<NoParams>,
) -> Result<Response> {
    let read = domain.get_message_part(&id, index).await?;
    let mime_type = HeaderValue::from_str(&read.value.mime_type)
        .unwrap_or_else(|_| HeaderValue::from_static("application/octet-stream"));
    // What a user or a model sent must not act as a page of this server.
    let headers = [
        (header::CONTENT_TYPE, mime_type),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox; default-src 'none'")),
    ];
    Ok((EventCursor(read.as_of), headers, read.value.data).into_response())
}

/// Deletes all messages. Their content is erased from the log; cost and ledger stay.
#[utoipa::path(delete, path = "/messages", tag = "messages", responses(
    (status = 204, description = "They are gone", headers(("Event-Cursor" = String, description = "Follow the events from here"))),
    (status = "default", description = "An error", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn clear_messages(
    State(domain): State<OpenCode>,
    _: Query<NoParams>,
) -> Result<(StatusCode, EventCursor, ())> {
    let read = domain.clear_messages().await?;
    Ok((StatusCode::NO_CONTENT, EventCursor(read.as_of), ()))
}
