//! Messages and their parts: what the user, the model and the tools said.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    OpenCode, Read,
    error::{Error, Result},
    event::{EventKind, MessagesCleared},
    id::{MessageId, SessionId, TurnId},
    list::{List, PageQuery},
    part::{FinishReason, PART_LIMIT, Part, ToolCall, WholePart},
    store::Batch,
    usage::Usage,
};

/// All parts of a message in an event or a list together stay below this many bytes of JSON.
const VIEW_LIMIT: usize = 2 * 1024 * 1024;

/// One message of the session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Message {
    /// Its id.
    pub id: MessageId,
    /// The session that it belongs to.
    pub session_id: SessionId,
    /// Who speaks.
    pub role: Role,
    /// The parts. Parts are only added at the end; none moves or changes its kind.
    pub parts: Vec<Part>,
    /// The model that wrote it, as `provider/id`; for a user message, the model it was sent to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The turn that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn_id: Option<TurnId>,
    /// What the model call behind it used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// When its first part appeared.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When it was whole; absent while it grows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// The number of the last event folded into it. An event about this message whose number is not above it
    /// is already contained.
    pub seq: u64,
}

/// Who speaks in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The user.
    User,
    /// The model.
    Assistant,
    /// The tools: their results.
    Tool,
}

impl Message {
    /// The message as events and lists show it: large parts cut, seals left out.
    pub fn view(&self) -> Self {
        let mut limit = PART_LIMIT;
        loop {
            let parts: Vec<Part> = self.parts.iter().map(|part| part.view(limit)).collect();
            // Many parts below the limit of one can still be too much together.
            if limit <= 256 || parts.iter().map(Part::weight).sum::<usize>() <= VIEW_LIMIT {
                return Self { parts, ..self.clone_without_parts() };
            }
            limit /= 2;
        }
    }

    /// About the bytes of its JSON.
    pub(super) fn shown_bytes(&self) -> usize {
        self.parts.iter().map(Part::weight).sum::<usize>() + 1024
    }

    fn clone_without_parts(&self) -> Self {
        let Self { id, session_id, role, parts: _, model, turn_id, usage, created_at, updated_at, finished_at, seq } =
            self;
        Self {
            id: id.clone(),
            session_id: session_id.clone(),
            role: *role,
            parts: Vec::new(),
            model: model.clone(),
            turn_id: turn_id.clone(),
            usage: usage.clone(),
            created_at: *created_at,
            updated_at: *updated_at,
            finished_at: *finished_at,
            seq: *seq,
        }
    }

    /// The tool calls in it, in order.
    pub fn tool_calls(&self) -> impl Iterator<Item = &ToolCall> {
        self.parts.iter().filter_map(|part| match part {
            Part::ToolCall(call) => Some(call),
            Part::Text(_) | Part::Binary(_) | Part::ToolResult(_) | Part::Finish(_) | Part::Reasoning(_) => None,
        })
    }

    /// Why it ended, if it is a model's answer that has.
    pub fn finish_reason(&self) -> Option<FinishReason> {
        self.parts.iter().rev().find_map(|part| match part {
            Part::Finish(finish) => Some(finish.reason),
            Part::Text(_) | Part::Binary(_) | Part::ToolCall(_) | Part::ToolResult(_) | Part::Reasoning(_) => None,
        })
    }

    /// Adds streamed text to the part at `index`, or opens that part with what `open` makes.
    pub fn append(&mut self, index: usize, text: &str, open: impl FnOnce() -> Part) {
        if index == self.parts.len() {
            self.parts.push(open());
        }
        match self.parts.get_mut(index) {
            Some(Part::Text(part)) => part.text.push_str(text),
            Some(Part::Reasoning(part)) => part.thinking.push_str(text),
            Some(Part::ToolResult(part)) => part.content.push_str(text),
            Some(Part::ToolCall(part)) => match &mut part.input {
                Value::String(input) => input.push_str(text),
                other => *other = Value::String(text.to_owned()),
            },
            Some(Part::Binary(_) | Part::Finish(_)) | None => {}
        }
    }
}

/// Which messages are wanted.
#[derive(Clone, Debug, Default)]
pub struct ListMessages {
    /// Which page.
    pub page: PageQuery,
    /// Only of this role.
    pub role: Option<Role>,
}

impl OpenCode {
    /// A page of the messages, large parts cut.
    pub async fn list_messages(&self, wish: ListMessages) -> Result<List<Message>> {
        // Page cursors are bound to the session: one of before a reset is refused instead of giving a wrong page.
        let session = self.read(|snapshot| snapshot.session()).await?.value;
        let tail = session.map(|session| session.id.as_str().chars().rev().take(8).collect::<String>());
        let checked = wish.page.check(&format!("m{}", tail.unwrap_or_default()))?;
        let (role, page) = (wish.role, checked.page);
        Ok(checked.answer(self.read(move |snapshot| snapshot.messages(role, page)).await?))
    }

    /// One message, large parts cut.
    pub async fn get_message(&self, id: &str) -> Result<Read<Message>> {
        let wanted = id.to_owned();
        let read = self.read(move |snapshot| snapshot.message(&wanted)).await?;
        let as_of = read.as_of;
        let value = read.value.ok_or_else(|| Error::not_found("message", id))?;
        Ok(Read { value, as_of })
    }

    /// One part of a message, whole.
    pub async fn get_message_part(&self, id: &str, index: i64) -> Result<Read<WholePart>> {
        let wanted = id.to_owned();
        let read = self.read(move |snapshot| snapshot.whole_message(&wanted)).await?;
        let as_of = read.as_of;
        let message = read.value.ok_or_else(|| Error::not_found("message", id))?;
        let part = usize::try_from(index).ok().and_then(|index| message.parts.get(index));
        let part = part.ok_or_else(|| Error::not_found("part", format_args!("{index} of message {id}")))?;
        Ok(Read { value: part.whole(), as_of })
    }

    /// Deletes all messages; their content is erased from the log, cost and ledger stay.
    pub async fn clear_messages(&self) -> Result<Read<()>> {
        self.ensure_session().await?;
        let domain = self.clone();
        self.to_the_end(async move {
            let _gate = domain.0.gate.lock().await;
            domain.refuse_while_busy().await?;
            let batch = Batch::new().event(None, EventKind::MessagesCleared(MessagesCleared {}));
            domain.0.store.append(batch).await
        })
        .await?;
        self.read(|_| Ok(())).await
    }
}
