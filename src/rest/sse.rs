//! Server-sent events: what a subscription says, as frames of one stream.

use std::convert::Infallible;

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde_json::json;
use sse_stream::Sse;

use crate::domain::{Cursor, Error, Item, Logged, Subscription};

/// Milliseconds after which a browser reconnects.
const RETRY: u64 = 3000;
/// Frames that are ready are sent together up to this size.
const CHUNK: usize = 16 * 1024;

/// The stream of a subscription. `reconnects` says whether a client may come back to this very request, which is
/// not so with POST.
pub(super) fn stream(events: Subscription, reconnects: bool) -> Response {
    let first = if reconnects { frame(Sse::default().retry(RETRY)) } else { Bytes::new() };
    let frames = futures_util::stream::unfold((events.shown(), Some(first)), |(mut events, before)| async move {
        let item = events.next().await?;
        let frame = match item {
            Item::Event(event) => chunk(&mut events, &event),
            Item::Position(cursor) => match &before {
                Some(before) => join(before, &at(cursor)),
                None => beat(cursor),
            },
            Item::Resync { reason, cursor } => {
                let data = json!({ "type": "resync_required", "reason": reason.as_str() }).to_string();
                let sse = Sse::default().id(cursor.to_string()).event("resync_required").data(data);
                join(before.as_deref().unwrap_or_default(), &frame(sse))
            }
            Item::Draining { deadline, cursor } => {
                let data = json!({ "type": "server_draining", "deadline": deadline });
                frame(Sse::default().id(cursor.to_string()).event("server_draining").data(data.to_string()))
            }
            Item::Closed(error) => closed(&error, events.position()),
        };
        Some((Ok::<_, Infallible>(frame), (events, None)))
    });
    let mut response = Body::from_stream(frames).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// One event alone is the frame that all readers share; several that are ready go out together.
fn chunk(events: &mut Subscription, first: &Logged) -> Bytes {
    let one = first.rendered(render);
    let mut size = one.len();
    let mut frames = vec![one];
    while size < CHUNK
        && let Some(event) = events.next_ready()
    {
        let frame = event.rendered(render);
        size += frame.len();
        frames.push(frame);
    }
    if frames.len() == 1 {
        return frames.swap_remove(0);
    }
    // Made to measure: what a reader that stalls holds is this.
    let mut together = Vec::with_capacity(size);
    for frame in &frames {
        together.extend_from_slice(frame);
    }
    together.into()
}

fn render(event: &Logged) -> Bytes {
    // The log's JSON is one line of UTF-8, so that nothing is lost here.
    let data = String::from_utf8_lossy(&event.json).into_owned();
    frame(Sse::default().id(event.cursor.to_string()).event(event.event_type.as_str()).data(data))
}

/// A block of only `id:`, which a browser keeps as its place without showing an event.
fn at(cursor: Cursor) -> Bytes {
    frame(Sse::default().id(cursor.to_string()))
}

/// A comment for proxies and a block with the place for browsers.
fn beat(cursor: Cursor) -> Bytes {
    join(b": still here\n\n", &at(cursor))
}

fn closed(error: &Error, cursor: Cursor) -> Bytes {
    let code = match error.code() {
        crate::domain::Code::Unavailable => "draining",
        code => code.as_str(),
    };
    if let Some(cause) = error.cause() {
        tracing::error!(%cause, "a stream failed");
    }
    let data = json!({
        "type": "stream_closed",
        "code": code,
        // With the same token it is of no use.
        "retryable": error.code() != crate::domain::Code::Unauthenticated,
        "retry_after_ms": error.retry_after_hint().map_or(1000, |after| after.as_millis() as u64),
    });
    frame(Sse::default().id(cursor.to_string()).event("stream_closed").data(data.to_string()))
}

fn frame(sse: Sse) -> Bytes {
    // Only names with line breaks cannot be encoded; ours have none.
    sse.encode().unwrap_or_default()
}

fn join(first: &[u8], second: &[u8]) -> Bytes {
    [first, second].concat().into()
}
