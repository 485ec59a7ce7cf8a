//! Files of the workspace: listed, read, written and deleted. Names are bytes here, as the system has them; doors that
//! know text alone hand over its UTF-8.

mod conditions;
pub(super) mod list;
mod raw;
mod read;
mod write;

use std::borrow::Cow;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub(super) use self::conditions::{Checks, Current};
pub use self::{
    conditions::Conditions,
    list::{FileList, ListFiles},
    raw::{RawFile, Upload, WriteRaw},
    read::{FileContent, FileText, ReadFile},
    write::{DeleteFile, FileWritten, NewContent, WriteFile},
};
use super::{
    error::{Error, Result},
    workspace::{Facts, MAX_PATH},
};

/// A file or directory of the workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct FileInfo {
    /// Path relative to the workspace, with `/` between names. In a name that is not UTF-8, U+FFFD stands for what
    /// cannot be shown.
    pub path: String,
    /// Whether it is a directory.
    pub is_directory: bool,
    /// Size in bytes; 0 for a directory.
    pub size: u64,
    /// When its content last changed.
    pub modified_at: Timestamp,
    /// MIME type: by name in a list, by content too where one file is read or written. Absent for a directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mime_type: Option<Cow<'static, str>>,
    /// Tag of the content, for `If-Match` and `If-None-Match`. Absent for a directory, and in lists, for which no
    /// file is read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// Permission bits, such as 420 (octal 644).
    pub mode: u32,
    /// What a symbolic link in a list points to. (Reading and writing follow the link: they tell of the file behind.)
    #[serde(skip_serializing_if = "Option::is_none")]
    pub symlink_target: Option<String>,
    /// Whether `path` names this file in a request. False where its name is not UTF-8: it is reached by its
    /// percent-encoded bytes under `/raw`. Also false above 4,095 bytes, which no request can name.
    pub addressable: bool,
}

/// How content is written as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = FileEncoding)]
pub enum Encoding {
    /// As it is.
    #[serde(rename = "utf-8")]
    Utf8,
    /// In base64 (RFC 4648, section 4, with padding).
    #[serde(rename = "base64")]
    Base64,
}

impl Encoding {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Utf8 => "utf-8",
            Self::Base64 => "base64",
        }
    }

    /// The encoding of that name; `None` for the empty one.
    pub fn parse(name: &str) -> Result<Option<Self>> {
        match name {
            "" => Ok(None),
            "utf-8" => Ok(Some(Self::Utf8)),
            "base64" => Ok(Some(Self::Base64)),
            _ => Err(Error::field("encoding", "must be utf-8 or base64")),
        }
    }
}

impl FileInfo {
    fn new(path: &[u8], facts: Facts, etag: Option<String>) -> Self {
        let Facts { is_directory, size, modified_at, mode, mime_type } = facts;
        let shown = String::from_utf8_lossy(path);
        let addressable = matches!(shown, Cow::Borrowed(_)) && path.len() <= MAX_PATH;
        Self {
            path: shown.into_owned(),
            is_directory,
            size,
            modified_at,
            mime_type,
            etag,
            mode,
            symlink_target: None,
            addressable,
        }
    }
}
