//! Sending a message: checked, accepted in one transaction, and then a turn of its own that no request owns.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    OpenCode,
    agent::{self, Running, Untitled},
    cursor::Cursor,
    error::{Code, Error, Result},
    event::{AgentStatusChanged, EventKind, MessageEvent, SessionEvent, TurnStarted},
    id::{MessageId, TurnId},
    message::{Message, Role},
    model::Model,
    part::{Binary, Data, Part, Text, json_len},
    session::{fit_title, now},
    status::Activity,
    store::{Batch, Subscription},
};

/// Most bytes of text (as JSON) in all parts of a message together.
pub(super) const MAX_TEXT: usize = 1024 * 1024;
/// Most bytes of all files of a message together.
pub(super) const MAX_FILES: usize = 10 * 1024 * 1024;
/// Most parts and attachments of a message together.
pub(super) const MAX_PARTS: usize = 100;
/// Most bytes of a path.
const MAX_PATH: usize = 4096;

/// A user's message.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SendMessage {
    /// What the user says; instead of `text`.
    #[serde(default)]
    pub parts: Vec<InputPart>,
    /// Files beside the words.
    #[serde(default)]
    pub attachments: Vec<Attachment>,
    /// Shorthand for one text part; instead of `parts`.
    #[schema(min_length = 1)]
    pub text: Option<String>,
    /// The model of this turn as `provider/id`; the session's if absent. `mock/demo` needs no key.
    pub model: Option<String>,
}

/// One part of a user's message.
#[derive(Clone, Debug, PartialEq, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum InputPart {
    /// Words.
    Text(InputText),
    /// A file or an image.
    Binary(InputBinary),
}

/// Words.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InputText {
    /// The words.
    #[schema(min_length = 1)]
    pub text: String,
}

/// A file or an image: exactly one of `base64_data` and `path`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InputBinary {
    /// A file of the workspace, which is read now.
    pub path: Option<String>,
    /// Its MIME type; found by name or content if absent.
    pub mime_type: Option<String>,
    /// The bytes in base64.
    #[schema(content_encoding = "base64")]
    pub base64_data: Option<String>,
    /// The bytes, where the door has a type for them.
    #[serde(skip)]
    pub data: Option<Bytes>,
}

/// A file beside the words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// Its name; without `content`, a file of the workspace, which is read now.
    #[schema(min_length = 1)]
    pub path: String,
    /// Its content: text for text and JSON types, else base64.
    pub content: Option<String>,
    /// Its MIME type; found by name if absent.
    pub mime_type: Option<String>,
    /// Its size in bytes; refused where it is not the content's.
    pub size: Option<i64>,
}

/// A turn that was accepted.
pub struct Started {
    /// Its id.
    pub turn_id: TurnId,
    /// Its events from the user's message to `turn_completed`.
    pub events: Subscription,
}

impl OpenCode {
    /// Accepts a message and starts its turn, which goes on whoever watches.
    pub async fn send_message(&self, wish: SendMessage) -> Result<Started> {
        let name = wish.model.clone();
        let parts = self.input_parts(wish).await?;
        let model = self.model_for(name.as_deref()).await?;
        let domain = self.clone();
        // A client that leaves between the commit and the start must not leave a turn behind that nobody runs.
        let accepting = async move {
            let _gate = domain.0.gate.lock().await;
            domain.refuse_while_busy().await?;
            domain.accept(&model, parts).await
        };
        let (turn_id, first) = self.to_the_end(accepting).await?;
        let events = self.0.store.follow_new_turn(turn_id.clone(), first, self.0.closing.clone());
        Ok(Started { turn_id, events })
    }

    /// Stores the message and the beginning of its turn in one transaction, and starts it. Answers the cursor before
    /// its first event.
    async fn accept(&self, model: &Model, parts: Vec<Part>) -> Result<(TurnId, Cursor)> {
        if self.0.draining.load(std::sync::atomic::Ordering::Acquire) {
            return Err(Error::new(Code::Unavailable, "the server is shutting down")
                .retry_after(std::time::Duration::from_secs(1)));
        }
        let mut session = self.session_made_at_need().await?;
        let now = now();
        let turn_id = TurnId::generate();
        let mut batch = Batch::new();
        let mut untitled = None;
        if session.title.is_empty()
            && let Some(words) = words(&parts)
            && let Some(title) = fit_title(words)
        {
            untitled = Some(Untitled { title: title.clone(), words: words.to_owned() });
            (session.title, session.updated_at) = (title, now);
            batch = batch.event(None, EventKind::SessionUpdated(SessionEvent { session: session.clone() }));
        }
        let message = Message {
            id: MessageId::generate(),
            session_id: session.id.clone(),
            role: Role::User,
            parts,
            model: Some(model.info.id.clone()),
            turn_id: Some(turn_id.clone()),
            usage: None,
            created_at: now,
            updated_at: now,
            finished_at: Some(now),
            seq: 0,
        };
        let started = TurnStarted { user_message_id: message.id.clone(), model: model.info.id.clone() };
        let status = AgentStatusChanged {
            status: Activity::Processing,
            current_operation: Some(format!("calling {}", model.info.id)),
        };
        let batch = batch
            .event(Some(&turn_id), EventKind::MessageCreated(MessageEvent { message }))
            .event(Some(&turn_id), EventKind::TurnStarted(started))
            .event(Some(&turn_id), EventKind::AgentStatusChanged(status));
        let last = self.0.store.append(batch).await?;
        let running = Running::new(turn_id.clone());
        self.set_running(Some(running.clone()));
        self.0.tasks.spawn(agent::run(self.clone(), running, session.id, model.clone(), untitled));
        // Three events were stored for the turn.
        Ok((turn_id, Cursor { seq: last.saturating_sub(3), ..self.0.store.head() }))
    }

    /// Checks what the user sent and reads the files that it names.
    async fn input_parts(&self, wish: SendMessage) -> Result<Vec<Part>> {
        let mut input = wish.parts;
        match wish.text {
            Some(_) if !input.is_empty() => return Err(Error::field("text", "cannot be combined with parts")),
            Some(text) if text.trim().is_empty() => return Err(Error::field("text", "must not be empty")),
            Some(text) => input.push(InputPart::Text(InputText { text })),
            None => {}
        }
        if input.is_empty() {
            return Err(Error::field("parts", "must not be empty; {\"text\": \"...\"} is the short form"));
        }
        if input.len() + wish.attachments.len() > MAX_PARTS {
            return Err(too_large(format!("a message has at most {MAX_PARTS} parts and attachments")));
        }
        let mut parts = Vec::with_capacity(input.len() + wish.attachments.len());
        let (mut text, mut files) = (0, 0);
        for (index, part) in input.into_iter().enumerate() {
            let part = match part {
                InputPart::Text(part) if part.text.trim().is_empty() => {
                    return Err(Error::field(format!("parts[{index}].text"), "must not be empty"));
                }
                InputPart::Text(part) => Part::Text(Text { text: part.text }),
                InputPart::Binary(part) => self.input_binary(&format!("parts[{index}]"), part).await?,
            };
            parts.push(part);
        }
        for (index, attachment) in wish.attachments.into_iter().enumerate() {
            parts.push(self.input_attachment(&format!("attachments[{index}]"), attachment).await?);
        }
        for part in &parts {
            match part {
                Part::Text(part) => text += json_len(&part.text),
                Part::Binary(part) => files += part.data.as_ref().map_or(0, |data| data.0.len()),
                Part::ToolCall(_) | Part::ToolResult(_) | Part::Finish(_) | Part::Reasoning(_) => {}
            }
        }
        if text > MAX_TEXT {
            return Err(too_large(format!("the text of a message is limited to {MAX_TEXT} bytes as JSON")));
        }
        if files > MAX_FILES {
            return Err(too_large(format!("the files of a message are limited to {MAX_FILES} bytes together")));
        }
        Ok(parts)
    }

    async fn input_binary(&self, field: &str, part: InputBinary) -> Result<Part> {
        let InputBinary { path, mime_type, base64_data, data } = part;
        let data = match (path.as_deref(), base64_data, data) {
            (Some(path), None, None) => return self.read_binary(field, path, mime_type).await,
            (None, Some(text), None) => decode(&format!("{field}.base64_data"), &text)?,
            (None, None, Some(data)) => data,
            _ => return Err(Error::field(field, "needs exactly one of data, base64_data and path")),
        };
        if data.is_empty() {
            return Err(Error::field(field, "has no bytes"));
        }
        let mime_type = mime_type.filter(|name| !name.is_empty()).unwrap_or_else(|| mime_of(&data).into());
        check_mime(field, &mime_type)?;
        Ok(binary(None, mime_type, data))
    }

    async fn input_attachment(&self, field: &str, attachment: Attachment) -> Result<Part> {
        let Attachment { path, content, mime_type, size } = attachment;
        if path.is_empty() || path.len() > MAX_PATH {
            return Err(Error::field(format!("{field}.path"), format!("must have 1 to {MAX_PATH} bytes")));
        }
        let mime_type = mime_type.filter(|name| !name.is_empty());
        let part = match content.filter(|content| !content.is_empty()) {
            None => self.read_binary(field, &path, mime_type).await?,
            Some(content) => {
                let mime_type = mime_type
                    .unwrap_or_else(|| mime_guess::from_path(&path).first_raw().unwrap_or("text/plain").to_owned());
                check_mime(field, &mime_type)?;
                let data =
                    if is_text(&mime_type) { content.into() } else { decode(&format!("{field}.content"), &content)? };
                binary(Some(path), mime_type, data)
            }
        };
        match (&part, size.filter(|size| *size != 0)) {
            (Part::Binary(part), Some(size)) if i64::try_from(part.size).ok() != Some(size) => {
                Err(Error::field(format!("{field}.size"), format!("is not the content's size, which is {}", part.size)))
            }
            _ => Ok(part),
        }
    }

    async fn read_binary(&self, field: &str, path: &str, mime_type: Option<String>) -> Result<Part> {
        if path.len() > MAX_PATH {
            return Err(Error::field(format!("{field}.path"), format!("must have 1 to {MAX_PATH} bytes")));
        }
        let read = self.0.workspace.read_for_client(path, MAX_FILES as u64).await;
        let (data, found) = read.map_err(|error| error.inside(field))?;
        let mime_type = mime_type.unwrap_or(found);
        check_mime(field, &mime_type)?;
        Ok(binary(Some(path.to_owned()), mime_type, data.into()))
    }
}

fn binary(path: Option<String>, mime_type: String, data: Bytes) -> Part {
    let size = data.len() as u64;
    Part::Binary(Binary { path, mime_type, data: Some(Data(data)), truncated: false, size })
}

fn decode(field: &str, text: &str) -> Result<Bytes> {
    STANDARD.decode(text).map(Bytes::from).map_err(|_| Error::field(field, "is not base64"))
}

fn check_mime(field: &str, name: &str) -> Result<()> {
    let good = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&byte))
    };
    let essence = name.split(';').next().unwrap_or_default().trim();
    match essence.split_once('/') {
        Some((kind, subtype)) if good(kind) && good(subtype) && name.len() <= 127 && name.is_ascii() => Ok(()),
        _ => Err(Error::field(format!("{field}.mime_type"), "is no MIME type")),
    }
}

/// Whether content of this type is text.
fn is_text(mime_type: &str) -> bool {
    let essence = mime_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence.starts_with("text/")
        || essence.ends_with("+json")
        || essence.ends_with("+xml")
        || ["application/json", "application/xml", "application/yaml", "application/toml", "application/javascript"]
            .contains(&essence.as_str())
}

/// The type of bytes that came without one.
fn mime_of(data: &[u8]) -> &'static str {
    match data {
        [0x89, b'P', b'N', b'G', ..] => "image/png",
        [0xff, 0xd8, 0xff, ..] => "image/jpeg",
        [b'G', b'I', b'F', b'8', ..] => "image/gif",
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => "image/webp",
        [b'%', b'P', b'D', b'F', ..] => "application/pdf",
        _ if std::str::from_utf8(data).is_ok() => "text/plain",
        _ => "application/octet-stream",
    }
}

/// The first words of a message.
fn words(parts: &[Part]) -> Option<&str> {
    parts.iter().find_map(|part| match part {
        Part::Text(text) => Some(text.text.as_str()),
        Part::Binary(_) | Part::ToolCall(_) | Part::ToolResult(_) | Part::Finish(_) | Part::Reasoning(_) => None,
    })
}

fn too_large(detail: String) -> Error {
    Error::new(Code::TooLarge, detail)
}
