//! Subscriptions as gRPC streams.

use std::pin::Pin;

use futures_util::Stream;
use tonic::{Request, Status};

use super::{
    error,
    event::{draining, resync},
    pb,
};
use crate::domain::{Cursor, Event, Item, Subscription};

/// What a streaming RPC answers.
pub(super) type Streaming<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A view of the log: how events, resyncs and places are told in the messages of one RPC.
pub(super) trait View: Sized + Send + 'static {
    /// An event at its place.
    fn event(cursor: Cursor, event: &Event) -> Self;
    /// All up to here was considered.
    fn position(cursor: Cursor) -> Self;
    /// A frame that is no event of the log.
    fn frame(cursor: Cursor, event: pb::Event) -> Self;
}

/// The id of a call, for errors in the middle of its stream.
pub(super) fn request_id<T>(call: &Request<T>) -> String {
    let id = call.metadata().get("x-request-id").and_then(|id| id.to_str().ok());
    id.unwrap_or_default().to_owned()
}

/// The stream of a subscription.
pub(super) fn view<T: View>(events: Subscription, request_id: String) -> Streaming<T> {
    let items = futures_util::stream::unfold((events.shown(), request_id), |(mut events, request_id)| async move {
        let message = loop {
            match events.next().await? {
                Item::Event(logged) => match logged.event() {
                    Some(event) => break Ok(T::event(logged.cursor, event)),
                    None => tracing::error!(cursor = %logged.cursor, "an event of the log cannot be read"),
                },
                Item::Position(cursor) => break Ok(T::position(cursor)),
                Item::Resync { reason, cursor } => break Ok(T::frame(cursor, resync(cursor, reason))),
                Item::Draining { deadline, cursor } => break Ok(T::frame(cursor, draining(cursor, deadline))),
                Item::Closed(error) => break Err(error::in_stream(&error, &request_id, events.position())),
            }
        };
        Some((message, (events, request_id)))
    });
    Box::pin(items)
}
