//! The parts of a user's message: checked, decoded, and read where they name files.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;

use super::{Attachment, InputBinary, InputPart, InputText, MAX_PARTS};
use crate::domain::{
    OpenCode, Settings,
    access::{Caller, Needs, Scope},
    error::{Code, Error, Result},
    part::{Binary, Data, Part, Text, json_len},
};

/// Most bytes of a path.
const MAX_PATH: usize = 4096;

impl OpenCode {
    /// Checks what the user sent and reads the files that it names.
    pub(super) async fn input_parts(
        &self,
        mut input: Vec<InputPart>,
        text: Option<String>,
        attachments: Vec<Attachment>,
    ) -> Result<Vec<Part>> {
        match text {
            Some(_) if !input.is_empty() => return Err(Error::field("text", "cannot be combined with parts")),
            Some(text) if text.trim().is_empty() => return Err(Error::field("text", "must not be empty")),
            Some(text) => input.push(InputPart::Text(InputText { text })),
            None => {}
        }
        if input.is_empty() {
            return Err(Error::field("parts", "must not be empty; {\"text\": \"...\"} is the short form"));
        }
        if input.len() + attachments.len() > MAX_PARTS {
            return Err(too_large(format!("a message has at most {MAX_PARTS} parts and attachments")));
        }
        let mut parts = Vec::with_capacity(input.len() + attachments.len());
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
        for (index, attachment) in attachments.into_iter().enumerate() {
            parts.push(self.input_attachment(&format!("attachments[{index}]"), attachment).await?);
        }
        for part in &parts {
            match part {
                Part::Text(part) => text += json_len(&part.text),
                Part::Binary(part) => files += part.data.as_ref().map_or(0, |data| data.0.len()),
                Part::ToolCall(_) | Part::ToolResult(_) | Part::Finish(_) | Part::Reasoning(_) => {}
            }
        }
        let Settings { max_text_bytes: most_text, max_attachment_bytes: most_files, .. } = &self.0.settings;
        if text as u64 > *most_text {
            let detail =
                format!("the text of a message is limited to {most_text} bytes as JSON (OPENCODE_MAX_TEXT_BYTES)");
            return Err(too_large(detail));
        }
        if files as u64 > *most_files {
            let detail = format!(
                "the files of a message are limited to {most_files} bytes together (OPENCODE_MAX_ATTACHMENT_BYTES)"
            );
            return Err(too_large(detail));
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
        if let Some(caller) = Caller::current() {
            caller.check(Needs::Scope(Scope::FilesRead)).map_err(|error| error.inside(field))?;
        }
        let read = self.0.workspace.read_for_client(path, self.0.settings.max_attachment_bytes).await;
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

fn too_large(detail: String) -> Error {
    Error::new(Code::TooLarge, detail)
}
