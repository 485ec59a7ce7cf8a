//! How a file that was sent along is shown to a model, the same in every dialect.

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::domain::{
    part::{Binary, MAX_IMAGE},
    workspace::image_type,
};

/// What a model gets to see of a file.
pub(super) enum Shown {
    /// An image that it can look at.
    Image {
        /// One of the four types that every provider takes.
        mime_type: &'static str,
        /// The bytes.
        base64: String,
    },
    /// Words: the text itself, or what the file is.
    Words(String),
}

/// Shows a file to a model that takes `images` or does not.
pub(super) fn show(file: &Binary, images: bool) -> Shown {
    let name = file.path.as_deref().unwrap_or("without a name");
    let essence = file.mime_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    // By content, whatever the sender said: a provider refuses a whole history for one picture that is none.
    let image = file.data.as_ref().filter(|data| data.0.len() <= MAX_IMAGE).and_then(|data| image_type(&data.0));
    match (image, &file.data) {
        (Some(mime_type), Some(data)) if images => Shown::Image { mime_type, base64: STANDARD.encode(&data.0) },
        (None, Some(data)) if !essence.starts_with("image/") => match std::str::from_utf8(&data.0) {
            Ok(text) => Shown::Words(format!("<file name=\"{name}\">\n{text}\n</file>")),
            Err(_) => Shown::Words(unseen(file, name)),
        },
        (Some(_) | None, Some(_) | None) => Shown::Words(unseen(file, name)),
    }
}

fn unseen(file: &Binary, name: &str) -> String {
    format!("[the file {name} ({}, {} bytes) is attached, but cannot be shown to you]", file.mime_type, file.size)
}
