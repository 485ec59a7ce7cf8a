//! `GET /events`.

use axum::{
    Json,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::{
    accept::{Wanted, wanted},
    error::{Problem, Result},
    extract::Query,
    message::EventCursor,
    sse,
};
use crate::domain::{Error, Event, EventPage, ListEvents, OpenCode, ResyncReason, StreamEvents};

/// Where a stream begins.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct AfterParams {
    /// A cursor: none is live from now, `0` is all that the log still holds.
    pub(super) after: Option<String>,
}

/// Which events are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct EventParams {
    /// A cursor: none is live from now (in a page: from the beginning), `0` is all that the log still holds.
    after: Option<String>,
    /// Names of types, separated by commas; `-` before a name leaves it out.
    types: Option<String>,
    /// Only events of this turn; the stream ends after its `turn_completed`.
    turn_id: Option<String>,
    /// Only with JSON: 1 to 1,000 events; zero or absent is 50.
    #[param(minimum = 0, maximum = 1000)]
    limit: Option<i64>,
    /// Only with JSON: seconds (0 to 60) to wait for the first event.
    #[param(minimum = 0, maximum = 60)]
    wait: Option<i64>,
}

/// A page of events.
#[derive(Serialize, ToSchema)]
pub(super) struct EventList {
    /// The events.
    #[schema(value_type = Vec<Event>)]
    events: Vec<Box<RawValue>>,
    /// The cursor to go on from.
    next: String,
    /// Whether more lie behind it now.
    has_more: bool,
    /// Where a stream would say `resync_required`: what the client has is stale.
    #[serde(skip_serializing_if = "Option::is_none")]
    resync: Option<Resync>,
}

/// The client reads the state anew.
#[derive(Serialize, ToSchema)]
pub(super) struct Resync {
    /// Why.
    reason: ResyncReason,
}

/// Every event from a cursor on, then live.
///
/// Server-sent events whose `id` is a cursor: a browser that reconnects gets exactly what it missed. With
/// `Accept: application/json` one page instead. Clients ignore event types that they do not know.
#[utoipa::path(get, path = "/events", tag = "events", params(EventParams,
    ("Last-Event-ID" = Option<String>, Header, description = "A cursor; wins over `after`"),
), responses(
    (status = 200, description = "The events", content((String = "text/event-stream"), (EventList = "application/json"))),
    (status = "default", description = "An error", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn stream_events(
    State(domain): State<OpenCode>,
    headers: HeaderMap,
    Query(params): Query<EventParams>,
) -> Result<Response> {
    let EventParams { after, types, turn_id, limit, wait } = params;
    let header = last_event_id(&headers);
    let forgiving = header.is_some();
    let types = types.unwrap_or_default().split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    let stream = StreamEvents { after: header.or(after), forgiving, types, turn_id };
    match (wanted(&headers)?, limit, wait) {
        (Wanted::Stream, None, None) => Ok(sse::stream(domain.stream_events(stream).await?, true)),
        (Wanted::Stream, limit, _) => {
            let name = if limit.is_some() { "limit" } else { "wait" };
            Err(Error::field(name, "is for pages; ask for them with Accept: application/json").into())
        }
        (Wanted::Json, limit, wait) => {
            let wish = ListEvents { stream, limit: limit.unwrap_or(0), wait: wait.unwrap_or(0) };
            list(&domain.list_events(wish).await?)
        }
    }
}

fn list(page: &EventPage) -> Result<Response> {
    let raw = |json: &[u8]| RawValue::from_string(String::from_utf8_lossy(json).into_owned()).map_err(Error::internal);
    let events = page.events.iter().map(|event| raw(&event.json)).collect::<std::result::Result<_, _>>()?;
    let list = EventList {
        events,
        next: page.next.to_string(),
        has_more: page.has_more,
        resync: page.resync.map(|reason| Resync { reason }),
    };
    Ok((EventCursor(page.next), Json(list)).into_response())
}

/// The place that a browser remembers.
pub(super) fn last_event_id(headers: &HeaderMap) -> Option<String> {
    let value = headers.get("last-event-id")?;
    Some(value.to_str().unwrap_or("?").to_owned()).filter(|text| !text.is_empty())
}
