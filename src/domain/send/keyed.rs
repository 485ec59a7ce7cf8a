//! What makes a message the same as one sent before: all that it asks for, in one form for every door.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{InputBinary, InputPart, InputText, SendMessage};
use crate::domain::{error::Result, queue::WhenBusy, repeat::Keyed};

impl SendMessage {
    /// The request with its key, if it has one.
    pub(super) fn keyed(&self) -> Result<Option<Keyed>> {
        let Self {
            parts,
            attachments,
            text,
            model,
            budget,
            cancel_on_disconnect,
            when_busy,
            turn_id,
            idempotency_key,
            // Where a stream begins is not what is asked for.
            after: _,
            forgiving: _,
            // Nor is who may ask for it.
            token: _,
            permission_mode,
        } = self;
        let Some(key) = idempotency_key.clone() else { return Ok(None) };
        let short = text.iter().map(|text| InputPart::Text(InputText { text: text.clone() }));
        let mut wish = Map::new();
        wish.insert("parts".into(), parts.iter().cloned().chain(short).map(|part| form(&part)).collect());
        // Only what was asked for, so that a field that comes to be does not make old requests others.
        if !attachments.is_empty() {
            wish.insert("attachments".into(), json!(attachments));
        }
        if let Some(model) = model {
            wish.insert("model".into(), json!(model));
        }
        if let Some(budget) = budget {
            wish.insert("budget".into(), json!(budget));
        }
        if let Some(mode) = permission_mode {
            wish.insert("permission_mode".into(), json!(mode));
        }
        if *cancel_on_disconnect {
            wish.insert("cancel_on_disconnect".into(), json!(true));
        }
        match when_busy {
            WhenBusy::Reject => {}
            WhenBusy::Queue => drop(wish.insert("when_busy".into(), json!("queue"))),
            WhenBusy::Steer => drop(wish.insert("when_busy".into(), json!({ "steer": turn_id }))),
        }
        Keyed::new(key, "send_message", &wish).map(Some)
    }
}

/// A part in one form, whatever the bytes came in.
fn form(part: &InputPart) -> Value {
    match part {
        InputPart::Text(InputText { text }) => json!({ "text": text }),
        InputPart::Binary(InputBinary { path, mime_type, base64_data, data }) => {
            let bytes = data.clone().or_else(|| STANDARD.decode(base64_data.as_ref()?).ok().map(Into::into));
            let hash = bytes.map(|bytes| STANDARD.encode(Sha256::digest(&bytes)));
            let mime_type = mime_type.as_ref().filter(|name| !name.is_empty());
            json!({ "path": path, "mime_type": mime_type, "data": hash })
        }
    }
}
