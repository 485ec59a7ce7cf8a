//! The RPCs of events, and the event itself in the three views that stream it.

use jiff::Timestamp;
use tonic::{Request, Response};

use super::{
    Result,
    pb::{self, event::Event as Member, send_message_response as sent, stream_messages_response as streamed},
    session::{signed, text, time, with_cursor},
    stream::{Streaming, View, request_id, view},
};
use crate::domain::{
    AgentStatusChanged, ContextCompacted, Cursor, Event, EventKind, EventPage, FilesChanged, ListEvents,
    MessageCompleted, MessageDeleted, MessageEvent, MessagesCleared, ModelChanged, ModelRetry, OpenCode, ResyncReason,
    SessionEvent, StreamEvents, TextDelta, ToolCallCompleted, ToolCallStarted, ToolDelta, TurnCompleted, TurnError,
    TurnStarted,
};

pub(super) async fn stream_events(
    domain: &OpenCode,
    call: Request<pb::StreamEventsRequest>,
) -> Result<Streaming<pb::Event>> {
    let id = request_id(&call);
    let pb::StreamEventsRequest { after, types, turn_id } = call.into_inner();
    let wish = StreamEvents { after: text(after), forgiving: false, types, turn_id: text(turn_id) };
    Ok(Response::new(view(domain.stream_events(wish).await?, id)))
}

pub(super) async fn list_events(domain: &OpenCode, wish: pb::ListEventsRequest) -> Result<pb::ListEventsResponse> {
    let pb::ListEventsRequest { after, types, turn_id, limit, wait } = wish;
    let stream = StreamEvents { after: text(after), forgiving: false, types, turn_id: text(turn_id) };
    let wish = ListEvents { stream, limit: limit.into(), wait: wait.into() };
    let EventPage { events, next, has_more, resync } = domain.list_events(wish).await?;
    let answer = pb::ListEventsResponse {
        events: events.iter().filter_map(|logged| Some(whole(logged.cursor, logged.event()?))).collect(),
        next: next.to_string(),
        has_more,
        resync: resync.map(Into::into),
    };
    Ok(with_cursor(answer, next))
}

/// The frame that says that what the client has is stale.
pub(super) fn resync(cursor: Cursor, reason: ResyncReason) -> pb::Event {
    frame(cursor, Some(Member::ResyncRequired(reason.into())))
}

/// The frame that says that the server is about to end.
pub(super) fn draining(cursor: Cursor, deadline: Timestamp) -> pb::Event {
    frame(cursor, Some(Member::ServerDraining(pb::ServerDraining { deadline: Some(time(deadline)) })))
}

fn frame(cursor: Cursor, event: Option<Member>) -> pb::Event {
    pb::Event { cursor: cursor.to_string(), seq: 0, at: None, turn_id: String::new(), token_id: String::new(), event }
}

fn whole(cursor: Cursor, event: &Event) -> pb::Event {
    let Event { seq, at, turn_id, token_id, kind } = event;
    pb::Event {
        cursor: cursor.to_string(),
        seq: *seq,
        at: Some(time(*at)),
        turn_id: turn_id.as_ref().map(ToString::to_string).unwrap_or_default(),
        token_id: token_id.as_deref().unwrap_or_default().to_owned(),
        event: Some(member(event, kind.clone())),
    }
}

/// Everything.
impl View for pb::Event {
    fn event(cursor: Cursor, event: &Event) -> Self {
        whole(cursor, event)
    }

    fn position(cursor: Cursor) -> Self {
        frame(cursor, None)
    }

    fn frame(_: Cursor, event: pb::Event) -> Self {
        event
    }
}

/// One turn, with the published names for what they cover.
impl View for pb::SendMessageResponse {
    fn event(cursor: Cursor, event: &Event) -> Self {
        let mut whole = whole(cursor, event);
        let response = match whole.event.take() {
            Some(Member::MessageCreated(pb::MessageCreated { message: Some(message) }))
                if message.role == i32::from(pb::MessageRole::Assistant) =>
            {
                sent::Response::MessageStarted(pb::MessageStarted {
                    message_id: message.id,
                    timestamp: message.created_at,
                })
            }
            Some(Member::ContentDelta(delta)) => sent::Response::ContentDelta(delta),
            Some(Member::ToolCallStarted(started)) => sent::Response::ToolCallStarted(started),
            Some(Member::ToolCallCompleted(completed)) => sent::Response::ToolCallCompleted(completed),
            Some(Member::MessageCompleted(completed)) => sent::Response::MessageCompleted(completed),
            Some(Member::TurnFailed(pb::TurnFailed { code, message, details, retryable })) => {
                sent::Response::Error(pb::ErrorResponse { code, message, details, retryable })
            }
            // What the published message has no name for.
            other => sent::Response::Other(pb::Event { event: other, ..whole }),
        };
        Self { response: Some(response), cursor: cursor.to_string(), seq: event.seq, turn: None }
    }

    fn position(cursor: Cursor) -> Self {
        Self { response: None, cursor: cursor.to_string(), seq: 0, turn: None }
    }

    fn frame(cursor: Cursor, event: pb::Event) -> Self {
        Self { response: Some(sent::Response::Other(event)), ..Self::position(cursor) }
    }
}

/// Whole messages.
impl View for pb::StreamMessagesResponse {
    fn event(cursor: Cursor, event: &Event) -> Self {
        let mut whole = whole(cursor, event);
        let told = match whole.event.take() {
            Some(Member::MessageCreated(created)) => streamed::Event::MessageCreated(created),
            Some(Member::MessageUpdated(updated)) => streamed::Event::MessageUpdated(updated),
            Some(Member::MessageDeleted(deleted)) => streamed::Event::MessageDeleted(deleted),
            other => streamed::Event::Other(pb::Event { event: other, ..whole }),
        };
        Self { event: Some(told), cursor: cursor.to_string(), seq: event.seq }
    }

    fn position(cursor: Cursor) -> Self {
        Self { event: None, cursor: cursor.to_string(), seq: 0 }
    }

    fn frame(cursor: Cursor, event: pb::Event) -> Self {
        Self { event: Some(streamed::Event::Other(event)), ..Self::position(cursor) }
    }
}

impl From<ResyncReason> for pb::ResyncRequired {
    fn from(reason: ResyncReason) -> Self {
        let reason = match reason {
            ResyncReason::OtherLog => pb::ResyncReason::OtherLog,
            ResyncReason::Lost => pb::ResyncReason::Lost,
            ResyncReason::Expired => pb::ResyncReason::Expired,
        };
        Self { reason: reason.into() }
    }
}

fn member(event: &Event, kind: EventKind) -> Member {
    let session = |SessionEvent { session }: SessionEvent| Some(session.into());
    let message = |MessageEvent { message }: MessageEvent| Some(message.into());
    match kind {
        EventKind::SessionCreated(event) => Member::SessionCreated(pb::SessionCreated { session: session(event) }),
        EventKind::SessionUpdated(event) => Member::SessionUpdated(pb::SessionUpdated { session: session(event) }),
        EventKind::SessionReset(event) => Member::SessionReset(pb::SessionReset { session: session(event) }),
        EventKind::TurnStarted(TurnStarted { user_message_id, model }) => {
            Member::TurnStarted(pb::TurnStarted { user_message_id: user_message_id.to_string(), model })
        }
        EventKind::MessageCreated(event) => Member::MessageCreated(pb::MessageCreated { message: message(event) }),
        EventKind::MessageUpdated(event) => Member::MessageUpdated(pb::MessageUpdated { message: message(event) }),
        EventKind::ContentDelta(TextDelta { message_id, part_index, text }) => Member::ContentDelta(pb::ContentDelta {
            text,
            message_id: message_id.to_string(),
            part_index: Some(index(part_index)),
        }),
        EventKind::ReasoningDelta(TextDelta { message_id, part_index, text }) => {
            let message_id = message_id.to_string();
            Member::ReasoningDelta(pb::ReasoningDelta { text, message_id, part_index: Some(index(part_index)) })
        }
        // Input is never cut: what streams is all of it.
        EventKind::ToolInputDelta(ToolDelta { message_id, part_index, tool_call_id, text, truncated: _ }) => {
            Member::ToolInputDelta(pb::ToolInputDelta {
                text,
                message_id: message_id.to_string(),
                part_index: Some(index(part_index)),
                tool_call_id: tool_call_id.to_string(),
            })
        }
        EventKind::ToolOutputDelta(ToolDelta { message_id, part_index, tool_call_id, text, truncated }) => {
            Member::ToolOutputDelta(pb::ToolOutputDelta {
                text,
                message_id: message_id.to_string(),
                part_index: Some(index(part_index)),
                tool_call_id: tool_call_id.to_string(),
                truncated,
            })
        }
        EventKind::ToolCallStarted(started) => Member::ToolCallStarted(started.into()),
        EventKind::ToolCallCompleted(completed) => Member::ToolCallCompleted(completed.into()),
        EventKind::MessageCompleted(MessageCompleted { message_id, finish_reason, usage }) => {
            Member::MessageCompleted(pb::MessageCompleted {
                message_id: message_id.to_string(),
                finish_reason: pb::FinishReason::from(finish_reason).into(),
                timestamp: Some(time(event.at)),
                usage: Some(usage.into()),
            })
        }
        EventKind::MessageDeleted(MessageDeleted { message_id }) => {
            Member::MessageDeleted(pb::MessageDeleted { message_id: message_id.to_string() })
        }
        EventKind::MessagesCleared(MessagesCleared {}) => Member::MessagesCleared(pb::MessagesCleared {}),
        EventKind::ModelRetry(ModelRetry { attempt, of, delay_ms, code }) => Member::ModelRetry(pb::ModelRetry {
            attempt: index(attempt),
            of: index(of),
            delay_ms: signed(delay_ms),
            code: code.as_str().into(),
        }),
        EventKind::ModelChanged(ModelChanged { model, previous }) => {
            Member::ModelChanged(pb::ModelChanged { model, previous: previous.unwrap_or_default() })
        }
        EventKind::ContextCompacted(ContextCompacted {
            tokens_before,
            tokens_after,
            summary_message_id,
            kept_from_message_id,
        }) => Member::ContextCompacted(pb::ContextCompacted {
            tokens_before: signed(tokens_before),
            tokens_after: signed(tokens_after),
            summary_message_id: summary_message_id.map(|id| id.to_string()).unwrap_or_default(),
            kept_from_message_id: kept_from_message_id.map(|id| id.to_string()).unwrap_or_default(),
        }),
        EventKind::PermissionRequested(requested) => Member::PermissionRequested(requested.into()),
        EventKind::PermissionResolved(resolved) => Member::PermissionResolved(resolved.into()),
        EventKind::AgentStatusChanged(AgentStatusChanged { status, current_operation }) => {
            Member::AgentStatusChanged(pb::AgentStatusChanged {
                status: pb::AgentStatus::from(status).into(),
                current_operation: current_operation.unwrap_or_default(),
            })
        }
        EventKind::FilesChanged(FilesChanged { version, files, truncated, by }) => {
            Member::FilesChanged(pb::FilesChanged {
                version,
                files: files.into_iter().map(Into::into).collect(),
                truncated,
                by: pb::VersionCause::from(by).into(),
            })
        }
        EventKind::TurnFailed(TurnError { code, message, retryable, details }) => Member::TurnFailed(pb::TurnFailed {
            code: code.as_str().into(),
            message,
            details: details.map(|value| value.to_string()).unwrap_or_default(),
            retryable,
        }),
        EventKind::TurnCompleted(TurnCompleted { finish_reason, usage, message_id, version_before, version_after }) => {
            Member::TurnCompleted(pb::TurnCompleted {
                finish_reason: pb::FinishReason::from(finish_reason).into(),
                usage: Some(usage.into()),
                version_before,
                version_after,
                message_id: message_id.map(|id| id.to_string()),
            })
        }
    }
}

fn index(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

impl From<ToolCallStarted> for pb::ToolCallStarted {
    fn from(started: ToolCallStarted) -> Self {
        let ToolCallStarted { message_id, part_index, tool_call_id, tool_name, input, truncated, size } = started;
        Self {
            tool_call_id: tool_call_id.to_string(),
            tool_name,
            input: input.to_string(),
            message_id: message_id.to_string(),
            part_index: Some(index(part_index)),
            truncated,
            size: size.map(signed).unwrap_or_default(),
        }
    }
}

impl From<ToolCallCompleted> for pb::ToolCallCompleted {
    fn from(completed: ToolCallCompleted) -> Self {
        let ToolCallCompleted {
            message_id,
            part_index,
            tool_call_id,
            output,
            is_error,
            metadata,
            duration_ms,
            truncated,
            size,
        } = completed;
        Self {
            tool_call_id: tool_call_id.to_string(),
            output,
            is_error,
            message_id: message_id.to_string(),
            part_index: Some(index(part_index)),
            duration_ms: Some(signed(duration_ms)),
            truncated,
            size: size.map(signed).unwrap_or_default(),
            metadata: metadata.map(|value| value.to_string()).unwrap_or_default(),
        }
    }
}
