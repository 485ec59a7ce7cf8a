//! After a crash: the next start writes the endings that are missing, before it opens a door.

use std::collections::HashSet;

use super::{
    act::{close_results, results_of},
    ending::{End, Versions, ending},
};
use crate::domain::{
    error::Result,
    event::{Event, EventKind, MessageCompleted, MessageEvent, PermissionResolved, ToolCallCompleted},
    id::{MessageId, TurnId},
    ledger::CallKind,
    message::{Message, Role},
    part::{Finish, FinishReason, Part},
    permission::{PermissionDecision, PermissionResolver},
    session::now,
    store::{Batch, LedgerRow, Open, OpenCall, Store},
    turn::TurnErrorCode,
    usage::{Spent, Usage},
};

/// Ends every turn that has no end.
pub(in crate::domain) async fn recover(store: &Store) -> Result<()> {
    let turns = store.read(|snapshot| snapshot.running_turns()).await?;
    for turn in turns {
        let id = turn.id.clone();
        let open = store.read(move |snapshot| snapshot.open(&id)).await?;
        let words = "the server was stopped while this ran; what it did is not known";
        store.append(close(&turn.id, open, words).ending()).await?;
        let message = "the server was stopped while this turn ran; send the message again or another one".into();
        let end = End::failed(FinishReason::Error, TurnErrorCode::Interrupted, message, None);
        // Read again: the answer that was just closed may be its last, and has its row in the ledger.
        let id = turn.id.clone();
        let read = store.read(move |snapshot| Ok((snapshot.turn(id.as_str())?, snapshot.steered(&id)?)));
        let (again, steered) = read.await?;
        let turn = again.unwrap_or(turn);
        let versions = Versions::interrupted(turn.version_before);
        let (batch, _) = ending(&turn.id, end, turn.usage, turn.message_id, versions, steered, None);
        store.append(batch).await?;
        tracing::warn!(turn = %turn.id, "closed a turn that the last run left open");
    }
    Ok(())
}

/// Closes permission requests, provider calls, and open messages: an answer ends as `error`, every tool call without a
/// result gets one.
pub(super) fn close(turn_id: &TurnId, open: Open, words: &str) -> Batch {
    let mut batch = Batch::new();
    for permission in open.permissions {
        let resolved = PermissionResolved {
            permission_id: Some(permission.id),
            decision: PermissionDecision::Deny,
            by: PermissionResolver::Interruption,
            reason: None,
            tool_call_id: permission.tool_call_id,
            tool_name: permission.tool_name,
        };
        batch = batch.event(Some(turn_id), EventKind::PermissionResolved(resolved));
    }
    let unanswered: HashSet<_> = open.tool_calls.iter().filter_map(began).collect();
    let spent = Spent { unpriced_calls: 1, calls: 1, ..Spent::default() };
    for call in open.calls {
        let answer = open.messages.iter().find(|message| message.role == Role::Assistant);
        let message_id = answer.filter(|_| call.kind == CallKind::Turn).map(|message| message.id.clone());
        batch = batch.ledger(interrupted(call, message_id, spent));
    }
    let tool_calls = open.tool_calls;
    let mut open = open.messages;
    for message in open.iter_mut().filter(|message| message.role == Role::Tool) {
        close_tool_message(message, &unanswered, words);
    }
    for event in tool_calls {
        if let EventKind::ToolCallStarted(started) = event.kind {
            // What it had shown by then stays in its result.
            let message = open.iter().find(|message| message.id == started.message_id);
            let output = match message.and_then(|message| message.parts.get(started.part_index as usize)) {
                Some(Part::ToolResult(result)) => result.content.clone(),
                Some(Part::Text(_) | Part::Binary(_) | Part::ToolCall(_) | Part::Finish(_) | Part::Reasoning(_))
                | None => words.to_owned(),
            };
            let completed = ToolCallCompleted {
                message_id: started.message_id,
                part_index: started.part_index,
                tool_call_id: started.tool_call_id,
                output,
                is_error: true,
                metadata: None,
                duration_ms: u64::try_from(now().duration_since(event.at).as_millis()).unwrap_or(0),
                truncated: false,
                size: None,
            };
            batch = batch.event(Some(turn_id), EventKind::ToolCallCompleted(completed));
        }
    }
    for mut message in open {
        let completed = match message.role {
            Role::Tool => None,
            Role::Assistant | Role::User => {
                let time = now();
                let reason = FinishReason::Error;
                message.parts.push(Part::Finish(Finish { reason, time }));
                (message.updated_at, message.finished_at) = (time, Some(time));
                let usage = Usage::from(spent);
                Some(MessageCompleted { message_id: message.id.clone(), finish_reason: reason, usage })
            }
        };
        let results = completed.as_ref().and_then(|_| results_of(&message));
        batch = batch.event(Some(turn_id), EventKind::MessageUpdated(MessageEvent { message }));
        if let Some(completed) = completed {
            batch = batch.event(Some(turn_id), EventKind::MessageCompleted(completed));
        }
        if let Some(mut message) = results {
            close_results(&mut message, &[], "not run: the answer that called it was cut off");
            batch = batch.event(Some(turn_id), EventKind::MessageCreated(MessageEvent { message }));
        }
    }
    batch
}

/// The result that an event says a call of has begun.
fn began(event: &Event) -> Option<(MessageId, u32)> {
    let EventKind::ToolCallStarted(started) = &event.kind else { return None };
    Some((started.message_id.clone(), started.part_index))
}

/// The row of a call that nobody saw the end of: what it cost is not known.
fn interrupted(call: OpenCall, message_id: Option<MessageId>, spent: Spent) -> LedgerRow {
    let OpenCall { turn_id, at, kind, model, attempt } = call;
    LedgerRow {
        turn_id,
        message_id,
        at,
        kind,
        model,
        attempt,
        outcome: "interrupted",
        duration_ms: 0,
        spent,
        price: None,
    }
}

/// Results that are there stay; a call that ran gets `words`, one that never began is told so.
fn close_tool_message(message: &mut Message, unanswered: &HashSet<(MessageId, u32)>, words: &str) {
    let began: Vec<bool> =
        (0..message.parts.len()).map(|index| unanswered.contains(&(message.id.clone(), index as u32))).collect();
    let answered: Vec<bool> = message
        .parts
        .iter()
        .enumerate()
        .map(|(index, part)| match part {
            // A result with words or figures and no open call is one that a tool gave.
            Part::ToolResult(result) => {
                !began[index] && (!result.content.is_empty() || result.metadata.is_some() || result.is_error)
            }
            Part::Text(_) | Part::Binary(_) | Part::ToolCall(_) | Part::Finish(_) | Part::Reasoning(_) => true,
        })
        .collect();
    let not_begun: Vec<bool> = answered.iter().zip(&began).map(|(answered, began)| *answered || *began).collect();
    close_results(message, &not_begun, "not run: the server was stopped before");
    close_results(message, &began.iter().map(|began| !began).collect::<Vec<_>>(), words);
}
